"""Functions that replace methods of github.com/nnaisense/bayesian-flow-networks. `patch.official` installs them.
In comments, "their" refers to the code of that repository."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from bfn_kernels import binary, checks, continuous, discrete, nn, samplers
from bfn_kernels.arguments.keywords import Limits, checked_limits
from bfn_kernels.arguments.rows import ROOT_BETA_MIN, T_MAX


def row_times(t: Tensor) -> Tensor:
    """Returns one time for each row, `[B]`. Their code passes a time for each variable.

    If the times of a row differ, it returns all times, flattened to `[B, D]`. On a GPU and in compiled code it always
    returns `[B, D]`, since a comparison of the times would cost a synchronisation.
    """
    t = t.flatten(1).float()
    return t[:, 0] if checks.shows(t) and t.shape[1] > 0 and bool((t == t[:, :1]).all()) else t


def sigma_1(flow: Any) -> float:
    return flow.min_variance**0.5


def beta_1(flow: Any) -> float:
    return flow.max_sqrt_beta**2


def module_of(loss: Any) -> nn.BFN | None:
    """Returns a module of `nn`, without a network, that computes one of their losses. None: no module computes it."""
    factory, flow, network = loss.distribution_factory, loss.bayesian_flow, cast(nn.Network, None)
    if hasattr(loss, "K"):
        output_fits = {"BernoulliFactory": loss.K == 2, "CategoricalFactory": loss.K > 2}  # one logit, or K logits
        if flow.discretize or not output_fits.get(type(factory).__name__, False):
            return None
        module: nn.Classes = nn.Binary(network, beta_1(flow))
        if loss.K > 2:
            module = nn.Discrete(network, beta_1(flow), num_classes=loss.K)
        module.receiver = "factorised"  # as in their code
        return module
    if not loss.noise_pred or loss.min_loss_variance > 0:
        return None
    inner = factory.data_dist_factory
    match type(inner).__name__:
        case "DeltaFactory" if inner.clip_range > 0 and fit(limits := Limits(t_min=factory.min_t)):
            # Their loss does not know the number of bins. Only their experiment with 16 bins has this min_variance.
            bins = 16 if flow.min_variance == 1e-3 else 256
            clip = (-inner.clip_range, inner.clip_range)
            return nn.Continuous(network, sigma_1(flow), num_bins=bins, limits=limits, clip=clip)
        case "DiscretizedNormalFactory" if inner.clip:
            limits = Limits(std=(inner.min_std_dev, inner.max_std_dev), t_min=factory.min_t)
            if fit(limits):
                return nn.Discretised(network, sigma_1(flow), num_bins=inner.num_bins, limits=limits)
    return None


def fit(limits: Limits) -> bool:
    """Whether the ops accept these limits."""
    try:
        checked_limits(limits)
    except (TypeError, ValueError):
        return False
    return True


def continuous_flow(original: Any, self: Any, data: Tensor, t: Tensor) -> tuple[Tensor, None]:
    with torch.no_grad():
        return continuous.flow_sample(data.flatten(1), row_times(t), sigma_1=sigma_1(self)).view_as(data), None


def classes_flow(original: Any, self: Any, data: Tensor, t: Tensor) -> tuple[Tensor]:
    if self.discretize or (self.min_sqrt_beta, 1 - self.epsilon) != (ROOT_BETA_MIN, T_MAX):
        return original(self, data, t)
    with torch.no_grad():
        x = data.long()
        flat, times = x.flatten(1), row_times(t)
        if self.n_classes == 2:  # their theta is the probability of class 0
            return (1 - binary.flow_sample(flat, times, beta_1=beta_1(self)).view_as(x),)
        theta = discrete.flow_sample(flat, times, num_classes=self.n_classes, beta_1=beta_1(self))
        return (theta.view(*x.shape, self.n_classes),)


def loss_method(name: str) -> Callable[..., Tensor]:
    """The function that replaces one of their losses. name: the name of this loss in `nn.BFN`."""

    def loss(
        original: Any,
        self: Any,
        data: Tensor,
        output_params: Tensor,
        input_params: Any,
        t: Tensor | None = None,
        n_steps: int | None = None,
        n_samples: int | None = None,  # of their estimate; the ops compute its expectation
    ) -> Tensor:
        module = module_of(self)
        if module is None:
            given = [each for each in (t, n_steps, n_samples) if each is not None]
            return original(self, data, output_params, input_params, *given)
        x, output = data.flatten(1), output_params.float().flatten(1, -2)
        if isinstance(module, (nn.Binary, nn.Continuous)):
            output = output[..., 0]
        arguments, options = [input_params[0].flatten(1)], {}
        if t is not None:
            arguments.append(row_times(t))
        if name == "discrete_time_loss":
            arguments += [n_steps, 0]  # 0 is the seed of the expectation, which a quadrature does not read
        elif name == "reconstruction_loss" and isinstance(module, nn.Continuous):
            std = sigma_1(self.bayesian_flow)
            options["std"] = 0.7 * std if module.num_bins == 16 else std
        losses = getattr(module, name)(
            x.long() if isinstance(module, nn.Classes) else x, output, *arguments, reduction="none", **options
        )
        of_examples = name == "discrete_time_loss" and not isinstance(module, nn.Continuous)
        return losses.mean(1, keepdim=True) if of_examples else losses

    return loss


def sample(original: Any, self: Any, data_shape: tuple[int, ...], n_steps: int) -> Tensor:
    module = module_of(self.loss)
    if module is None:
        return original(self, data_shape, n_steps)
    module.network = network_of(self, module)
    device = next(self.parameters()).device
    # No CUDA graph: a graph repeats only the kernels of one step, and this network may do more than launch kernels.
    data = samplers.sample(module, tuple(data_shape), n_steps, device=device, capture=False)
    return data.float() if isinstance(module, nn.Binary) else data  # in the type of their samples


def network_of(bfn: Any, module: nn.BFN) -> nn.Network:
    """Wraps their network, which takes a time for each variable, as the network of a module of `nn`."""
    class_dims = 1 if isinstance(module, nn.Discrete) else 0
    outputs = (2,) if isinstance(module, nn.Discretised) else ()

    def network(theta: Tensor, t: Tensor) -> Tensor:
        shape = theta.shape[: theta.dim() - class_dims]
        times = t.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        inputs = 1 - 2 * theta[..., None] if isinstance(module, nn.Binary) else theta
        return bfn.net(inputs, times).float().reshape(*theta.shape, *outputs)

    return network


REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("CtsBayesianFlow", "forward"): continuous_flow,
    ("DiscreteBayesianFlow", "forward"): classes_flow,
    ("BFN", "sample"): sample,
}
for kind in ("CtsBayesianFlowLoss", "DiscreteBayesianFlowLoss"):
    REPLACED[kind, "cts_time_loss"] = loss_method("continuous_time_loss")
    REPLACED[kind, "discrete_time_loss"] = loss_method("discrete_time_loss")
    REPLACED[kind, "reconstruction_loss"] = loss_method("reconstruction_loss")
