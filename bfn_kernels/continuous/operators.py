"""The operators of continuous data: the schema, fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and says the shapes of its arguments.
"""

from functools import partial

import torch
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.operators import Forward, Library, Operator, gradient_fake, loss_fakes, saved_loss_backward

_PREDICTION = "Tensor prediction, Tensor? mean, Tensor? mean_scale, Tensor? noise_scale"


def scaled_input_gradient(library: Library, grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gradient, in `dtype`, of an input that a step multiplies by `scale`; without a scale the factor is 1."""
    if scale is None:
        return grad.to(dtype)
    wide = grad.to(torch.promote_types(grad.dtype, dtype))  # gaussian_step returns the type of its state
    if scale.dtype == torch.float64:
        wide = wide.double()  # scalars of float64 mean that the step was computed in float64
    return library.continuous.gaussian_step(wide, scale, None, None, None, None, None, None).to(dtype)


def _step_backward(library: Library, grad: Tensor, forward: Forward):
    (state_scale, data_scale), needed, types = forward
    grad_state = scaled_input_gradient(library, grad, state_scale, types[0]) if needed[0] else None
    grad_data = scaled_input_gradient(library, grad, data_scale, types[2]) if needed[2] else None
    return grad_state, None, grad_data


def _update_backward(library: Library, grad: Tensor, forward: Forward):
    saved, (need_prediction, need_mean, *_), types = forward
    dtype = saved.keep.dtype  # wide, so that the two parts of the mean's gradient are rounded once
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
    Operator(
        "gaussian_step(Tensor state, Tensor? state_scale, Tensor? data, Tensor? data_scale, Tensor? noise_scale, "
        "Tensor? seed, Tensor? noise) -> Tensor",
        fake=lambda state, *others: torch.empty_like(state),
        saved="state_scale data_scale",
        backward=_step_backward,
        in_place=True,
    ),
    Operator(
        "update_sample(Tensor prediction, Tensor mean, Tensor? mean_scale, Tensor? noise_scale, Tensor keep, "
        "Tensor take, Tensor update_std, float low, float high, Tensor? known, Tensor? known_mask, Tensor? seed, "
        "Tensor? noise) -> Tensor",
        fake=lambda prediction, mean, *others: torch.empty_like(mean),
        saved="prediction mean mean_scale noise_scale keep take known_mask low high",
        backward=_update_backward,
        in_place=True,
    ),
    Operator(
        "solver_step(Tensor prediction, Tensor mean, Tensor? mean_scale, Tensor? noise_scale, Tensor keep, "
        "Tensor take, Tensor? update_std, Tensor? previous, Tensor? extrapolation, float low, float high, "
        "Tensor? known, Tensor? known_mask, Tensor? seed, Tensor? noise) -> Tensor",
        fake=lambda prediction, mean, *others: torch.empty_like(mean),
        in_place=True,
        beside="predicted_out",
    ),
    Operator(
        f"predict_data({_PREDICTION}, float low, float high) -> Tensor",
        fake=lambda prediction, *others: torch.empty_like(prediction),
        saved="prediction mean mean_scale noise_scale low high",
        backward=_prediction_backward,
    ),
    Operator(
        f"predict_data_backward(Tensor grad, {_PREDICTION}, float low, float high, bool want_prediction, "
        "bool want_mean) -> (Tensor grad_prediction, Tensor grad_mean)",
        fake=_prediction_backward_fake,
    ),
    Operator(
        f"squared_loss(Tensor x, {_PREDICTION}, Tensor weight, Tensor? offset, float low, float high, Tensor? mask, "
        "int reduction, bool need_x, bool need_prediction, bool need_mean) "
        "-> (Tensor loss, Tensor scale, Tensor grad_x, Tensor grad_prediction, Tensor grad_mean)",
        fake=_loss_fake,
        saved="scale grad_x grad_prediction grad_mean",
        backward=partial(saved_loss_backward, first=0),
    ),
]
