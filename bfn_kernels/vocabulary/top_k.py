"""The k likeliest classes of noisy one-hot vectors, which are drawn without the other classes."""

import math
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks, noise
from bfn_kernels.arguments.keywords import noise_seed
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.noise import CLASS, fold_in, philox

SAFE = 40  # a token has the same class twice with a probability below 2**-SAFE
LEAST = 2.0**-33  # the least number that stands for an exponential variable; at 0, the largest normal would be infinite


def noisy_top_k(
    x: Tensor,
    num_classes: int,
    k: int,
    *,
    scale: PerRow,
    spread: PerRow,
    temperature: PerRow | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the k largest of y = scale·e_x + spread·ε, their classes, and softmax(y/temperature) there [derived].

    The other numbers of y are not drawn. The k largest numbers and their classes have the exact distribution. In the
    sum of the softmax over all classes, the other numbers are replaced by their mean, given the k-th largest number of
    the classes other than x. With a small temperature, these classes have almost no probability, and
    `torch.nn.functional.embedding_bag(classes, weight, per_sample_weights=p)` embeds a token almost as
    `noisy_embedding` does.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
        num_classes: K, the number of classes, at least 4.
        k: The number of classes that are drawn for each token, from 1 to K/4.
        scale: The factor of the one-hot vector e_x, at least 0: a number, or a floating-point tensor `[B]` or of any
            leading part of `[B, ...]`.
        spread: The standard deviation of the noise, at least 0, in a shape that scale may have.
        temperature: The number that divides y before the softmax, from 1e-30 to 1e30, in a shape that scale may have.
            None: 1.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.

    Returns:
        A pair: the probabilities `[B, ..., k]`, float32, in descending order, and their classes `[B, ..., k]`, int64.
            The first class has the largest y. The probabilities add up to less than 1.

    Example:
        >>> p, classes = noisy_top_k(torch.tensor([5]), 30_000, 2, scale=1.0, spread=0.1, temperature=0.1, seed=1)
        >>> p.shape, classes[0, 0]
        (torch.Size([1, 2]), tensor(5))
    """
    x = checks.classes("x", x)
    num_classes = checks.integer("num_classes", num_classes, 4)
    k = checks.integer("k", k, 1, num_classes // 4)
    index, valid = checks.valid_classes("x", x, num_classes)
    divisor = checks.rows("temperature", 1.0 if temperature is None else temperature, x.shape, x, 1e-30, 1e30)
    numbers = (checks.rows(name, of, x.shape, x, 0) for name, of in (("scale", scale), ("spread", spread)))
    scales, spreads = (number.div(divisor).to(checks.widest(x.device)).to(x.device) for number in numbers)
    whole: Any = noise_seed(x, seed, generator, ("noise", None, x.shape))
    seeds: list[Any] = [fold_in(whole, part) for part in range(3)]
    others = num_classes - 1
    largest = largest_normals(torch.Size((*x.shape, k)), others, seeds[0], scales.dtype)
    p, places = likeliest(largest, own(scales, spreads, x.shape, seeds[1]), spreads, others)
    p = p.masked_fill(~valid.unsqueeze(-1), torch.nan)
    index = index.unsqueeze(-1)
    drawn = distinct(torch.Size((*x.shape, k)), others, seeds[2])
    classes = torch.cat([drawn + (drawn >= index), index], -1).gather(-1, places)
    return p.float(), classes


def likeliest(largest: Tensor, own: Tensor, spread: Tensor, others: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities, and their places among k + 1 numbers: those of the normals `largest` `[..., k]`, and
    `own` `[..., 1]`, the number of the class x. others: the number of all other classes."""
    logits = torch.cat([spread.unsqueeze(-1) * largest, own], -1)
    rest = math.log(others - largest.shape[-1]) + log_mean_below(largest[..., -1], spread)
    log_sum = torch.cat([logits, rest.unsqueeze(-1)], -1).logsumexp(-1, keepdim=True)
    top, places = logits.topk(largest.shape[-1])
    return (top - log_sum).exp(), places


def own(scale: Tensor, spread: Tensor, shape: torch.Size, seed: Tensor) -> Tensor:
    """The number of the class x itself, `[..., 1]`."""
    return (scale + spread * noise.normal(shape, seed, dtype=scale.dtype)).unsqueeze(-1)


def largest_normals(shape: torch.Size, count: int, seed: Tensor, dtype: torch.dtype) -> Tensor:
    """The k largest of `count` standard normals, in descending order. shape: `[..., k]`.

    The largest of n uniforms has the distribution of u^(1/n), and the other n − 1 uniforms are below it.
    """
    exponentials = -noise.class_uniform(shape, seed).to(dtype).log()
    left = count - torch.arange(shape[-1], device=seed.device)
    above = -torch.expm1(-(exponentials.clamp(min=LEAST) / left).cumsum(-1))
    return -torch.special.ndtri(above)


def log_mean_below(limit: Tensor, spread: Tensor) -> Tensor:
    """ln E[exp(spread·ε) | ε < limit] of standard normals ε, which is spread²/2 + ln Φ(limit − spread) − ln Φ(limit).
    With erfcx, large terms do not cancel."""
    ratio = torch.special.erfcx((spread - limit) / math.sqrt(2)) / 2
    return spread * limit - limit.square() / 2 + ratio.log() - torch.special.log_ndtr(limit)


def distinct(shape: torch.Size, count: int, seed: Tensor) -> Tensor:
    """Random numbers below `count`, in a random order. The k numbers of a token are different. shape: `[..., k]`.

    Each round draws a new number for each place that has the same number as an earlier place of its token. The number
    of rounds is fixed, since reading the numbers of a GPU would cost a synchronisation. An expected number of
    k²/(2·count) places are drawn again, and in each later round this number falls by the factor k/count.
    """
    k, total = shape[-1], math.prod(shape)
    rounds = 2 + math.ceil((SAFE + math.log2(k)) / math.log2(count / k))
    group = torch.arange((total + 3) // 4, device=seed.device)
    numbers, again = group.new_zeros(shape), torch.ones(shape, dtype=torch.bool, device=seed.device)
    for number in range(rounds):
        round_seed: Any = fold_in(seed, number)
        words = philox(round_seed, group, CLASS).flatten()[:total].reshape(shape)
        numbers = torch.where(again, words * count >> 32, numbers)
        ordered, places = numbers.sort(dim=-1, stable=True)
        again = torch.zeros_like(again).scatter_(-1, places[..., 1:], ordered.diff(dim=-1) == 0)
        if checks.shows(again) and not again.any():
            break
    return numbers
