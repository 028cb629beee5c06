"""Noise that depends only on a seed and a position, the counterpart of csrc/math/philox.h.

One evaluation of Philox makes the four words of a group, which become four normals or four uniforms. The argument
`noise` is a record with a `seed` and a view of explicit `noise`, such as `Noise` or `Draws`.
"""

import triton
import triton.language as tl

from bfn_kernels import noise
from bfn_kernels.triton_ops.elementary import log_normal, sincospi
from bfn_kernels.triton_ops.views import load

SENDER = tl.constexpr(noise.SENDER)
CLASS = tl.constexpr(noise.CLASS)
MONTE_CARLO = tl.constexpr(noise.MONTE_CARLO)
OUTPUT = tl.constexpr(noise.OUTPUT)
COMPONENT = tl.constexpr(noise.COMPONENT)


@triton.jit
def philox(seed, group, stream: tl.constexpr, draw):
    """The four random words of each group; groups are int64. A product of 64 bits takes one instruction here, and three
    in `tl.philox`."""
    c0, c1 = group.to(tl.uint32), (group >> 32).to(tl.uint32)
    c2, c3 = c0 * 0 + stream, c0 * 0 + draw
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        p0, p1 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c2 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = p1.to(tl.uint32), p0.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def unit(word):
    """The word as a uniform in (0, 1], the same float32 on every backend."""
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def uniforms(noise, rows, stream: tl.constexpr, T: tl.constexpr):
    """A uniform for each row: an explicit uniform or, for row r, word r % 4 of group r // 4."""
    if noise.noise[0] is not None:
        return load(noise.noise, rows, T)
    else:
        row = rows[0] + rows[1]
        w0, w1, w2, w3 = philox(tl.load(noise.seed), row // 4, stream, 0)
        word = tl.where(row % 2 == 0, tl.where(row % 4 == 0, w0, w2), tl.where(row % 4 == 1, w1, w3))
        return unit(word).to(T)


@triton.jit
def _box_muller(radius, angle, T: tl.constexpr):
    r = tl.sqrt(-2.0 * log_normal(unit(radius).to(T)))  # the logarithm is at most 0
    turn = angle.to(tl.int32, bitcast=True).to(tl.float32) * 4.656612873077393e-10
    sine, cosine = sincospi(turn.to(T))
    return r * cosine, r * sine


@triton.jit
def interleave(a, b, c, d):
    """Interleaves the four arguments along the last dimension: a₀ b₀ c₀ d₀ a₁ …"""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def normals(seed, group, stream: tl.constexpr, draw, T: tl.constexpr):
    """The standard normals of the groups, four for each group, along the last dimension."""
    w0, w1, w2, w3 = philox(seed, group, stream, draw)
    n0, n1 = _box_muller(w0, w1, T)
    n2, n3 = _box_muller(w2, w3, T)
    return interleave(n0, n1, n2, n3)


@triton.jit
def start_of_draw(start, draw, count):
    """Where a block starts in explicit noise that has `count` elements for each draw, one draw after the other. The
    result is int64, since there may be more than 2³¹ elements."""
    return start + (tl.zeros((), tl.int64) + draw) * count


@triton.jit
def noise_of(noise, block, stream: tl.constexpr, T: tl.constexpr, draw=0, count=0):
    """The normals of a block of elementwise data in one draw: explicit normals, of which each draw has `count`, or
    normals from the seed."""
    start, offsets, mask, size = block
    if noise.noise[0] is not None:
        return load(noise.noise, (start_of_draw(start, draw, count), offsets, mask, size), T)
    else:
        group = start // 4 + tl.arange(0, offsets.shape[0] // 4)
        return normals(tl.load(noise.seed), group, stream, draw, T)


@triton.jit
def uniforms_of(noise, block, stream: tl.constexpr, T: tl.constexpr):
    """The same as `uniforms`, for a block of elementwise data, where each element is a row. It is faster than
    `uniforms`, since each evaluation of Philox serves four elements."""
    if noise.noise[0] is not None:
        return load(noise.noise, block, T)
    else:
        start, offsets, _, _ = block
        group = start // 4 + tl.arange(0, offsets.shape[0] // 4)
        w0, w1, w2, w3 = philox(tl.load(noise.seed), group, stream, 0)
        return unit(interleave(w0, w1, w2, w3)).to(T)
