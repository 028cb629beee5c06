"""The operators of circular data. A function of `reference.py` defines the result of each."""

import torch

from bfn_kernels.checks import compute_dtype
from bfn_kernels.circular import reference
from bfn_kernels.declarations import gradient_operator, operator


def _step_fake(sent, mean, concentration, *others):
    if mean is None:
        return torch.empty_like(sent), torch.empty_like(sent, dtype=compute_dtype(sent))
    return torch.empty_like(mean), torch.empty_like(concentration)


OPERATORS = [
    operator(reference.step, "(Tensor mean, Tensor concentration)", fake=_step_fake),
    gradient_operator(reference.loss, "prediction weight", dense=False),
]
