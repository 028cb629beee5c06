"""The operators of binary data: the fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and has its arguments.
"""

import torch
from torch import Tensor

from bfn_kernels.autograd import Forward
from bfn_kernels.binary import reference
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.operators import (
    Library,
    gradient_fake,
    loss_fakes,
    operator,
    saved_loss_backward,
    scaled_input_gradient,
)

_LOSS = "(Tensor loss, Tensor scale, Tensor grad_logits)"


def _sender_fake(x, *others):
    return torch.empty_like(x, dtype=others[-1])


def _step_backward(library: Library, grad: Tensor, forward: Forward):
    # a draw or a mode was sent, which has no gradient, so only the state itself has one
    return None, scaled_input_gradient(library, grad, forward.saved.keep, forward.types[1])


def _loss_fake(x, logits, *others) -> tuple[Tensor, ...]:
    *_, reduction, need_logits = others
    dtype = compute_dtype(logits)
    return *loss_fakes(x, reduction, dtype), gradient_fake(logits, need_logits, dtype, dense=False)


OPERATORS = [
    operator(reference.sender_sample, fake=_sender_fake),
    operator(
        reference.step,
        fake=lambda output_logits, state, *others: torch.empty_like(state),
        saved="keep",
        backward=_step_backward,
    ),
    *(
        operator(loss, _LOSS, fake=_loss_fake, needs="logits", saved="scale grad_logits", backward=saved_loss_backward)
        for loss in (reference.loss, reference.discrete_time_loss)
    ),
]
