"""The Triton code of the operators that are common to the families."""

from bfn_kernels.triton_ops.reduction import scaled_gradient
from bfn_kernels.triton_ops.rows import row_scalars

__all__ = ["row_scalars", "scaled_gradient"]
