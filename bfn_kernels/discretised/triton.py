"""The operators of discretised data in Triton, the counterpart of csrc/cpu/discretised.cpp.

An operator takes the arguments of the function of the same name in `reference.py`, whose docstring says their shapes,
and behind them, for each gradient, whether it is needed. Its kernel takes them as views; `network_views` says what
`network` is. M is the number of a mixture's components, or 0 without one.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.discretised import triton_mixtures as mixtures
from bfn_kernels.discretised.triton_bins import (
    DIRECT,
    centre,
    index,
    kind_of,
    log_bin_prob,
    network_views,
    output_normal,
)
from bfn_kernels.discretised.triton_bins import mode as likeliest_bin
from bfn_kernels.discretised.triton_expected import expected_value as bins_mean
from bfn_kernels.discretised.triton_nstep import nstep_loss
from bfn_kernels.records import Bins, Draws, LossTarget, Network, Noise, Sent, Solver
from bfn_kernels.triton_ops.elementary import clamp, log
from bfn_kernels.triton_ops.noise import OUTPUT, SENDER, noise_of
from bfn_kernels.triton_ops.reduction import Losses, write_losses
from bfn_kernels.triton_ops.solver import extrapolated
from bfn_kernels.triton_ops.views import (
    KERNEL_TYPES,
    Results,
    block_of,
    component_view,
    compute_type,
    launch,
    load,
    programs,
    store,
    view,
    views,
    writable,
)

_DIRECT = tl.constexpr((DIRECT,))
SAMPLE, MODE = tl.constexpr(records.SAMPLE), tl.constexpr(records.MODE)
# Each block decides which rules it runs: a smaller block runs fewer of them.
BLOCK = 256
_RESOURCES = {"warps": 2, "registers": 255}


def _components(mixture_logits: Tensor | None) -> int:
    return 0 if mixture_logits is None else mixture_logits.shape[-1]


def _gradients(
    shape: torch.Size, output: Sequence[Tensor | None], dtype: torch.dtype, needed: Sequence[bool]
) -> tuple[list, list]:
    """New tensors for the gradients that the forward pass saves, empty if not needed, and their views. output: the two
    predictions and the logits of the mixture; `shape` is that of the variables."""
    sizes = [t.shape if t is not None and n else (0,) for t, n in zip(output, needed, strict=True)]
    saved = [torch.empty(size, dtype=dtype, device=output[0].device) for size in sizes]
    written = [t if n else None for t, n in zip(saved, needed, strict=True)]
    if output[1] is None and written[0] is not None:
        written[:2] = written[0].unbind(-1)
    each = view if output[2] is None else component_view
    return saved, [each(t, shape) for t in written]


def output_std(
    pred_log_std: Tensor, mean_scale: Tensor | None, noise_scale: Tensor | None, std_min: float, std_max: float,
    log_std_max: float, need: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out, count, dtype = torch.empty_like(pred_log_std), pred_log_std.numel(), compute_dtype(pred_log_std)
    written, output = writable(out), (pred_log_std, pred_log_std, None)
    saved, views = _gradients(out.shape, output, dtype, (False, need, False))
    network = network_views(out.shape, None, pred_log_std, None, None, mean_scale, noise_scale)
    kind = kind_of(mean_scale, std_min, std_max, log_std_max)
    constants = {"KIND": kind, "T": KERNEL_TYPES[dtype], "BLOCK": BLOCK}
    launch(_output_std, programs(count, BLOCK), network, view(written, out.shape), views[1], count, **constants)
    return out if written is out else out.copy_(written), saved[1]


@triton.jit
def _output_std(network, out, grad, count, KIND: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr):
    block = block_of(count, BLOCK)
    _, std, _, slope = output_normal(network, block, KIND, T)
    store(out, block, std)
    store(grad, block, slope)


def expected_value(
    mean: Tensor, std: Tensor, mixture_logits: Tensor | None, num_bins: int, clip: bool, *need: bool
) -> tuple[Tensor, ...]:
    out = _one_each(mean, mixture_logits)
    written, dtype = writable(out), compute_dtype(mean, std, mixture_logits)
    components = _components(mixture_logits)
    saved, views = _gradients(out.shape, (mean, std, mixture_logits), dtype, need)
    arguments = _normals(mean, std, mixture_logits), view(written, out.shape), tuple(views), out.numel()
    constants = {"K": num_bins, "CLIP": clip, "M": components, "T": KERNEL_TYPES[dtype]}
    launch(_expected_value, programs(out.numel(), BLOCK), *arguments, **constants, BLOCK=BLOCK, **_RESOURCES)
    return out if written is out else out.copy_(written), *saved


def _one_each(prediction: Tensor, mixture_logits: Tensor | None) -> Tensor:
    """A new tensor of one number per variable, in the type of the predictions."""
    return torch.empty_like(prediction) if mixture_logits is None else prediction.new_empty(prediction.shape[:-1])


def _normals(mean: Tensor, std: Tensor, mixture_logits: Tensor | None) -> tuple:
    """The network views of normals that the caller passes themselves."""
    shape = mean.shape if mixture_logits is None else mean.shape[:-1]
    return network_views(shape, mean, std, mixture_logits)


@triton.jit
def _expected_value(
    network, out, gradients, count,
    K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    if M == 0:
        base, shift, slope_mean, slope_std = bins_mean(load(network[0], block, T), load(network[1], block, T), K, CLIP)
        store(out, block, base + shift)
        store(gradients[0], block, slope_mean)
        store(gradients[1], block, slope_std)
    else:
        log_total, zero = mixtures.normaliser(network, block, M, T), tl.zeros((BLOCK,), T)
        error = mixtures.mean_error(zero, network, log_total, block, _DIRECT, K, CLIP, M, T)
        store(out, block, -error)
        mixtures.write_mean_error(
            zero, error, zero + 1.0, block[2], gradients, network, log_total, block, _DIRECT, K, CLIP, M, T
        )


@triton.jit
def _chosen(
    network, noise, component_noise, seed, block,
    CHOICE: tl.constexpr, KIND: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The value of each variable that is sent: a draw, the mode or the mean of its output distribution."""
    if M == 0:
        mean, std, _, _ = output_normal(network, block, KIND, T)
    else:
        log_total = mixtures.normaliser(network, block, M, T)
    if CHOICE == SAMPLE:
        if M > 0:
            mean, std = mixtures.drawn(network, log_total, component_noise, seed, block, KIND, M, T)
        eps = noise_of(noise, seed, block, OUTPUT, T)
        return centre(index(clamp(mean + std * eps, -1.0, 1.0), K), K)
    elif CHOICE == MODE:
        if M == 0:
            return likeliest_bin(mean, std, K)
        else:
            return mixtures.likeliest(network, log_total, block, KIND, K, M, T)
    else:
        if M == 0:
            base, shift, _, _ = bins_mean(mean, std, K, True)
            return base + shift
        else:
            return -mixtures.mean_error(tl.zeros(block[1].shape, T), network, log_total, block, KIND, K, True, M, T)


