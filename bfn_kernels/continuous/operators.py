"""The operators of continuous data, each with its fake (its result without numbers, for torch.compile) and its backward
pass.

The function of the same name in `reference.py` computes the same result and has the same arguments.
"""

import torch
from torch import Tensor

from bfn_kernels.continuous import reference
from bfn_kernels.declarations import (
    Forward,
    Operator,
    gradient_fake,
    gradient_operator,
    like_argument,
    operator,
    scaled_input_gradient,
)
from bfn_kernels.libraries import Library
from bfn_kernels.records import arguments


def _gaussian_step_backward(library: Library, grad: Tensor, forward: Forward):
    (state_scale, data_scale), needed, types = forward
    grad_state = scaled_input_gradient(library, grad, state_scale, types[0]) if needed[0] else None
    grad_data = scaled_input_gradient(library, grad, data_scale, types[2]) if needed[2] else None
    return grad_state, None, grad_data


def _step_backward(library: Library, grad: Tensor, forward: Forward):
    saved, (need_prediction, need_mean, *_), types = forward
    dtype = saved.take.dtype  # the type of the arithmetic, so that the gradient of the mean, a sum, is rounded once
    grad_x_hat = scaled_input_gradient(library, grad, saved.take, dtype)
    if saved.known_mask is not None:
        grad_x_hat = torch.where(saved.known_mask, 0, grad_x_hat)
    predicted = saved.prediction.to(dtype), saved.mean.to(dtype), saved.mean_scale, saved.noise_scale
    through_mean = need_mean and saved.mean_scale is not None
    grad_prediction, grad_mean = library.continuous.predict_data_backward(
        grad_x_hat, *predicted, saved.low, saved.high, need_prediction, through_mean
    )
    if need_mean:
        direct = scaled_input_gradient(library, grad, saved.keep, dtype)
        grad_mean = direct + grad_mean if through_mean else direct
    return grad_prediction.to(types[0]), grad_mean.to(types[1])


def _prediction_backward(library: Library, grad: Tensor, forward: Forward):
    return library.continuous.predict_data_backward(grad, *forward.saved, *forward.needed[:2])


def _prediction_backward_fake(grad, prediction, mean, mean_scale, noise_scale, low, high, *wanted):
    tensors = prediction, prediction if mean is None else mean
    return tuple(gradient_fake(t, n, t.dtype, dense=False) for t, n in zip(tensors, wanted, strict=True))


OPERATORS = [
    operator(
        reference.gaussian_step,
        fake=like_argument(0),
        saved="state_scale data_scale",
        backward=_gaussian_step_backward,
    ),
    operator(
        reference.step,
        fake=like_argument(1),
        saved="prediction mean mean_scale noise_scale keep take known_mask low high",
        backward=_step_backward,
    ),
    operator(
        reference.predict_data,
        fake=like_argument(0),
        saved="prediction mean mean_scale noise_scale low high",
        backward=_prediction_backward,
    ),
    Operator(
        f"predict_data_backward(Tensor grad, {', '.join(arguments(reference.predict_data))}, bool want_prediction, "
        "bool want_mean) -> (Tensor grad_prediction, Tensor grad_mean)",
        fake=_prediction_backward_fake,
    ),
    gradient_operator(reference.squared_loss, "x prediction mean", dense=False),
]
