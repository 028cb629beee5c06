"""Formulas of steps, predictions and losses in plain PyTorch that the references of several families share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.noise import normals
from bfn_kernels.records import NO_NOISE, Guidance, Noise, Solver

# Operators take an index into checks.REDUCTIONS; the enum Reduction of csrc/ops/loss.h has the same indices.
NONE, BATCH, SUM, MEAN = range(4)


def gaussian_step(
    state: Tensor,
    state_scale: Tensor | None = None,
    data: Tensor | None = None,
    data_scale: Tensor | None = None,
    noise_scale: Tensor | None = None,
    noise: Noise = NO_NOISE,
    out: Tensor | None = None,
) -> Tensor:
    """state_scale·state + data_scale·data + noise_scale·ε. Every step of a normal's mean has this form:

    the flow, γx + √(γ(1−γ))·ε (77);
    the sender, x + ε/√α;
    the update, μ' = (ρμ + αy)/ρ', ρ' = ρ + α (49, 50);
    sender and update in one step, μ' = (ρμ + αx)/ρ' + (√α/ρ')·ε.

    state, data and explicit noise: `[B, ...]`, all of one shape. The scales broadcast to this shape. If state_scale is
    None, it counts as 1. If data or noise_scale is None, the sum has no such term.
    """
    dtype = compute_dtype(state, data)
    value = state.to(dtype)
    if state_scale is not None:
        value = state_scale * value
    if data is not None:
        value = value + data_scale * data.to(dtype)
    if noise_scale is not None:
        value = value + noise_scale * normals(state, dtype, *noise)
    return value.to(state.dtype) if out is None else out.copy_(value)


def mean_step(
    mean: Tensor,
    x_hat: Tensor,
    solver: Solver,
    known: Tensor | None,
    known_mask: Tensor | None,
    noise: Noise,
    out: Tensor | None,
    predicted_out: Tensor | None,
) -> Tensor:
    """keep·μ + take·(x̂ + extrapolation·(x̂ − x̂_prev)) + std·ξ, where `known` replaces x̂ where known_mask is True."""
    if known is not None:
        x_hat = torch.where(known_mask, known.to(x_hat.dtype), x_hat)
    prediction = extrapolated(x_hat, solver.previous, solver.extrapolation)
    updated = gaussian_step(mean, solver.keep, prediction, solver.take, solver.std, noise, out)
    if predicted_out is not None:
        predicted_out.copy_(x_hat)
    return updated


def extrapolated(p: Tensor, previous: Tensor | None, by: Tensor | None) -> Tensor:
    """p + by·(p − p_prev), the prediction that a step of second order uses; p itself for a step of first order."""
    return p if previous is None else p + of_rows(by, p) * (p - previous.to(p.dtype))


def of_rows(scalar: Tensor, like: Tensor) -> Tensor:
    """Adds a last dimension to a row scalar if `like` has numbers per class, so that the two broadcast."""
    return scalar if scalar.dim() == like.dim() else scalar.unsqueeze(-1)


def guided(z: Tensor, guidance: Guidance) -> Tensor:
    """logit_scale·z + unconditional_scale·unconditional: classifier-free guidance and a temperature of logits. A z of
    −∞ stays −∞. Where unconditional_scale is 0, `unconditional` does not count, even if it is infinite."""
    scale, unconditional, unconditional_scale = guidance
    value = z if scale is None else of_rows(scale, z) * z
    if unconditional is not None:
        weight = of_rows(unconditional_scale, z)
        value = value + weight * unconditional.to(z.dtype).masked_fill(weight == 0, 0)
    return torch.where(z == -torch.inf, z, value)


def clamped(value: Tensor, low: float, high: float) -> Tensor:
    """The value, clamped to [low, high]. A value at either end has the gradient 1, as in torch.clamp before torch
    2.15."""
    return torch.where((value >= low) & (value <= high), value, value.detach().clamp(low, high))


def hide(mask: Tensor | None, *tensors: Tensor | None) -> Sequence[Tensor | None]:
    """Sets the tensors to 0 where the mask is False, so that the values there, even NaN, do not reach a gradient."""
    if mask is None:
        return tensors
    return [t if t is None else torch.where(mask, t, torch.zeros_like(t)) for t in tensors]


def reduce(loss: Tensor, mask: Tensor | None, reduction: int) -> Tensor:
    """Reduces a loss per variable `[B, ...]`: NONE returns it, BATCH sums it to `[B]`, SUM and MEAN give a scalar.

    Where the mask is False the loss is 0. MEAN divides by the number of variables where the mask is True, or by 1 if
    there is none.
    """
    (loss,) = hide(mask, loss)
    if reduction == NONE:
        return loss
    if reduction == BATCH:
        return loss.flatten(1).sum(1) if loss.dim() > 1 else loss
    if reduction == SUM:
        return loss.sum()
    return loss.sum() / (max(loss.numel(), 1) if mask is None else mask.expand(loss.shape).sum().clamp(min=1))
