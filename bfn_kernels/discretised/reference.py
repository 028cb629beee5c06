"""Discretised data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

x `[B, ...]` lies in [−1, 1], which K bins of width h = 2/K divide. The ops name a bin by its centre; in this file it is
a zero-based index held as a float, so that NaN stays NaN. Row scalars come from the module `rows`, in the type of the
arithmetic, and broadcast to x.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.arguments import Expectation
from bfn_kernels.checks import compute_dtype, values
from bfn_kernels.continuous.reference import clamped, extrapolated, gaussian_step
from bfn_kernels.discretised.bins import bin_index, centre, log_bin_prob, mean_of_bins
from bfn_kernels.discretised.operators import MEAN, MODE
from bfn_kernels.reduction import hide, reduce

MODE_NUMBERS = 1 << 18  # how many probabilities, over bins and components, the mode of a mixture computes at a time


class Normal(NamedTuple):
    """The output distribution before it is divided into bins: one normal per variable `[B, ...]`, or a mixture of M
    normals `[B, ..., M]`."""

    mean: Tensor
    std: Tensor
    mixture_logits: Tensor | None

    def mixed(self, parts: Tensor) -> Tensor:
        """Σ π_m part_m."""
        return parts if self.mixture_logits is None else (self.mixture_logits.softmax(-1) * parts).sum(-1)

    def log_mixed(self, parts: Tensor) -> Tensor:
        """ln Σ π_m exp(part_m)."""
        return parts if self.mixture_logits is None else (self.mixture_logits.log_softmax(-1) + parts).logsumexp(-1)

    def each(self, x: Tensor) -> Tensor:
        """x with a dimension for the components of each variable, if there are any."""
        return x if self.mixture_logits is None else x.unsqueeze(-1)

    def unsqueeze(self) -> "Normal":
        """The same with one more dimension behind those of the variables."""
        d = -1 if self.mixture_logits is None else -2
        return Normal(*(None if part is None else part.unsqueeze(d) for part in self))

    @classmethod
    def of(cls, dtype: torch.dtype, *parts: Tensor | None) -> "Normal":
        return cls(*(None if part is None else part.to(dtype) for part in parts))


def pair(pred_mean: Tensor, pred_log_std: Tensor | None) -> tuple[Tensor, Tensor]:
    """The two predictions, of which pred_mean has both in its last dimension where there is no pred_log_std."""
    if pred_log_std is not None:
        return pred_mean, pred_log_std
    pred_mean, pred_log_std = pred_mean.unbind(-1)
    return pred_mean, pred_log_std


def hide_output(
    mask: Tensor | None, mean: Tensor, std: Tensor, mixture_logits: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The network's output with zeros where the mask is False."""
    each = mask if mask is None or mixture_logits is None else mask.unsqueeze(-1)
    mean, std, mixture_logits = hide(each, mean, std, mixture_logits)
    return mean, std, mixture_logits


def output_distribution(
    dtype: torch.dtype,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    *limits: float,
) -> Normal:
    """The mean and std of the network's normal (105, 106), in `dtype`, the type of the arithmetic.

    Where t < t_min, mean and std are 0 and 1, without a gradient. If the scales are None, the network predicts the mean
    itself. limits: those of `output_std`.
    """
    pred_mean, pred_log_std = pair(pred_mean, pred_log_std)
    output = Normal.of(dtype, pred_mean, pred_log_std, mixture_logits)
    if mean_scale is None:
        return output._replace(std=output_std(output.std, None, None, *limits))
    mean_scale, noise_scale = output.each(mean_scale), output.each(noise_scale)
    started = mean_scale != 0  # it is 1/γ, at least 1, from t_min on, and 0 before
    mean, noise_pred = hide(started, output.each(mean.to(dtype)), output.mean)
    std = output_std(output.std, mean_scale, noise_scale, *limits)
    return output._replace(mean=mean_scale * mean - noise_scale * noise_pred, std=std)


