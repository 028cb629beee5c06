"""Methods of github.com/nnaisense/bayesian-flow-networks on the ops: `REPLACED`, which `patch.official` puts in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import binary, continuous, discrete, discretised, nn, samplers
from bfn_kernels.call import checks
from bfn_kernels.call.keywords import Limits

Settings = tuple[Any, dict[str, Any]]


def flat(output: Tensor) -> Tensor:
    """[B, ..., k] -> [B, D, k], as their losses have it."""
    return output.flatten(1, -2)


def of_rows(t: Tensor) -> Tensor:
    """Their code passes a time for each variable. Returns one time for each row if the times of each row are equal. On
    a GPU the times are returned unchanged, since reading them would wait."""
    t = t.flatten(1).float()
    return t[:, 0] if checks.shows(t) and t.shape[1] > 0 and bool((t == t[:, :1]).all()) else t


def sigma_1(flow: Any) -> float:
    return flow.min_variance**0.5


def beta_1(flow: Any) -> float:
    return flow.max_sqrt_beta**2


def normal_settings(loss: Any, name: str = "") -> Settings | None:
    """For a loss of theirs for continuous data: the family whose op of this name computes the loss, and the op's
    keyword arguments. None if no op computes the loss."""
    if not loss.noise_pred or loss.min_loss_variance > 0:
        return None
    outer, std = loss.distribution_factory, sigma_1(loss.bayesian_flow)
    inner, of = outer.data_dist_factory, {"sigma_1": std}
    match type(inner).__name__:
        case "DeltaFactory" if inner.clip_range > 0:
            if name == "reconstruction_loss":
                sixteen = loss.bayesian_flow.min_variance == 1e-3  # as in their experiment with 16 bins
                of |= {"num_bins": 16 if sixteen else 256, "std": (0.7 if sixteen else 1) * std}
            clip = -inner.clip_range, inner.clip_range
            return continuous, of | {"limits": Limits(t_min=outer.min_t), "clip": clip}
        case "DiscretizedNormalFactory" if inner.clip and inner.min_std_dev > 0:
            limits = Limits(std=(inner.min_std_dev, inner.max_std_dev), t_min=outer.min_t)
            return discretised, of | {"limits": limits, "num_bins": inner.num_bins}
    return None


def is_plain(loss: Any) -> bool:
    """Whether the ops compute a loss of theirs for classes: the network must return one logit for two classes, or K
    logits."""
    names = {"BernoulliFactory": loss.K == 2, "CategoricalFactory": loss.K > 2}
    return not loss.bayesian_flow.discretize and names.get(type(loss.distribution_factory).__name__, False)


def class_settings(loss: Any, name: str) -> Settings | None:
    """As `normal_settings`, for a loss for classes. L_n has the factorised receiver, as in their code."""
    if not is_plain(loss):
        return None
    of: dict[str, Any] = {} if name == "reconstruction_loss" else {"beta_1": beta_1(loss.bayesian_flow)}
    if name == "discrete_time_loss":
        of |= {"receiver": "factorised", "quadrature": 32}
    return binary if loss.K == 2 else discrete, of


def continuous_flow(original: Any, self: Any, data: Tensor, t: Tensor) -> tuple[Tensor, None]:
    with torch.no_grad():
        return continuous.flow_sample(data.flatten(1), of_rows(t), sigma_1=sigma_1(self)).view_as(data), None


def classes_flow(original: Any, self: Any, data: Tensor, t: Tensor) -> tuple[Tensor]:
    if self.discretize:
        return original(self, data, t)
    with torch.no_grad():
        x = data.long()
        flat, times = x.flatten(1), of_rows(t)
        if self.n_classes == 2:  # theirs is the probability of class 0
            return (1 - binary.flow_sample(flat, times, beta_1=beta_1(self)).view_as(x),)
        theta = discrete.flow_sample(flat, times, num_classes=self.n_classes, beta_1=beta_1(self))
        return (theta.view(*x.shape, self.n_classes),)


def predictions(family: Any, output: Tensor, mean: Tensor) -> tuple[Tensor | None, ...]:
    """The arguments of an op that stand for their network's output, and for what the network saw."""
    each = output if family in (discrete, discretised) else output[..., 0]
    return {discrete: (each,), binary: (each,), continuous: (each, mean), discretised: (each, None, mean)}[family]


