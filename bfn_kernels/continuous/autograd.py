"""Continuous data: the ops of `reference` by the operators of a namespace, and those operators' backward passes."""

import torch
from torch import Tensor

from bfn_kernels.backends import NAMESPACES
from bfn_kernels.checks import compute_dtype
from bfn_kernels.operators import Namespace, loss_fakes, per_variable, register, register_in_place
from bfn_kernels.reduction import CODES
from bfn_kernels.rows import Flow


def flow_sample(ops: Namespace, x: Tensor, gamma: Tensor, std: Tensor, seed, noise) -> Tensor:
    return ops.gaussian_step(x, gamma, None, None, std, seed, noise)


def sender_sample(ops: Namespace, x: Tensor, std: Tensor, seed, noise) -> Tensor:
    return ops.gaussian_step(x, None, None, None, std, seed, noise)


def bayesian_update(ops: Namespace, mean: Tensor, keep: Tensor, y: Tensor, take: Tensor) -> Tensor:
    return ops.gaussian_step(mean, keep, y, take, None, None, None)


def update_sample(ops: Namespace, x: Tensor, mean: Tensor, keep, take, std, seed, noise, out=None) -> Tensor:
    if out is None:
        return ops.gaussian_step(mean, keep, x, take, std, seed, noise)
    ops.gaussian_step_out(mean, keep, x, take, std, seed, noise, out)
    return out


def flow_rows(prediction: Tensor, flow: Flow | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
    """a and b of x̂ = aμ − bε̂; a network that puts out the data itself has b = −1."""
    return (None, torch.full((), -1.0, dtype=dtype, device=prediction.device)) if flow is None else flow


def predict_data(ops: Namespace, prediction: Tensor, mean: Tensor | None, flow: Flow | None, clip) -> Tensor:
    rows = flow_rows(prediction, flow, compute_dtype(prediction, mean))
    return ops.predict_data(prediction, mean, *rows, *clip)


def squared_loss(ops: Namespace, x, prediction, mean, flow, weight, offset, clip, mask, reduction) -> Tensor:
    rows = flow_rows(prediction, flow, weight.dtype)
    return ops.squared_loss(x, prediction, mean, *rows, weight, offset, *clip, mask, CODES[reduction])[0]


def _register(ops: Namespace) -> None:
    def save_step(ctx, inputs, output):
        ctx.save_for_backward(inputs[1], inputs[3])
        ctx.types = inputs[0].dtype, None if inputs[2] is None else inputs[2].dtype

    def step_backward(ctx, grad):
        a, b = ctx.saved_tensors
        need_state, _, need_data, *_ = ctx.needs_input_grad
        by_state = ops.gaussian_step(grad, a, *[None] * 5).to(ctx.types[0]) if need_state else None
        by_data = ops.gaussian_step(grad, b, *[None] * 5).to(ctx.types[1]) if need_data else None
        return by_state, None, by_data, None, None, None, None

    register(ops, "gaussian_step", lambda state, *rest: torch.empty_like(state), step_backward, save_step)
    register_in_place(ops, "gaussian_step_out")

    def save_prediction(ctx, inputs, output):
        *tensors, ctx.low, ctx.high = inputs
        ctx.save_for_backward(*tensors)

    def prediction_backward(ctx, grad):
        need = ctx.needs_input_grad[:2]
        by = ops.predict_data_backward(grad, *ctx.saved_tensors, ctx.low, ctx.high, *need)
        return *(g if n else None for g, n in zip(by, need, strict=True)), None, None, None, None

    register(
        ops,
        "predict_data",
        lambda prediction, *rest: torch.empty_like(prediction),
        prediction_backward,
        save_prediction,
    )

    def fakes_like(tensors, needed):
        return tuple(torch.empty_like(t) if n else t.new_empty(0) for t, n in zip(tensors, needed, strict=True))

    def prediction_backward_fake(grad, prediction, mean, a, b, low, high, *need):
        return fakes_like((prediction, prediction if mean is None else mean), need)

    register(ops, "predict_data_backward", prediction_backward_fake)

    def loss_fake(x, prediction, mean, a, b, weight, offset, low, high, mask, reduction):
        return loss_fakes(x, reduction, compute_dtype(x, prediction, mean))

    def save_loss(ctx, inputs, output):
        x, prediction, mean, a, b, weight, _, ctx.low, ctx.high, mask, _ = inputs
        ctx.save_for_backward(x, prediction, mean, a, b, weight, mask, output[1])
        ctx.mark_non_differentiable(output[1])

    def loss_backward(ctx, grad, _):
        x, prediction, mean, a, b, weight, mask, scale = ctx.saved_tensors
        need = ctx.needs_input_grad[:3]
        grad = per_variable(grad, scale, x.dim())
        by = ops.squared_loss_backward(grad, x, prediction, mean, a, b, weight, ctx.low, ctx.high, mask, *need)
        return *(g if n else None for g, n in zip(by, need, strict=True)), *[None] * 8

    register(ops, "squared_loss", loss_fake, loss_backward, save_loss)

    def loss_backward_fake(grad, x, prediction, mean, a, b, weight, low, high, mask, *need):
        return fakes_like((x, prediction, x if mean is None else mean), need)

    register(ops, "squared_loss_backward", loss_backward_fake)


for _ops in NAMESPACES.values():
    _register(_ops)
