"""Continuous data: the operators of `bfn_kernels_triton` and their kernels, csrc/cpu/continuous.cpp again."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.triton_ops.elementary import clamp, square
from bfn_kernels.triton_ops.noise import SENDER, noise_of
from bfn_kernels.triton_ops.reduction import Losses, scaled, write_losses
from bfn_kernels.triton_ops.views import (
    BLOCK,
    KERNEL_TYPES,
    Gradients,
    block_of,
    compute_type,
    launch,
    load,
    programs,
    store,
    view,
    writable,
)


def gaussian_step(state: Tensor, state_scale, data, data_scale, noise_scale, seed, noise) -> Tensor:
    out = torch.empty_like(state)
    gaussian_step_out(state, state_scale, data, data_scale, noise_scale, seed, noise, out)
    return out


def gaussian_step_out(state: Tensor, state_scale, data, data_scale, noise_scale, seed, noise, out: Tensor) -> None:
    shape, to = state.shape, writable(out)
    read = state, state_scale, data, data_scale, noise_scale, noise
    launch(
        _gaussian_step, programs(state.numel()), *(view(t, shape) for t in read), seed, view(to, shape),
        state.numel(), T=compute_type(state, data), BLOCK=BLOCK,
    )  # fmt: skip
    if to is not out:
        out.copy_(to)


@triton.jit
def _gaussian_step(
    state, state_scale, data, data_scale, noise_scale, noise, seed, out, count, T: tl.constexpr, BLOCK: tl.constexpr
):
    block = block_of(count, BLOCK)
    value = load(state_scale, block, T, 1.0) * load(state, block, T)
    if data[0] is not None:
        value += load(data_scale, block, T) * load(data, block, T)
    if noise_scale[0] is not None:
        value += load(noise_scale, block, T) * noise_of(noise, seed, block, SENDER, T)
    store(out, block, value)


@triton.jit
def predict(prediction, mean, mean_scale, noise_scale, block, T: tl.constexpr):
    """x̂ = aμ − bε̂ (84), 0 with nothing looked at where a = b = 0, that is t < t_min; without scales the prediction is
    x̂. Returned with a and b."""
    a, b = load(mean_scale, block, T), load(noise_scale, block, T, -1.0)
    x_hat = -b * load(prediction, block, T)
    if mean_scale[0] is not None:
        x_hat = tl.where(a == 0.0, x_hat, a * load(mean, block, T) + x_hat)
    return tl.where((a == 0.0) & (b == 0.0), 0.0, x_hat), a, b


def _views(shape: torch.Size, *tensors: Tensor | None) -> list[tuple]:
    return [view(t, shape) for t in tensors]


def predict_data(prediction: Tensor, mean, mean_scale, noise_scale, low: float, high: float) -> Tensor:
    out = torch.empty_like(prediction)
    to = writable(out)
    launch(
        _predict_data, programs(prediction.numel()),
        *_views(prediction.shape, prediction, mean, mean_scale, noise_scale, to), prediction.numel(),
        LOW=low, HIGH=high, T=compute_type(prediction, mean), BLOCK=BLOCK,
    )  # fmt: skip
    return out if to is out else out.copy_(to)


@triton.jit
def _predict_data(
    prediction, mean, mean_scale, noise_scale, out, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(prediction, mean, mean_scale, noise_scale, block, T)
    store(out, block, clamp(x_hat, LOW, HIGH))


def predict_data_backward(
    grad: Tensor, prediction: Tensor, mean, mean_scale, noise_scale, low: float, high: float, want_prediction: bool,
    want_mean: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    gradients = Gradients((prediction, want_prediction), (prediction if mean is None else mean, want_mean))
    launch(
        _predict_data_backward, programs(prediction.numel()),
        *_views(prediction.shape, grad, prediction, mean, mean_scale, noise_scale), *gradients.views,
        prediction.numel(), LOW=low, HIGH=high, T=compute_type(prediction, mean), BLOCK=BLOCK,
    )  # fmt: skip
    return gradients.finish()


@triton.jit
def _predict_data_backward(
    grad, prediction, mean, mean_scale, noise_scale, grad_prediction, grad_mean, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, a, b = predict(prediction, mean, mean_scale, noise_scale, block, T)
    through = tl.where((x_hat < LOW) | (x_hat > HIGH), 0.0, load(grad, block, T))
    store(grad_prediction, block, -b * through)
    store(grad_mean, block, a * through)


def squared_loss(
    x: Tensor, prediction: Tensor, mean, mean_scale, noise_scale, weight: Tensor, offset, low: float, high: float,
    mask, reduction: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    count, dtype = x.numel(), compute_dtype(x, prediction, mean)
    losses = Losses(x, mask, reduction, dtype)
    launch(
        _squared_loss, programs(count),
        *_views(x.shape, x, prediction, mean, mean_scale, noise_scale, weight, offset, mask), *losses.arguments, count,
        LOW=low, HIGH=high, EACH=losses.each, T=KERNEL_TYPES[dtype], BLOCK=BLOCK,
    )  # fmt: skip
    return losses.finish()


@triton.jit
def _squared_loss(
    x, prediction, mean, mean_scale, noise_scale, weight, offset, mask, values, counts, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, EACH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(prediction, mean, mean_scale, noise_scale, block, T)
    loss = load(weight, block, T) * square(load(x, block, T) - clamp(x_hat, LOW, HIGH))
    if offset[0] is not None:
        loss += load(offset, block, T)
    write_losses(loss, load(mask, block, tl.int1, True), block, values, counts, EACH)


def squared_loss_backward(
    grad: Tensor, scale: Tensor, x: Tensor, prediction: Tensor, mean, mean_scale, noise_scale, weight: Tensor,
    low: float, high: float, mask, want_x: bool, want_prediction: bool, want_mean: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    gradients = Gradients((x, want_x), (prediction, want_prediction), (x if mean is None else mean, want_mean))
    launch(
        _squared_loss_backward, programs(x.numel()),
        *_views(x.shape, scaled(grad, scale, x.dim()), x, prediction, mean, mean_scale, noise_scale, weight, mask),
        *gradients.views, x.numel(), LOW=low, HIGH=high, T=compute_type(x, prediction, mean), BLOCK=BLOCK,
    )  # fmt: skip
    return gradients.finish()


@triton.jit
def _squared_loss_backward(
    grad, x, prediction, mean, mean_scale, noise_scale, weight, mask, grad_x, grad_prediction, grad_mean, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, a, b = predict(prediction, mean, mean_scale, noise_scale, block, T)
    slope = 2.0 * load(grad, block, T) * load(weight, block, T) * (load(x, block, T) - clamp(x_hat, LOW, HIGH))
    slope = tl.where(load(mask, block, tl.int1, True), slope, 0.0)
    through = tl.where((x_hat < LOW) | (x_hat > HIGH), 0.0, -slope)
    store(grad_x, block, slope)
    store(grad_prediction, block, -b * through)
    store(grad_mean, block, a * through)
