"""The operators of continuous data in Triton, the counterpart of csrc/cpu/continuous.cpp.

An operator takes the arguments of the function of the same name in `reference.py`, whose docstring says their shapes.
Its kernel takes them as views: `network` has the views of prediction, mean, mean_scale and noise_scale.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.records import LossTarget, Noise, Prediction, Solver
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
    launch,
    load,
    programs,
    store,
    view,
    views,
    writable,
)


def gaussian_step(state: Tensor, state_scale, data, data_scale, noise_scale, noise: Noise, out: Tensor) -> None:
    written = writable(out)
    inputs = views(state.shape, state, state_scale, data, data_scale, noise_scale, noise.noise)
    arguments = *inputs, noise.seed, view(written, state.shape), state.numel()
    launch(_gaussian_step, programs(state.numel()), *arguments, T=compute_type(state, data), BLOCK=BLOCK)
    if written is not out:
        out.copy_(written)


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


def step(
    network: Prediction, solver: Solver, known, known_mask, noise: Noise, out: Tensor, predicted_out: Tensor | None
) -> None:
    shape, results = network.mean.shape, Results(out, predicted_out)
    new, predicted = results.views
    inputs = views(shape, solver.keep, solver.take, solver.std, known, known_mask, noise.noise)
    ahead = *views(shape, solver.previous, solver.extrapolation), predicted
    arguments = views(shape, *network[:4]), *inputs, noise.seed, ahead, new, out.numel()
    T = compute_type(network.prediction, network.mean, solver.previous)
    launch(_update, programs(out.numel()), *arguments, LOW=network.low, HIGH=network.high, T=T, BLOCK=BLOCK)
    results.finish()


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
    updated = load(keep, block, T, 1.0) * load(network[1], block, T) + load(take, block, T) * taken
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


def predict_data(network: Prediction) -> Tensor:
    prediction, mean, *_, low, high = network
    out = torch.empty_like(prediction)
    written = writable(out)
    arguments = views(out.shape, *network[:4]), view(written, out.shape), out.numel()
    T = compute_type(prediction, mean)
    launch(_predict_data, programs(out.numel()), *arguments, LOW=low, HIGH=high, T=T, BLOCK=BLOCK)
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


def squared_loss(x: Tensor, network: Prediction, weight: Tensor, offset, to: LossTarget, *need) -> tuple[Tensor, ...]:
    """Returns the loss, the factor that its gradients are multiplied by, and the gradients of x, the prediction and the
    mean, each empty if it is not needed."""
    prediction, mean, *_, low, high = network
    dtype, count = compute_dtype(x, prediction, mean), x.numel()
    losses = Losses(x, *to, dtype)
    gradients = Gradients(*zip((x, prediction, x if mean is None else mean), need, strict=True), dtype=dtype)
    inputs = view(x, x.shape), views(x.shape, *network[:4]), *views(x.shape, weight, offset, to.mask)
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