def output_std(
    pred_log_std: Tensor, mean_scale: Tensor | None, noise_scale: Tensor | None, std_min: float, std_max: float,
    log_std_max: float,
) -> Tensor:  # fmt: skip
    """The std of `output_distribution`, in the type of pred_log_std: it depends on no other prediction.

    Its logarithm is clamped to [−log_std_max, log_std_max], then the std to [std_min, std_max].
    """
    std = clamped(pred_log_std.to(compute_dtype(pred_log_std)), -log_std_max, log_std_max).exp()
    if mean_scale is None:
        return clamped(std, std_min, std_max).to(pred_log_std.dtype)
    started = mean_scale != 0
    (std,) = hide(started, std)
    return torch.where(started, clamped(noise_scale * std, std_min, std_max), 1.0).to(pred_log_std.dtype)


def hidden_distribution(
    mask: Tensor | None,
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    *limits: float,
) -> Normal:
    """The output distribution that a loss of x sees: where the mask is False, the network's output and the mean count
    as zeros. The other arguments are those of `output_distribution`."""
    (mean,) = hide(mask, mean)
    output = hide_output(mask, *pair(pred_mean, pred_log_std), mixture_logits)
    return output_distribution(compute_dtype(x, *output, mean), *output, mean, mean_scale, noise_scale, *limits)


def expected_value(mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int, clip: bool) -> Tensor:
    """k̂ = Σ p_k c_k."""
    normal = Normal.of(compute_dtype(mean, std, mixture_logits), mean, std, mixture_logits)
    return _expected_value(normal, num_bins, clip).to(mean.dtype)


def _expected_value(normal: Normal, num_bins: int, clip: bool) -> Tensor:
    return normal.mixed(mean_of_bins(normal.mean, normal.std, num_bins, clip))


def _log_prob(index: Tensor, normal: Normal, num_bins: int, clip: bool) -> Tensor:
    return normal.log_mixed(log_bin_prob(normal.each(index), normal.mean, normal.std, num_bins, clip))


def sample(
    mean: Tensor,
    std: Tensor,
    mixture_logits: Tensor | None,
    num_bins: int,
    seed: Tensor | None,
    noise: Tensor | None,
    component_noise: Tensor | None,
) -> Tensor:
    """The centre of the bin of clamp(mean + std·ε); for a mixture, its component is drawn first."""
    dtype, kind = compute_dtype(mean, std, mixture_logits), mean.dtype
    if mixture_logits is not None:
        shape = mean.shape[:-1]
        uniform = random.class_uniform(shape, seed, random.COMPONENT) if component_noise is None else component_noise
        shares = mixture_logits.to(dtype).softmax(-1)
        component = random.draw_class(shares, uniform.to(dtype)).unsqueeze(-1)
        mean, std = (part.gather(-1, component).squeeze(-1) for part in (mean, std))
        mean = torch.where(shares.isnan().any(-1), torch.nan, mean)
    value = mean.to(dtype) + std.to(dtype) * random.normals(mean, dtype, seed, noise, random.OUTPUT)
    return centre(bin_index(value.clamp(-1, 1), num_bins), num_bins).to(kind)


def likeliest(index: Tensor, normal: Normal, num_bins: int) -> tuple[Tensor, Tensor]:
    """The bin with the most mass among the bins `index`, the first one if several have it, and ln of that mass. Both
    are NaN if the mass of any of them is."""
    log_p, place = _log_prob(index, normal.unsqueeze(), num_bins, True).max(-1, keepdim=True)
    best = torch.where(log_p.isnan(), torch.nan, index.expand(*log_p.shape[:-1], -1).gather(-1, place))
    return best.squeeze(-1), log_p.squeeze(-1)


