"""Probabilities of bins where each variable has one normal, not a mixture, in plain PyTorch. Equation numbers refer to
arXiv 2308.07037. [derived] marks a formula that is not in the paper.

K bins of width h = 2/K divide [−1, 1]. A bin is a zero-based index, a float so that NaN stays NaN.
"""

import math

import torch
from torch import Tensor

from bfn_kernels.checks import wide_device

TINY_TOTAL = 1e-5  # with less mass in [−1, 1], as for std ≥ 8e4, an unclipped distribution counts as uniform
WIDE_STD, WIDE_TERMS = 2.0, 30  # from this std on, k̂ without `clip` is a series of 30 terms (error 1e-17)


def bin_index(x: Tensor, num_bins: int) -> Tensor:
    return ((x * 0.5 + 0.5) * num_bins).floor().clamp(0, num_bins - 1)


def centre(index: Tensor, num_bins: int) -> Tensor:
    return (2 * index + 1) / num_bins - 1


def ndtr(z: Tensor) -> Tensor:
    """Φ(z). torch computes it as (1 + erf)/2, which has no digits left where z is far below 0."""
    return torch.erfc(-z * math.sqrt(0.5)) / 2


def log_ndtr(z: Tensor) -> Tensor:
    """ln Φ(z). In float32 the gradient of torch's function is wrong where z is far below 0, by a factor of 6
    at z = −1e4. For float32 and z < −10, an asymptotic series replaces the function."""
    far = (z < -10) & (z.dtype == torch.float32)
    tail = torch.where(far, z, -10.0)
    w = tail**-2
    series = (
        -(tail**2) / 2 - (-tail).log() - math.log(2 * math.pi) / 2 + (w * (-1 + w * (3 + w * (-15 + w * 105)))).log1p()
    )
    return torch.where(far, series, torch.special.log_ndtr(torch.where(far, 0.0, z)))


def log_interval(left: Tensor, right: Tensor, middle: Tensor, width: Tensor) -> Tensor:
    """ln(Φ(right) − Φ(left)). An interval right of 0 is mirrored, so that its Φ are not close to 1. For a narrow
    interval it is a series in `middle` and `width`, the middle and the width of the interval."""
    most_width, most_slope = (0.1, 0.3) if left.dtype == torch.float32 else (1e-2, 1.5e-2)
    narrow = (width < most_width) & ((middle * width).abs() < most_slope)
    flip = left > 0
    low, high = torch.where(flip, -right, left), torch.where(flip, -left, right)
    low, high = torch.where(narrow, -1.0, low), torch.where(narrow, 1.0, high)
    wide_value = log_ndtr(high) + (-(log_ndtr(low) - log_ndtr(high)).exp()).log1p()
    z, d = torch.where(narrow, middle, 0.0), torch.where(narrow, width, 1.0)
    series = (z**2 - 1) * d**2 / 24 + (z**4 - 6 * z**2 + 3) * d**4 / 1920
    return torch.where(narrow, -(z**2) / 2 - math.log(2 * math.pi) / 2 + d.log() + series.log1p(), wide_value)


def _nan_if_infinite(mean: Tensor) -> Tensor:
    """The mean, or NaN if it is infinite. A normal with an infinite mean has no probabilities, so all results must be
    NaN."""
    return mean + 0 * mean


def log_bin_prob(index: Tensor, mean: Tensor, std: Tensor, num_bins: int, clip: bool) -> Tensor:
    """ln p_k of the bins `index` (107–109). With `clip`, the first and the last bin get the mass beyond [−1, 1].
    Without it, the distribution is renormalised in [−1, 1]."""
    mean, h = _nan_if_infinite(mean), 2 / num_bins
    left, right = (-1 + h * index - mean) / std, (-1 + h * (index + 1) - mean) / std
    inside = log_interval(left, right, (centre(index, num_bins) - mean) / std, h / std)
    if clip:
        inside = torch.where(index == num_bins - 1, log_ndtr(-left), inside)
        return torch.where(index == 0, log_ndtr(right), inside)
    log_total, uniform = unclipped_total(mean, std)
    return torch.where(uniform, -math.log(num_bins), inside - log_total)


