"""Mixtures of normals in Triton: loops over the M components. M is one of the `Constants` C of a kernel.

Each loop that needs the mean and std of the components computes them again. A view is a tuple (see
`triton_ops.views`). `component_view` makes the views of the network's output and of its gradients. They point to the
first component, and their last field is the stride between components. The argument `log_total` is the result of
`normaliser`. The share of a component is its weight in the mixture.
"""

import triton
import triton.language as tl

from bfn_kernels.discretised.triton_bins import centre, log_bin_prob, output_normal
from bfn_kernels.discretised.triton_expected import expected_value
from bfn_kernels.records import Network
from bfn_kernels.triton_ops.classes import finite
from bfn_kernels.triton_ops.elementary import exp, log, reciprocal
from bfn_kernels.triton_ops.noise import COMPONENT, uniforms
from bfn_kernels.triton_ops.views import load, store


@triton.jit
def _at(view, m):
    """The view of component m."""
    return view[0] + (tl.full((), 0, tl.int64) + m) * view[5], view[1], view[2], view[3], view[4]


@triton.jit
def component(network, m, block, C):
    """The mean and std of one component, and their derivatives by the two predictions."""
    mean, log_std = _at(network.pred_mean, m), _at(network.pred_log_std, m)
    one = Network(mean, log_std, network.mixture_logits, network.mean, network.mean_scale, network.noise_scale)
    return output_normal(one, block, C)


@triton.jit
def log_add(top, total, term):
    """Adds a term to the sum Σ exp(term) = exp(top)·total."""
    new = tl.maximum(top, term)
    rescale = tl.where(top == new, 1.0, exp(top - new))
    return new, total * rescale + exp(term - finite(new))


@triton.jit
def normaliser(network, block, C):
    """The two numbers that `log_share` subtracts from a logit: the largest logit, and ln Σ exp(logit − largest)."""
    top = tl.full(block[1].shape, float("-inf"), C.T)
    total = tl.zeros(block[1].shape, C.T)
    for m in range(C.M):
        top, total = log_add(top, total, load(_at(network.mixture_logits, m), block, C.T))
    return top, log(total)


@triton.jit
def log_share(network, log_total, m, block, C):
    """ln of the share of component m."""
    return (load(_at(network.mixture_logits, m), block, C.T) - log_total[0]) - log_total[1]


@triton.jit
def _write(view, m, block, keep, add, value):
    """Writes the gradient of component m, or adds to it if `add`. Does nothing if the gradient is not wanted."""
    if view[0] is not None:
        before = tl.where(add, load(_at(view, m), block, value.dtype), 0.0)
        store(_at(view, m), block, tl.where(keep, before + value, 0.0))


@triton.jit
def write(gradients, m, block, keep, add, grad_prediction, grad_log_std, grad_logit):
    """Writes the three gradients of component m, or adds to them if `add`; they are 0 where `keep` is False."""
    _write(gradients[0], m, block, keep, add, grad_prediction)
    _write(gradients[1], m, block, keep, add, grad_log_std)
    _write(gradients[2], m, block, keep, add, grad_logit)


@triton.jit
def mean_error(x, network, log_total, block, C):
    """x − k̂, where k̂ is the expected value of the mixture."""
    error = x * 0.0
    for m in range(C.M):
        mean, std, _, _ = component(network, m, block, C)
        base, shift, _, _ = expected_value(mean, std, C.K, C.CLIP)
        error += exp(log_share(network, log_total, m, block, C)) * ((x - base) - shift)
    return error


@triton.jit
def write_mean_error(x, error, slope, keep, gradients, network, log_total, block, C):
    """Writes the gradients of a loss whose derivative by k̂ is `slope`. error: x − k̂."""
    for m in range(C.M):
        mean, std, mean_slope, std_slope = component(network, m, block, C)
        base, shift, by_mean, by_std = expected_value(mean, std, C.K, C.CLIP)
        slope_m = slope * exp(log_share(network, log_total, m, block, C))
        grad_logit = slope_m * (error - ((x - base) - shift))
        by_mean, by_std = slope_m * by_mean * mean_slope, slope_m * by_std * std_slope
        write(gradients, m, block, keep, False, by_mean, by_std, grad_logit)


@triton.jit
def prob(i, network, log_total, block, C):
    """The probability of bin i as two numbers `top` and `total`: it is exp(top)·total (see `log_add`)."""
    top = tl.full(block[1].shape, float("-inf"), C.T)
    total = tl.zeros(block[1].shape, C.T)
    for m in range(C.M):
        mean, std, _, _ = component(network, m, block, C)
        log_p, _, _ = log_bin_prob(i, mean, std, C.K, C.CLIP)
        top, total = log_add(top, total, log_share(network, log_total, m, block, C) + log_p)
    return top, total


@triton.jit
def write_bin_cost(i, p, keep, gradients, network, log_total, block, C):
    """Writes the gradients of −ln p of bin i. p: the two numbers that `prob` returns for bin i."""
    inverse = reciprocal(p[1])
    for m in range(C.M):
        mean, std, mean_slope, std_slope = component(network, m, block, C)
        log_p, by_mean, by_std = log_bin_prob(i, mean, std, C.K, C.CLIP)
        log_share_m = log_share(network, log_total, m, block, C)
        posterior = exp(log_share_m + log_p - p[0]) * inverse
        by_mean, by_std = -posterior * by_mean * mean_slope, -posterior * by_std * std_slope
        write(gradients, m, block, keep, False, by_mean, by_std, exp(log_share_m) - posterior)


@triton.jit
def drawn(network, log_total, component_noise, block, C):
    """Draws a component and returns its mean and std. It is the first component whose cumulative share exceeds a
    uniform or, if none does, the last one with a share above 0."""
    uniform = uniforms(component_noise, block, COMPONENT, C.T)
    cumulative = uniform * 0.0
    mean, std = cumulative + float("nan"), cumulative
    for m in range(C.M):
        share = exp(log_share(network, log_total, m, block, C))
        takes = (cumulative <= uniform) & (share > 0.0)
        mean_m, std_m, _, _ = component(network, m, block, C)
        mean, std = tl.where(takes, mean_m, mean), tl.where(takes, std_m, std)
        cumulative += share
    return mean, std


@triton.jit
def likeliest(network, log_total, block, C):
    """The centre of the likeliest bin of the clipped distribution. Of equally likely bins, the first one wins."""
    best = tl.zeros(block[1].shape, C.T)
    best_mass = best - 1.0
    for k in range(C.K):
        mass, i = best * 0.0, best * 0.0 + k
        for m in range(C.M):
            mean, std, _, _ = component(network, m, block, C)
            log_p, _, _ = log_bin_prob(i, mean, std, C.K, True)
            mass += exp(log_share(network, log_total, m, block, C) + log_p)
        best = tl.where(mass > best_mass, i, best)
        best_mass = tl.where(mass <= best_mass, best_mass, mass)  # NaN if the mass is NaN
    return tl.where(best_mass >= 0.0, centre(best, C.K), best_mass)
