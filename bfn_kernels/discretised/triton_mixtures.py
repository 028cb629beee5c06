"""Mixtures of normals in Triton. M, the number of components, is one of the `Constants` C of a kernel.

Most kernels take the components of a block of variables as a tile of classes (see `triton_ops.class_tiles`), and S is
the `Sizes` of the tile. A warp then reads and writes neighbouring numbers, and the value of each component is computed
once. A tile may have more columns than there are components. These columns have the share 0.

The n-step loss takes the components one by one, since a value takes much memory. Each of its loops computes the mean
and std of the components again. `component_view` makes the views of the network's output and of its gradients. They
point to the first component, and their last field is the stride between components. The argument `log_total` is the
result of `normaliser`. The share of a component is its weight in the mixture.
"""

import triton
import triton.language as tl

from bfn_kernels.discretised.triton_bins import Constants, centre, log_bin_prob, normal_of, output_normal
from bfn_kernels.discretised.triton_expected import expected_value
from bfn_kernels.records import Network
from bfn_kernels.triton_ops.class_tiles import (
    Sizes,
    column,
    drawn_class,
    exp_of_rows,
    finite,
    load_classes,
    load_logit,
    softmax,
    store_classes,
)
from bfn_kernels.triton_ops.elementary import exp, log, reciprocal
from bfn_kernels.triton_ops.philox import COMPONENT, uniforms
from bfn_kernels.triton_ops.views import load, store

# The most numbers in a tile. _VALUES is for kernels that compute values, and _LOGITS for kernels that draw components.
_VALUES, _LOGITS = 256, 2048
_FEWEST = 4  # the fewest variables of a tile, since Philox makes noise for four variables at a time


