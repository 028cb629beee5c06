"""The operators of discretised data: the schema, fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and says the shapes of its arguments.
The network predicts a mean and a log standard deviation and, for a mixture, these and a logit of each component. If the
row scalars mean_scale and noise_scale are passed, it predicts the noise, else the data. Without pred_log_std, pred_mean
has both in a last dimension of two.
"""

import torch
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.continuous.operators import scaled_input_gradient
from bfn_kernels.operators import (
    Forward,
    Library,
    Operator,
    gradient_fake,
    loss_fakes,
    saved_loss_backward,
    times_saved,
)

# Operators know what is sent by its place here; csrc/ops/noise.h has the same numbers.
CHOICES = ("sample", "mode", "mean")
SAMPLE, MODE, MEAN = range(3)

_NORMAL = "Tensor mean, Tensor std, Tensor? mixture_logits"
_NEED_NORMAL = "bool need_mean, bool need_std, bool need_mixture_logits"
_PREDICTIONS = "Tensor pred_mean, Tensor? pred_log_std, Tensor? mixture_logits"
_NETWORK = f"{_PREDICTIONS}, Tensor{{}} mean, Tensor? mean_scale, Tensor? noise_scale"
_LIMITS = "float std_min, float std_max, float log_std_max"
_BINS = f"int num_bins, {_LIMITS}"
_NEED_NETWORK = "bool need_pred_mean, bool need_pred_log_std, bool need_mixture_logits"
_GRADIENTS = "Tensor grad_mean, Tensor grad_std, Tensor grad_mixture_logits"
_LOSS = f"-> (Tensor loss, Tensor scale, {_GRADIENTS})"


def _one_each(prediction: Tensor, mixture_logits: Tensor | None) -> Tensor:
    """The fake of one number per variable, in the type of the predictions."""
    return torch.empty_like(prediction) if mixture_logits is None else prediction.new_empty(prediction.shape[:-1])


def _choice_fake(mean, std, mixture_logits, *others):
    return _one_each(mean, mixture_logits)


def _expected_value_fake(mean, std, mixture_logits, num_bins, clip, *need):
    dtype = compute_dtype(mean, std, mixture_logits)
    return _one_each(mean, mixture_logits), *(gradient_fake(mean, needed, dtype) for needed in need)


def _saved_backward(library: Library, grad: Tensor, forward: Forward):
    return times_saved(library, grad, None, forward.saved, forward)


def _output_std_fake(pred_log_std, *others):
    *_, need = others
    return torch.empty_like(pred_log_std), gradient_fake(pred_log_std, need, compute_dtype(pred_log_std))


def _loss_fake(tensors, *others):
    """The fake of a loss whose last arguments are the reduction and, for each gradient, whether it is needed."""
    *_, reduction, need_mean, need_std, need_mixture_logits = others
    x, prediction, *rest = tensors
    dtype, need = compute_dtype(*tensors), (need_mean, need_std, need_mixture_logits)
    output = (prediction, *(prediction if t is None else t for t in rest[:2]))
    gradients = (gradient_fake(t, needed, dtype) for t, needed in zip(output, need, strict=True))
    return *loss_fakes(x, reduction, dtype), *gradients


def _bin_loss_fake(x, mean, std, mixture_logits, *others):
    return _loss_fake((x, mean, std, mixture_logits), *others)


def _network_loss_fake(x, pred_mean, pred_log_std, mixture_logits, mean, *others):
    return _loss_fake((x, pred_mean, pred_log_std, mixture_logits, mean), *others)


def _update_backward(library: Library, grad: Tensor, forward: Forward):
    # a draw or a mode was sent, which has no gradient, so only the mean itself has one
    return None, None, None, scaled_input_gradient(library, grad, forward.saved.keep, forward.types[3])


def _loss(schema: str, fake) -> Operator:
    """Declares a loss that computes its gradients in the forward pass and saves them."""
    saved = "scale grad_mean grad_std grad_mixture_logits"
    return Operator(f"{schema} {_LOSS}", fake=fake, saved=saved, backward=saved_loss_backward)


_X_AND_NETWORK = f"Tensor x, {_NETWORK.format('?')}"
OPERATORS = [
    Operator(
        f"output_std(Tensor pred_log_std, Tensor? mean_scale, Tensor? noise_scale, {_LIMITS}, bool need_pred_log_std) "
        "-> (Tensor std, Tensor grad_pred_log_std)",
        fake=_output_std_fake,
        saved="grad_pred_log_std",
        backward=_saved_backward,
    ),
    Operator(
        f"expected_value({_NORMAL}, int num_bins, bool clip, {_NEED_NORMAL}) -> (Tensor value, {_GRADIENTS})",
        fake=_expected_value_fake,
        saved="grad_mean grad_std grad_mixture_logits",
        backward=_saved_backward,
    ),
    Operator(
        f"sample({_NORMAL}, int num_bins, Tensor? seed, Tensor? noise, Tensor? component_noise) -> Tensor",
        fake=_choice_fake,
    ),
    Operator(f"mode({_NORMAL}, int num_bins) -> Tensor", fake=_choice_fake),
    _loss(
        f"bin_loss(Tensor x, {_NORMAL}, int num_bins, bool clip, Tensor? mask, int reduction, {_NEED_NORMAL})",
        _bin_loss_fake,
    ),
    _loss(
        f"reconstruction_loss({_X_AND_NETWORK}, {_BINS}, Tensor? mask, int reduction, {_NEED_NETWORK})",
        _network_loss_fake,
    ),
    _loss(
        f"continuous_time_loss({_X_AND_NETWORK}, Tensor weight, {_BINS}, bool clip, Tensor? mask, int reduction, "
        f"{_NEED_NETWORK})",
        _network_loss_fake,
    ),
    _loss(
        f"discrete_time_loss({_X_AND_NETWORK}, Tensor alpha, int n_steps, float[] nodes, float[] node_weights, "
        f"int n_samples, Tensor? seed, Tensor? noise, {_BINS}, bool clip, Tensor? mask, int reduction, "
        f"{_NEED_NETWORK})",
        _network_loss_fake,
    ),
    Operator(
        f"update_sample({_NETWORK.format('')}, Tensor keep, Tensor take, Tensor update_std, {_BINS}, int choice, "
        "Tensor? known, Tensor? known_mask, Tensor? seed, Tensor? noise, Tensor? draw_noise, Tensor? component_noise) "
        "-> Tensor",
        fake=lambda pred_mean, pred_log_std, mixture_logits, mean, *others: torch.empty_like(mean),
        saved="keep",
        backward=_update_backward,
        in_place=True,
    ),
    Operator(
        f"solver_step({_NETWORK.format('')}, Tensor keep, Tensor take, Tensor? update_std, Tensor? previous, "
        f"Tensor? extrapolation, {_BINS}, int choice, Tensor? known, Tensor? known_mask, Tensor? seed, Tensor? noise, "
        "Tensor? draw_noise, Tensor? component_noise) -> Tensor",
        fake=lambda pred_mean, pred_log_std, mixture_logits, mean, *others: torch.empty_like(mean),
        in_place=True,
        beside="predicted_out",
    ),
]
