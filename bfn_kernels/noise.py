"""Counter-based random numbers: the noise of a variable depends on a seed and on its position alone.

Philox4x32-10 (Salmon et al. 2011) keyed by the seed. Its counter is (group low, group high, stream, draw); a group
yields four words, hence four normals or four uniforms. Elementwise data number their variables in logical order,
group = index // 4; a row of K classes starts at a group of its own, group = row·⌈K/4⌉ + k // 4.

This module is the readable form; csrc/math/philox.h is the native one, and both give the same numbers.
"""

import math

import torch
from torch import Tensor

# The table of streams; csrc/math/philox.h repeats it. A new use of noise takes a new number.
SENDER = 0  # normals of the sender or of the Bayesian flow
CLASS = 1  # uniforms that draw a class: row r takes word r % 4 of group r // 4
MONTE_CARLO = 2  # normals of a Monte-Carlo expectation, `draw` being the number of the draw
OUTPUT = 3  # normals that draw a value from a discretised output distribution
FOLD_IN = 4  # words that make a new seed
COMPONENT = 5  # uniforms that draw a component of a mixture, numbered as those of classes

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def philox(seed: Tensor, group: Tensor, stream: int, draw: int = 0) -> Tensor:
    """The four 32-bit words of each group, `[..., 4]`, held in int64.

    seed: int64 tensor with one element. group: int64 tensor of any shape.
    """
    c0, c1 = group & _LOW, (group >> 32) & _LOW
    c2, c3 = torch.full_like(group, stream), torch.full_like(group, draw)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        # int64 products wrap modulo 2^64, which leaves the bits of both halves as they should be
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, p1 & _LOW
        c2, c3 = ((p0 >> 32) & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return torch.stack([c0, c1, c2, c3], -1)


def _unit(words: Tensor) -> Tensor:
    """float32 uniforms in (0, 1]."""
    return words.float() * 2**-32 + 2**-33


def _box_muller(words: Tensor, dtype: torch.dtype) -> Tensor:
    w0, w1, w2, w3 = words.unbind(-1)
    normals = []
    for radius, angle in ((w0, w1), (w2, w3)):
        signed = ((angle ^ 0x80000000) - 0x80000000).float() * 2**-31
        r = (-2 * _unit(radius).to(dtype).log()).clamp(min=0).sqrt()
        phi = math.pi * signed.to(dtype)
        normals += [r * phi.cos(), r * phi.sin()]
    return torch.stack(normals, -1)


def normal(shape: torch.Size, seed: Tensor, stream: int = SENDER, draw: int = 0, dtype=torch.float32) -> Tensor:
    """Standard normals for elementwise data of `shape`."""
    count = math.prod(shape)
    group = torch.arange((count + 3) // 4, device=seed.device)
    return _box_muller(philox(seed, group, stream, draw), dtype).flatten()[:count].reshape(shape)


def class_normal(shape: torch.Size, seed: Tensor, stream: int = SENDER, draw: int = 0, dtype=torch.float32) -> Tensor:
    """Standard normals for rows of classes, `shape = [..., K]`: each row starts at a group of its own."""
    num_classes = shape[-1]
    per_row, rows = (num_classes + 3) // 4, math.prod(shape[:-1])
    group = torch.arange(rows * per_row, device=seed.device)
    normals = _box_muller(philox(seed, group, stream, draw), dtype).view(rows, 4 * per_row)
    return normals[:, :num_classes].reshape(shape)


def class_uniform(shape: torch.Size, seed: Tensor, stream: int = CLASS) -> Tensor:
    """One float32 uniform in (0, 1] per row of classes, `shape` being that of the classes drawn."""
    count = math.prod(shape)
    group = torch.arange((count + 3) // 4, device=seed.device)
    return _unit(philox(seed, group, stream)).flatten()[:count].reshape(shape)


def fold_in(seed: int | Tensor, step: int | Tensor) -> int | Tensor:
    """A fresh seed for each step of a loop, made from one seed: an int where both are, else an int64 tensor.

    seed: int or int64 tensor with one element. step: int, or an int64 tensor of steps, on the seed's device if that is
    a tensor. Raises TypeError for anything else.

    >>> fold_in(7, 0) != fold_in(7, 1), fold_in(7, 1) == fold_in(7, torch.arange(2))[1]
    (True, tensor(True))
    """
    if isinstance(seed, Tensor):
        words = philox(seed, step if isinstance(step, Tensor) else torch.full_like(seed, step), FOLD_IN)
        return words[..., 0] | (words[..., 1] << 32)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int or an int64 tensor, got {type(seed).__name__}")
    device = step.device if isinstance(step, Tensor) else None
    folded = fold_in(torch.tensor(_signed(seed), device=device), step)
    return folded if isinstance(step, Tensor) else int(folded)


def _signed(seed: int) -> int:
    """The int64 with the same 64 bits."""
    return (seed + 2**63) % 2**64 - 2**63


@torch.library.custom_op("bfn_kernels::draw_seed", mutates_args=(), tags=[torch.Tag.nondeterministic_seeded])
def _draw_seed_op(like: Tensor) -> Tensor:
    return draw_seed(like.device)


@_draw_seed_op.register_fake
def _(like: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=like.device)


def draw_seed(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """A seed from a generator, torch's default one of the device if None."""
    return torch.randint(-(2**63), 2**63 - 1, (), device=device, generator=generator)


def as_seed(seed: int | Tensor | None, like: Tensor) -> Tensor:
    """An int64 tensor with one element on `like`'s device; None draws it from torch's default generator there."""
    if seed is None:
        # traced, torch.randint would be replaced by the compiler's own generator: only an opaque op follows torch's
        return _draw_seed_op(like) if torch.compiler.is_compiling() else draw_seed(like.device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1:
            raise ValueError(f"seed must hold one int64, got {seed.dtype} of shape {tuple(seed.shape)}")
        if seed.device != like.device:
            raise ValueError(f"seed must be on {like.device}, got {seed.device}")
        return seed.reshape(())
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be None, an int or an int64 tensor, got {type(seed).__name__}")
    return torch.full((), _signed(seed), dtype=torch.int64, device=like.device)
