"""Continuous data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

Numbers of a row come from `rows`, in the type of the arithmetic, and broadcast to the data; `noise` replaces seeded
normals.
"""

import torch
from torch import Tensor

from bfn_kernels import noise as random
from bfn_kernels.checks import compute_dtype, values
from bfn_kernels.reduction import hide, reduce
from bfn_kernels.rows import Numbers


def normals(
    like: Tensor, dtype: torch.dtype, seed: Tensor | None, noise: Tensor | None, stream=random.SENDER
) -> Tensor:
    """The explicit noise, or that of the seed, in the shape of the data."""
    return random.normal(like.shape, seed, stream, dtype=dtype) if noise is None else noise.to(dtype)


def flow_sample(x: Tensor, numbers: Numbers, seed: Tensor | None, noise: Tensor | None) -> Tensor:
    """mean = γx + √(γ(1−γ))·ε (77)."""
    gamma, std = numbers.rows
    return (gamma * x.to(gamma.dtype) + std * normals(x, std.dtype, seed, noise)).to(x.dtype)


def sender_sample(x: Tensor, numbers: Numbers, seed: Tensor | None, noise: Tensor | None) -> Tensor:
    """y = x + ε/√α."""
    (std,) = numbers.rows
    return (x.to(std.dtype) + std * normals(x, std.dtype, seed, noise)).to(x.dtype)


def bayesian_update(mean: Tensor, y: Tensor, numbers: Numbers) -> Tensor:
    """μ' = (ρμ + αy)/ρ', ρ' = ρ + α (49, 50)."""
    keep, take = numbers.rows
    return (keep * mean.to(keep.dtype) + take * y.to(take.dtype)).to(mean.dtype)


def update_sample(
    x: Tensor,
    mean: Tensor,
    numbers: Numbers,
    seed: Tensor | None,
    noise: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """Sender and update in one: μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε [derived]."""
    keep, take, std = numbers.rows
    updated = keep * mean.to(keep.dtype) + take * x.to(take.dtype)
    updated = (updated + std * normals(mean, std.dtype, seed, noise)).to(mean.dtype)
    return updated if out is None else out.copy_(updated)


def predict_data(prediction: Tensor, mean: Tensor | None, numbers: Numbers, clip: tuple[float, float]) -> Tensor:
    """x̂ = μ/γ − √((1−γ)/γ)·ε̂ (84), 0 with no gradient where t < t_min, clipped to the data range; without a flow the
    prediction is x̂ itself."""
    dtype, flow = compute_dtype(prediction, mean), numbers.flow
    if flow is None:
        return prediction.clamp(*clip)
    wide_mean, noise_pred = hide(flow.started, mean.to(dtype), prediction.to(dtype))
    return (flow.a * wide_mean - flow.b * noise_pred).clamp(*clip).to(prediction.dtype)


def squared_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor | None,
    numbers: Numbers,
    clip: tuple[float, float],
    mask: Tensor | None,
    reduction: str,
) -> Tensor:
    """weight·(x − x̂)² + offset: L∞ (101), L_n (96) and −ln N(x; x̂, v) differ in their weight and offset alone."""
    dtype = compute_dtype(x, prediction, mean)
    x, prediction, mean = hide(mask, x.to(dtype), prediction.to(dtype), None if mean is None else mean.to(dtype))
    values("x", x, *clip)
    weight, *offset = numbers.others
    error = x - predict_data(prediction, mean, numbers, clip)
    return reduce(sum(offset, weight * error * error), mask, reduction)
