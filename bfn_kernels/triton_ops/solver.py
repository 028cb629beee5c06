"""What a solver's step does to the prediction, the counterpart of csrc/math/solver.h."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from bfn_kernels.triton_ops.views import load, store


class Outputs(NamedTuple):
    """The views of the tensors that a step of classes writes, each of None if it was not passed."""

    state: Any
    theta: Any
    predicted: Any


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
def extrapolated(p, solver, predicted, block, T: tl.constexpr):
    """Writes p to `predicted`, and returns what the step takes in its place. solver: `Solver` of views."""
    taken = p
    if solver.previous[0] is not None:
        taken = extrapolation_of(p, load(solver.previous, block, T), load(solver.extrapolation, block, T))
    wait_to_write_over(solver.previous, predicted)
    store(predicted, block, p)
    return taken


@triton.jit
def guided(z, scale, unconditional, unconditional_scale):
    """scale·z + unconditional_scale·unconditional: classifier-free guidance and a temperature. A z of −∞ stays −∞, and
    without weight an infinite `unconditional` does not count."""
    other = tl.where(unconditional_scale == 0, 0, unconditional)
    return tl.where(z == float("-inf"), z, tl.fma(unconditional_scale, other, scale * z))
