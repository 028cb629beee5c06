"""The Triton code of the operators that are common to the families."""

from bfn_kernels.triton_ops.coding import class_intervals as class_intervals
from bfn_kernels.triton_ops.coding import lattice_intervals as lattice_intervals
from bfn_kernels.triton_ops.reduction import scaled_gradient as scaled_gradient
from bfn_kernels.triton_ops.row_scalars import row_scalars as row_scalars
