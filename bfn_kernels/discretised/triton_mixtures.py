"""Mixtures of normals in Triton: what one normal takes, in loops over the M components, and made again wherever it is
needed again. M is known when a kernel is compiled.

The views of what a network put out, and of its gradients, are of the first component, with the stride to the others
behind.
"""

import triton
import triton.language as tl

from bfn_kernels.discretised.triton_bins import centre, log_bin_prob, output_normal
from bfn_kernels.discretised.triton_expected import expected_value
from bfn_kernels.triton_ops.classes import finite
from bfn_kernels.triton_ops.elementary import exp, log
from bfn_kernels.triton_ops.noise import COMPONENT, uniforms
from bfn_kernels.triton_ops.views import load, store


@triton.jit
def _at(view, m):
    return view[0] + (tl.full((), 0, tl.int64) + m) * view[5], view[1], view[2], view[3], view[4]


@triton.jit
def component(network, m, block, KIND: tl.constexpr, T: tl.constexpr):
    """Mean and std of one normal, and their derivatives by the two predictions."""
    one = _at(network[0], m), _at(network[1], m), network[2], network[3], network[4]
    return output_normal(one, block, KIND, T)


@triton.jit
def log_add(top, total, term):
    """One more term of Σ exp(term), which is held as exp(top)·total."""
    new = tl.maximum(top, term)
    kept = tl.where(top == new, 1.0, exp(top - new))
    return new, total * kept + exp(term - finite(new))


@triton.jit
def shares(network, block, M: tl.constexpr, T: tl.constexpr):
    """What log shares are made of: of the logits the largest, and ln Σ exp of their distance from it."""
    top = tl.full(block[1].shape, float("-inf"), T)
    total = tl.zeros(block[1].shape, T)
    for m in range(M):
        top, total = log_add(top, total, load(_at(network[5], m), block, T))
    return top, log(total)


@triton.jit
def log_share(network, of, m, block, T: tl.constexpr):
    return (load(_at(network[5], m), block, T) - of[0]) - of[1]


@triton.jit
def _write(view, m, block, keep, more, value, T: tl.constexpr):
    if view[0] is not None:
        before = tl.where(more, load(_at(view, m), block, T), 0.0)
        store(_at(view, m), block, tl.where(keep, before + value, 0.0))


@triton.jit
def write(by, m, block, keep, more, grad_prediction, grad_log_std, by_logit, T: tl.constexpr):
    """The gradients of one component, or `more` of them; those that nobody wants are not there."""
    _write(by[0], m, block, keep, more, grad_prediction, T)
    _write(by[1], m, block, keep, more, grad_log_std, T)
    _write(by[2], m, block, keep, more, by_logit, T)


@triton.jit
def mean_error(
    x, network, of, block, KIND: tl.constexpr, K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr
):
    """x − k, k the expected value of the mixture."""
    error = x * 0.0
    for m in range(M):
        mean, std, _, _ = component(network, m, block, KIND, T)
        base, shift, _, _ = expected_value(mean, std, K, CLIP)
        error += exp(log_share(network, of, m, block, T)) * ((x - base) - shift)
    return error


@triton.jit
def write_mean_error(
    x, error, slope, keep, by, network, of, block,
    KIND: tl.constexpr, K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The gradients of what has the derivative `slope` by k."""
    for m in range(M):
        mean, std, mean_slope, std_slope = component(network, m, block, KIND, T)
        base, shift, by_mean, by_std = expected_value(mean, std, K, CLIP)
        part = slope * exp(log_share(network, of, m, block, T))
        by_logit = part * (error - ((x - base) - shift))
        write(by, m, block, keep, False, part * by_mean * mean_slope, part * by_std * std_slope, by_logit, T)


@triton.jit
def prob(
    i, network, of, block, KIND: tl.constexpr, K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr
):
    """p of a bin, as log_add holds it."""
    top = tl.full(block[1].shape, float("-inf"), T)
    total = tl.zeros(block[1].shape, T)
    for m in range(M):
        mean, std, _, _ = component(network, m, block, KIND, T)
        log_p, _, _ = log_bin_prob(i, mean, std, K, CLIP)
        top, total = log_add(top, total, log_share(network, of, m, block, T) + log_p)
    return top, total


@triton.jit
def write_bin_cost(
    i, p, keep, by, network, of, block,
    KIND: tl.constexpr, K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The gradients of −ln p."""
    for m in range(M):
        mean, std, mean_slope, std_slope = component(network, m, block, KIND, T)
        log_p, by_mean, by_std = log_bin_prob(i, mean, std, K, CLIP)
        log_share_m = log_share(network, of, m, block, T)
        part = exp(log_share_m + log_p - p[0]) / p[1]
        by_logit = exp(log_share_m) - part
        write(by, m, block, keep, False, -part * by_mean * mean_slope, -part * by_std * std_slope, by_logit, T)


@triton.jit
def drawn(network, of, component_noise, seed, block, KIND: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """Mean and std of a component: the first whose cumulative share exceeds a uniform, else the last with a share."""
    uniform = uniforms(component_noise, seed, block, COMPONENT, T)
    cumulative = uniform * 0.0
    mean, std = cumulative + float("nan"), cumulative
    for m in range(M):
        share = exp(log_share(network, of, m, block, T))
        takes = (cumulative <= uniform) & (share > 0.0)
        mean_m, std_m, _, _ = component(network, m, block, KIND, T)
        mean, std = tl.where(takes, mean_m, mean), tl.where(takes, std_m, std)
        cumulative += share
    return mean, std


@triton.jit
def likeliest(network, of, block, KIND: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """The centre of the first of all bins that has the most mass."""
    best = tl.zeros(block[1].shape, T)
    best_mass = best - 1.0
    for k in range(K):
        mass, i = best * 0.0, best * 0.0 + k
        for m in range(M):
            mean, std, _, _ = component(network, m, block, KIND, T)
            log_p, _, _ = log_bin_prob(i, mean, std, K, True)
            mass += exp(log_share(network, of, m, block, T) + log_p)
        best = tl.where(mass > best_mass, i, best)
        best_mass = tl.where(mass <= best_mass, best_mass, mass)  # NaN stays
    return tl.where(best_mass >= 0.0, centre(best, K), best_mass)
