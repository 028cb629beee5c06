"""Continuous data: the ops of `reference` by the operators of a namespace, and those operators' backward passes."""

import torch
from torch import Tensor

from bfn_kernels.backends import NAMESPACES
from bfn_kernels.checks import compute_dtype
from bfn_kernels.operators import Namespace, loss_fakes, register, register_in_place
from bfn_kernels.reduction import CODES
from bfn_kernels.rows import GAMMA, KEEP, TAKE, Numbers


def flow_sample(ops: Namespace, x: Tensor, numbers: Numbers, seed, noise) -> Tensor:
    return ops.gaussian_step(x, None, *numbers, seed, noise)


sender_sample = flow_sample


def bayesian_update(ops: Namespace, mean: Tensor, y: Tensor, numbers: Numbers) -> Tensor:
    return ops.gaussian_step(mean, y, *numbers, None, None)


def update_sample(ops: Namespace, x: Tensor, mean: Tensor, numbers: Numbers, seed, noise, out=None) -> Tensor:
    if out is None:
        return ops.gaussian_step(mean, x, *numbers, seed, noise)
    ops.gaussian_step_out(mean, x, *numbers, seed, noise, out)
    return out


def predict_data(ops: Namespace, prediction: Tensor, mean: Tensor | None, numbers: Numbers, clip) -> Tensor:
    return ops.predict_data(prediction, mean, *numbers, *clip)


def squared_loss(ops: Namespace, x, prediction, mean, numbers: Numbers, clip, mask, reduction) -> Tensor:
    return ops.squared_loss(x, prediction, mean, *numbers, *clip, mask, CODES[reduction])[0]


def step_backward(ops: Namespace, grad: Tensor, numbers: Numbers, dtype: torch.dtype) -> Tensor:
    """That of what a step scales by these numbers, of which there is one at most."""
    if not numbers.which:
        return grad.to(dtype)
    wide = grad.to(torch.promote_types(grad.dtype, dtype))  # a step writes in the type of what it scales
    if not numbers.by and numbers.rows[0].dtype == torch.float64:
        wide = wide.double()  # the step computed in it, and its numbers are of no other use
    return ops.gaussian_step(wide, None, *numbers, None, None).to(dtype)


def _register(ops: Namespace) -> None:
    def save_step(ctx, inputs, output):
        state, data, given, ctx.which, ctx.by, *_ = inputs
        ctx.save_for_backward(*given)
        ctx.types = state.dtype, None if data is None else data.dtype

    def backward(ctx, grad):
        need_state, need_data, *_ = ctx.needs_input_grad
        numbers = Numbers([*ctx.saved_tensors], ctx.which, ctx.by)
        of_state = GAMMA | KEEP | (TAKE if ctx.types[1] is None else 0)  # that of the data, in their backward pass
        by_state = step_backward(ops, grad, numbers.only(of_state), ctx.types[0]) if need_state else None
        by_data = step_backward(ops, grad, numbers.only(TAKE), ctx.types[1]) if need_data else None
        return by_state, by_data, None, None, None, None, None

    register(ops, "gaussian_step", lambda state, *rest: torch.empty_like(state), backward, save_step)
    register_in_place(ops, "gaussian_step_out")

    def save_prediction(ctx, inputs, output):
        prediction, mean, given, ctx.which, ctx.by, ctx.low, ctx.high = inputs
        ctx.save_for_backward(prediction, mean, *given)

    def prediction_backward(ctx, grad):
        prediction, mean, *given = ctx.saved_tensors
        need = ctx.needs_input_grad[:2]
        of = prediction, mean, given, ctx.which, ctx.by, ctx.low, ctx.high
        by = ops.predict_data_backward(grad, *of, *need)
        return *(g if n else None for g, n in zip(by, need, strict=True)), *[None] * 5

    register(
        ops,
        "predict_data",
        lambda prediction, *rest: torch.empty_like(prediction),
        prediction_backward,
        save_prediction,
    )

    def fakes_like(tensors, needed):
        return tuple(torch.empty_like(t) if n else t.new_empty(0) for t, n in zip(tensors, needed, strict=True))

    def prediction_backward_fake(grad, prediction, mean, given, which, by, low, high, *need):
        return fakes_like((prediction, prediction if mean is None else mean), need)

    register(ops, "predict_data_backward", prediction_backward_fake)

    def loss_fake(x, prediction, mean, given, which, by, low, high, mask, reduction):
        return loss_fakes(x, reduction, compute_dtype(x, prediction, mean))

    def save_loss(ctx, inputs, output):
        x, prediction, mean, given, *ctx.options, mask, _ = inputs
        ctx.save_for_backward(x, prediction, mean, mask, output[1], *given)

    def loss_backward(ctx, grad):
        x, prediction, mean, mask, scale, *given = ctx.saved_tensors
        need_x, need_prediction, need_mean, *others = ctx.needs_input_grad
        by_x, by_prediction, by_mean = ops.squared_loss_backward(
            grad, scale, x, prediction, mean, given, *ctx.options, mask, need_x, need_prediction, need_mean
        )
        return (
            by_x if need_x else None, by_prediction if need_prediction else None, by_mean if need_mean else None,
            *[None] * len(others),
        )  # fmt: skip

    register(ops, "squared_loss", loss_fake, loss_backward, save_loss)

    def loss_backward_fake(grad, scale, x, prediction, mean, given, which, by, low, high, mask, *need):
        return fakes_like((x, prediction, x if mean is None else mean), need)

    register(ops, "squared_loss_backward", loss_backward_fake)


for _ops in NAMESPACES.values():
    _register(_ops)
