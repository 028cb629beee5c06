"""The Triton code of the operators that are common to the families."""

from bfn_kernels.triton_ops.reduction import scaled_gradient as scaled_gradient
from bfn_kernels.triton_ops.row_scalars import row_scalars as row_scalars