def choose(mean: Tensor, std: Tensor, mixture_logits, num_bins: int, choice: int, noise: Noise, component_noise):
    out = _one_each(mean, mixture_logits)
    written, shape = writable(out), out.shape
    noises = *views(shape, noise.noise, component_noise), noise.seed
    arguments = _normals(mean, std, mixture_logits), *noises, view(written, shape), out.numel()
    T = compute_type(mean, std, mixture_logits)
    constants = {"CHOICE": choice, "K": num_bins, "M": _components(mixture_logits), "T": T}
    launch(_choice, programs(out.numel(), BLOCK), *arguments, **constants, BLOCK=BLOCK, **_RESOURCES)
    return out if written is out else out.copy_(written)


@triton.jit
def _choice(
    network, noise, component_noise, seed, out, count,
    CHOICE: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    store(out, block, _chosen(network, noise, component_noise, seed, block, CHOICE, _DIRECT, K, M, T))


def step(
    network: Network, solver: Solver, bins: Bins, sent: Sent, component_noise, noise: Noise, *outputs: Tensor | None
) -> None:
    mean, results = network.mean, Results(*outputs)
    new, predicted = results.views
    ahead = *views(mean.shape, solver.previous, solver.extrapolation), predicted
    inputs = *solver[:3], sent.known, sent.known_mask, noise.noise, sent.draw_noise, component_noise
    arguments = *views(mean.shape, *inputs), noise.seed, ahead, new, mean.numel()
    sizes = {"K": bins.num_bins, "M": _components(network.mixture_logits)}
    constants: dict[str, Any] = {"KIND": kind_of(network.mean_scale, *bins[2:]), "CHOICE": sent.choice, **sizes}
    constants |= {"T": compute_type(*network[:4], solver.previous), "BLOCK": BLOCK, **_RESOURCES}
    launch(_update, programs(mean.numel(), BLOCK), network_views(mean.shape, *network), *arguments, **constants)
    results.finish()


@triton.jit
def _update(
    network, keep, take, std, known, known_mask, noise, draw_noise, component_noise, seed, solver, out, count,
    KIND: tl.constexpr, CHOICE: tl.constexpr, K: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = block_of(count, BLOCK)
    value = _chosen(network, draw_noise, component_noise, seed, block, CHOICE, KIND, K, M, T)
    if known[0] is not None:
        value = tl.where(load(known_mask, block, tl.int1), load(known, block, T), value)
    taken = extrapolated(value, solver, block, T)
    updated = load(keep, block, T, 1.0) * load(network[2], block, T) + load(take, block, T) * taken
    if std[0] is not None:
        updated += load(std, block, T) * noise_of(noise, seed, block, SENDER, T)
    store(out, block, updated)


def loss(
    x: Tensor, network: Network, weight, alpha, direct: bool, n_steps: int, draws: Draws, bins: Bins, to: LossTarget,
    *need: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    dtype = compute_dtype(x, *network[:4])
    saved, written = _gradients(x.shape, network[:3], dtype, need)
    output = network_views(x.shape, *network), tuple(written)
    sizes = {"K": bins.num_bins, "CLIP": bins.clip, "M": _components(network.mixture_logits)}
    constants = {
        "KIND": (DIRECT,) if direct else kind_of(network.mean_scale, *bins[2:]),
        "T": KERNEL_TYPES[dtype],
        **sizes,
    }
    if alpha is not None:
        return *nstep_loss(x, output, alpha, n_steps, draws, to, dtype, constants), *saved
    losses = Losses(x, *to, dtype, BLOCK)
    inputs = view(x, x.shape), output[0], *views(x.shape, weight, to.mask), output[1]
    constants |= {"EACH": losses.each, "BLOCK": BLOCK}
    launch(_loss, programs(x.numel(), BLOCK), *inputs, *losses.arguments, x.numel(), **constants, **_RESOURCES)
    return *losses.finish(), *saved


@triton.jit
def _loss(
    x, network, weight, mask, gradients, values, counts, count, EACH: tl.constexpr, KIND: tl.constexpr,
    K: tl.constexpr, CLIP: tl.constexpr, M: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """weight·(x − k̂)² (101), or −ln p of the bin of x if there is no weight."""
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
        store(gradients[0], block, tl.where(keep, slope * by_mean * mean_slope, 0.0))
        store(gradients[1], block, tl.where(keep, slope * by_std * std_slope, 0.0))
    else:
        log_total = mixtures.normaliser(network, block, M, T)
        if weight[0] is not None:
            w = load(weight, block, T)
            error = mixtures.mean_error(x, network, log_total, block, KIND, K, CLIP, M, T)
            loss = w * error * error
            slope = -2.0 * w * error
            mixtures.write_mean_error(x, error, slope, keep, gradients, network, log_total, block, KIND, K, CLIP, M, T)
        else:
            i = index(x, K)
            p = mixtures.prob(i, network, log_total, block, KIND, K, CLIP, M, T)
            loss = -p[0] - log(p[1])
            mixtures.write_bin_cost(i, p, keep, gradients, network, log_total, block, KIND, K, CLIP, M, T)
    write_losses(loss, keep, block, values, counts, EACH)
