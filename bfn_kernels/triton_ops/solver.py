"""Parts of a solver's step, the counterpart of csrc/math/solver.h: guidance, extrapolation, and the step of a mean."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from bfn_kernels.triton_ops.philox import SENDER, noise_of
from bfn_kernels.triton_ops.views import load, store


class Outputs(NamedTuple):
    """The views of the tensors that a step of classes writes. The view of a tensor that was not passed has no
    pointer."""

    state: Any
    theta: Any
    predicted: Any


@triton.jit
def extrapolation_of(p, previous, by):
    """p + by·(p − previous)."""
    return tl.fma(by, p - previous, p)


@triton.jit
def wait_to_write_over(previous, predicted):
    """A barrier between reading `previous` and writing `predicted`, which may be the same memory. It is needed, since
    the thread that writes an element may not be the thread that reads it."""
    if (previous[0] is not None) & (predicted[0] is not None):
        tl.debug_barrier()


@triton.jit
def extrapolated(p, solver, predicted, block, T: tl.constexpr):
    """Writes p to `predicted`, and returns the extrapolated p that the step uses. solver: a `Solver` of views."""
    prediction = p
    if solver.previous[0] is not None:
        prediction = extrapolation_of(p, load(solver.previous, block, T), load(solver.extrapolation, block, T))
    wait_to_write_over(solver.previous, predicted)
    store(predicted, block, p)
    return prediction


@triton.jit
def mean_step(mean, x_hat, solver, known, known_mask, noise, out, predicted, block, T: tl.constexpr):
    """Writes keep·μ + take·(x̂ + extrapolation·(x̂ − x̂_prev)) + std·ξ to `out`, and x̂ to `predicted`. `known` replaces x̂
    where known_mask is True."""
    if known[0] is not None:
        x_hat = tl.where(load(known_mask, block, tl.int1), load(known, block, T), x_hat)
    prediction = extrapolated(x_hat, solver, predicted, block, T)
    updated = load(solver.keep, block, T, 1.0) * load(mean, block, T) + load(solver.take, block, T) * prediction
    if solver.std[0] is not None:
        updated += load(solver.std, block, T) * noise_of(noise, block, SENDER, T)
    store(out, block, updated)


@triton.jit
def guided(z, scale, unconditional, unconditional_scale):
    """scale·z + unconditional_scale·unconditional: classifier-free guidance and a temperature. A z of −∞ stays −∞.
    Where unconditional_scale is 0, `unconditional` does not count, even if it is infinite."""
    other = tl.where(unconditional_scale == 0, 0, unconditional)
    return tl.where(z == float("-inf"), z, tl.fma(unconditional_scale, other, scale * z))
