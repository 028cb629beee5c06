"""Discretised data in plain PyTorch: the executable specification. Equation numbers refer to arXiv 2308.07037.

x `[B, ...]` lies in [−1, 1], which K bins of width h = 2/K divide. Data, samples and modes name a bin by its
centre. An argument `index` names it by a zero-based index, which is a float so that NaN stays NaN. Row scalars, such as
`weight`, come from the module `arguments.rows`, in the type of the arithmetic, and broadcast to x.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.checks import compute_dtype
from bfn_kernels.discretised.bins import bin_index, centre, log_bin_prob, mean_of_bins
from bfn_kernels.formulas import clamped, hide, mean_step, reduce
from bfn_kernels.ranges import nonnegative, values
from bfn_kernels.records import (
    MEAN,
    SAMPLE,
    BinCost,
    Bins,
    Draws,
    LossTarget,
    Network,
    Noise,
    OutputLimits,
    Sent,
    Solver,
)

MODE_PROBABILITIES = 1 << 18  # about how many probabilities are computed at a time, to bound the memory


class Normal(NamedTuple):
    """The output distribution before it is divided into bins: for each variable one normal `[B, ...]`, or a mixture of
    M normals `[B, ..., M]`."""

    mean: Tensor
    std: Tensor
    mixture_logits: Tensor | None

    def mixed(self, values: Tensor) -> Tensor:
        """Σ π_m value_m over the components, where π are the weights of the mixture."""
        return values if self.mixture_logits is None else (self.mixture_logits.softmax(-1) * values).sum(-1)

    def log_mixed(self, logs: Tensor) -> Tensor:
        """ln Σ π_m exp(log_m)."""
        return logs if self.mixture_logits is None else (self.mixture_logits.log_softmax(-1) + logs).logsumexp(-1)

    def for_components(self, x: Tensor) -> Tensor:
        """x with a last dimension that broadcasts to the components, if this is a mixture."""
        return x if self.mixture_logits is None else x.unsqueeze(-1)

    def unsqueeze(self) -> "Normal":
        """The same normals with one more dimension after the dimensions of the variables."""
        d = -1 if self.mixture_logits is None else -2
        return Normal(*(None if tensor is None else tensor.unsqueeze(d) for tensor in self))

    @classmethod
    def given(cls, mean: Tensor, std: Tensor, mixture_logits: Tensor | None) -> "Normal":
        """The normals that a caller gives, whose std must be positive."""
        return cls(mean, nonnegative("std", std, zero=False), mixture_logits)

    @classmethod
    def of(cls, dtype: torch.dtype, *tensors: Tensor | None) -> "Normal":
        return cls(*(None if tensor is None else tensor.to(dtype) for tensor in tensors))


def pair(pred_mean: Tensor, pred_log_std: Tensor | None) -> tuple[Tensor, Tensor]:
    """pred_mean and pred_log_std. If pred_log_std is None, they are unstacked from the last dimension of pred_mean."""
    if pred_log_std is not None:
        return pred_mean, pred_log_std
    pred_mean, pred_log_std = pred_mean.unbind(-1)
    return pred_mean, pred_log_std


def hidden(mask: Tensor | None, output: Normal) -> Normal:
    """A network's output with zeros where the mask is False."""
    return Normal(*hide(None if mask is None else output.for_components(mask), *output))


def output_distribution(dtype: torch.dtype, network: Network, bins: Bins) -> Normal:
    """The mean and std of the network's normal (105, 106), in `dtype`, the type of the arithmetic.

    Where t < t_min, the mean is 0 and the std is 1, without a gradient. If the network has no scales, it predicts the
    data.
    """
    pred_mean, pred_log_std = pair(network.pred_mean, network.pred_log_std)
    output = Normal.of(dtype, pred_mean, pred_log_std, network.mixture_logits)
    limits = OutputLimits(*bins[2:])
    if network.mean_scale is None:
        return output._replace(std=output_std(output.std, network.mean_scale, network.noise_scale, limits))
    mean_scale, noise_scale = map(output.for_components, (network.mean_scale, network.noise_scale))
    started = mean_scale != 0  # mean_scale is 1/γ ≥ 1 where t ≥ t_min, else 0
    mean, noise_pred = hide(started, output.for_components(network.mean.to(dtype)), output.mean)
    std = output_std(output.std, mean_scale, noise_scale, limits)
    return output._replace(mean=mean_scale * mean - noise_scale * noise_pred, std=std)


