"""The operators of continuous data in Triton, the counterpart of csrc/cpu/continuous.cpp.

A function takes the arguments of the function of the same name in `reference.py`, whose docstring has their shapes. A
loss also takes a bool for each gradient: whether it is needed. A kernel takes views (see `triton_ops.views`) of the
inputs and of the results, and the number of variables. Numbers in parentheses are equations of Graves et al. 2023.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.records import LossTarget, Noise, Prediction, Solver
from bfn_kernels.triton_ops.elementary import clamp, square
from bfn_kernels.triton_ops.philox import SENDER, noise_of
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.solver import mean_step
from bfn_kernels.triton_ops.views import (
    BLOCK,
    KERNEL_TYPES,
    Gradients,
    Results,
    block_of,
    compute_type,
    constants,
    launch,
    load,
    noise_views,
    programs,
    store,
    view,
    viewed,
    views,
)


def gaussian_step(state: Tensor, state_scale, data, data_scale, noise_scale, noise: Noise, out: Tensor) -> None:
    results = Results(out)
    inputs = views(state.shape, state, state_scale, data, data_scale, noise_scale)
    arguments = *inputs, noise_views(noise, state.shape), *results.views, state.numel()
    launch(_gaussian_step, programs(state.numel()), *arguments, T=compute_type(state, data), BLOCK=BLOCK)
    results.finish()


@triton.jit
def _gaussian_step(
    state, state_scale, data, data_scale, noise_scale, noise, out, count, T: tl.constexpr, BLOCK: tl.constexpr
):
    block = block_of(count, BLOCK)
    value = load(state_scale, block, T, 1.0) * load(state, block, T)
    # Without fma, the compiler would choose which products it rounds, and the result would depend on the layout.
    if data[0] is not None:
        value = tl.fma(load(data_scale, block, T), load(data, block, T), value)
    if noise_scale[0] is not None:
        value = tl.fma(load(noise_scale, block, T), noise_of(noise, block, SENDER, T), value)
    store(out, block, value)


def step(
    network: Prediction, solver: Solver, known, known_mask, noise: Noise, out: Tensor, predicted_out: Tensor | None
) -> None:
    shape, results = network.mean.shape, Results(out, predicted_out)
    inputs = _network_views(shape, network), viewed(solver, shape), *views(shape, known, known_mask)
    arguments = *inputs, noise_views(noise, shape), *results.views, out.numel()
    T = compute_type(network.prediction, network.mean, solver.previous)
    launch(_update, programs(out.numel()), *arguments, T=T, BLOCK=BLOCK)
    results.finish()


def _network_views(shape: torch.Size, network: Prediction) -> Prediction:
    """The views of a network's prediction. The range to which x̂ is clamped is a constant of the compiled kernel."""
    return Prediction(*views(shape, *network[:4]), *constants(*network[4:]))


@triton.jit
def _update(network, solver, known, known_mask, noise, out, predicted, count, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(network, block, T)
    x_hat = clamp(x_hat, network.low, network.high)
    mean_step(network.mean, x_hat, solver, known, known_mask, noise, out, predicted, block, T)


@triton.jit
def predict(network, block, T: tl.constexpr):
    """x̂ = mean_scale·μ − noise_scale·ε̂ (84), and the two scales. If both scales are 0, as for t < t_min, x̂ is 0 even
    if μ or ε̂ is infinite or NaN. If the network has no scales, they count as 0 and −1, and x̂ is the prediction."""
    mean_scale, noise_scale = load(network.mean_scale, block, T), load(network.noise_scale, block, T, -1.0)
    x_hat = -noise_scale * load(network.prediction, block, T)
    if network.mean_scale[0] is not None:
        x_hat = tl.where(mean_scale == 0.0, x_hat, mean_scale * load(network.mean, block, T) + x_hat)
    return tl.where((mean_scale == 0.0) & (noise_scale == 0.0), 0.0, x_hat), mean_scale, noise_scale


def predict_data(network: Prediction) -> Tensor:
    out = torch.empty_like(network.prediction)
    results, T = Results(out), compute_type(network.prediction, network.mean)
    arguments = _network_views(out.shape, network), *results.views, out.numel()
    launch(_predict_data, programs(out.numel()), *arguments, T=T, BLOCK=BLOCK)
    return results.finish()


@triton.jit
def _predict_data(network, out, count, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    x_hat, _, _ = predict(network, block, T)
    store(out, block, clamp(x_hat, network.low, network.high))


def predict_data_backward(grad: Tensor, network: Prediction, *wanted: bool) -> tuple[Tensor, ...]:
    """The gradients of `reference.predict_data` by the prediction and the mean. grad: `[B, ...]`, the gradient of x̂.
    wanted: for each of the two gradients, whether to compute it."""
    prediction, mean = network[:2]
    shape, count = prediction.shape, prediction.numel()
    gradients = Gradients(*zip((prediction, prediction if mean is None else mean), wanted, strict=True))
    inputs = view(grad, shape), _network_views(shape, network)
    T = compute_type(prediction, mean)
    launch(_predict_data_backward, programs(count), *inputs, *gradients.views, count, T=T, BLOCK=BLOCK)
    return gradients.finish()


@triton.jit
def _predict_data_backward(grad, network, grad_prediction, grad_mean, count, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    x_hat, mean_scale, noise_scale = predict(network, block, T)
    grad_x_hat = tl.where(_is_clipped(x_hat, network), 0.0, load(grad, block, T))
    store(grad_prediction, block, -noise_scale * grad_x_hat)
    store(grad_mean, block, mean_scale * grad_x_hat)


@triton.jit
def _is_clipped(x_hat, network):
    return (x_hat < network.low) | (x_hat > network.high)


def squared_loss(x: Tensor, network: Prediction, weight, offset, target: LossTarget, *need) -> tuple[Tensor, ...]:
    """Returns the loss; the factor by which its gradients must be multiplied; and the gradients by x, the prediction
    and the mean, each of which is empty if it is not needed."""
    prediction, mean = network[:2]
    dtype, count = compute_dtype(x, prediction, mean), x.numel()
    losses = Losses(x, *target, dtype)
    gradients = Gradients(*zip((x, prediction, x if mean is None else mean), need, strict=True), dtype=dtype)
    inputs = view(x, x.shape), _network_views(x.shape, network), *views(x.shape, weight, offset, target.mask)
    arguments = *inputs, gradients.views, losses.memory, count
    launch(_squared_loss, programs(count), *arguments, T=KERNEL_TYPES[dtype], BLOCK=BLOCK)
    return *losses.finish(), *gradients.finish()


@triton.jit
def _squared_loss(x, network, weight, offset, mask, gradients, losses, count, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    keep = load(mask, block, tl.int1, True)
    x_hat, mean_scale, noise_scale = predict(network, block, T)
    error, factor = load(x, block, T) - clamp(x_hat, network.low, network.high), load(weight, block, T)
    loss = factor * square(error)
    if offset[0] is not None:
        loss += load(offset, block, T)
    write_losses(loss, keep, block, losses)
    slope = tl.where(keep, 2.0 * factor * error, 0.0)
    grad_x_hat = tl.where(_is_clipped(x_hat, network), 0.0, -slope)
    store(gradients[0], block, slope)
    store(gradients[1], block, -noise_scale * grad_x_hat)
    store(gradients[2], block, mean_scale * grad_x_hat)