def tile_of(C: Constants, draws: bool) -> tuple[Sizes, int]:
    """S and the warps of a program. draws: whether the kernel draws components."""
    columns = max(4, triton.next_power_of_2(C.M))
    rows = max(_FEWEST, (_LOGITS if draws else _VALUES) // columns)
    return Sizes(C.M, rows, columns, C.T), max(2, min(8, rows * columns // (1024 if draws else 128)))


@triton.jit
def _normals(network, block, C, S):
    """The means and stds of the components, and their derivatives by the two predictions. Columns without a component
    repeat the last one. So they do not need another rule than the components (see `triton_expected`)."""
    m, rows = tl.minimum(tl.arange(0, S.TILE), S.K - 1)[None, :], column(block)
    prediction, log_std = load_logit(network.pred_mean, rows, m, S), load_logit(network.pred_log_std, rows, m, S)
    return normal_of(prediction, log_std, network, rows, C)


@triton.jit
def _flat(x, S):
    """The numbers of a tile one after the other, since functions of one normal take blocks of one dimension."""
    return tl.reshape(tl.broadcast_to(x, (S.ROWS, S.TILE)), (S.ROWS * S.TILE,))


@triton.jit
def _tile(x, S):
    return tl.reshape(x, (S.ROWS, S.TILE))


@triton.jit
def _log_bin_prob(i, mean, std, CLIP: tl.constexpr, C, S):
    """ln p of a bin of each variable, by its components, and the derivatives by their means and stds."""
    log_p, by_mean, by_std = log_bin_prob(_flat(i[:, None], S), _flat(mean, S), _flat(std, S), C.K, CLIP)
    return _tile(log_p, S), _tile(by_mean, S), _tile(by_std, S)


@triton.jit
def _write(view, block, keep, value, S):
    if view[0] is not None:
        store_classes(view, block, 0, tl.where(keep[:, None], value, 0.0), S)


@triton.jit
def _write_gradients(gradients, block, keep, by_prediction, by_log_std, by_logit, S):
    """Writes the three gradients of the components; they are 0 where `keep` is False."""
    _write(gradients[0], block, keep, by_prediction, S)
    _write(gradients[1], block, keep, by_log_std, S)
    _write(gradients[2], block, keep, by_logit, S)


@triton.jit
def mean_error(x, network, block, C, S):
    """x − k̂, where k̂ is the expected value of the mixture; and what `write_mean_error` needs."""
    mean, std, mean_slope, std_slope = _normals(network, block, C, S)
    base, shift, by_mean, by_std = expected_value(_flat(mean, S), _flat(std, S), C.K, C.CLIP)
    each = (x[:, None] - _tile(base, S)) - _tile(shift, S)
    by_mean, by_std = _tile(by_mean, S) * mean_slope, _tile(by_std, S) * std_slope
    share = softmax(load_classes(network.mixture_logits, block, 0, S))
    return tl.sum(share * each, 1), (share, each, by_mean, by_std)


@triton.jit
def write_mean_error(error, parts, slope, keep, gradients, block, S):
    """Writes the gradients of a loss whose derivative by k̂ is `slope`. error, parts: the results of `mean_error`."""
    share, each, by_mean, by_std = parts
    share *= slope[:, None]
    by_logit = share * (error[:, None] - each)
    _write_gradients(gradients, block, keep, share * by_mean, share * by_std, by_logit, S)


@triton.jit
def bin_cost(i, keep, gradients, network, block, C, S):
    """−ln p of bin i. Writes its gradients."""
    mean, std, mean_slope, std_slope = _normals(network, block, C, S)
    log_p, by_mean, by_std = _log_bin_prob(i, mean, std, C.CLIP, C, S)
    z = load_classes(network.mixture_logits, block, 0, S)
    share, top = exp_of_rows(z)
    posterior, top_posterior = exp_of_rows((z - top[:, None]) + log_p)
    total, total_posterior = tl.sum(share, 1), tl.sum(posterior, 1)
    share, posterior = share * reciprocal(total)[:, None], posterior * reciprocal(total_posterior)[:, None]
    by_mean, by_std = -posterior * by_mean * mean_slope, -posterior * by_std * std_slope
    _write_gradients(gradients, block, keep, by_mean, by_std, share - posterior, S)
    return log(total) - top_posterior - log(total_posterior)


@triton.jit
def drawn(network, component_noise, block, C, S):
    """Draws a component and returns its mean and std."""
    m = drawn_class(network.mixture_logits, uniforms(component_noise, block, COMPONENT, C.T), block, S)
    k = tl.maximum(m, 0)
    prediction, log_std = load_logit(network.pred_mean, block, k, S), load_logit(network.pred_log_std, block, k, S)
    mean, std, _, _ = normal_of(prediction, log_std, network, block, C)
    return tl.where(m < 0, float("nan"), mean), std


@triton.jit
def likeliest(network, block, C, S):
    """The centre of the likeliest bin of the clipped distribution. Of equally likely bins, the first one wins."""
    mean, std, _, _ = _normals(network, block, C, S)
    share = softmax(load_classes(network.mixture_logits, block, 0, S))
    best = tl.zeros(block[1].shape, C.T)
    best_mass = best - 1.0
    for k in range(C.K):
        i = best * 0.0 + k
        log_p, _, _ = _log_bin_prob(i, mean, std, True, C, S)
        mass = tl.sum(share * exp(log_p), 1)
        best = tl.where(mass > best_mass, i, best)
        best_mass = tl.where(mass <= best_mass, best_mass, mass)  # NaN if the mass is NaN
    return tl.where(best_mass >= 0.0, centre(best, C.K), best_mass)


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
def _write_component(view, m, block, keep, add, value):
    """Writes the gradient of component m, or adds to it if `add`. Does nothing if the gradient is not wanted."""
    if view[0] is not None:
        before = tl.where(add, load(_at(view, m), block, value.dtype), 0.0)
        store(_at(view, m), block, tl.where(keep, before + value, 0.0))


@triton.jit
def write(gradients, m, block, keep, add, grad_prediction, grad_log_std, grad_logit):
    """Writes the three gradients of component m, or adds to them if `add`; they are 0 where `keep` is False."""
    _write_component(gradients[0], m, block, keep, add, grad_prediction)
    _write_component(gradients[1], m, block, keep, add, grad_log_std)
    _write_component(gradients[2], m, block, keep, add, grad_logit)