def output_std(
    pred_log_std: Tensor, mean_scale: Tensor | None, noise_scale: Tensor | None, limits: OutputLimits
) -> Tensor:
    """The std of `output_distribution`. All tensors have the type of the arithmetic."""
    std_min, std_max, log_std_max = limits
    std = clamped(pred_log_std, -log_std_max, log_std_max).exp()
    if mean_scale is None:
        return clamped(std, std_min, std_max)
    started = mean_scale != 0
    (std,) = hide(started, std)
    return torch.where(started, clamped(noise_scale * std, std_min, std_max), 1.0)


def inputs_of_loss(x: Tensor, network: Network, direct: bool, bins: Bins, mask: Tensor | None) -> tuple[Tensor, Normal]:
    """The data and the output distribution of a loss. Where the mask is False, x becomes 0 and, unless `direct`, so do
    the mean of the input distribution and the network's output. direct: whether the network's predictions are the mean
    and std of the output distribution."""
    dtype = compute_dtype(x, *network[:4])
    (x,) = hide(mask, x)
    values("x", x, -1, 1)
    output = Normal(*pair(network.pred_mean, network.pred_log_std), network.mixture_logits)
    if direct:
        return x.to(dtype), Normal.of(dtype, *Normal.given(*output))
    (mean,) = hide(mask, network.mean)
    network = Network(*hidden(mask, output), mean, network.mean_scale, network.noise_scale)
    return x.to(dtype), output_distribution(dtype, network, bins)


def expected_value(mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int, clip: bool) -> Tensor:
    """k̂ = Σ p_k c_k."""
    normal = Normal.of(compute_dtype(mean, std, mixture_logits), *Normal.given(mean, std, mixture_logits))
    return _expected_value(normal, num_bins, clip).to(mean.dtype)


def _expected_value(normal: Normal, num_bins: int, clip: bool) -> Tensor:
    return normal.mixed(mean_of_bins(normal.mean, normal.std, num_bins, clip))


def _log_prob(index: Tensor, normal: Normal, num_bins: int, clip: bool) -> Tensor:
    return normal.log_mixed(log_bin_prob(normal.for_components(index), normal.mean, normal.std, num_bins, clip))


def choose(
    mean: Tensor,
    std: Tensor,
    mixture_logits: Tensor | None,
    num_bins: int,
    choice: int,
    noise: Noise,
    component_noise: Tensor | None,
) -> Tensor:
    """A sample or the mode of the output distribution, as the centre of a bin."""
    normal = Normal.given(mean, std, mixture_logits)
    if choice == SAMPLE:
        return sample(normal, num_bins, noise, component_noise)
    return mode(*normal, num_bins)


def sample(normal: Normal, num_bins: int, noise: Noise, component_noise: Tensor | None) -> Tensor:
    """The centre of the bin of clamp(mean + std·ε). The component of a mixture is drawn first."""
    (mean, std, mixture_logits), dtype = normal, compute_dtype(*normal)
    if mixture_logits is not None:
        uniform = component_noise
        if uniform is None:
            uniform = random.class_uniform(mean.shape[:-1], noise.seed, random.COMPONENT)
        weights = mixture_logits.to(dtype).softmax(-1)
        component = random.draw_class(weights, uniform.to(dtype)).unsqueeze(-1)
        mean, std = mean.gather(-1, component).squeeze(-1), std.gather(-1, component).squeeze(-1)
        mean = torch.where(weights.isnan().any(-1), torch.nan, mean)
    value = mean + std * random.normals(mean, dtype, *noise, random.OUTPUT)
    return centre(bin_index(value.clamp(-1, 1), num_bins), num_bins).to(normal.mean.dtype)


def likeliest(index: Tensor, normal: Normal, num_bins: int) -> tuple[Tensor, Tensor]:
    """The likeliest of the bins `index`, or the first one if several are equally likely, and ln of its probability.
    Both are NaN if the probability of any of these bins is NaN."""
    log_p, position = _log_prob(index, normal.unsqueeze(), num_bins, True).max(-1, keepdim=True)
    best = torch.where(log_p.isnan(), torch.nan, index.expand(*log_p.shape[:-1], -1).gather(-1, position))
    return best.squeeze(-1), log_p.squeeze(-1)


