"""Continuous data: the operators of `bfn_kernels_triton` and their kernels, csrc/cpu/continuous.cpp again."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import rows
from bfn_kernels.checks import compute_dtype
from bfn_kernels.triton_ops.elementary import clamp, square
from bfn_kernels.triton_ops.noise import SENDER, normals
from bfn_kernels.triton_ops.reduction import Losses, scaled, write_losses
from bfn_kernels.triton_ops.rows import numbers
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

WEIGHTS = rows.RATE, rows.ALPHA, rows.HALF_PRECISION  # of a squared loss: L∞, L_n and −ln N(x; x̂, v)


def gaussian_step(state: Tensor, data, given, which: int, by, seed, noise) -> Tensor:
    out = torch.empty_like(state)
    gaussian_step_out(state, data, given, which, by, seed, noise, out)
    return out


def gaussian_step_out(state: Tensor, data, given, which: int, by, seed, noise, out: Tensor) -> None:
    shape, to = state.shape, writable(out)
    of = numbers(given, which, by, shape, compute_dtype(state, data))
    a, b, std = of(rows.GAMMA, rows.KEEP), of(rows.TAKE), of(rows.FLOW_STD, rows.UPDATE_STD, rows.SENDER_STD)
    if data is None and b is not None:  # the backward pass of the data: its number scales the state
        a, b = b, a
    launch(
        _gaussian_step, programs(state.numel()), *(view(t, shape) for t in (state, a, data, b, std, noise)), seed,
        view(to, shape), state.numel(), T=compute_type(state, data), BLOCK=BLOCK,
    )  # fmt: skip
    if to is not out:
        out.copy_(to)


@triton.jit
def _gaussian_step(state, a, data, b, std, noise, seed, out, count, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    value = load(a, block, T, 1.0) * load(state, block, T)
    if data[0] is not None:
        value += load(b, block, T) * load(data, block, T)
    if std[0] is not None:
        value += load(std, block, T) * noise_of(noise, seed, block, SENDER, T)
    store(out, block, value)


@triton.jit
def noise_of(noise, seed, block, stream: tl.constexpr, T: tl.constexpr):
    """Explicit normals, or those of the seed at a block of elementwise data."""
    if noise[0] is not None:
        return load(noise, block, T)
    else:
        start, place, _, _ = block
        group = start // 4 + tl.arange(0, place.shape[0] // 4)
        return normals(tl.load(seed), group, stream, 0, T)


@triton.jit
def predict(prediction, mean, a, b, block, T: tl.constexpr):
    """x̂ = aμ − bε̂ (84), 0 with nothing looked at where a = b = 0, that is t < t_min; without them the prediction is
    x̂. Returned with a and b."""
    a_row, b_row = load(a, block, T), load(b, block, T, -1.0)
    x_hat = -b_row * load(prediction, block, T)
    if a[0] is not None:
        x_hat = tl.where(a_row == 0.0, x_hat, a_row * load(mean, block, T) + x_hat)
    return tl.where((a_row == 0.0) & (b_row == 0.0), 0.0, x_hat), a_row, b_row


def prediction_of(prediction: Tensor, mean: Tensor | None, of: Callable[..., Tensor | None]) -> tuple:
    row = of(rows.MEAN_SCALE), of(rows.NOISE_SCALE)
    return tuple(view(t, prediction.shape) for t in (prediction, mean, *row))


def predict_data(prediction: Tensor, mean, given, which: int, by, low: float, high: float) -> Tensor:
    out = torch.empty_like(prediction)
    shape, to = prediction.shape, writable(out)
    of = numbers(given, which, by, shape, compute_dtype(prediction, mean))
    launch(
        _predict_data, programs(prediction.numel()), *prediction_of(prediction, mean, of), view(to, shape),
        prediction.numel(), LOW=low, HIGH=high, T=compute_type(prediction, mean), BLOCK=BLOCK,
    )  # fmt: skip
    return out if to is out else out.copy_(to)


@triton.jit
def _predict_data(
    prediction, mean, a, b, out, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(prediction, mean, a, b, block, T)
    store(out, block, clamp(x_hat, LOW, HIGH))


def predict_data_backward(
    grad: Tensor,
    prediction: Tensor,
    mean,
    given,
    which: int,
    by,
    low: float,
    high: float,
    need_prediction: bool,
    need_mean: bool,
) -> tuple[Tensor, ...]:
    shape = prediction.shape
    of = numbers(given, which, by, shape, compute_dtype(prediction, mean))
    gradients = Gradients((prediction, need_prediction), (prediction if mean is None else mean, need_mean))
    launch(
        _predict_data_backward, programs(prediction.numel()), view(grad, shape),
        *prediction_of(prediction, mean, of), *gradients.views, prediction.numel(),
        LOW=low, HIGH=high, T=compute_type(prediction, mean), BLOCK=BLOCK,
    )  # fmt: skip
    return gradients.finish()


@triton.jit
def _predict_data_backward(
    grad, prediction, mean, a, b, by_prediction, by_mean, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, a, b = predict(prediction, mean, a, b, block, T)
    through = tl.where((x_hat < LOW) | (x_hat > HIGH), 0.0, load(grad, block, T))
    store(by_prediction, block, -b * through)
    store(by_mean, block, a * through)


def squared_loss(
    x: Tensor, prediction: Tensor, mean, given, which: int, by, low: float, high: float, mask, reduction: int
) -> tuple[Tensor, Tensor]:
    shape, count, dtype = x.shape, x.numel(), compute_dtype(x, prediction, mean)
    of = numbers(given, which, by, shape, dtype)
    losses = Losses(x, mask, reduction, dtype)
    launch(
        _squared_loss, programs(count), view(x, shape), *prediction_of(prediction, mean, of),
        *(view(t, shape) for t in (of(*WEIGHTS), of(rows.LOG_NORMALISER), mask)), *losses.arguments, count,
        LOW=low, HIGH=high, EACH=losses.each, T=KERNEL_TYPES[dtype], BLOCK=BLOCK,
    )  # fmt: skip
    return losses.finish()


@triton.jit
def _squared_loss(
    x, prediction, mean, a, b, weight, offset, mask, values, counts, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, EACH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(prediction, mean, a, b, block, T)
    loss = load(weight, block, T) * square(load(x, block, T) - clamp(x_hat, LOW, HIGH))
    if offset[0] is not None:
        loss += load(offset, block, T)
    write_losses(loss, load(mask, block, tl.int1, True), block, values, counts, EACH)


def squared_loss_backward(
    grad: Tensor, scale: Tensor, x: Tensor, prediction: Tensor, mean, given, which: int, by, low: float, high: float,
    mask, need_x: bool, need_prediction: bool, need_mean: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    shape = x.shape
    of = numbers(given, which, by, shape, compute_dtype(x, prediction, mean))
    gradients = Gradients((x, need_x), (prediction, need_prediction), (x if mean is None else mean, need_mean))
    launch(
        _squared_loss_backward, programs(x.numel()), view(scaled(grad, scale, x.dim()), shape), view(x, shape),
        *prediction_of(prediction, mean, of), view(of(*WEIGHTS), shape), view(mask, shape), *gradients.views,
        x.numel(), LOW=low, HIGH=high, T=compute_type(x, prediction, mean), BLOCK=BLOCK,
    )  # fmt: skip
    return gradients.finish()


@triton.jit
def _squared_loss_backward(
    grad, x, prediction, mean, a, b, weight, mask, by_x, by_prediction, by_mean, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, a, b = predict(prediction, mean, a, b, block, T)
    slope = 2.0 * load(grad, block, T) * load(weight, block, T) * (load(x, block, T) - clamp(x_hat, LOW, HIGH))
    slope = tl.where(load(mask, block, tl.int1, True), slope, 0.0)
    through = tl.where((x_hat < LOW) | (x_hat > HIGH), 0.0, -slope)
    store(by_x, block, slope)
    store(by_prediction, block, -b * through)
    store(by_mean, block, a * through)
