"""What a solver's step does to the prediction, the counterpart of csrc/math/solver.h."""

import triton
import triton.language as tl

from bfn_kernels.triton_ops.views import load, store


@triton.jit
def extrapolation_of(p, previous, by):
    """p + by·(p − p_prev), at a later place of the line through both."""
    return tl.fma(by, p - previous, p)


@triton.jit
def wait_to_write_over(previous, predicted):
    """The prediction before has been loaded. It may be written over, and by other threads than those that read it."""
    if (previous[0] is not None) & (predicted[0] is not None):
        tl.debug_barrier()


@triton.jit
def extrapolated(p, solver, block, T: tl.constexpr):
    """Puts out p, and returns what the step takes in its place. solver: the views of the prediction before, of how far
    the step is ahead of it, and of the result, each of None if it was not passed."""
    previous, by, predicted = solver[0], solver[1], solver[2]
    taken = p
    if previous[0] is not None:
        taken = extrapolation_of(p, load(previous, block, T), load(by, block, T))
    wait_to_write_over(previous, predicted)
    store(predicted, block, p)
    return taken


@triton.jit
def guided(z, scale, unconditional, unconditional_scale):
    """scale·z + unconditional_scale·unconditional: classifier-free guidance and a temperature. A z of −∞ stays −∞, and
    without weight an infinite `unconditional` does not count."""
    other = tl.where(unconditional_scale == 0, 0, unconditional)
    return tl.where(z == float("-inf"), z, tl.fma(unconditional_scale, other, scale * z))
