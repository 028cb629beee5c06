"""The operators of circular data: the fake and backward pass of each.

The function of the same name in `reference.py` defines the result of an operator, and has its arguments.
"""

import torch

from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.circular import reference
from bfn_kernels.operators import gradient_operator, operator


def _draw_fake(x, concentration, step, table, *others):
    return torch.empty_like(x), torch.empty_like(x if concentration is None else x.new_empty(0), dtype=compute_dtype(x))


OPERATORS = [
    operator(reference.draw, "(Tensor mean, Tensor concentration)", fake=_draw_fake),
    operator(
        reference.step,
        "(Tensor mean, Tensor concentration)",
        fake=lambda prediction, mean, concentration, *others: (torch.empty_like(mean), torch.empty_like(concentration)),
    ),
    gradient_operator(reference.loss, "prediction concentration", dense=False),
]