def unclipped_total(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of the mass in [−1, 1], ln(Φ((1−mean)/std) − Φ((−1−mean)/std)), and True where the mass is too
    small to divide by."""
    log_total = log_interval((-1 - mean) / std, (1 - mean) / std, -mean / std, 2 / std)
    return log_total, log_total < math.log(TINY_TOTAL)


def mean_of_bins(mean: Tensor, std: Tensor, num_bins: int, clip: bool) -> Tensor:
    """k̂ = Σ p_k c_k for one normal, where c_k is the centre of bin k. With `clip`, it is (1 − 1/K) − h·Σ Φ((b_j −
    mean)/std) over the inner edges b_j of the bins [derived]."""
    mean = _nan_if_infinite(mean)
    edges = -1 + 2 / num_bins * torch.arange(1, num_bins, dtype=mean.dtype, device=mean.device)
    last = 1 - 1 / num_bins
    if clip:
        return last - 2 / num_bins * ndtr((edges - mean.unsqueeze(-1)) / std.unsqueeze(-1)).sum(-1)
    # k̂ is odd in the mean, so it is computed for |mean|. For a mean far below −1 every Φ would be close to 1, and
    # differences of them would lose digits. |mean| is computed as sign·mean, since abs has the gradient 0 at 0.
    sign = torch.where(mean < 0, -1, 1)
    log_total, uniform = unclipped_total(mean, std)
    mean, std = torch.where(uniform, 0.0, sign * mean), torch.where(uniform, 1.0, std)
    wide = std >= WIDE_STD
    near = torch.where(wide, 1.0, std)
    ends = last * (ndtr((1 - mean) / near) + ndtr((-1 - mean) / near))
    cdf_sum = ndtr((edges - mean.unsqueeze(-1)) / near.unsqueeze(-1)).sum(-1)
    value = (ends - 2 / num_bins * cdf_sum) / torch.where(uniform | wide, 0.0, log_total).exp()
    value = torch.where(wide, _mean_of_wide(mean, torch.where(wide, std, WIDE_STD), num_bins), value)
    return sign * torch.where(uniform, 0.0, value)


def _mean_of_wide(mean: Tensor, std: Tensor, num_bins: int) -> Tensor:
    """k̂ = Σ p_k c_k for a wide unclipped normal, whose closed form would be a small difference divided by a small mass.
    With z = mean/std and Hermite polynomials He_n the density in [−1, 1] is proportional to exp(zx/std − x²/2std²) =
    Σ He_n(z)·(x/std)^n/n!, so that Σ c_k p_k = Σ He_n(z)/std^n·(Σ_k c_k ∫ x^n/n! over bin k) / Σ He_n(z)/std^n·(∫
    x^n/n! over [−1, 1]) [derived]."""
    edges = torch.linspace(-1, 1, num_bins + 1, dtype=torch.float64, device=wide_device(mean.device))
    centres = (edges[1:] + edges[:-1]) / 2
    before, he = torch.zeros_like(mean), torch.ones_like(mean)  # He_n(z)/std^n, by its recurrence
    numerator, denominator = torch.zeros_like(mean), torch.zeros_like(mean)
    for n in range(WIDE_TERMS):
        integrals = (edges ** (n + 1)).diff() / float(math.factorial(n + 1))  # ∫ x^n/n! over each bin
        if n % 2 == 1:  # the numerator's terms are 0 for even n, the denominator's for odd n
            numerator = numerator + he * (centres * integrals).sum()
        else:
            denominator = denominator + he * integrals.sum()
        before, he = he, (mean * he - n * before) / std**2
    return numerator / denominator
