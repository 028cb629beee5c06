"""Continuous data in plain PyTorch: the executable specification. Equation numbers are those of arXiv 2308.07037.

Data have shape `[B, ...]`. Row scalars (`mean_scale`, `weight`, …) come from the module `rows`, in the type of the
arithmetic, and broadcast to the data. Explicit `noise` replaces the normals that the seed would make.
"""

import torch
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
    """state_scale·state + data_scale·data + noise_scale·ε. Every step of a normal's mean has this form:

    the flow, γx + √(γ(1−γ))·ε (77);
    the sender, x + ε/√α;
    the update, μ' = (ρμ + αy)/ρ', ρ' = ρ + α (49, 50);
    sender and update in one, μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε [derived].

    state, data and noise: `[B, ...]`, all of one shape. The scales broadcast to it; a scale of None is 1, and data or
    noise_scale of None leave their term out. seed: an int64 tensor of one element.
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


def update_sample(
    prediction: Tensor,
    mean: Tensor,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    keep: Tensor,
    take: Tensor,
    update_std: Tensor,
    low: float,
    high: float,
    known: Tensor | None,
    known_mask: Tensor | None,
    seed: Tensor | None,
    noise: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """Sends x̂, or what is known, with accuracy α, and updates the mean.

    prediction, mean, known, noise: `[B, ...]`. mean_scale, noise_scale, keep, take and update_std: row scalars that
    broadcast to the mean. known_mask: bool, broadcasts to it. seed: an int64 tensor of one element. x̂ is that of
    `predict_data`.
    """
    dtype = compute_dtype(prediction, mean)
    sent = predict_data(prediction.to(dtype), mean, mean_scale, noise_scale, low, high)
    if known is not None:
        sent = torch.where(known_mask, known.to(dtype), sent)
    return gaussian_step(mean, keep, sent, take, update_std, seed, noise, out)


def guided(z: Tensor, scale: Tensor | None, unconditional: Tensor | None, unconditional_scale: Tensor | None) -> Tensor:
    """scale·z + unconditional_scale·unconditional: classifier-free guidance and a temperature of logits. A z of −∞
    stays one, and without weight an infinite `unconditional` does not count."""
    value = z if scale is None else scale * z
    if unconditional is not None:
        other = unconditional.to(z.dtype).masked_fill(unconditional_scale == 0, 0)
        value = value + unconditional_scale * other
    return torch.where(z == -torch.inf, z, value)


def extrapolated(p: Tensor, previous: Tensor | None, by: Tensor | None) -> Tensor:
    """p + by·(p − p_prev), the prediction that a second-order step takes; p itself without an earlier one."""
    return p if previous is None else p + by * (p - previous.to(p.dtype))


def solver_step(
    prediction: Tensor,
    mean: Tensor,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    keep: Tensor,
    take: Tensor,
    update_std: Tensor | None,
    previous: Tensor | None,
    extrapolation: Tensor | None,
    low: float,
    high: float,
    known: Tensor | None,
    known_mask: Tensor | None,
    seed: Tensor | None,
    noise: Tensor | None,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
) -> Tensor:
    """μ' = keep·μ + take·(x̂ + extrapolation·(x̂ − x̂_prev)) + update_std·ξ [derived]. Without an update_std there is no
    noise, and without `previous` x̂ alone is taken.

    previous, predicted_out: `[B, ...]`; the latter receives x̂ and may be the former. extrapolation: row scalars. The
    other arguments are those of `update_sample`.
    """
    dtype = compute_dtype(prediction, mean, previous)
    sent = predict_data(prediction.to(dtype), mean, mean_scale, noise_scale, low, high)
    if known is not None:
        sent = torch.where(known_mask, known.to(dtype), sent)
    taken = extrapolated(sent, previous, extrapolation)
    if predicted_out is not None:
        predicted_out.copy_(sent)
    return gaussian_step(mean, keep, taken, take, update_std, seed, noise, out)


def predict_data(
    prediction: Tensor,
    mean: Tensor | None,
    mean_scale: Tensor | None,
    noise_scale: Tensor | None,
    low: float,
    high: float,
) -> Tensor:
    """x̂ = μ/γ − √((1−γ)/γ)·ε̂ (84), clipped to [low, high]; 0 without a gradient where t < t_min.

    prediction and mean: `[B, ...]`. If the scales are None, the prediction is x̂ itself.
    """
    if mean_scale is None:
        return clamped(prediction, low, high)
    dtype = compute_dtype(prediction, mean)
    started = mean_scale != 0  # it is 1/γ, at least 1, from t_min on, and 0 before
    wide_mean, noise_pred = hide(started, mean.to(dtype), prediction.to(dtype))
    return clamped(mean_scale * wide_mean - noise_scale * noise_pred, low, high).to(prediction.dtype)


def clamped(value: Tensor, low: float, high: float) -> Tensor:
    """The value within [low, high]. The gradient passes at both ends, as that of torch's own clamp did before 2.15."""
    return torch.where((value >= low) & (value <= high), value, value.detach().clamp(low, high))


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
    """weight·(x − x̂)² + offset: L∞ (101), L_n (96) and −ln N(x; x̂, v) differ in their weight and offset alone.

    x, prediction and mean: `[B, ...]`, all of one shape. mean_scale, noise_scale, weight and offset: row scalars that
    broadcast to x. mask: bool, broadcasts to x. x̂ is that of `predict_data`.
    """
    dtype = compute_dtype(x, prediction, mean)
    x, prediction, mean = hide(mask, x.to(dtype), prediction.to(dtype), None if mean is None else mean.to(dtype))
    values("x", x, low, high)
    error = x - predict_data(prediction, mean, mean_scale, noise_scale, low, high)
    loss = weight * error * error
    return reduce(loss if offset is None else loss + offset, mask, reduction)
