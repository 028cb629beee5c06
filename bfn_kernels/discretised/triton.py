"""Discretised data: the operators of `bfn_kernels_triton` and their kernels, csrc/cpu/discretised.cpp again."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import rows
from bfn_kernels.checks import compute_dtype
from bfn_kernels.continuous.triton import noise_of
from bfn_kernels.discretised import triton_mixtures as mixtures
from bfn_kernels.discretised.autograd import CHOICES, DIRECT
from bfn_kernels.discretised.triton_bins import centre, index, log_bin_prob, mode, network_views, output_normal
from bfn_kernels.discretised.triton_expected import expected_value as bins_mean
from bfn_kernels.discretised.triton_nstep import nstep_loss
from bfn_kernels.triton_ops.elementary import clamp, log
from bfn_kernels.triton_ops.noise import OUTPUT, SENDER
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.rows import numbers
from bfn_kernels.triton_ops.views import (
    KERNEL_TYPES,
    block_of,
    component_view,
    compute_type,
    launch,
    load,
    programs,
    store,
    view,
    writable,
)

_DIRECT = tl.constexpr(DIRECT)
SAMPLE, MODE = tl.constexpr(CHOICES["sample"]), tl.constexpr(CHOICES["mode"])
# A block decides which rules it runs: the smaller, the fewer; one warp needs no barrier for it.
BLOCK, WARPS = 256, 2


# Of a mixture the predictions have one more dimension, and M, the number of its components, is not 0.
def _components(mixture_logits: Tensor | None) -> int:
    return 0 if mixture_logits is None else mixture_logits.shape[-1]


def _gradients(prediction: Tensor, dtype: torch.dtype, mixed: bool, *needed: bool) -> tuple[list, list]:
    """What the forward pass saves, and their views."""
    saved = [torch.empty(prediction.shape if n else (0,), dtype=dtype, device=prediction.device) for n in needed]
    shape = prediction.shape[:-1] if mixed else prediction.shape
    each = component_view if mixed else view
    return saved, [each(t if n else None, shape) for t, n in zip(saved, needed, strict=True)]


def expected_value(
    mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int, clip: bool, need_mean: bool,
    need_std: bool, need_mixture_logits: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    out = _one_each(mean, mixture_logits)
    to, dtype = writable(out), compute_dtype(mean, std, mixture_logits)
    components = _components(mixture_logits)
    saved, views = _gradients(mean, dtype, components > 0, need_mean, need_std, need_mixture_logits)
    launch(
        _expected_value, programs(out.numel(), BLOCK), _output(mean, std, mixture_logits), view(to, out.shape),
        tuple(views), out.numel(),
        K=num_bins, CLIP=clip, M=components, T=KERNEL_TYPES[dtype], BLOCK=BLOCK, warps=WARPS, registers=255,
    )  # fmt: skip
    return out if to is out else out.copy_(to), *saved


def _one_each(prediction: Tensor, mixture_logits: Tensor | None) -> Tensor:
    return torch.empty_like(prediction) if mixture_logits is None else prediction.new_empty(prediction.shape[:-1])


def _output(mean: Tensor, std: Tensor, mixture_logits: Tensor | None) -> tuple:
    """The views of normals that are given themselves."""
    shape = mean.shape if mixture_logits is None else mean.shape[:-1]
    return network_views(mean, std, mixture_logits, None, numbers((), 0, (), shape, mean.dtype), shape)


@triton.jit
def _expected_value(
    network, out, by, count, K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr
):
    block = block_of(count, BLOCK)
    if M == 0:
        base, shift, slope_mean, slope_std = bins_mean(load(network[0], block, T), load(network[1], block, T), K, CLIP)
        store(out, block, base + shift)
        store(by[0], block, slope_mean)
        store(by[1], block, slope_std)
    else:
        of, zero = mixtures.shares(network, block, M, T), tl.zeros((BLOCK,), T)
        error = mixtures.mean_error(zero, network, of, block, _DIRECT, K, CLIP, M, T)
        store(out, block, -error)
        mixtures.write_mean_error(
            zero, error, zero + 1.0, block[2], by, network, of, block, _DIRECT, K, CLIP, M, T
        )  # fmt: skip


@triton.jit
def _chosen(
    network, noise, component_noise, seed, block,
    CHOICE: tl.constexpr, KIND: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    if M == 0:
        mean, std, _, _ = output_normal(network, block, KIND, T)
    else:
        of = mixtures.shares(network, block, M, T)
    if CHOICE == SAMPLE:
        if M > 0:
            mean, std = mixtures.drawn(network, of, component_noise, seed, block, KIND, M, T)
        eps = noise_of(noise, seed, block, OUTPUT, T)
        return centre(index(clamp(mean + std * eps, -1.0, 1.0), K), K)
    elif CHOICE == MODE:
        if M == 0:
            return mode(mean, std, K)
        else:
            return mixtures.likeliest(network, of, block, KIND, K, M, T)
    else:
        if M == 0:
            base, shift, _, _ = bins_mean(mean, std, K, True)
            return base + shift
        else:
            return -mixtures.mean_error(tl.zeros(block[1].shape, T), network, of, block, KIND, K, True, M, T)


def discretised_choose(
    mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int, choice: int, seed, noise, component_noise
) -> Tensor:
    out = _one_each(mean, mixture_logits)
    to, shape = writable(out), out.shape
    launch(
        _choose, programs(out.numel(), BLOCK), _output(mean, std, mixture_logits), view(noise, shape),
        view(component_noise, shape), seed, view(to, shape), out.numel(), CHOICE=choice, K=num_bins,
        M=_components(mixture_logits), T=compute_type(mean, std, mixture_logits), BLOCK=BLOCK, warps=WARPS,
        registers=255,
    )  # fmt: skip
    return out if to is out else out.copy_(to)


@triton.jit
def _choose(
    network, noise, component_noise, seed, out, count,
    CHOICE: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    store(out, block, _chosen(network, noise, component_noise, seed, block, CHOICE, _DIRECT, K, M, T))


def discretised_update(*arguments) -> Tensor:
    out = torch.empty_like(arguments[3])  # the mean
    discretised_update_out(*(*arguments, out))
    return out


def discretised_update_out(
    prediction: Tensor, log_std: Tensor, mixture_logits: Tensor | None, mean: Tensor, flow, flow_which: int, flow_by,
    parametrisation: int, num_bins: int, choice: int, given, which: int, by, known, known_mask, seed, noise,
    draw_noise, component_noise, out: Tensor,
) -> None:  # fmt: skip
    shape, to = mean.shape, writable(out)
    dtype = compute_dtype(prediction, log_std, mixture_logits, mean)
    of_flow, of = numbers(flow, flow_which, flow_by, shape, dtype), numbers(given, which, by, shape, dtype)
    update = of(rows.KEEP), of(rows.TAKE), of(rows.UPDATE_STD)
    launch(
        _update, programs(mean.numel(), BLOCK),
        network_views(prediction, log_std, mixture_logits, mean, of_flow, shape),
        *(view(t, shape) for t in (*update, known, known_mask, noise, draw_noise, component_noise)), seed,
        view(to, shape), mean.numel(), KIND=parametrisation, CHOICE=choice, K=num_bins, M=_components(mixture_logits),
        T=KERNEL_TYPES[dtype], BLOCK=BLOCK, warps=WARPS, registers=255,
    )  # fmt: skip
    if to is not out:
        out.copy_(to)


@triton.jit
def _update(
    network, keep, take, std, known, known_mask, noise, draw_noise, component_noise, seed, out, count,
    KIND: tl.constexpr, CHOICE: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    value = _chosen(network, draw_noise, component_noise, seed, block, CHOICE, KIND, K, M, T)
    if known[0] is not None:
        value = tl.where(load(known_mask, block, tl.int1), load(known, block, T), value)
    eps = noise_of(noise, seed, block, SENDER, T)
    updated = load(keep, block, T) * load(network[2], block, T) + load(take, block, T) * value
    store(out, block, updated + load(std, block, T) * eps)


def discretised_loss(
    x: Tensor, prediction: Tensor, log_std: Tensor, mixture_logits: Tensor | None, mean, given, which: int, by,
    parametrisation: int, num_bins: int, clip: bool, n_steps: int, n_samples: int, nodes, node_weights, seed, noise,
    mask, reduction: int, need_prediction: bool, need_log_std: bool, need_mixture_logits: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    shape, components = x.shape, _components(mixture_logits)
    dtype = compute_dtype(x, prediction, log_std, mixture_logits, mean)
    saved, views = _gradients(
        prediction, dtype, components > 0, need_prediction, need_log_std, need_mixture_logits
    )  # fmt: skip
    of = numbers(given, which, by, shape, dtype)
    network = network_views(prediction, log_std, mixture_logits, mean, of, shape)
    constants = {"KIND": parametrisation, "K": num_bins, "CLIP": clip, "M": components, "T": KERNEL_TYPES[dtype]}
    if which & rows.ALPHA:
        results = nstep_loss(
            x, network, tuple(views), of(rows.ALPHA), n_steps, n_samples, nodes, node_weights, seed, noise, mask,
            reduction, dtype, constants,
        )  # fmt: skip
        return (*results, *saved)
    losses = Losses(x, mask, reduction, dtype, BLOCK)
    launch(
        _loss, programs(x.numel(), BLOCK), view(x, shape), network, view(of(rows.RATE), shape), view(mask, shape),
        tuple(views), *losses.arguments, x.numel(), EACH=losses.each, BLOCK=BLOCK, warps=WARPS, registers=255,
        **constants,
    )  # fmt: skip
    return (*losses.finish(), *saved)


@triton.jit
def _loss(
    x, network, weight, mask, by, values, counts, count, EACH: tl.constexpr, KIND: tl.constexpr, K: tl.constexpr,
    CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """weight·(x − k)² (101), without a weight −ln p of the bin of x."""
    block = block_of(count, BLOCK)
    keep = load(mask, block, tl.int1, True)
    x = load(x, block, T)
    if M == 0:
        mean, std, mean_slope, std_slope = output_normal(network, block, KIND, T)
        if weight[0] is not None:
            w = load(weight, block, T)
            base, shift, by_mean, by_std = bins_mean(mean, std, K, CLIP)
            error = (x - base) - shift
            loss, slope = w * error * error, -2.0 * w * error
        else:
            log_p, by_mean, by_std = log_bin_prob(index(x, K), mean, std, K, CLIP)
            loss, slope = -log_p, -1.0
        store(by[0], block, tl.where(keep, slope * by_mean * mean_slope, 0.0))
        store(by[1], block, tl.where(keep, slope * by_std * std_slope, 0.0))
    else:
        of = mixtures.shares(network, block, M, T)
        if weight[0] is not None:
            w = load(weight, block, T)
            error = mixtures.mean_error(x, network, of, block, KIND, K, CLIP, M, T)
            loss = w * error * error
            mixtures.write_mean_error(
                x, error, -2.0 * w * error, keep, by, network, of, block, KIND, K, CLIP, M, T
            )  # fmt: skip
        else:
            i = index(x, K)
            p = mixtures.prob(i, network, of, block, KIND, K, CLIP, M, T)
            loss = -p[0] - log(p[1])
            mixtures.write_bin_cost(i, p, keep, by, network, of, block, KIND, K, CLIP, M, T)
    write_losses(loss, keep, block, values, counts, EACH)
