"""The operators that are common to the families."""

import torch

from bfn_kernels import backends
from bfn_kernels.arguments import rows
from bfn_kernels.declarations import Operator

OPERATORS = [
    Operator(
        "row_scalars(Tensor value, Tensor? precision, int wanted, int schedule, float parameter, int num_classes, "
        "int n_steps, float scale, float t_min, int[] shape, bool wide) -> Tensor[]",
        fake=rows.fake_scalars,
        plain=True,
    ),
    Operator(
        "scaled_gradient(Tensor saved, Tensor grad, Tensor? scale, ScalarType dtype) -> Tensor",
        fake=lambda saved, grad, scale, dtype: torch.empty_like(saved, dtype=dtype),
    ),
]

backends.add_family("common", OPERATORS)
