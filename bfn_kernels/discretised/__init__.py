"""Ops of discretised data. K bins of width 2/K divide [−1, 1], and a value is the centre of its bin, which
`from_levels` computes.

The network predicts a normal for each variable, by `pred_mean` and `pred_log_std`. The probability of a bin is the mass
that the normal has in the bin. `clip=True` adds the mass beyond [−1, 1] to the first and the last bin (107–109).
`clip=False` renormalises the distribution in [−1, 1]. `continuous` has the flow, the sender and the Bayesian update.

With `mixture_logits` `[B, ..., M]`, M at most 1024, the output distribution is a mixture of M normals. The two
predictions, or mean and std, then have the shape `[B, ..., M]`, too. An op with gradients for these two tensors has a
gradient for the mixture logits, too.

With `pred_log_std=None`, `pred_mean` has both predictions, stacked in a last dimension of two: `[B, ..., 2]` or `[B,
..., M, 2]`. Its gradient is stacked, too. Pass the stacked output of a network as it is: an op reads it as fast as two
tensors, and the backward pass of `unbind` would copy the gradients.

Data are `[B, ...]`. `help(bfn_kernels)` describes types, random numbers and errors. Numbers in parentheses are
equations of Graves et al. 2023, and [derived] marks formulas that are not in the paper.
"""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.discretised.bins import bin_index, centre
from bfn_kernels.discretised.distribution import expected_value as expected_value
from bfn_kernels.discretised.distribution import log_prob as log_prob
from bfn_kernels.discretised.distribution import mode as mode
from bfn_kernels.discretised.distribution import output_distribution as output_distribution
from bfn_kernels.discretised.distribution import sample as sample
from bfn_kernels.discretised.losses import *
from bfn_kernels.discretised.operators import OPERATORS
from bfn_kernels.discretised.steps import solver_step as solver_step
from bfn_kernels.discretised.steps import update_sample as update_sample

backends.add_family("discretised", OPERATORS)


def from_levels(levels: Tensor, *, num_bins: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The bin centres (2k + 1)/K − 1 of levels k = 0 … K − 1, for example the grey levels of an image.

    The common formula `k/127.5 − 1` does not give the centres of bins.

    Args:
        levels: Levels k `[B, ...]`, int64, int32, int16, int8 or uint8.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        dtype: Floating-point type of the result, by default float32.

    Returns:
        The centres in the shape of levels and the type dtype.

    Raises:
        IndexError: If a level is not below num_bins or is negative, on the CPU. Elsewhere its centre is NaN.

    Example:
        >>> from_levels(torch.tensor([0, 255], dtype=torch.uint8), num_bins=256)
        tensor([-0.9961,  0.9961])
    """
    num_bins = checks.integer("num_bins", num_bins, 2)
    if dtype not in checks.FLOATS:
        raise TypeError(f"dtype must be one of {list(checks.FLOATS)}, got {dtype}")
    index, valid = checks.valid_classes("levels", checks.classes("levels", levels).long(), num_bins)
    wide = torch.promote_types(dtype, torch.float32)
    return torch.where(valid, centre(index.to(wide), num_bins), torch.nan).to(dtype)


def to_levels(x: Tensor, *, num_bins: int) -> Tensor:
    """The levels k = 0 … K − 1 of the bins that x lies in: the inverse of `from_levels`.

    Args:
        x: Data in [−1, 1], `[B, ...]`, in a floating-point type that is fine enough for neighbouring centres to differ.
            NaN has level 0.
        num_bins: K, the number of bins of [−1, 1], at least 2.

    Returns:
        The levels in the shape of x, int64.

    Example:
        >>> to_levels(torch.tensor([-1.0, 0.1, 1.0]), num_bins=4)
        tensor([0, 2, 3])
    """
    checks.data("x", x)
    wide = x.to(checks.compute_dtype(x))
    return bin_index(wide, checks.integer("num_bins", num_bins, 2)).nan_to_num(0).long()
