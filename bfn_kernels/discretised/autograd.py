"""Discretised data: the ops of `reference` by the operators of a namespace, and those operators' backward passes."""

import torch
from torch import Tensor

from bfn_kernels.backends import NAMESPACES
from bfn_kernels.checks import compute_dtype
from bfn_kernels.continuous.autograd import step_backward
from bfn_kernels.continuous.autograd import update_sample as gaussian_update
from bfn_kernels.discretised.reference import output_distribution
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
from bfn_kernels.rows import FLOW, KEEP, NONE, Numbers

# The numbers by which the operators know them (csrc/math/discretised.h, csrc/ops/discretised.h).
DIRECT, DATA, NOISE = range(3)
CHOICES = {"sample": 0, "mode": 1, "mean": 2}


def expected_value(ops: Namespace, mean: Tensor, std: Tensor, mixture_logits, num_bins: int, clip: bool) -> Tensor:
    output = mean, std, mixture_logits
    return ops.expected_value(*output, num_bins, clip, *needs(*output))[0]


def sample(
    ops: Namespace, mean: Tensor, std: Tensor, mixture_logits, num_bins: int, seed, noise, component_noise
) -> Tensor:
    return ops.discretised_choose(
        mean, std, mixture_logits, num_bins, CHOICES["sample"], seed, noise, component_noise
    )  # fmt: skip


def mode(ops: Namespace, mean: Tensor, std: Tensor, mixture_logits, num_bins: int) -> Tensor:
    return ops.discretised_choose(mean, std, mixture_logits, num_bins, CHOICES["mode"], None, None, None)


def parametrisation_of(numbers: Numbers) -> int:
    return NOISE if numbers.which & FLOW else DATA


def loss(
    ops: Namespace, x, output: tuple, numbers: Numbers, parametrisation: int, num_bins, clip, mask, reduction,
    n_steps=0, expectation=None,
) -> Tensor:  # fmt: skip
    """L∞ with a rate among the numbers, L_n with an α and an expectation, the reconstruction loss with neither."""
    nodes, node_weights, n_samples, seed, noise = expectation or ((), (), 0, None, None)
    return ops.discretised_loss(
        x, *output, *numbers, parametrisation, num_bins, clip, n_steps, n_samples, nodes, node_weights, seed, noise,
        mask, CODES[reduction], *needs(*output[:3]),
    )[0]  # fmt: skip


def bin_loss(ops: Namespace, x, mean, std, mixture_logits, num_bins, clip, mask, reduction) -> Tensor:
    return loss(ops, x, (mean, std, mixture_logits, None), NONE, DIRECT, num_bins, clip, mask, reduction)


def reconstruction_loss(
    ops: Namespace, x, pred_mean, pred_log_std, mixture_logits, mean, numbers, num_bins, mask, reduction
) -> Tensor:
    output = pred_mean, pred_log_std, mixture_logits, mean
    return loss(ops, x, output, numbers, parametrisation_of(numbers), num_bins, True, mask, reduction)


def continuous_time_loss(
    ops: Namespace, x, pred_mean, pred_log_std, mixture_logits, mean, numbers, num_bins, clip, mask, reduction
) -> Tensor:
    output = pred_mean, pred_log_std, mixture_logits, mean
    return loss(ops, x, output, numbers, parametrisation_of(numbers), num_bins, clip, mask, reduction)


def discrete_time_loss(
    ops: Namespace, x, pred_mean, pred_log_std, mixture_logits, mean, numbers, n_steps, expectation, num_bins, clip,
    mask, reduction,
) -> Tensor:  # fmt: skip
    output, kind = (pred_mean, pred_log_std, mixture_logits, mean), parametrisation_of(numbers)
    return loss(ops, x, output, numbers, kind, num_bins, clip, mask, reduction, n_steps, expectation)


