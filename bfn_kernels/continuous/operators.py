"""The operators of continuous data: the fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and has its arguments.
"""

from functools import partial

import torch
from torch import Tensor

from bfn_kernels.autograd import Forward
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.continuous import reference
from bfn_kernels.operators import (
    Library,
    Operator,
    gradient_fake,
    loss_fakes,
    operator,
    saved_loss_backward,
    scaled_input_gradient,
)
from bfn_kernels.records import arguments


def _gaussian_step_backward(library: Library, grad: Tensor, forward: Forward):
    (state_scale, data_scale), needed, types = forward
    grad_state = scaled_input_gradient(library, grad, state_scale, types[0]) if needed[0] else None
    grad_data = scaled_input_gradient(library, grad, data_scale, types[2]) if needed[2] else None
    return grad_state, None, grad_data


def _step_backward(library: Library, grad: Tensor, forward: Forward):
    saved, (need_prediction, need_mean, *_), types = forward
    dtype = saved.take.dtype  # wide, so that the two parts of the mean's gradient are rounded once
    grad_sent = scaled_input_gradient(library, grad, saved.take, dtype)
    if saved.known_mask is not None:
        grad_sent = torch.where(saved.known_mask, 0, grad_sent)
    predicted = saved.prediction.to(dtype), saved.mean.to(dtype), saved.mean_scale, saved.noise_scale
    through_mean = need_mean and saved.mean_scale is not None
    grad_prediction, grad_mean = library.continuous.predict_data_backward(
        grad_sent, *predicted, saved.low, saved.high, need_prediction, through_mean
    )
    if need_mean:
        kept = scaled_input_gradient(library, grad, saved.keep, dtype)
        grad_mean = kept + grad_mean if through_mean else kept
    return grad_prediction.to(types[0]), grad_mean.to(types[1])


def _prediction_backward(library: Library, grad: Tensor, forward: Forward):
    return library.continuous.predict_data_backward(grad, *forward.saved, *forward.needed[:2])


def _prediction_backward_fake(grad, prediction, mean, mean_scale, noise_scale, low, high, *wanted):
    tensors = prediction, prediction if mean is None else mean
    return tuple(gradient_fake(t, n, t.dtype, dense=False) for t, n in zip(tensors, wanted, strict=True))


def _loss_fake(x, prediction, mean, *others):
    *_, reduction, need_x, need_prediction, need_mean = others
    dtype = compute_dtype(x, prediction, mean)
    needed = (x, need_x), (prediction, need_prediction), (x if mean is None else mean, need_mean)
    return *loss_fakes(x, reduction, dtype), *(gradient_fake(t, n, dtype, dense=False) for t, n in needed)


OPERATORS = [
    operator(
        reference.gaussian_step,
        fake=lambda state, *others: torch.empty_like(state),
        saved="state_scale data_scale",
        backward=_gaussian_step_backward,
    ),
    operator(
        reference.step,
        fake=lambda prediction, mean, *others: torch.empty_like(mean),
        saved="prediction mean mean_scale noise_scale keep take known_mask low high",
        backward=_step_backward,
    ),
    operator(
        reference.predict_data,
        fake=lambda prediction, *others: torch.empty_like(prediction),
        saved="prediction mean mean_scale noise_scale low high",
        backward=_prediction_backward,
    ),
    Operator(
        f"predict_data_backward(Tensor grad, {', '.join(arguments(reference.predict_data))}, bool want_prediction, "
        "bool want_mean) -> (Tensor grad_prediction, Tensor grad_mean)",
        fake=_prediction_backward_fake,
    ),
    operator(
        reference.squared_loss,
        "(Tensor loss, Tensor scale, Tensor grad_x, Tensor grad_prediction, Tensor grad_mean)",
        fake=_loss_fake,
        needs="x prediction mean",
        saved="scale grad_x grad_prediction grad_mean",
        backward=partial(saved_loss_backward, first=0),
    ),
]