def mode(mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int) -> Tensor:
    """The centre of the likeliest bin. For one normal, the candidates are the bin of the mean, the first bin and the
    last bin, in this order. For a mixture, they are all bins in order. A later candidate wins only if it is strictly
    likelier."""
    normal = Normal.of(compute_dtype(mean, std, mixture_logits), mean, std, mixture_logits)
    if mixture_logits is None:
        first = bin_index(normal.mean, num_bins)
        ends = (torch.full_like(first, k) for k in (0, num_bins - 1))
        best, _ = likeliest(torch.stack([first, *ends], -1), normal, num_bins)
        return centre(best, num_bins).to(mean.dtype)
    best = torch.zeros_like(normal.mean[..., 0])
    best_log_p = torch.full_like(best, -torch.inf)
    all_bins = torch.arange(num_bins, dtype=best.dtype, device=best.device)
    for bins in all_bins.split(max(1, MODE_PROBABILITIES // max(1, mean.numel()))):
        index, log_p = likeliest(bins, normal, num_bins)
        better = (log_p > best_log_p) | log_p.isnan()  # a NaN stays the best, since no number is larger than NaN
        best, best_log_p = torch.where(better, index, best), torch.where(better, log_p, best_log_p)
    return centre(best, num_bins).to(mean.dtype)


def loss(
    x: Tensor,
    network: Network,
    cost: BinCost,
    draws: Draws,
    bins: Bins,
    target: LossTarget,
) -> Tensor:
    """The loss L∞ = weight·(x − k̂)² (101) if there is a weight, where k̂ is the expected value of the output
    distribution p_O; L_n if there is an alpha; else the reconstruction loss −ln p_O(x).

    x and the mean: `[B, ...]`. The predictions: `[B, ...]`, or `[B, ..., M]` like mixture_logits. direct: whether the
    predictions are the mean and std of the output distribution.
    """
    weight, alpha, direct, n_steps = cost
    x, normal = inputs_of_loss(x, network, direct, bins, target.mask)
    if alpha is not None:
        return reduce(n_steps * discrete_time_loss(x, normal, alpha, draws, bins), *target)
    if weight is None:
        normal = hidden(target.mask, normal)
        if target.mask is not None:  # a std of 0 would make a NaN
            normal = normal._replace(std=torch.where(normal.for_components(target.mask), normal.std, 1.0))
        return reduce(-_log_prob(bin_index(x, bins.num_bins), normal, bins.num_bins, bins.clip), *target)
    error = x - _expected_value(normal, bins.num_bins, bins.clip)
    return reduce(weight * error * error, *target)


def discrete_time_loss(x: Tensor, normal: Normal, alpha: Tensor, draws: Draws, bins: Bins) -> Tensor:
    """E[−ε²/2 − ln Σ_k p_k·exp(−(y − c_k)²/2τ²)], y = x + τε, τ² = 1/α_i (113–119). Explicit noise:
    `[n_samples, B, ...]`."""
    tau, num_bins = alpha.rsqrt(), bins.num_bins
    index = torch.arange(num_bins, dtype=x.dtype, device=x.device)
    log_p = _log_prob(index, normal.unsqueeze(), num_bins, bins.clip)
    loss = torch.zeros_like(x)
    for eps, weight in draws.each(x, random.normal):
        z = ((x + tau * eps).unsqueeze(-1) - centre(index, num_bins)) / tau.unsqueeze(-1)
        loss = loss + weight * (-(eps**2) / 2 - (log_p - z**2 / 2).logsumexp(-1))
    return loss


def step(
    network: Network,
    solver: Solver,
    bins: Bins,
    sent: Sent,
    component_noise: Tensor | None,
    noise: Noise,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
) -> Tensor:
    """The step of `continuous.reference.step`, where x̂ is a sample, the mode or the mean of the output distribution.

    The mean, known, all explicit noise and the results: `[B, ...]`. known_mask: bool, broadcasts to the mean.
    predicted_out: receives x̂, and may be the tensor `solver.previous`.
    """
    normal = output_distribution(compute_dtype(*network[:4], solver.previous), network, bins)
    if sent.choice == MEAN:
        value = _expected_value(normal, bins.num_bins, True)
    else:
        value = choose(*normal, bins.num_bins, sent.choice, Noise(noise.seed, sent.draw_noise), component_noise)
    return mean_step(network.mean, value, solver, sent.known, sent.known_mask, noise, out, predicted_out)
