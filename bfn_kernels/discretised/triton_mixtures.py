"""Mixtures of normals in Triton: loops over the M components, M being known when a kernel is compiled.

The numbers of a component are computed again wherever they are needed again. The views of the network's output and of
its gradients are views of the first component, followed by the stride to the others.
`log_total` is what `normaliser` returns.
"""

import triton
import triton.language as tl

from bfn_kernels.discretised.triton_bins import centre, log_bin_prob, output_normal
from bfn_kernels.discretised.triton_expected import expected_value
from bfn_kernels.triton_ops.classes import finite
from bfn_kernels.triton_ops.elementary import exp, log, reciprocal
from bfn_kernels.triton_ops.noise import COMPONENT, uniforms
from bfn_kernels.triton_ops.views import load, store


@triton.jit
def _at(view, m):
    """The view of component m."""
    return view[0] + (tl.full((), 0, tl.int64) + m) * view[5], view[1], view[2], view[3], view[4]


@triton.jit
def component(network, m, block, KIND: tl.constexpr, T: tl.constexpr):
    """The mean and std of one component, and their derivatives by the two predictions."""
    one = _at(network[0], m), _at(network[1], m), network[2], network[3], network[4]
    return output_normal(one, block, KIND, T)


@triton.jit
def log_add(top, total, term):
    """The sum Σ exp(term), held as exp(top)·total, with one more term."""
    new = tl.maximum(top, term)
    kept = tl.where(top == new, 1.0, exp(top - new))
    return new, total * kept + exp(term - finite(new))


@triton.jit
def normaliser(network, block, M: tl.constexpr, T: tl.constexpr):
    """What turns a logit into ln of its component's share: the largest logit, and ln Σ exp(logit − largest)."""
    top = tl.full(block[1].shape, float("-inf"), T)
    total = tl.zeros(block[1].shape, T)
    for m in range(M):
        top, total = log_add(top, total, load(_at(network[5], m), block, T))
    return top, log(total)


@triton.jit
def log_share(network, log_total, m, block, T: tl.constexpr):
    """ln of the share of component m."""
    return (load(_at(network[5], m), block, T) - log_total[0]) - log_total[1]


@triton.jit
def _write(view, m, block, keep, more, value, T: tl.constexpr):
    """Writes the gradient of component m, or adds to it if `more`; does nothing if it is not wanted."""
    if view[0] is not None:
        before = tl.where(more, load(_at(view, m), block, T), 0.0)
        store(_at(view, m), block, tl.where(keep, before + value, 0.0))


@triton.jit
def write(gradients, m, block, keep, more, grad_prediction, grad_log_std, grad_logit, T: tl.constexpr):
    """Writes the three gradients of component m, or adds to them if `more`; they are 0 where `keep` is False."""
    _write(gradients[0], m, block, keep, more, grad_prediction, T)
    _write(gradients[1], m, block, keep, more, grad_log_std, T)
    _write(gradients[2], m, block, keep, more, grad_logit, T)


@triton.jit
def mean_error(
    x,
    network,
    log_total,
    block,
    KIND: tl.constexpr,
    K: tl.constexpr,
    CLIP: tl.constexpr,
    M: tl.constexpr,
    T: tl.constexpr,
):
    """x − k̂, where k̂ is the expected value of the mixture."""
    error = x * 0.0
    for m in range(M):
        mean, std, _, _ = component(network, m, block, KIND, T)
        base, shift, _, _ = expected_value(mean, std, K, CLIP)
        error += exp(log_share(network, log_total, m, block, T)) * ((x - base) - shift)
    return error


@triton.jit
def write_mean_error(
    x, error, slope, keep, gradients, network, log_total, block,
    KIND: tl.constexpr, K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of a loss whose derivative by k̂ is `slope`; error is x − k̂."""
    for m in range(M):
        mean, std, mean_slope, std_slope = component(network, m, block, KIND, T)
        base, shift, by_mean, by_std = expected_value(mean, std, K, CLIP)
        part = slope * exp(log_share(network, log_total, m, block, T))
        grad_logit = part * (error - ((x - base) - shift))
        write(gradients, m, block, keep, False, part * by_mean * mean_slope, part * by_std * std_slope, grad_logit, T)


@triton.jit
def prob(
    i,
    network,
    log_total,
    block,
    KIND: tl.constexpr,
    K: tl.constexpr,
    CLIP: tl.constexpr,
    M: tl.constexpr,
    T: tl.constexpr,
):
    """The probability of bin i, in the form of log_add."""
    top = tl.full(block[1].shape, float("-inf"), T)
    total = tl.zeros(block[1].shape, T)
    for m in range(M):
        mean, std, _, _ = component(network, m, block, KIND, T)
        log_p, _, _ = log_bin_prob(i, mean, std, K, CLIP)
        top, total = log_add(top, total, log_share(network, log_total, m, block, T) + log_p)
    return top, total


@triton.jit
def write_bin_cost(
    i, p, keep, gradients, network, log_total, block,
    KIND: tl.constexpr, K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of −ln p of bin i."""
    inverse = reciprocal(p[1])
    for m in range(M):
        mean, std, mean_slope, std_slope = component(network, m, block, KIND, T)
        log_p, by_mean, by_std = log_bin_prob(i, mean, std, K, CLIP)
        log_share_m = log_share(network, log_total, m, block, T)
        part = exp(log_share_m + log_p - p[0]) * inverse
        grad_logit = exp(log_share_m) - part
        write(gradients, m, block, keep, False, -part * by_mean * mean_slope, -part * by_std * std_slope, grad_logit, T)


@triton.jit
def drawn(network, log_total, component_noise, seed, block, KIND: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """The mean and std of a drawn component: the first whose cumulative share exceeds a uniform, or else the last one
    whose share is not 0."""
    uniform = uniforms(component_noise, seed, block, COMPONENT, T)
    cumulative = uniform * 0.0
    mean, std = cumulative + float("nan"), cumulative
    for m in range(M):
        share = exp(log_share(network, log_total, m, block, T))
        takes = (cumulative <= uniform) & (share > 0.0)
        mean_m, std_m, _, _ = component(network, m, block, KIND, T)
        mean, std = tl.where(takes, mean_m, mean), tl.where(takes, std_m, std)
        cumulative += share
    return mean, std


@triton.jit
def likeliest(network, log_total, block, KIND: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr):
    """The centre of the likeliest bin, the first one if there are several."""
    best = tl.zeros(block[1].shape, T)
    best_mass = best - 1.0
    for k in range(K):
        mass, i = best * 0.0, best * 0.0 + k
        for m in range(M):
            mean, std, _, _ = component(network, m, block, KIND, T)
            log_p, _, _ = log_bin_prob(i, mean, std, K, True)
            mass += exp(log_share(network, log_total, m, block, T) + log_p)
        best = tl.where(mass > best_mass, i, best)
        best_mass = tl.where(mass <= best_mass, best_mass, mass)  # NaN is kept
    return tl.where(best_mass >= 0.0, centre(best, K), best_mass)
