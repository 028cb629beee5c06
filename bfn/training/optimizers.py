"""The optimizers of a run: AdamW for all weights, or Muon for matrices and AdamW for all other weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bfn.configs import TrainConfig

# Muon takes weights with at least so many rows and columns. Thin matrices, as in a network's first and last layers,
# learn faster by AdamW.
LEAST_SIDE = 32
# The tensors that each optimizer keeps for a parameter. "step" is a number, and the others have the parameter's shape.
ADAMW_STATE, MUON_STATE = ("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)


def make_optimizer(model: nn.Module, train: TrainConfig, *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer that `train.optimizer` names. fused: whether AdamW makes its step in one kernel."""
    matrices = matrices_of(model) if train.optimizer == "muon" else []
    chosen = set(matrices)
    groups = decay_groups([p for p in model.parameters() if p not in chosen], train.decay_vectors)
    rate, decay = train.learning_rate, train.weight_decay
    adamw = torch.optim.AdamW(groups, rate, (0.9, train.beta_2), weight_decay=decay, fused=fused)
    if not matrices:
        return adamw
    # This factor gives Muon's updates the size of AdamW's, so that one learning rate fits both (arXiv 2502.16982).
    return Together(adamw, Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))


def kept_tensors(model: nn.Module, train: TrainConfig) -> dict[str, tuple[str, ...]]:
    """The names of the tensors that the optimizer keeps for each parameter, which is named as in the model."""
    matrices = set(matrices_of(model)) if train.optimizer == "muon" else set()
    return {name: MUON_STATE if p in matrices else ADAMW_STATE for name, p in model.named_parameters()}


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear layers and convolutions that are not thin."""
    layers = (layer for layer in model.modules() if isinstance(layer, (nn.Linear, _ConvNd)))
    weights = dict.fromkeys(layer.weight for layer in layers)
    # A parametrized layer computes its weight, which is then no nn.Parameter. A weight in channels_last cannot be
    # viewed as a matrix, since its rows are not contiguous. AdamW updates both.
    matrices = [weight for weight in weights if isinstance(weight, nn.Parameter) and weight.is_contiguous()]
    return [matrix for matrix in matrices if min(len(matrix), matrix.shape[1:].numel()) >= LEAST_SIDE]


def decay_groups(parameters: Iterable[nn.Parameter], decay_vectors: bool) -> list[dict[str, Any]]:
    """AdamW's groups of parameters. Without decay_vectors, biases and the weights of norms have no weight decay."""
    everything = list(parameters)
    if decay_vectors:
        return [{"params": everything}]
    matrices, vectors = ([p for p in everything if (p.dim() > 1) == wanted] for wanted in (True, False))
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]] or groups[:1]  # torch saves at most one empty group


class Muon(torch.optim.Muon):
    """torch's Muon, which also takes the weights of convolutions. It sees them as matrices: the first dimension, and
    all other dimensions as one."""

    def __init__(self, weights: list[nn.Parameter], **settings: Any):
        super().__init__([nn.Parameter(torch.empty(0, 0))], **settings)  # it would refuse weights of convolutions
        self.param_groups.clear()
        self.add_param_group({"params": weights})

    def _init_group(self, group: Any, *lists: list[Tensor]) -> bool:
        """Fill the lists of parameters, gradients and momenta, on which torch's step works, with matrices."""
        found: list[list[Tensor]] = [[] for _ in lists]
        super()._init_group(group, *found)
        for matrices, tensors in zip(lists, found, strict=True):
            matrices += [tensor.view(len(tensor), -1) for tensor in tensors]  # no copy, since the step changes them
        return False


class Together(torch.optim.Optimizer):
    """Several optimizers of different parameters as one, with one list of groups and one state."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.share()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # replaces the groups and the state
        self.share()

    def share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()
