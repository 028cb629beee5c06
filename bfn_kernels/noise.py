"""Counter-based random numbers: the noise of a variable depends only on a seed and on its position.

The generator is Philox4x32-10 (Salmon et al. 2011), keyed by the seed. Its counter is (group low, group high, stream,
draw). Each group has four words, which make four normals or four uniforms. The variables of elementwise data are
numbered in logical order, and variable i belongs to group i // 4. For classes, each row starts a new group: class k of
row r belongs to group r·⌈K/4⌉ + k // 4.

This module is the readable implementation. csrc/math/philox.h is the fast one. Both make the same numbers.
"""

import itertools
import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

# The streams; csrc/math/philox.h has the same table. A new use of noise gets a new number.
SENDER = 0  # normals of the sender or of the Bayesian flow
CLASS = 1  # uniforms that draw a class; the uniform of row r is word r % 4 of group r // 4
MONTE_CARLO = 2  # normals of a Monte-Carlo expectation, for which `draw` counts the draws
OUTPUT = 3  # normals that draw a value from a discretised output distribution
FOLD_IN = 4  # words that make a new seed
COMPONENT = 5  # uniforms that draw a component of a mixture, numbered as for CLASS
ANGLE = 6  # words that draw an angle; where `draw` is not 0, the group is the variable

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def philox(seed: Tensor, group: Tensor, stream: int, draw: int = 0) -> Tensor:
    """Computes the four 32-bit words of each group.

    Args:
        seed: An int64 tensor of one element.
        group: Numbers of groups, int64 tensor of any shape, on the seed's device.
        stream: The use of the numbers, for example `SENDER`.
        draw: The number of the Monte-Carlo draw, or of the further words for an ANGLE; 0 for all other streams.

    Returns:
        Words in [0, 2³²), int64 `[..., 4]`.

    Example:
        >>> philox(torch.tensor(1), torch.arange(2), SENDER).shape
        torch.Size([2, 4])
    """
    words = _rounds(seed, group, torch.full_like(group, stream), torch.full_like(group, draw))
    return torch.stack(words, -1)


