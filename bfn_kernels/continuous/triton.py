"""The operators of continuous data in Triton, the counterpart of csrc/cpu/continuous.cpp.

An operator takes the arguments of the function of the same name in `reference.py`, whose docstring says their shapes.
Its kernel takes them as views. `network` is what x̂ is made of: prediction, mean, mean_scale and noise_scale.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.triton_ops.elementary import clamp, square
from bfn_kernels.triton_ops.noise import SENDER, noise_of
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.solver import extrapolated
from bfn_kernels.triton_ops.views import (
    BLOCK,
    KERNEL_TYPES,
    Gradients,
    Results,
    block_of,
    compute_type,
    functional,
    launch,
    load,
    programs,
    store,
    view,
    views,
    writable,
)


def gaussian_step_out(state: Tensor, state_scale, data, data_scale, noise_scale, seed, noise, out: Tensor) -> None:
    written = writable(out)
    inputs = views(state.shape, state, state_scale, data, data_scale, noise_scale, noise)
    arguments = *inputs, seed, view(written, state.shape), state.numel()
    launch(_gaussian_step, programs(state.numel()), *arguments, T=compute_type(state, data), BLOCK=BLOCK)
    if written is not out:
        out.copy_(written)


gaussian_step = functional(gaussian_step_out, 0)  # like the state


@triton.jit
def _gaussian_step(
    state, state_scale, data, data_scale, noise_scale, noise, seed, out, count, T: tl.constexpr, BLOCK: tl.constexpr
):
    block = block_of(count, BLOCK)
    value = load(state_scale, block, T, 1.0) * load(state, block, T)
    # the compiler is not to choose what it rounds in one: its choice, and so the bits, would depend on the layout
    if data[0] is not None:
        value = tl.fma(load(data_scale, block, T), load(data, block, T), value)
    if noise_scale[0] is not None:
        value = tl.fma(load(noise_scale, block, T), noise_of(noise, seed, block, SENDER, T), value)
    store(out, block, value)


def update_sample_out(
    prediction: Tensor,
    mean: Tensor,
    mean_scale,
    noise_scale,
    keep,
    take,
    update_std,
    low: float,
    high: float,
    *others,
) -> None:
    network = prediction, mean, mean_scale, noise_scale
    solver_step_out(*network, keep, take, update_std, None, None, low, high, *others)


update_sample = functional(update_sample_out, 1)  # like the mean


def solver_step_out(
    prediction: Tensor,
    mean: Tensor,
    mean_scale,
    noise_scale,
    keep,
    take,
    update_std,
    previous,
    extrapolation,
    low: float,
    high: float,
    known,
    known_mask,
    seed,
    noise,
    out: Tensor,
    predicted_out: Tensor | None = None,
) -> None:
    shape, count, results = mean.shape, mean.numel(), Results(out, predicted_out)
    network = views(shape, prediction, mean, mean_scale, noise_scale)
    new, predicted = results.views
    solver = *views(shape, previous, extrapolation), predicted
    inputs = views(shape, keep, take, update_std, known, known_mask, noise)
    arguments = network, *inputs, seed, solver, new, count
    T = compute_type(prediction, mean, previous)
    launch(_update, programs(count), *arguments, LOW=low, HIGH=high, T=T, BLOCK=BLOCK)
    results.finish()


solver_step = functional(solver_step_out, 1, None)  # like the mean


@triton.jit
def _update(
    network, keep, take, std, known, known_mask, noise, seed, solver, out, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(network, block, T)
    sent = clamp(x_hat, LOW, HIGH)
    if known[0] is not None:
        sent = tl.where(load(known_mask, block, tl.int1), load(known, block, T), sent)
    taken = extrapolated(sent, solver, block, T)
    updated = load(keep, block, T) * load(network[1], block, T) + load(take, block, T) * taken
    if std[0] is not None:
        updated += load(std, block, T) * noise_of(noise, seed, block, SENDER, T)
    store(out, block, updated)


@triton.jit
def predict(network, block, T: tl.constexpr):
    """x̂ = mean_scale·μ − noise_scale·ε̂ (84), and the two scales. If both are 0, which they are for t < t_min, x̂ is 0
    whatever μ and ε̂ are. Without scales the prediction is x̂, as if they were 0 and −1."""
    prediction, mean = network[0], network[1]
    mean_scale, noise_scale = load(network[2], block, T), load(network[3], block, T, -1.0)
    x_hat = -noise_scale * load(prediction, block, T)
    if network[2][0] is not None:
        x_hat = tl.where(mean_scale == 0.0, x_hat, mean_scale * load(mean, block, T) + x_hat)
    return tl.where((mean_scale == 0.0) & (noise_scale == 0.0), 0.0, x_hat), mean_scale, noise_scale


def predict_data(prediction: Tensor, mean, mean_scale, noise_scale, low: float, high: float) -> Tensor:
    shape, count = prediction.shape, prediction.numel()
    out = torch.empty_like(prediction)
    written = writable(out)
    arguments = views(shape, prediction, mean, mean_scale, noise_scale), view(written, shape), count
    T = compute_type(prediction, mean)
    launch(_predict_data, programs(count), *arguments, LOW=low, HIGH=high, T=T, BLOCK=BLOCK)
    return out if written is out else out.copy_(written)


@triton.jit
def _predict_data(network, out, count, LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(network, block, T)
    store(out, block, clamp(x_hat, LOW, HIGH))


def predict_data_backward(
    grad: Tensor,
    prediction: Tensor,
    mean,
    mean_scale,
    noise_scale,
    low: float,
    high: float,
    want_prediction: bool,
    want_mean: bool,
) -> tuple[Tensor, ...]:
    """The gradients of `reference.predict_data` for the prediction and the mean; grad: `[B, ...]`, as its result."""
    shape, count = prediction.shape, prediction.numel()
    gradients = Gradients((prediction, want_prediction), (prediction if mean is None else mean, want_mean))
    network = views(shape, prediction, mean, mean_scale, noise_scale)
    arguments = view(grad, shape), network, *gradients.views, count
    T = compute_type(prediction, mean)
    launch(_predict_data_backward, programs(count), *arguments, LOW=low, HIGH=high, T=T, BLOCK=BLOCK)
    return gradients.finish()


@triton.jit
def _predict_data_backward(
    grad, network, grad_prediction, grad_mean, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    x_hat, mean_scale, noise_scale = predict(network, block, T)
    grad_x_hat = tl.where((x_hat < LOW) | (x_hat > HIGH), 0.0, load(grad, block, T))
    store(grad_prediction, block, -noise_scale * grad_x_hat)
    store(grad_mean, block, mean_scale * grad_x_hat)


def squared_loss(
    x: Tensor,
    prediction: Tensor,
    mean,
    mean_scale,
    noise_scale,
    weight: Tensor,
    offset,
    low: float,
    high: float,
    mask,
    reduction: int,
    need_x: bool,
    need_prediction: bool,
    need_mean: bool,
) -> tuple[Tensor, ...]:
    """Arguments as in `reference.squared_loss`; returns the loss, the factor that its gradients are multiplied by, and
    the gradients of x, the prediction and the mean, each empty if it is not needed."""
    shape, count, dtype = x.shape, x.numel(), compute_dtype(x, prediction, mean)
    losses = Losses(x, mask, reduction, dtype)
    wanted = (x, need_x), (prediction, need_prediction), (x if mean is None else mean, need_mean)
    gradients = Gradients(*wanted, dtype=dtype)
    network = views(shape, prediction, mean, mean_scale, noise_scale)
    inputs = view(x, shape), network, *views(shape, weight, offset, mask)
    constants = {"LOW": low, "HIGH": high, "EACH": losses.each, "T": KERNEL_TYPES[dtype], "BLOCK": BLOCK}
    launch(_squared_loss, programs(count), *inputs, *gradients.views, *losses.arguments, count, **constants)
    return *losses.finish(), *gradients.finish()


@triton.jit
def _squared_loss(
    x, network, weight, offset, mask, grad_x, grad_prediction, grad_mean, values, counts, count,
    LOW: tl.constexpr, HIGH: tl.constexpr, EACH: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    keep = load(mask, block, tl.int1, True)
    x_hat, mean_scale, noise_scale = predict(network, block, T)
    error, by = load(x, block, T) - clamp(x_hat, LOW, HIGH), load(weight, block, T)
    loss = by * square(error)
    if offset[0] is not None:
        loss += load(offset, block, T)
    write_losses(loss, keep, block, values, counts, EACH)
    slope = tl.where(keep, 2.0 * by * error, 0.0)
    grad_x_hat = tl.where((x_hat < LOW) | (x_hat > HIGH), 0.0, -slope)
    store(grad_x, block, slope)
    store(grad_prediction, block, -noise_scale * grad_x_hat)
    store(grad_mean, block, mean_scale * grad_x_hat)