def update_sample(
    ops: Namespace, pred_mean, pred_log_std, mixture_logits, mean, flow, numbers, num_bins, choose, known, known_mask,
    seed, noise, draw_noise, component_noise, out,
) -> Tensor:  # fmt: skip
    if choose == "mean" and any(needs(pred_mean, pred_log_std, mixture_logits, mean)):
        dtype = compute_dtype(pred_mean, pred_log_std, mixture_logits, mean)
        rows = flow.made(ops, mean.shape, dtype).flow
        normal = output_distribution(dtype, pred_mean, pred_log_std, mixture_logits, mean, rows)
        value = expected_value(ops, *normal, num_bins, True)
        if known is not None:
            value = torch.where(known_mask, known.to(value.dtype), value)
        return gaussian_update(ops, value, mean, numbers, seed, noise)
    arguments = (
        pred_mean, pred_log_std, mixture_logits, mean, *flow, parametrisation_of(flow), num_bins, CHOICES[choose],
        *numbers, known, known_mask, seed, noise, draw_noise, component_noise,
    )  # fmt: skip
    if out is None:
        return ops.discretised_update(*arguments)
    ops.discretised_update_out(*arguments, out)
    return out


def _one_each(prediction: Tensor, mixture_logits: Tensor | None) -> Tensor:
    """Fake of a number per variable, in the predictions' type."""
    return torch.empty_like(prediction) if mixture_logits is None else prediction.new_empty(prediction.shape[:-1])


def _register(ops: Namespace) -> None:
    def types(prediction, log_std, mixture_logits):
        return prediction.dtype, log_std.dtype, None if mixture_logits is None else mixture_logits.dtype

    def expected_value_fake(mean, std, mixture_logits, num_bins, clip, *need):
        dtype = compute_dtype(mean, std, mixture_logits)
        return _one_each(mean, mixture_logits), *(gradient_fake(mean, needed, dtype) for needed in need)

    def save_expected_value(ctx, inputs, output):
        ctx.save_for_backward(*output[1:])
        ctx.types, ctx.count = types(*inputs[:3]), len(inputs)

    def expected_value_backward(ctx, grad):
        by = times_saved(ops, grad, None, ctx.saved_tensors, ctx.types, ctx.needs_input_grad[:3])
        return *by, *[None] * (ctx.count - 3)

    register(ops, "expected_value", expected_value_fake, expected_value_backward, save_expected_value)
    register(ops, "discretised_choose", lambda mean, std, mixture_logits, *rest: _one_each(mean, mixture_logits))

    def loss_fake(x, prediction, log_std, mixture_logits, mean, *rest):
        *_, reduction, need_mean, need_log_std, need_mixture_logits = rest
        dtype = compute_dtype(x, prediction, log_std, mixture_logits, mean)
        need = need_mean, need_log_std, need_mixture_logits
        return *loss_fakes(x, reduction, dtype), *(gradient_fake(prediction, needed, dtype) for needed in need)

    def save_loss(ctx, inputs, output):
        _, scale, *gradients = output
        ctx.save_for_backward(scale, *gradients)
        ctx.types, ctx.count = types(*inputs[1:4]), len(inputs)

    def loss_backward(ctx, grad):
        scale, *gradients = ctx.saved_tensors
        by = times_saved(ops, grad, scale, gradients, ctx.types, ctx.needs_input_grad[1:4])
        return None, *by, *[None] * (ctx.count - 4)

    register(ops, "discretised_loss", loss_fake, loss_backward, save_loss)

    def save_update(ctx, inputs, output):
        *_, given, ctx.which, ctx.by = inputs[:13]
        ctx.save_for_backward(*given)
        ctx.type, ctx.count = inputs[3].dtype, len(inputs)

    def update_backward(ctx, grad):
        # what is sent is a draw or a mode: the mean's own share is all that has a gradient
        keep = Numbers([*ctx.saved_tensors], ctx.which, ctx.by).only(KEEP)
        by_mean = step_backward(ops, grad, keep, ctx.type)
        return None, None, None, by_mean, *[None] * (ctx.count - 4)

    register(
        ops, "discretised_update", lambda prediction, log_std, mixture_logits, mean, *rest: torch.empty_like(mean),
        update_backward, save_update,
    )  # fmt: skip
    register_in_place(ops, "discretised_update_out")


for _ops in NAMESPACES.values():
    _register(_ops)