def loss_method(name: str, settings: Callable[[Any, str], Settings | None]) -> Callable[..., Tensor]:
    """Makes a function that replaces one of their losses."""

    def loss(original: Any, self: Any, data: Tensor, output_params: Tensor, input_params: Any, *more: Any) -> Tensor:
        found = settings(self, name)
        if found is None:
            return original(self, data, output_params, input_params, *more)
        family, of = found
        x = data.flatten(1).long() if family in (discrete, binary) else data.flatten(1)
        seen = predictions(family, flat(output_params.float()), input_params[0].flatten(1))
        times = [of_rows(more[0])] if more else []
        if name == "discrete_time_loss":
            of = of | {"n_steps": more[1]}
        losses = getattr(family, name)(x, *seen, *times, **of, reduction="none")
        of_examples = name == "discrete_time_loss" and family is not continuous
        return losses.mean(1, keepdim=True) if of_examples else losses

    return loss


def sample(original: Any, self: Any, data_shape: tuple[int, ...], n_steps: int) -> Tensor:
    model = as_module(self)
    if model is None:
        return original(self, data_shape, n_steps)
    # No CUDA graph: a graph repeats only the kernels of one step, and this network may do more than launch kernels.
    drawn = samplers.sample(model, tuple(data_shape), n_steps, device=next(self.parameters()).device, capture=False)
    return drawn.float() if isinstance(model, nn.Binary) else drawn  # as theirs are


def as_module(bfn: Any) -> nn.BFN | None:
    """Their BFN as a module of ours, or None."""
    loss, flow = bfn.loss, bfn.bayesian_flow
    if hasattr(loss, "K"):
        if not is_plain(loss):
            return None
        if loss.K == 2:
            return nn.Binary(network(bfn, lambda theta: 1 - 2 * theta[..., None]), beta_1(flow))
        return nn.Discrete(network(bfn, classes=1), beta_1(flow), num_classes=loss.K)
    family, settings = normal_settings(loss) or (None, {})
    if family is discretised:
        return nn.Discretised(network(bfn, outputs=(2,)), **settings)
    return nn.Continuous(network(bfn), **settings) if family is continuous else None


def network(
    bfn: Any,
    inputs: Callable[[Tensor], Tensor] = lambda theta: theta,
    *,
    classes: int = 0,
    outputs: tuple[int, ...] = (),
) -> Callable[[Tensor, Tensor], Tensor]:
    """Their network, which takes a time for each variable. classes: the dimensions of theta behind those of the data;
    outputs: those of the output behind those of theta."""

    def call(theta: Tensor, t: Tensor) -> Tensor:
        shape = theta.shape[: theta.dim() - classes]
        times = t.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        return bfn.net(inputs(theta), times).float().reshape(*theta.shape, *outputs)

    return call


REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("CtsBayesianFlow", "forward"): continuous_flow,
    ("DiscreteBayesianFlow", "forward"): classes_flow,
    ("CtsBayesianFlowLoss", "cts_time_loss"): loss_method("continuous_time_loss", normal_settings),
    ("CtsBayesianFlowLoss", "discrete_time_loss"): loss_method("discrete_time_loss", normal_settings),
    ("CtsBayesianFlowLoss", "reconstruction_loss"): loss_method("reconstruction_loss", normal_settings),
    ("DiscreteBayesianFlowLoss", "cts_time_loss"): loss_method("continuous_time_loss", class_settings),
    ("DiscreteBayesianFlowLoss", "discrete_time_loss"): loss_method("discrete_time_loss", class_settings),
    ("DiscreteBayesianFlowLoss", "reconstruction_loss"): loss_method("reconstruction_loss", class_settings),
    ("BFN", "sample"): sample,
}
