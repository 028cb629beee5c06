"""The operators of binary data: the schema, fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and says the shapes of its arguments.
"""

import torch

from bfn_kernels.discrete.operators import loss_with_gradient_fake, update_backward
from bfn_kernels.operators import Operator, saved_loss_backward

_LOSS = "Tensor? mask, int reduction, bool need_logits) -> (Tensor loss, Tensor scale, Tensor grad_logits)"


def _sender_fake(x, *others):
    return torch.empty_like(x, dtype=others[-1])


OPERATORS = [
    Operator(
        "sender_sample(Tensor x, Tensor alpha, Tensor spread, bool probs, Tensor? seed, Tensor? noise, "
        "ScalarType dtype) -> Tensor",
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
        f"continuous_time_loss(Tensor x, Tensor logits, Tensor weight, {_LOSS}",
        fake=loss_with_gradient_fake,
        saved="scale grad_logits",
        backward=saved_loss_backward,
    ),
    Operator(
        f"reconstruction_loss(Tensor x, Tensor logits, {_LOSS}",
        fake=loss_with_gradient_fake,
        saved="scale grad_logits",
        backward=saved_loss_backward,
    ),
    Operator(
        "discrete_time_loss(Tensor x, Tensor logits, Tensor alpha, int n_steps, int receiver, float[] nodes, "
        f"float[] node_weights, int n_samples, Tensor? seed, Tensor? noise, {_LOSS}",
        fake=loss_with_gradient_fake,
        saved="scale grad_logits",
        backward=saved_loss_backward,
    ),
]