def _rounds(seed: Any, group: Any, c2: Any, c3: Any) -> tuple[Any, Any, Any, Any]:
    """The four words that the ten rounds of Philox make of a counter. c2 and c3 are the stream and the draw. All
    arguments are ints or int64 tensors."""
    c0, c1 = group & _LOW, (group >> 32) & _LOW
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(c0, _M0), _product(c2, _M1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def _product(word: Any, factor: int) -> tuple[Any, Any]:
    """The high and the low 32 bits of a product of two 32-bit words. No intermediate result overflows an int64, since
    compiled code may compute other bits for an overflow."""
    upper, lower = (word >> 16) * factor, (word & 0xFFFF) * factor
    return (upper + (lower >> 16)) >> 16, (((upper & 0xFFFF) << 16) + lower) & _LOW


def unit(words: Tensor) -> Tensor:
    """The words as float32 uniforms in (0, 1]."""
    return words.float() * 2**-32 + 2**-33


def angle_uniforms(shape: torch.Size, seed: Tensor, count: int) -> Tensor:
    """Computes the uniforms by which a seed draws angles: the explicit `noise=` of an op of `circular`.

    Args:
        shape: The shape of the result.
        seed: An int64 tensor of one element.
        count: n, the number of proposals of each angle, at least 1. A seed makes at most 17.

    Returns:
        Float32 `[n, 2, *shape]` on the seed's device. `[:, 0]` are proposals, in [−1, 1] without 0. `[:, 1]` are in
            (0, 1] and decide whether a proposal is accepted.

    Example:
        >>> angle_uniforms(torch.Size([2]), torch.tensor(1), 1)
        tensor([[[ 0.6739, -0.5545],
                 [ 0.9198,  0.1493]]])
    """
    pairs = each_angle_uniform(shape, seed)
    return torch.stack([torch.stack(next(pairs)) for _ in range(count)])


def each_angle_uniform(shape: torch.Size, seed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Returns the proposals of `angle_uniforms` one by one. A uniform of the second kind has the lowest byte of the
    word that made the proposal as its first digits, and another word as its other digits."""
    index = torch.arange(math.prod(shape), device=seed.device).reshape(shape)
    words = philox(seed, torch.arange((index.numel() + 3) // 4, device=seed.device), ANGLE)
    words = words.flatten()[: index.numel()].reshape(shape)
    return _pairs_of_angles(seed, index, words)


def _pairs_of_angles(seed: Tensor, index: Tensor, words: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the uniforms of each proposal. index: the numbers of variables. words: their first words."""
    for call in itertools.count(1):
        rest, fresh, _, _ = philox(seed, index, ANGLE, call).unbind(-1)
        magnitude = (words & 0x7FFFFFFF).float() * 2**-31 + 2**-32
        yield torch.where(words >> 31 == 1, -magnitude, magnitude), ((words & 255) + unit(rest)) * 2**-8
        words = fresh


def _box_muller(words: Tensor, dtype: torch.dtype) -> Tensor:
    w0, w1, w2, w3 = words.unbind(-1)
    normals = []
    for radius, angle in ((w0, w1), (w2, w3)):
        signed = ((angle ^ 0x80000000) - 0x80000000).float() * 2**-31
        r = (-2 * unit(radius).to(dtype).log()).clamp(min=0).sqrt()
        phi = math.pi * signed.to(dtype)
        normals += [r * phi.cos(), r * phi.sin()]
    return torch.stack(normals, -1)


def normal(
    shape: torch.Size, seed: Tensor, stream: int = SENDER, draw: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Computes standard normals for elementwise data.

    Args:
        shape: The shape of the result.
        seed: An int64 tensor of one element.
        stream: The use of the numbers, for example `SENDER`.
        draw: The number of the Monte-Carlo draw; 0 for all other uses.
        dtype: Type of the arithmetic and of the result, float32 or float64.

    Returns:
        Normals of this shape, on the seed's device.

    Example:
        >>> normal(torch.Size([2]), torch.tensor(1))
        tensor([ 0.3804, -0.2963])
    """
    count = math.prod(shape)
    group = torch.arange((count + 3) // 4, device=seed.device)
    return _box_muller(philox(seed, group, stream, draw), dtype).flatten()[:count].reshape(shape)


def normals(
    like: Tensor, dtype: torch.dtype, seed: Tensor | None, noise: Tensor | None, stream: int = SENDER
) -> Tensor:
    """Returns the explicit noise if it is given, else normals from the seed. The result has the type `dtype` and the
    shape of `like`, which is elementwise data."""
    return normal(like.shape, seed, stream, dtype=dtype) if noise is None else noise.to(dtype)


def class_normal(
    shape: torch.Size, seed: Tensor, stream: int = SENDER, draw: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Computes standard normals for rows of K classes. Each row starts at a new group of four normals.

    Args:
        shape: The shape of the result.
        seed: An int64 tensor of one element.
        stream: The use of the numbers, for example `SENDER`.
        draw: The number of the Monte-Carlo draw; 0 for all other uses.
        dtype: Type of the arithmetic and of the result, float32 or float64.

    Returns:
        Normals `[..., K]`, on the seed's device.

    Example:
        >>> class_normal(torch.Size([1, 3]), torch.tensor(1)).shape
        torch.Size([1, 3])
    """
    rows, num_classes = torch.arange(math.prod(shape[:-1]), device=seed.device), shape[-1]
    return class_normal_tile(rows, 0, num_classes, num_classes, seed, stream, draw, dtype).reshape(shape)


def class_normal_tile(
    rows: Tensor, first: int, count: int, num_classes: int, seed: Tensor, stream: int, draw: int, dtype: torch.dtype
) -> Tensor:
    """Some of the normals that `class_normal` makes, `[R, count]`: for the rows with the numbers `rows` `[R]`, and for
    `count` classes from `first` on."""
    start = first // 4
    group = torch.arange(start, (first + count + 3) // 4, device=seed.device)
    group = rows.unsqueeze(-1) * ((num_classes + 3) // 4) + group
    return _box_muller(philox(seed, group, stream, draw), dtype).flatten(1)[:, first - 4 * start :][:, :count]


def class_uniform(shape: torch.Size, seed: Tensor, stream: int = CLASS) -> Tensor:
    """Computes one uniform in (0, 1] for each variable whose class will be drawn.

    Args:
        shape: The shape of the result.
        seed: An int64 tensor of one element.
        stream: The use of the numbers, `CLASS` or `COMPONENT`.

    Returns:
        Uniforms of this shape, float32, on the seed's device.

    Example:
        >>> class_uniform(torch.Size([2]), torch.tensor(1))
        tensor([0.0275, 0.2598])
    """
    count = math.prod(shape)
    group = torch.arange((count + 3) // 4, device=seed.device)
    return unit(philox(seed, group, stream)).flatten()[:count].reshape(shape)


def row_noise(
    seed: Tensor, first: Tensor, width: int, stream: int, draws: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Computes the noise of rows. Each row has its own seed, and `width` consecutive variables.

    `nn.ExampleSeeds` calls it. For rows of K classes, the first variable of a row has the number 4·⌈K/4⌉·row.

    Args:
        seed: The seed of each row, int64 `[R]`.
        first: The number of the first variable of each row, int64 `[R]`, on the seed's device.
        width: The number of variables of each row, at least 0.
        stream: The use of the numbers, for example `SENDER`.
        draws: The number of the Monte-Carlo draws.
        dtype: float32 or float64 for standard normals of this type, int64 for words in [0, 2³²).

    Returns:
        Normals or words, `[draws, R, width]`, on the seed's device.

    Example:
        >>> row_noise(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 0]), 1, SENDER).flatten()
        tensor([ 0.3804, -0.2963, -1.3072])
    """
    index = first.unsqueeze(-1) + torch.arange(width, device=seed.device)
    key, group = seed.unsqueeze(-1), index // 4
    each = [philox(key, group, stream, draw) for draw in range(draws)]
    words = torch.stack(each) if each else group.new_empty(0, *group.shape, 4)
    numbers = words if dtype == torch.int64 else _box_muller(words, dtype)
    return numbers.gather(-1, (index % 4).expand(draws, *index.shape).unsqueeze(-1)).squeeze(-1)


def row_angles(seed: Tensor, first: Tensor, width: int, count: int) -> Tensor:
    """Computes the uniforms that draw the angles of rows. Each row has its own seed.

    Args:
        seed: The seed of each row, int64 `[R]`.
        first: The number of the first variable of each row, int64 `[R]`, on the seed's device.
        width: The number of variables of each row, at least 0.
        count: n, the number of proposals of each angle, at least 1. A seed makes at most 17.

    Returns:
        Uniforms `[n, 2, R, width]`, float32, as `angle_uniforms` makes them.

    Example:
        >>> row_angles(torch.tensor([1]), torch.tensor([0]), 2, 1).shape
        torch.Size([1, 2, 1, 2])
    """
    index = first.unsqueeze(-1) + torch.arange(width, device=seed.device)
    words = row_noise(seed, first, width, ANGLE, dtype=torch.int64)[0]
    pairs = _pairs_of_angles(seed.unsqueeze(-1), index, words)
    return torch.stack([torch.stack(next(pairs)) for _ in range(count)])


def draw_class(p: Tensor, uniform: Tensor) -> Tensor:
    """Draws the first class k whose cumulative probability exceeds u; if none does, the last k with p_k > 0.

    Args:
        p: Probabilities `[..., K]`, floating-point.
        uniform: Uniforms u, `[...]`, in (0, 1].

    Returns:
        Classes `[...]`, int64.

    Example:
        >>> draw_class(torch.tensor([0.25, 0.75]), torch.tensor(0.5))
        tensor(1)
    """
    above = p.cumsum(-1) > uniform.unsqueeze(-1)
    last = p.shape[-1] - 1 - (p > 0).flip(-1).byte().argmax(-1)
    return torch.where(above.any(-1), above.byte().argmax(-1), last)


def fold_in(seed: int | Tensor, step: int | Tensor) -> int | Tensor:
    """Makes a fresh seed for each step of a loop from one seed.

    Args:
        seed: An int, or an int64 tensor of one element.
        step: An int, or an int64 tensor of steps; on the seed's device if both are tensors.

    Returns:
        An int if both arguments are ints, else an int64 tensor.

    Raises:
        TypeError: If an argument is neither an int nor an int64 tensor.
        ValueError: If the seed has several elements.

    Example:
        >>> fold_in(7, 0) != fold_in(7, 1), fold_in(7, 1) == fold_in(7, torch.arange(2))[1]
        (True, tensor(True))
    """
    seed, step = _int_or_tensor("seed", seed), _int_or_tensor("step", step)
    for name, value in (("seed", seed), ("step", step)):
        if isinstance(value, Tensor) and value.dtype != torch.int64:
            raise TypeError(f"{name} must be an int or an int64 tensor, got {value.dtype}")
    if isinstance(seed, Tensor) and seed.numel() != 1:
        raise ValueError(f"seed must hold one int64, got shape {tuple(seed.shape)}")
    like = next((value for value in (seed, step) if isinstance(value, Tensor)), None)
    if like is None and not torch.compiler.is_compiling():
        w0, w1, _, _ = _rounds(seed, step, FOLD_IN, 0)
        return _signed(w0 | w1 << 32)
    device = torch.device("cpu") if like is None else like.device
    seed, step = (value if isinstance(value, Tensor) else _tensor_of(value, device) for value in (seed, step))
    words = philox(seed, step, FOLD_IN)
    folded = words[..., 0] | (words[..., 1] << 32)
    return int(folded) if like is None else folded


def _int_or_tensor(name: str, value: Any) -> int | Tensor:
    """An int or a tensor unchanged, and a NumPy integer as a Python int. A bool or another type is a TypeError."""
    if isinstance(value, bool) or not isinstance(value, (int, Tensor, Integral)):
        raise TypeError(f"{name} must be an int or an int64 tensor, got {type(value).__name__}")
    return value if isinstance(value, (int, Tensor)) else int(value)


def _signed(seed: int) -> int:
    """The int64 with the lowest 64 bits of the seed, as a Python int."""
    return (seed + 2**63) % 2**64 - 2**63


def _tensor_of(seed: int, device: torch.device) -> Tensor:
    """An int64 tensor with the lowest 64 bits of the seed."""
    if torch.compiler.is_compiling():
        # compiled code computes in int64, where `_signed` would overflow; the halves of the seed do not overflow
        return _join_seed(seed % 2**32, seed // 2**32 % 2**32, device)
    signed = seed if -(2**63) <= seed < 2**63 else _signed(seed)
    return torch.scalar_tensor(signed, dtype=torch.int64, device=device)


@torch.library.custom_op(f"{__package__}::join_seed", mutates_args=())
def _join_seed(low: int, high: int, device: torch.device) -> Tensor:
    return torch.full((), _signed(high << 32 | low), dtype=torch.int64, device=device)


@_join_seed.register_fake
def _(low: int, high: int, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


@torch.library.custom_op(f"{__package__}::draw_seed", mutates_args=(), tags=[torch.Tag.nondeterministic_seeded])
def _draw_seed_op(like: Tensor) -> Tensor:
    return draw_seed(like.device)


@_draw_seed_op.register_fake
def _(like: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=like.device)


def draw_seed(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draws a seed, an int64 tensor without dimensions, from a generator of the device, or from torch's default one."""
    return torch.randint(-(2**63), 2**63 - 1, (), device=device, generator=generator)


def as_seed(
    seed: int | Tensor | None, like: Tensor, generator: torch.Generator | None = None, name: str = "seed"
) -> Tensor:
    """Makes a seed, an int64 tensor without dimensions on the device of `like`, from the keywords `seed=` and
    `generator=` of an op. Of an int, the lowest 64 bits are used. If both are None, torch's default generator draws the
    seed. name: the name of the seed in errors."""
    if generator is not None:
        if seed is not None:
            raise ValueError(f"at most one of seed and generator may be given, got {seed=} and {generator=}")
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator.device != like.device:
            raise ValueError(f"generator must be on {like.device}, got {generator.device}")
        return draw_seed(like.device, generator)
    if seed is None:
        if not torch.compiler.is_compiling():
            return draw_seed(like.device)
        # The compiler would replace the generator of a traced torch.randint. It does not look into this operator, but
        # merges calls of an operator that have the same arguments. With `like` as the argument, several ops would get
        # one seed. The compiler never merges calls of torch.empty, so here each call has an argument of its own.
        return _draw_seed_op(torch.empty(0, device=like.device))
    if type(seed) is not int:
        seed = _int_or_tensor(name, seed)
    if not isinstance(seed, Tensor):
        return _tensor_of(seed, like.device)
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError(f"{name} must hold one int64, got {seed.dtype} of shape {tuple(seed.shape)}")
    if seed.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {seed.device}")
    return seed.reshape(())
