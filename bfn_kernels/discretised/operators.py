"""The operators of discretised data, each with its fake (its result without numbers, for torch.compile) and its
backward pass.

The function of the same name in `reference.py` computes the same result and has the same arguments.
"""

import torch

from bfn_kernels.declarations import gradient_operator, like_argument, operator, step_operator
from bfn_kernels.discretised import reference


def value_fake(mean, std, mixture_logits, *others):
    """Returns an uninitialized tensor with one number for each variable, in the type of the mean."""
    return torch.empty_like(mean) if mixture_logits is None else mean.new_empty(mean.shape[:-1])


OPERATORS = [
    gradient_operator(reference.output_std, "pred_log_std", fake=like_argument(0)),
    gradient_operator(reference.expected_value, "mean std mixture_logits", fake=value_fake),
    operator(reference.choose, fake=value_fake),
    gradient_operator(reference.loss, "pred_mean pred_log_std mixture_logits"),
    step_operator(reference.step, state=3),
]