def mode(mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int) -> Tensor:
    """The centre of the likeliest bin. For one normal it is the bin of the mean, the first or the last, tried in this
    order; for a mixture all bins are tried in order. A later bin wins only if it is strictly likelier."""
    normal = Normal.of(compute_dtype(mean, std, mixture_logits), mean, std, mixture_logits)
    if mixture_logits is None:
        first = bin_index(normal.mean, num_bins)
        ends = (torch.full_like(first, k) for k in (0, num_bins - 1))
        best, _ = likeliest(torch.stack([first, *ends], -1), normal, num_bins)
        return centre(best, num_bins).to(mean.dtype)
    best = torch.zeros_like(normal.mean[..., 0])
    best_log_p = torch.full_like(best, -torch.inf)
    every = torch.arange(num_bins, dtype=best.dtype, device=best.device)
    for some in every.split(max(1, MODE_NUMBERS // max(1, mean.numel()))):
        index, log_p = likeliest(some, normal, num_bins)
        better = (log_p > best_log_p) | log_p.isnan()  # a best of NaN stays, since no number is larger
        best, best_log_p = torch.where(better, index, best), torch.where(better, log_p, best_log_p)
    return centre(best, num_bins).to(mean.dtype)


def bin_loss(
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    mixture_logits: Tensor | None,
    num_bins: int,
    clip: bool,
    mask: Tensor | None,
    reduction: int,
) -> Tensor:
    """−ln p of the bin that x lies in."""
    dtype = compute_dtype(x, mean, std, mixture_logits)
    (x,) = hide(mask, x.to(dtype))
    values("x", x, -1, 1)
    normal = Normal.of(dtype, mean, std, mixture_logits)
    mean, std, mixture_logits = hide_output(mask, normal.mean, normal.std - 1, normal.mixture_logits)
    normal = Normal(mean, std + 1, mixture_logits)
    return reduce(-_log_prob(bin_index(x, num_bins), normal, num_bins, clip), mask, reduction)


def reconstruction_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    num_bins: int,
    std_min: float,
    std_max: float,
    log_std_max: float,
    mask: Tensor | None,
    reduction: int,
) -> Tensor:
    """−ln p_O(x), where p_O is the output distribution at t = 1. The arguments are those of `continuous_time_loss`."""
    network = pred_mean, pred_log_std, mixture_logits, mean
    normal = hidden_distribution(mask, x, *network, mean_scale, noise_scale, std_min, std_max, log_std_max)
    return bin_loss(x, *normal, num_bins, True, mask, reduction)


def continuous_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    weight: Tensor,
    num_bins: int,
    std_min: float,
    std_max: float,
    log_std_max: float,
    clip: bool,
    mask: Tensor | None,
    reduction: int,
) -> Tensor:
    """L∞ = weight·(x − k̂)² with the weight −ln σ₁/σ₁^{2t} (101), k̂ the expected value of the output distribution.

    x, mean: `[B, ...]`. pred_mean, pred_log_std: `[B, ...]`, or `[B, ..., M]` like mixture_logits; if pred_log_std is
    None, pred_mean is both, `[B, ..., 2]` or `[B, ..., M, 2]`. mean_scale, noise_scale and weight: row scalars that
    broadcast to x. std_min, std_max, log_std_max: see `output_distribution`. mask: bool, broadcasts to x.
    """
    (x,) = hide(mask, x)
    values("x", x, -1, 1)
    network = pred_mean, pred_log_std, mixture_logits, mean
    normal = hidden_distribution(mask, x, *network, mean_scale, noise_scale, std_min, std_max, log_std_max)
    error = x.to(normal.mean.dtype) - _expected_value(normal, num_bins, clip)
    return reduce(weight * error * error, mask, reduction)


