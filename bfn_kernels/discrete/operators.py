"""The operators of discrete data: the schema, fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and says the shapes of its arguments.
"""

import torch
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.operators import NATIVE, Forward, Library, Operator, gradient_fake, loss_fakes, saved_loss_backward

# Operators know what is sent, and the receiver, by its place here; csrc/ops has the same numbers.
CHOICES = ("sample", "mode", "mean")
SAMPLE, MODE, MEAN = range(3)
RECEIVERS = ("joint", "factorised")
JOINT, FACTORISED = range(2)

SHORT_ROW = 128  # up to so many classes a CPU makes the gradient of a loss in the forward pass, which has them in cache
ROW_STATS = 4  # how many numbers of each row a loss saves for its backward pass
_LOSS = "Tensor? mask, int reduction, bool need_logits) -> (Tensor loss, Tensor scale, Tensor"


def _sender_fake(x, alpha, spread, num_classes, probs, seed, noise, dtype):
    return x.new_empty((*x.shape, num_classes), dtype=dtype)


def update_backward(library: Library, grad: Tensor, forward: Forward):
    # a draw or a mode was sent, which has no gradient, so only the state itself has one
    return None, grad


def _loss_fake(x, logits, *others):
    *_, reduction, need_logits = others
    stats = x.new_empty((*x.shape, ROW_STATS) if need_logits else (0,), dtype=compute_dtype(logits))
    return *loss_fakes(x, reduction, compute_dtype(logits)), stats


def _continuous_time_loss_backward(library: Library, grad: Tensor, forward: Forward):
    return None, library.discrete.loss_backward(grad, *forward.saved)


def _reconstruction_loss_backward(library: Library, grad: Tensor, forward: Forward):
    scale, x, logits, mask, stats = forward.saved
    return None, library.discrete.loss_backward(grad, scale, x, logits, None, mask, stats)


def loss_with_gradient_fake(x, logits, *others):
    *_, reduction, need_logits = others
    dtype = compute_dtype(logits)
    return *loss_fakes(x, reduction, dtype), gradient_fake(logits, need_logits, dtype, dense=False)


def _discrete_time_loss_fake(x, logits, *others):
    *_, reduction, need_logits = others
    dtype = compute_dtype(logits)
    return *loss_fakes(x, reduction, dtype), gradient_fake(logits, need_logits, dtype)


def _theta_backward(library: Library, grad: Tensor, forward: Forward):
    logits, theta = forward.saved
    wide = logits.to(compute_dtype(logits))
    if wide is not logits:  # θ was rounded, and p(g − Σ gp) would cancel
        theta, grad = library.discrete.theta(wide), grad.to(wide.dtype)
    return (torch.ops.aten._softmax_backward_data(grad, theta, -1, wide.dtype).to(logits.dtype),)


OPERATORS = [
    Operator(
        "theta(Tensor logits) -> (Tensor theta)",
        fake=torch.empty_like,
        saved="logits theta",
        backward=_theta_backward,
    ),
    Operator(
        "sender_sample(Tensor x, Tensor alpha, Tensor spread, int num_classes, bool probs, Tensor? seed, "
        "Tensor? noise, ScalarType dtype) -> Tensor",
        fake=_sender_fake,
    ),
    Operator(
        "update_sample(Tensor output_logits, Tensor state, Tensor alpha, Tensor spread, int choice, Tensor? known, "
        "Tensor? known_mask, Tensor? seed, Tensor? noise, Tensor? draw_noise) -> Tensor",
        fake=lambda output_logits, state, *others: torch.empty_like(state),
        backward=update_backward,
        in_place=True,
        beside="theta_out",
    ),
    Operator(
        "solver_step(Tensor output_logits, Tensor state, Tensor alpha, Tensor? spread, Tensor? state_scale, "
        "Tensor? previous, Tensor? extrapolation, Tensor? logit_scale, Tensor? unconditional, "
        "Tensor? unconditional_scale, int choice, Tensor? known, Tensor? known_mask, Tensor? seed, Tensor? noise, "
        "Tensor? draw_noise) -> Tensor",
        fake=lambda output_logits, state, *others: torch.empty_like(state),
        in_place=True,
        beside="theta_out predicted_out",
    ),
    Operator(
        f"continuous_time_loss(Tensor x, Tensor logits, Tensor weight, {_LOSS} stats)",
        fake=_loss_fake,
        saved="scale x logits weight mask stats",
        backward=_continuous_time_loss_backward,
    ),
    Operator(
        f"reconstruction_loss(Tensor x, Tensor logits, {_LOSS} stats)",
        fake=_loss_fake,
        saved="scale x logits mask stats",
        backward=_reconstruction_loss_backward,
    ),
    Operator(
        # the L∞ of short rows on a CPU or, without a weight, the reconstruction loss
        f"loss_with_gradient(Tensor x, Tensor logits, Tensor? weight, {_LOSS} grad_logits)",
        fake=loss_with_gradient_fake,
        saved="scale grad_logits",
        backward=saved_loss_backward,
        library=NATIVE,
    ),
    Operator(
        "loss_backward(Tensor grad, Tensor scale, Tensor x, Tensor logits, Tensor? weight, Tensor? mask, Tensor stats) "
        "-> Tensor",
        fake=lambda grad, scale, x, logits, *others: torch.empty_like(logits),
    ),
    Operator(
        "discrete_time_loss(Tensor x, Tensor logits, Tensor alpha, int n_steps, int receiver, float[] nodes, "
        "float[] node_weights, int n_samples, Tensor? seed, Tensor? noise, " + _LOSS + " grad_logits)",
        fake=_discrete_time_loss_fake,
        saved="scale grad_logits",
        backward=saved_loss_backward,
    ),
]
