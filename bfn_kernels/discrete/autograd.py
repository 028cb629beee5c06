"""Discrete data: the ops of `reference` by the operators of a namespace, and those operators' backward passes."""

import torch
from torch import Tensor

from bfn_kernels.backends import NAMESPACES
from bfn_kernels.checks import compute_dtype
from bfn_kernels.discrete import reference
from bfn_kernels.operators import (
    Namespace,
    gradient_fake,
    loss_fakes,
    needs,
    register,
    register_in_place,
    times_saved,
)
from bfn_kernels.reduction import CODES
from bfn_kernels.rows import NONE, Numbers

# The numbers by which the operators know them (csrc/ops/discrete.h).
CHOICES = {"sample": 0, "mode": 1, "mean": 2}
RECEIVERS = {"joint": 0, "factorised": 1}
ROW_STATS = 4  # numbers of a row that a loss saves for its backward pass


def sender_sample(ops: Namespace, x: Tensor, numbers: Numbers, num_classes, seed, noise, probs, dtype) -> Tensor:
    return ops.discrete_sender(x, *numbers, num_classes, probs, seed, noise, dtype)


def update_sample(
    ops: Namespace, output_logits, state, numbers: Numbers, choose, known, known_mask, seed, noise, draw_noise, out
) -> Tensor:
    if choose == "mean" and any(needs(output_logits)):
        made = numbers.made(ops, state.shape[:-1], compute_dtype(output_logits, state))
        return reference.update_sample(
            output_logits, state, made, choose, known, known_mask, seed, noise, draw_noise, out
        )  # fmt: skip
    arguments = output_logits, state, *numbers, CHOICES[choose], known, known_mask, seed, noise, draw_noise
    if out is None:
        return ops.discrete_update(*arguments)
    ops.discrete_update_out(*arguments, out)
    return out


def continuous_time_loss(ops: Namespace, x: Tensor, logits: Tensor, numbers: Numbers, mask, reduction) -> Tensor:
    return ops.discrete_loss(x, logits, *numbers, mask, CODES[reduction], *needs(logits))[0]


def reconstruction_loss(ops: Namespace, x: Tensor, logits: Tensor, mask, reduction) -> Tensor:
    return ops.discrete_loss(x, logits, *NONE, mask, CODES[reduction], *needs(logits))[0]


def discrete_time_loss(
    ops: Namespace, x: Tensor, logits: Tensor, numbers: Numbers, n_steps, receiver, expectation, mask, reduction
) -> Tensor:
    nodes, node_weights, n_samples, seed, noise = expectation
    return ops.discrete_nstep(
        x, logits, *numbers, n_steps, RECEIVERS[receiver], n_samples, nodes, node_weights,
        seed, noise, mask, CODES[reduction], *needs(logits),
    )[0]  # fmt: skip


def _register(ops: Namespace) -> None:
    def sender_fake(x, given, which, by, num_classes, probs, seed, noise, dtype):
        return x.new_empty((*x.shape, num_classes), dtype=dtype)

    register(ops, "discrete_sender", sender_fake)

    def save_update(ctx, inputs, output):
        ctx.count = len(inputs)

    def update_backward(ctx, grad):
        # what is sent is a draw or a mode: the state's own share is all that has a gradient
        return None, grad, *[None] * (ctx.count - 2)

    register(ops, "discrete_update", lambda logits, state, *rest: torch.empty_like(state), update_backward, save_update)
    register_in_place(ops, "discrete_update_out")

    def save_loss(ctx, inputs, output):
        x, logits, given, ctx.which, ctx.by, mask, *_ = inputs
        _, scale, stats = output
        ctx.save_for_backward(x, logits, mask, scale, stats, *given)

    def loss_backward(ctx, grad):
        x, logits, mask, scale, stats, *given = ctx.saved_tensors
        by_logits = ops.discrete_loss_backward(grad, scale, x, logits, given, ctx.which, ctx.by, mask, stats)
        return None, by_logits, *[None] * 6

    def loss_fake(x, logits, given, which, by, mask, reduction, need_logits):
        dtype = compute_dtype(logits)
        stats = x.new_empty((*x.shape, ROW_STATS) if need_logits else (0,), dtype=dtype)
        return *loss_fakes(x, reduction, dtype), stats

    register(ops, "discrete_loss", loss_fake, loss_backward, save_loss)
    register(ops, "discrete_loss_backward", lambda grad, scale, x, logits, *rest: torch.empty_like(logits))

    def nstep_fake(x, logits, *rest):
        *_, reduction, need_logits = rest
        dtype = compute_dtype(logits)
        return *loss_fakes(x, reduction, dtype), gradient_fake(logits, need_logits, dtype)

    def save_nstep(ctx, inputs, output):
        _, scale, by_logits = output
        ctx.save_for_backward(scale, by_logits)
        ctx.type, ctx.count = inputs[1].dtype, len(inputs)

    def nstep_backward(ctx, grad):
        scale, by_logits = ctx.saved_tensors
        by = times_saved(ops, grad, scale, [by_logits], [ctx.type], ctx.needs_input_grad[1:2])
        return None, *by, *[None] * (ctx.count - 2)

    register(ops, "discrete_nstep", nstep_fake, nstep_backward, save_nstep)


for _ops in NAMESPACES.values():
    _register(_ops)
