"""The operators of discretised data in Triton, the counterpart of csrc/cpu/discretised.cpp.

A function takes the arguments of the function of the same name in `reference.py`, whose docstring has their shapes. If
the forward pass computes gradients, a bool for each gradient follows: whether it is needed. The function's kernel takes
views (see `triton_ops.views`) of the inputs, of the results and of the gradients, and the number of variables. The
views of the network's output are a record `Network`. C is the `Constants` of a kernel. S is the `Sizes` of a tile of
components. For one normal, only its ROWS count: the variables of a program. Numbers in parentheses are equations of
Graves et al. 2023.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.checks import compute_dtype
from bfn_kernels.discretised import triton_mixtures as mixtures
from bfn_kernels.discretised.operators import value_fake
from bfn_kernels.discretised.triton_bins import (
    Constants,
    centre,
    components_of,
    index,
    kind_of,
    log_bin_prob,
    network_views,
    output_normal,
    output_views,
)
from bfn_kernels.discretised.triton_bins import mode as likeliest_bin
from bfn_kernels.discretised.triton_expected import expected_value as bins_mean
from bfn_kernels.discretised.triton_nstep import nstep_loss
from bfn_kernels.records import BinCost, Bins, Draws, LossTarget, Network, Noise, OutputLimits, Sent, Solver
from bfn_kernels.triton_ops.class_tiles import Sizes
from bfn_kernels.triton_ops.elementary import clamp
from bfn_kernels.triton_ops.philox import OUTPUT, noise_of
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.solver import mean_step
from bfn_kernels.triton_ops.views import (
    KERNEL_TYPES,
    WARPS,
    Results,
    block_of,
    compute_type,
    constants,
    launch,
    load,
    noise_views,
    programs,
    static,
    store,
    view,
    viewed,
    views,
)

SAMPLE, MODE = tl.constexpr(records.SAMPLE), tl.constexpr(records.MODE)
# The std of a variable decides by which of several formulas k̂ is computed (see `triton_expected`). A program computes
# every formula that any variable of its block needs, and a small block needs fewer of them.
BLOCK = 256


def _launch(kernel, *arguments, count: int, C: Constants, draws: bool = False, **options) -> None:
    """Runs a kernel on `count` variables. draws: whether it draws components."""
    S, warps = _sizes(C, draws)
    defaults = {"C": static(C), "S": static(S), "warps": warps, "registers": 255}
    launch(kernel, programs(count, S.ROWS), *arguments, count, **(defaults | options))


def _sizes(C: Constants, draws: bool) -> tuple[Sizes, int]:
    """S and the warps of a program."""
    return mixtures.tile_of(C, draws) if C.M else (Sizes(0, BLOCK, 0, C.T), 2)


def _gradients(
    shape: torch.Size, output: Sequence[Tensor | None], dtype: torch.dtype, needed: Sequence[bool], **options
) -> tuple[list, tuple]:
    """Returns new tensors for the gradients that the forward pass stores, and their views. A tensor is empty if its
    gradient is not needed. shape: the shape of the variables. output: the predicted mean, the predicted log std and the
    mixture logits. If the log std is None, the mean has both predictions in a last dimension of size 2. The mixture
    logits are None for one normal. options: keywords of `output_views`."""
    sizes = [t.shape if t is not None and n else (0,) for t, n in zip(output, needed, strict=True)]
    saved = [torch.empty(size, dtype=dtype, device=output[0].device) for size in sizes]
    written = [t if n else None for t, n in zip(saved, needed, strict=True)]
    if output[1] is None and written[0] is not None:
        written[:2] = written[0].unbind(-1)
    return saved, output_views(shape, written, components_of(output[2]), **options)


def output_std(
    pred_log_std: Tensor, mean_scale: Tensor | None, noise_scale: Tensor | None, limits: OutputLimits, need: bool
) -> tuple[Tensor, Tensor]:
    out, dtype = torch.empty_like(pred_log_std), compute_dtype(pred_log_std)
    results, output = Results(out), (pred_log_std, pred_log_std, None)
    saved, views = _gradients(out.shape, output, dtype, (False, need, False))
    network = network_views(
        out.shape, Network(pred_mean=None, pred_log_std=pred_log_std, mean_scale=mean_scale, noise_scale=noise_scale)
    )
    C = Constants(
        KERNEL_TYPES[dtype],
        KIND=kind_of(mean_scale),
        STD_MIN=limits.std_min,
        STD_MAX=limits.std_max,
        LOG_STD_MAX=limits.log_std_max,
    )
    arguments = *results.views, views[1], network
    _launch(_output_std, *arguments, count=out.numel(), C=C, warps=WARPS, registers=None)
    return results.finish(), saved[1]


@triton.jit
def _output_std(out, grad, network, count, C: tl.constexpr, S: tl.constexpr):
    block = block_of(count, S.ROWS)
    _, std, _, slope = output_normal(network, block, C)
    store(out, block, std)
    store(grad, block, slope)


def expected_value(
    mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int, clip: bool, *need: bool
) -> tuple[Tensor, ...]:
    out = value_fake(mean, std, mixture_logits)
    results, dtype = Results(out), compute_dtype(mean, std, mixture_logits)
    saved, views = _gradients(out.shape, (mean, std, mixture_logits), dtype, need)
    arguments = _normals(out.shape, mean, std, mixture_logits), *results.views, views
    C = Constants(KERNEL_TYPES[dtype], num_bins, clip, components_of(mixture_logits))
    _launch(_expected_value, *arguments, count=out.numel(), C=C)
    return results.finish(), *saved


def _normals(shape: torch.Size, mean: Tensor, std: Tensor, mixture_logits: Tensor | None) -> Network:
    """The views of normals whose mean and std are arguments of the op, not predictions. The field pred_log_std has the
    std."""
    return network_views(shape, Network(mean, std, mixture_logits))


@triton.jit
def _expected_value(network, out, gradients, count, C: tl.constexpr, S: tl.constexpr):
    block = block_of(count, S.ROWS)
    if C.M == 0:
        mean, std, _, _ = output_normal(network, block, C)
        base, shift, slope_mean, slope_std = bins_mean(mean, std, C.K, C.CLIP)
        store(out, block, base + shift)
        store(gradients[0], block, slope_mean)
        store(gradients[1], block, slope_std)
    else:
        zero = tl.zeros((S.ROWS,), C.T)
        error, parts = mixtures.mean_error(zero, network, block, C, S)
        store(out, block, -error)
        mixtures.write_mean_error(error, parts, zero + 1.0, block[2], gradients, block, S)


@triton.jit
def _chosen(network, noise, component_noise, block, C, S, CHOICE: tl.constexpr):
    """The value that each variable sends: a sample, the mode or the mean of its output distribution."""
    if C.M == 0:
        mean, std, _, _ = output_normal(network, block, C)
    if CHOICE == SAMPLE:
        if C.M > 0:
            mean, std = mixtures.drawn(network, Noise(noise.seed, component_noise), block, C, S)
        eps = noise_of(noise, block, OUTPUT, C.T)
        return centre(index(clamp(mean + std * eps, -1.0, 1.0), C.K), C.K)
    elif CHOICE == MODE:
        if C.M == 0:
            return likeliest_bin(mean, std, C.K)
        else:
            return mixtures.likeliest(network, block, C, S)
    else:
        if C.M == 0:
            base, shift, _, _ = bins_mean(mean, std, C.K, C.CLIP)
            return base + shift
        else:
            error, _ = mixtures.mean_error(tl.zeros(block[1].shape, C.T), network, block, C, S)
            return -error


def choose(mean: Tensor, std: Tensor, mixture_logits, num_bins: int, choice: int, noise: Noise, component_noise):
    out = value_fake(mean, std, mixture_logits)
    results, shape = Results(out), out.shape
    noises = noise_views(noise, shape), view(component_noise, shape)
    C = Constants(compute_type(mean, std, mixture_logits), num_bins, True, components_of(mixture_logits))
    arguments = _normals(shape, mean, std, mixture_logits), *noises, *results.views
    _launch(_choice, *arguments, count=out.numel(), C=C, draws=choice == records.SAMPLE, CHOICE=choice)
    return results.finish()


@triton.jit
def _choice(network, noise, component_noise, out, count, C: tl.constexpr, S: tl.constexpr, CHOICE: tl.constexpr):
    block = block_of(count, S.ROWS)
    store(out, block, _chosen(network, noise, component_noise, block, C, S, CHOICE))


def step(
    network: Network, solver: Solver, bins: Bins, sent: Sent, component_noise, noise: Noise, *outputs: Tensor | None
) -> None:
    shape, results = network.mean.shape, Results(*outputs)
    message = Sent(*constants(sent.choice), *views(shape, *sent[1:])), view(component_noise, shape)
    inputs = network_views(shape, network), viewed(solver, shape), *message, noise_views(noise, shape)
    T, M = compute_type(*network[:4], solver.previous), components_of(network.mixture_logits)
    C = Constants(T, bins.num_bins, True, M, kind_of(network.mean_scale), *bins[2:])
    _launch(_update, *inputs, *results.views, count=shape.numel(), C=C, draws=sent.choice == records.SAMPLE)
    results.finish()


@triton.jit
def _update(network, solver, sent, component_noise, noise, out, predicted, count, C: tl.constexpr, S: tl.constexpr):
    block = block_of(count, S.ROWS)
    value = _chosen(network, Noise(noise.seed, sent.draw_noise), component_noise, block, C, S, sent.choice)
    mean_step(network.mean, value, solver, sent.known, sent.known_mask, noise, out, predicted, block, C.T)


def loss(
    x: Tensor, network: Network, cost: BinCost, draws: Draws, bins: Bins, target: LossTarget, *need: bool
) -> tuple[Tensor, ...]:
    weight, alpha, direct, n_steps = cost
    dtype, M = compute_dtype(x, *network[:4]), components_of(network.mixture_logits)
    one_by_one = alpha is not None
    saved, written = _gradients(x.shape, network[:3], dtype, need, one_by_one=one_by_one)
    C = Constants(KERNEL_TYPES[dtype], bins.num_bins, bins.clip, M)
    if not direct:
        C = Constants(*C[:4], kind_of(network.mean_scale), *bins[2:])
    output = network_views(x.shape, network, one_by_one), written
    if alpha is not None:
        return *nstep_loss(x, output, alpha, n_steps, draws, target, dtype, C), *saved
    losses = Losses(x, *target, dtype, _sizes(C, draws=False)[0].ROWS)
    inputs = view(x, x.shape), output[0], *views(x.shape, weight, target.mask)
    _launch(_loss, *inputs, output[1], losses.memory, count=x.numel(), C=C)
    return *losses.finish(), *saved


@triton.jit
def _loss(x, network, weight, mask, gradients, losses, count, C: tl.constexpr, S: tl.constexpr):
    """Writes weight·(x − k̂)² (101) or, without a weight, −ln p of the bin of x; and the gradients."""
    block = block_of(count, S.ROWS)
    keep = load(mask, block, tl.int1, True)
    x = load(x, block, C.T)
    if C.M == 0:
        mean, std, mean_slope, std_slope = output_normal(network, block, C)
        if weight[0] is not None:
            w = load(weight, block, C.T)
            base, shift, by_mean, by_std = bins_mean(mean, std, C.K, C.CLIP)
            error = (x - base) - shift
            loss, slope = w * error * error, -2.0 * w * error
        else:
            log_p, by_mean, by_std = log_bin_prob(index(x, C.K), mean, std, C.K, C.CLIP)
            loss, slope = -log_p, -1.0
        store(gradients[0], block, tl.where(keep, slope * by_mean * mean_slope, 0.0))
        store(gradients[1], block, tl.where(keep, slope * by_std * std_slope, 0.0))
    else:
        if weight[0] is not None:
            w = load(weight, block, C.T)
            error, parts = mixtures.mean_error(x, network, block, C, S)
            loss = w * error * error
            mixtures.write_mean_error(error, parts, -2.0 * w * error, keep, gradients, block, S)
        else:
            loss = mixtures.bin_cost(index(x, C.K), keep, gradients, network, block, C, S)
    write_losses(loss, keep, block, losses)
