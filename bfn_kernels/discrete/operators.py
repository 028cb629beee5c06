"""The operators of discrete data, each with its fake and its backward pass.

The function of the same name in `reference.py` computes the same result and has the same arguments.
"""

import torch
from torch import Tensor

from bfn_kernels.checks import compute_dtype, variables
from bfn_kernels.declarations import (
    Forward,
    Operator,
    gradient_fake,
    gradient_operator,
    like_argument,
    loss_fakes,
    operator,
    step_operator,
    times_saved,
)
from bfn_kernels.discrete import reference
from bfn_kernels.libraries import Library

SHORT_ROW = 2048  # the largest K for which the CPU kernels compute the gradient of a loss in the forward pass
ROW_STATS = 4  # how many numbers of each row a loss saves for its backward pass, unless it saves the gradient


def _sender_fake(x, alpha, spread, num_classes, probs, seed, noise, dtype):
    return x.new_empty((*variables(x), num_classes), dtype=dtype)


def _loss_fake(x, logits, class_mask, *others):
    *_, reduction, in_forward, need_logits = others
    dtype = compute_dtype(logits)
    if in_forward:
        saved = gradient_fake(logits, need_logits, dtype, dense=False)
    else:
        saved = x.new_empty((*variables(x), ROW_STATS) if need_logits else (0,), dtype=dtype)
    return *loss_fakes(x.new_empty(variables(x)), reduction, dtype), saved


def _loss_backward(library: Library, grad: Tensor, forward: Forward):
    scale, saved, x, logits, class_mask, weight, mask, in_forward = forward.saved
    if in_forward:
        return None, *times_saved(library, grad, scale, [saved], forward, first=1)
    return None, library.discrete.loss_backward(grad, scale, x, logits, class_mask, weight, mask, saved)


def _theta_backward(library: Library, grad: Tensor, forward: Forward):
    logits, theta = forward.saved
    wide = logits.to(compute_dtype(logits))
    if wide is not logits:  # θ was rounded, so that g − Σ gθ would lose digits
        theta, grad = library.discrete.theta(wide), grad.to(wide.dtype)
    return (torch.ops.aten._softmax_backward_data(grad, theta, -1, wide.dtype).to(logits.dtype),)


OPERATORS = [
    operator(
        reference.theta,
        "(Tensor theta)",
        fake=torch.empty_like,
        saved="logits theta",
        backward=_theta_backward,
    ),
    operator(reference.sender_sample, fake=_sender_fake),
    step_operator(reference.step, state=2),
    operator(
        reference.loss,
        "(Tensor loss, Tensor scale, Tensor saved)",
        fake=_loss_fake,
        needs="logits",
        saved="scale saved x logits class_mask weight mask in_forward",
        unsaved_in_forward="x logits class_mask weight mask",
        backward=_loss_backward,
    ),
    Operator(
        "loss_backward(Tensor grad, Tensor scale, Tensor x, Tensor logits, Tensor? class_mask, Tensor? weight, "
        "Tensor? mask, Tensor stats) -> Tensor",
        fake=like_argument(3),
    ),
    gradient_operator(reference.discrete_time_loss, "logits"),
    gradient_operator(reference.entropy, "logits", dense=False, of_rows=True),
]
