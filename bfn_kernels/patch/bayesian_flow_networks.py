"""Methods of github.com/nnaisense/bayesian-flow-networks on the ops: `REPLACED`, which `patch.official` puts in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import binary, continuous, discrete, discretised, nn, samplers
from bfn_kernels.call import checks
from bfn_kernels.call.keywords import Limits

EACH = {"reduction": "none"}


def flat(output: Tensor) -> Tensor:
    """[B, ..., k] -> [B, D, k], as their losses have it."""
    return output.flatten(1, -2)


def of_rows(t: Tensor) -> Tensor:
    """Their times, one for each variable, as one for each row, if they are equal. On a GPU, to look is to wait."""
    t = t.flatten(1).float()
    return t[:, 0] if checks.shows(t) and t.shape[1] > 0 and bool((t == t[:, :1]).all()) else t


def sigma_1(flow: Any) -> float:
    return flow.min_variance**0.5


def beta_1(flow: Any) -> float:
    return flow.max_sqrt_beta**2


def normal_settings(loss: Any) -> tuple[Any, dict[str, Any]] | None:
    """The family of a loss of theirs for continuous data, and its keyword arguments; None if there is none."""
    if not loss.noise_pred or loss.min_loss_variance > 0:
        return None
    outer = loss.distribution_factory
    inner = outer.data_dist_factory
    common = {"sigma_1": sigma_1(loss.bayesian_flow)}
    match type(inner).__name__:
        case "DeltaFactory" if inner.clip_range > 0:
            limits = Limits(t_min=outer.min_t)
            return continuous, common | {"limits": limits, "clip": (-inner.clip_range, inner.clip_range)}
        case "DiscretizedNormalFactory" if inner.clip and inner.min_std_dev > 0:
            limits = Limits(std=(inner.min_std_dev, inner.max_std_dev), t_min=outer.min_t)
            return discretised, common | {"limits": limits, "num_bins": inner.num_bins}
    return None


def is_plain(loss: Any) -> bool:
    """Whether a loss of theirs for classes is of logits, one of two classes, or K."""
    names = {"BernoulliFactory": loss.K == 2, "CategoricalFactory": loss.K > 2}
    return not loss.bayesian_flow.discretize and names.get(type(loss.distribution_factory).__name__, False)


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


def predictions(family: Any, output: Tensor) -> tuple[Tensor, ...]:
    """The arguments of an op that stand for their network's output."""
    return (flat(output)[..., 0],) if family is continuous else (flat(output), None)  # type: ignore[return-value]


def normal_loss(name: str) -> Callable[..., Tensor]:
    """One of their losses for continuous data: of each variable, or of each example for n steps."""

    def loss(original: Any, self: Any, data: Tensor, output_params: Tensor, input_params: Any, *more: Any) -> Tensor:
        settings = normal_settings(self)
        if settings is None:
            return original(self, data, output_params, input_params, *more)
        family, of = settings
        x, mean = data.flatten(1), input_params[0].flatten(1)
        times = [of_rows(more[0])] if more else []
        if name == "discrete_time_loss":
            of = of | {"n_steps": more[1]}
        if name == "reconstruction_loss" and family is continuous:
            sixteen = self.bayesian_flow.min_variance == 1e-3  # theirs knows its two experiments by this
            of = of | {"num_bins": 16 if sixteen else 256, "std": (0.7 if sixteen else 1) * sigma_1(self.bayesian_flow)}
        losses = getattr(family, name)(x, *predictions(family, output_params.float()), mean, *times, **of, **EACH)
        return losses.mean(1, keepdim=True) if family is discretised and name == "discrete_time_loss" else losses

    return loss


def classes_loss(name: str) -> Callable[..., Tensor]:
    """One of their losses for classes likewise, with their receiver."""

    def loss(original: Any, self: Any, data: Tensor, output_params: Tensor, input_params: Any, *more: Any) -> Tensor:
        if not is_plain(self):
            return original(self, data, output_params, input_params, *more)
        x, z = data.flatten(1).long(), flat(output_params.float())
        family, z = (binary, z[..., 0]) if self.K == 2 else (discrete, z)
        if name == "reconstruction_loss":
            return family.reconstruction_loss(x, z, **EACH)
        of: dict[str, Any] = {"beta_1": beta_1(self.bayesian_flow), **EACH}
        t = of_rows(more[0])
        if name == "continuous_time_loss":
            return family.continuous_time_loss(x, z, t, **of)
        of |= {"n_steps": more[1], "receiver": "factorised", "quadrature": 32}
        return family.discrete_time_loss(x, z, t, **of).mean(1, keepdim=True)

    return loss


def sample(original: Any, self: Any, data_shape: tuple[int, ...], n_steps: int) -> Tensor:
    model = as_module(self)
    if model is None:
        return original(self, data_shape, n_steps)
    # A CUDA graph would record what this network does in one step, and it may do more than compute.
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
    ("CtsBayesianFlowLoss", "cts_time_loss"): normal_loss("continuous_time_loss"),
    ("CtsBayesianFlowLoss", "discrete_time_loss"): normal_loss("discrete_time_loss"),
    ("CtsBayesianFlowLoss", "reconstruction_loss"): normal_loss("reconstruction_loss"),
    ("DiscreteBayesianFlowLoss", "cts_time_loss"): classes_loss("continuous_time_loss"),
    ("DiscreteBayesianFlowLoss", "discrete_time_loss"): classes_loss("discrete_time_loss"),
    ("DiscreteBayesianFlowLoss", "reconstruction_loss"): classes_loss("reconstruction_loss"),
    ("BFN", "sample"): sample,
}
