"""Discretised data: the operators of `bfn_kernels_triton` and their kernels, csrc/cpu/discretised.cpp again."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.continuous.triton import noise_of
from bfn_kernels.discretised.autograd import CHOICES
from bfn_kernels.discretised.triton_bins import centre, index, log_bin_prob, mode, network_views, output_normal
from bfn_kernels.discretised.triton_expected import expected_value as bins_mean
from bfn_kernels.discretised.triton_nstep import nstep_loss
from bfn_kernels.triton_ops.elementary import clamp
from bfn_kernels.triton_ops.noise import OUTPUT, SENDER
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.views import (
    block_of,
    compute_type,
    launch,
    load,
    programs,
    saved_gradient,
    store,
    view,
    writable,
)

SAMPLE, MODE = tl.constexpr(CHOICES["sample"]), tl.constexpr(CHOICES["mode"])
# A block decides which rules it runs: the smaller, the fewer; one warp needs no barrier for it.
BLOCK, WARPS = 256, 2


# Mixtures are in `lacks` (backends.py): their logits are None here.
def expected_value(
    mean: Tensor, std: Tensor, mixture_logits: None, num_bins: int, clip: bool, need_mean: bool, need_std: bool,
    need_mixture_logits: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    shape, T = mean.shape, compute_type(mean, std)
    out = torch.empty_like(mean)
    to = writable(out)
    dtype = compute_dtype(mean, std)
    (by_mean, mean_view), (by_std, std_view) = (saved_gradient(mean, dtype, needed) for needed in (need_mean, need_std))
    launch(
        _expected_value, programs(mean.numel(), BLOCK), view(mean, shape), view(std, shape), view(to, shape),
        mean_view, std_view, mean.numel(), K=num_bins, CLIP=clip, T=T, BLOCK=BLOCK, warps=WARPS, registers=255,
    )  # fmt: skip
    return out if to is out else out.copy_(to), by_mean, by_std, mean.new_empty(0, dtype=dtype)


@triton.jit
def _expected_value(
    mean, std, out, by_mean, by_std, count,
    K: tl.constexpr, CLIP: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    base, shift, slope_mean, slope_std = bins_mean(load(mean, block, T), load(std, block, T), K, CLIP)
    store(out, block, base + shift)
    store(by_mean, block, slope_mean)
    store(by_std, block, slope_std)


@triton.jit
def _chosen(mean, std, noise, seed, block, CHOICE: tl.constexpr, K: tl.constexpr, T: tl.constexpr):
    if CHOICE == SAMPLE:
        eps = noise_of(noise, seed, block, OUTPUT, T)
        return centre(index(clamp(mean + std * eps, -1.0, 1.0), K), K)
    elif CHOICE == MODE:
        return mode(mean, std, K)
    else:
        base, shift, _, _ = bins_mean(mean, std, K, True)
        return base + shift


def discretised_choose(
    mean: Tensor, std: Tensor, mixture_logits: None, num_bins: int, choice: int, seed, noise, component_noise: None
) -> Tensor:
    shape = mean.shape
    out = torch.empty_like(mean)
    to = writable(out)
    launch(
        _choose, programs(mean.numel(), BLOCK), *(view(t, shape) for t in (mean, std, noise)), seed, view(to, shape),
        mean.numel(), CHOICE=choice, K=num_bins, T=compute_type(mean, std), BLOCK=BLOCK, warps=WARPS, registers=255,
    )  # fmt: skip
    return out if to is out else out.copy_(to)


@triton.jit
def _choose(
    mean, std, noise, seed, out, count,
    CHOICE: tl.constexpr, K: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    store(out, block, _chosen(load(mean, block, T), load(std, block, T), noise, seed, block, CHOICE, K, T))


def discretised_update(*arguments) -> Tensor:
    out = torch.empty_like(arguments[3])  # the mean
    discretised_update_out(*(*arguments, out))
    return out


def discretised_update_out(
    prediction: Tensor, log_std: Tensor, mixture_logits: None, mean: Tensor, a, b, parametrisation: int,
    num_bins: int, choice: int, keep: Tensor, take: Tensor, std: Tensor, known, known_mask, seed, noise, draw_noise,
    component_noise: None, out: Tensor,
) -> None:  # fmt: skip
    shape, to = mean.shape, writable(out)
    launch(
        _update, programs(mean.numel(), BLOCK), network_views(prediction, log_std, mean, a, b, shape),
        *(view(t, shape) for t in (keep, take, std, known, known_mask, noise, draw_noise)), seed, view(to, shape),
        mean.numel(), KIND=parametrisation, CHOICE=choice, K=num_bins, T=compute_type(prediction, log_std, mean),
        BLOCK=BLOCK, warps=WARPS, registers=255,
    )  # fmt: skip
    if to is not out:
        out.copy_(to)


@triton.jit
def _update(
    network, keep, take, std, known, known_mask, noise, draw_noise, seed, out, count,
    KIND: tl.constexpr, CHOICE: tl.constexpr, K: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    mu, sigma, _, _ = output_normal(network, block, KIND, T)
    value = _chosen(mu, sigma, draw_noise, seed, block, CHOICE, K, T)
    if known[0] is not None:
        value = tl.where(load(known_mask, block, tl.int1), load(known, block, T), value)
    eps = noise_of(noise, seed, block, SENDER, T)
    updated = load(keep, block, T) * load(network[2], block, T) + load(take, block, T) * value
    store(out, block, updated + load(std, block, T) * eps)


def discretised_loss(
    x: Tensor, prediction: Tensor, log_std: Tensor, mixture_logits: None, mean, a, b, parametrisation: int,
    num_bins: int, clip: bool, weight, alpha, n_steps: int, n_samples: int, nodes, node_weights, seed, noise, mask,
    reduction: int, need_prediction: bool, need_log_std: bool, need_mixture_logits: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    shape, T = x.shape, compute_type(x, prediction, log_std, mean)
    dtype = compute_dtype(x, prediction, log_std, mean)
    saved = [saved_gradient(x, dtype, needed) for needed in (need_prediction, need_log_std, False)]
    gradients, (*gradient_views, _) = zip(*saved, strict=True)
    network = network_views(prediction, log_std, mean, a, b, shape)
    if alpha is not None:
        results = nstep_loss(
            x, network, gradient_views, alpha, n_steps, n_samples, nodes, node_weights, seed, noise, mask, reduction,
            dtype=dtype, KIND=parametrisation, K=num_bins, CLIP=clip,
        )  # fmt: skip
        return (*results, *gradients)
    losses = Losses(x, mask, reduction, dtype, BLOCK)
    launch(
        _loss, programs(x.numel(), BLOCK), view(x, shape), network, view(weight, shape), view(mask, shape),
        *gradient_views, *losses.arguments, x.numel(), EACH=losses.each, KIND=parametrisation, K=num_bins, CLIP=clip,
        T=T, BLOCK=BLOCK, warps=WARPS, registers=255,
    )  # fmt: skip
    return (*losses.finish(), *gradients)


@triton.jit
def _loss(
    x, network, weight, mask, by_prediction, by_log_std, values, counts, count, EACH: tl.constexpr,
    KIND: tl.constexpr, K: tl.constexpr, CLIP: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """weight·(x − k)² (101), without a weight −ln p of the bin of x."""
    block = block_of(count, BLOCK)
    mean, std, mean_slope, std_slope = output_normal(network, block, KIND, T)
    x = load(x, block, T)
    if weight[0] is not None:
        weight = load(weight, block, T)
        base, shift, by_mean, by_std = bins_mean(mean, std, K, CLIP)
        error = (x - base) - shift
        loss, slope = weight * error * error, -2.0 * weight * error
    else:
        log_p, by_mean, by_std = log_bin_prob(index(x, K), mean, std, K, CLIP)
        loss, slope = -log_p, -1.0
    keep = load(mask, block, tl.int1, True)
    store(by_prediction, block, tl.where(keep, slope * by_mean * mean_slope, 0.0))
    store(by_log_std, block, tl.where(keep, slope * by_std * std_slope, 0.0))
    write_losses(loss, keep, block, values, counts, EACH)