def discrete_time_loss(
    x: Tensor,
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    alpha: Tensor,
    n_steps: int,
    nodes: Sequence[float],
    node_weights: Sequence[float],
    n_samples: int,
    seed: Tensor | None,
    noise: Tensor | None,
    num_bins: int,
    std_min: float,
    std_max: float,
    log_std_max: float,
    clip: bool,
    mask: Tensor | None,
    reduction: int,
) -> Tensor:
    """L_n = n·E[−ε²/2 − ln Σ_k p_k·exp(−(y − c_k)²/2τ²)], y = x + τε, τ² = 1/α_i (113–119).

    alpha: row scalars α_i that broadcast to x. nodes and node_weights: of the quadrature, or empty. seed: an int64
    tensor of one element. noise: `[n_samples, B, ...]`. The other arguments are those of `continuous_time_loss`.
    """
    (x,) = hide(mask, x)
    values("x", x, -1, 1)
    network = pred_mean, pred_log_std, mixture_logits, mean
    normal = hidden_distribution(mask, x, *network, mean_scale, noise_scale, std_min, std_max, log_std_max)
    dtype = normal.mean.dtype
    x, tau = x.to(dtype), alpha.rsqrt()
    index = torch.arange(num_bins, dtype=dtype, device=x.device)
    log_p = _log_prob(index, normal.unsqueeze(), num_bins, clip)
    loss = torch.zeros_like(x)
    for eps, weight in Expectation(nodes, node_weights, n_samples, seed, noise).draws(x, random.normal):
        z = ((x + tau * eps).unsqueeze(-1) - centre(index, num_bins)) / tau.unsqueeze(-1)
        loss = loss + weight * (-(eps**2) / 2 - (log_p - z**2 / 2).logsumexp(-1))
    return reduce(n_steps * loss, mask, reduction)


def update_sample(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    mean: Tensor,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    keep: Tensor,
    take: Tensor,
    update_std: Tensor,
    num_bins: int,
    std_min: float,
    std_max: float,
    log_std_max: float,
    choice: int,
    known: Tensor | None,
    known_mask: Tensor | None,
    seed: Tensor | None,
    noise: Tensor | None,
    draw_noise: Tensor | None,
    component_noise: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """Chooses a value of the output distribution, sends it with accuracy α, and updates the mean.

    mean, known, noise, draw_noise, component_noise: `[B, ...]`. The network's output and the limits are as in
    `continuous_time_loss`. mean_scale, noise_scale, keep, take and update_std: row scalars that broadcast to the mean.
    known_mask: bool, broadcasts to it. seed: an int64 tensor of one element.
    """
    return solver_step(
        pred_mean, pred_log_std, mixture_logits, mean, mean_scale, noise_scale, keep, take, update_std, None, None,
        num_bins, std_min, std_max, log_std_max, choice, known, known_mask, seed, noise, draw_noise, component_noise,
        out,
    )  # fmt: skip


def solver_step(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mixture_logits: Tensor | None,
    mean: Tensor,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    keep: Tensor,
    take: Tensor,
    update_std: Tensor | None,
    previous: Tensor | None,
    extrapolation: Tensor | None,
    num_bins: int,
    std_min: float,
    std_max: float,
    log_std_max: float,
    choice: int,
    known: Tensor | None,
    known_mask: Tensor | None,
    seed: Tensor | None,
    noise: Tensor | None,
    draw_noise: Tensor | None,
    component_noise: Tensor | None,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
) -> Tensor:
    """The step of `continuous.reference.solver_step`, where x̂ is the chosen value of the output distribution.

    previous, predicted_out: `[B, ...]`; the latter receives x̂ and may be the former. extrapolation: row scalars. The
    other arguments are those of `update_sample`.
    """
    output = pred_mean, pred_log_std, mixture_logits
    limits = std_min, std_max, log_std_max
    normal = output_distribution(
        compute_dtype(*output, mean, previous), *output, mean, mean_scale, noise_scale, *limits
    )
    if choice == MEAN:
        value = _expected_value(normal, num_bins, True)
    elif choice == MODE:
        value = mode(*normal, num_bins)
    else:
        value = sample(*normal, num_bins, seed, draw_noise, component_noise)
    if known is not None:
        value = torch.where(known_mask, known.to(value.dtype), value)
    taken = extrapolated(value, previous, extrapolation)
    if predicted_out is not None:
        predicted_out.copy_(value)
    return gaussian_step(mean, keep, taken, take, update_std, seed, noise, out)
