"""The operators of discretised data: the fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and has its arguments.
"""

import torch
from torch import Tensor

from bfn_kernels.autograd import Forward
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.discretised import reference
from bfn_kernels.operators import (
    Library,
    gradient_fake,
    loss_fakes,
    operator,
    saved_loss_backward,
    scaled_input_gradient,
    times_saved,
)
from bfn_kernels.records import Network


def _one_each(prediction: Tensor, mixture_logits: Tensor | None) -> Tensor:
    """The fake of one number per variable, in the type of the predictions."""
    return torch.empty_like(prediction) if mixture_logits is None else prediction.new_empty(prediction.shape[:-1])


def _expected_value_fake(mean, std, mixture_logits, num_bins, clip, *need):
    dtype = compute_dtype(mean, std, mixture_logits)
    return _one_each(mean, mixture_logits), *(gradient_fake(mean, needed, dtype) for needed in need)


def _saved_backward(library: Library, grad: Tensor, forward: Forward):
    return times_saved(library, grad, None, forward.saved, forward)


def _output_std_fake(pred_log_std, *others):
    *_, need = others
    return torch.empty_like(pred_log_std), gradient_fake(pred_log_std, need, compute_dtype(pred_log_std))


def _loss_fake(x, *others):
    network, reduction, need = Network(*others[:6]), others[-4], others[-3:]
    dtype = compute_dtype(x, *network[:4])
    output = (network.pred_mean if t is None else t for t in network[:3])
    gradients = (gradient_fake(t, needed, dtype) for t, needed in zip(output, need, strict=True))
    return *loss_fakes(x, reduction, dtype), *gradients


def _step_backward(library: Library, grad: Tensor, forward: Forward):
    # a draw or a mode was sent, which has no gradient, so only the mean itself has one
    return None, None, None, scaled_input_gradient(library, grad, forward.saved.keep, forward.types[3])


_GRADIENTS = "Tensor grad_mean, Tensor grad_std, Tensor grad_mixture_logits"
_OUTPUT = "pred_mean pred_log_std mixture_logits"
OPERATORS = [
    operator(
        reference.output_std,
        "(Tensor std, Tensor grad_pred_log_std)",
        fake=_output_std_fake,
        needs="pred_log_std",
        saved="grad_pred_log_std",
        backward=_saved_backward,
    ),
    operator(
        reference.expected_value,
        f"(Tensor value, {_GRADIENTS})",
        fake=_expected_value_fake,
        needs="mean std mixture_logits",
        saved="grad_mean grad_std grad_mixture_logits",
        backward=_saved_backward,
    ),
    operator(reference.choose, fake=lambda mean, std, mixture_logits, *others: _one_each(mean, mixture_logits)),
    operator(
        reference.loss,
        f"(Tensor loss, Tensor scale, {_GRADIENTS})",
        fake=_loss_fake,
        needs=_OUTPUT,
        saved="scale grad_mean grad_std grad_mixture_logits",
        backward=saved_loss_backward,
    ),
    operator(
        reference.step,
        fake=lambda pred_mean, pred_log_std, mixture_logits, mean, *others: torch.empty_like(mean),
        saved="keep",
        backward=_step_backward,
    ),
]
