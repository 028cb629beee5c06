"""Continuous data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

Scalars of rows come from `rows`, in the type of the arithmetic, and broadcast to the data; `noise` replaces seeded
normals.
"""

from torch import Tensor

from bfn_kernels.checks import compute_dtype, values
from bfn_kernels.noise import normals
from bfn_kernels.reduction import hide, reduce


def gaussian_step(
    state: Tensor,
    state_scale: Tensor | None,
    data: Tensor | None,
    data_scale: Tensor | None,
    noise_scale: Tensor | None,
    seed: Tensor | None,
    noise: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """Everything that happens to a normal's mean is of this form:

    the flow, γx + √(γ(1−γ))·ε (77);
    the sender, x + ε/√α;
    the update, μ' = (ρμ + αy)/ρ', ρ' = ρ + α (49, 50);
    sender and update in one, μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε [derived].
    """
    dtype = compute_dtype(state, data)
    value = state.to(dtype)
    if state_scale is not None:
        value = state_scale * value
    if data is not None:
        value = value + data_scale * data.to(dtype)
    if noise_scale is not None:
        value = value + noise_scale * normals(state, dtype, seed, noise)
    return value.to(state.dtype) if out is None else out.copy_(value)


def predict_data(
    prediction: Tensor,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    low: float,
    high: float,
) -> Tensor:
    """x̂ = μ/γ − √((1−γ)/γ)·ε̂ (84), 0 with no gradient where t < t_min, clipped to the data range; without scales the
    prediction is x̂ itself."""
    if mean_scale is None:
        return prediction.clamp(low, high)
    dtype = compute_dtype(prediction, mean)
    started = mean_scale != 0  # 1/γ, which is at least 1 from t_min on
    wide_mean, noise_pred = hide(started, mean.to(dtype), prediction.to(dtype))
    return (mean_scale * wide_mean - noise_scale * noise_pred).clamp(low, high).to(prediction.dtype)


def squared_loss(
    x: Tensor,
    prediction: Tensor,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    weight: Tensor,
    offset: Tensor | None,
    low: float,
    high: float,
    mask: Tensor | None,
    reduction: int,
) -> Tensor:
    """weight·(x − x̂)² + offset: L∞ (101), L_n (96) and −ln N(x; x̂, v) differ in their weight and offset alone."""
    dtype = compute_dtype(x, prediction, mean)
    x, prediction, mean = hide(mask, x.to(dtype), prediction.to(dtype), None if mean is None else mean.to(dtype))
    values("x", x, low, high)
    error = x - predict_data(prediction, mean, mean_scale, noise_scale, low, high)
    loss = weight * error * error
    return reduce(loss if offset is None else loss + offset, mask, reduction)
