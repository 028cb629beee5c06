"""Tests that only Triton's interpreter runs: its repairs, rows of several tiles or blocks, and row numbers beyond 32
bits."""

import pytest
import torch

from tests.kernels.op_cases import CASES
from tests.kernels.support import INTERPRETED, error, evaluate, scale, serves, ulp

if not INTERPRETED:
    pytest.skip("in a process of its own: TRITON_INTERPRET=1 pytest tests/kernels", allow_module_level=True)

import triton
import triton.language as tl

from bfn_kernels.discrete.triton_nstep_large import _noise_of
from bfn_kernels.records import Noise
from bfn_kernels.triton_ops import class_tiles
from bfn_kernels.triton_ops.philox import MONTE_CARLO
from tests.kernels import interpreter


def test_bfloat16_is_rounded_to_nearest_even():
    x = torch.randn(4096) * torch.logspace(-30, 30, 4096)
    x[:4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1 + 2**-8])
    rounded = torch.from_numpy(interpreter._round_to_bfloat16(x.numpy()).view("int16")).view(torch.bfloat16)
    assert torch.equal(rounded.float().nan_to_num(7), x.bfloat16().float().nan_to_num(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_interpreter_finds_what_it_should(dtype):
    """A load beyond a tensor is an error, even within its storage, and so is arithmetic on bfloat16."""

    @triton.jit
    def double(x, out, count, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(out + i, tl.load(x + i, mask=i < count) * 2.0, mask=i < 8)

    x, out = torch.ones(16, dtype=dtype)[:8], torch.empty(8, dtype=dtype)
    with pytest.raises(Exception, match="out of bounds"):
        double[(1,)](x, out, 9, BLOCK=16)
    if dtype == torch.bfloat16:
        with pytest.raises(Exception, match="on bfloat16"):
            double[(1,)](x, out, 8, BLOCK=16)
    else:
        double[(1,)](x, out, 8, BLOCK=16)
        assert (out == 2).all()


# The next test divides the rows of these cases into tiles. Their logits are the least or the most distant, or they have
# 257 to 1000 classes.
TILED = [c for c in CASES if c.family == "discrete" and (c.gap in (10, 100) or (c.long and not c.huge))]


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c.gap == 10)) for c in TILED if serves(c, "triton")], ids=str
)
def test_rows_of_several_tiles(case, monkeypatch):
    """A row in tiles of 4 or 128 classes has the results of a row in one tile, with explicit noise and with a seed."""
    shape, most = ((2, 3), 4) if case.gap else ((2, 1), 128)
    inputs = case.inputs(shape, torch.float32)
    without = {k: v for k, v in inputs.items() if k not in ("noise", "draw_noise")}
    whole = evaluate(case, inputs, "triton")
    if "noise" in inputs:
        whole["seeded"] = case(without, "triton", seed=5)
    monkeypatch.setattr(class_tiles, "_TILES", ())
    monkeypatch.setattr(class_tiles, "_SMALL_TILES", ((0, most, 4),))
    monkeypatch.setattr(class_tiles, "_LARGE", (most, 4))
    tiled = evaluate(case, inputs, "triton")
    if "noise" in inputs:
        tiled["seeded"] = case(without, "triton", seed=5)
    for name, value in tiled.items():
        size = scale(whole[name])
        if name in ("result", "seeded"):  # It may be a small mean of draws of about 1 and of both signs.
            size = max(size, 1.0)
        assert error(value, whole[name]) <= 4 * ulp(torch.float32, size), name


@triton.jit
def _read_a_far_draw(noise, out, start, x, draw, count, S: tl.constexpr):
    place = tl.arange(0, 1)
    rows = tl.load(start), place, place < 1, 1
    eps = class_tiles.class_noise(noise, rows, 0, MONTE_CARLO, draw, count, S)
    tl.store(out + tl.arange(0, S.K)[None, :], eps)
    tl.store(out + S.K + place, _noise_of(noise, rows, tl.load(x + place), draw, count, S))


def test_draws_beyond_32_bits():
    """Draw 3 begins after 3·2³⁰ rows, a number beyond int32. The row −3·2³⁰ of this draw is the first row in
    memory, so that the noise needs only one row."""
    noise, out = torch.arange(4.0).view(1, 4), torch.zeros(5)
    start, x = torch.tensor(-3 * 2**30), torch.tensor([2])
    explicit, sizes = Noise(None, class_tiles.class_view(noise, noise.shape)), class_tiles.Sizes(4, 1, 4, tl.float32)
    _read_a_far_draw[(1,)](explicit, out, start, x, 3, 2**30, S=sizes)
    assert out.tolist() == [0.0, 1.0, 2.0, 3.0, 2.0]


def test_a_product_of_matrices_in_bfloat16_is_that_of_its_numbers():
    @triton.jit
    def product(a, b, out):
        i = tl.arange(0, 16)
        at = i[:, None] * 16 + i[None, :]
        tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at), tl.zeros((16, 16), tl.float32)))

    a, b = torch.randn(2, 16, 16).bfloat16()
    out = torch.empty(16, 16)
    product[(1,)](a, b, out)
    torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-5, atol=1e-5)
