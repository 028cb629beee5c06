"""Numbers exactly at an edge on every backend: the edges of draws, clips and tiles, and the ends of partial sums."""

import math

import pytest
import torch

from bfn_kernels import continuous, discrete, discretised
from tests.kernels.op_cases import CASES
from tests.kernels.support import INTERPRETED, ON_CPU, joins
from tests.kernels.vocabulary_cases import STEPS

on_each = pytest.mark.parametrize("backend", ON_CPU)
# Rows that fit in a vector, in a tile or block, and in several of these; the interpreter has smaller tiles.
COUNTS = (4, 64, 1024) if INTERPRETED else (4, 64, 1024, 8192)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """In the interpreter, rows of more than 256 classes have several tiles, and sums more than 32 blocks two parts."""
    if INTERPRETED:
        from bfn_kernels.triton_ops import class_tiles, reduction

        monkeypatch.setattr(class_tiles, "_TILES", ((256, 1024, 4),))
        monkeypatch.setattr(class_tiles, "_LARGE", (256, 4))
        monkeypatch.setattr(reduction, "_FINISH_BLOCK", 32)


def sent(logits, backend, **k):
    """The class that a step sends, which a message without noise shows."""
    zero = torch.zeros_like(logits)
    return discrete.update_sample(logits, zero, 1.0, noise=zero, backend=backend, **k).argmax(-1)


@on_each
@pytest.mark.parametrize("count", COUNTS)
def test_u_at_a_cumulative_probability(count, backend):
    """Classes of 1/K each, K a power of two, so that all sums are exact: u = k/K draws k, the first beyond it."""
    places = torch.tensor([0, 1, 2, count // 4 - 1, count // 4, count // 2, count - 2, count - 1])
    drawn = sent(torch.zeros(len(places), count), backend, draw_noise=places / count)
    assert drawn.tolist() == places.tolist()


@on_each
@pytest.mark.parametrize("count", COUNTS)
def test_the_first_of_equal_maxima(count, backend):
    """The first of two equal maxima wins, whether the second is next to it, in another lane or in another tile."""
    firsts = [0, 0, 0, 1, count // 4, count // 2 - 1, count - 2, count // 3]
    seconds = [1, count // 2, count - 1, count - 1, count // 2, count // 2, count - 1, count - 1]
    z = -torch.ones(len(firsts), count)
    for row, pair in enumerate(zip(firsts, seconds, strict=True)):
        z[row, list(pair)] = 2.0
    assert sent(z, backend, choose="mode").tolist() == firsts


@on_each
def test_a_prediction_exactly_at_the_clip_has_a_gradient(backend):
    """The gradient passes inside the clip and at its ends, as that of torch.clamp does."""
    x = torch.zeros(2, 6)
    prediction = torch.tensor([-1.5, -1.0, -0.5, 0.5, 1.0, 1.5]).expand(2, 6).clone().requires_grad_()
    loss = continuous.continuous_time_loss(
        x, prediction, None, 0.0, sigma_1=0.1, parametrisation="data", reduction="sum", backend=backend
    )
    (by,) = torch.autograd.grad(loss, prediction)
    inside = prediction.detach() * (prediction.detach().abs() <= 1)
    torch.testing.assert_close(by, inside * 2 * 2.302585, rtol=1e-5, atol=0)
    # x̂ = μ/γ − bε̂ = μ/γ where the noise is 0
    schedule = {"sigma_1": 0.5, "clip": (-1, 1), "backend": backend}  # γ(½) = ½
    mean = torch.tensor([[-0.75, -0.5, 0.25, 0.5, 0.75]], dtype=torch.float64).requires_grad_()
    x_hat = continuous.predict_data(torch.zeros_like(mean), mean, 0.5, **schedule)
    assert x_hat.tolist() == [[-1, -1, 0.5, 1, 1]]
    (by,) = torch.autograd.grad(x_hat.sum(), mean)
    assert by.tolist() == [[0, 2, 2, 2, 0]]


@on_each
def test_a_draw_that_no_share_exceeds_is_the_last_with_one(backend):
    """u = 1 draws no class or component of probability 0, even if it is the last."""
    z = torch.tensor([[0.0, 0.0, 0.0, -torch.inf], [0.0, 0.0, -torch.inf, -torch.inf]])
    assert sent(z, backend, draw_noise=torch.ones(2)).tolist() == [2, 1]
    long = torch.zeros(1, COUNTS[-1])
    long[:, 7:] = -torch.inf
    assert sent(long, backend, draw_noise=torch.ones(1)).tolist() == [6]
    mean = torch.tensor([-0.75, -0.25, 0.25, 0.75]).expand(2, 4)
    drawn = discretised.sample(
        mean,
        torch.full_like(mean, 0.01),
        num_bins=4,
        mixture_logits=z,
        noise=torch.zeros(2),
        component_noise=torch.ones(2),
        backend=backend,
    )
    assert drawn.tolist() == [0.25, -0.25]


@on_each
def test_a_sum_of_more_parts_than_are_taken_at_a_time(backend):
    """5000 variables of one row of the batch, whose sums are exact; and, in the interpreter, 33 blocks and more."""
    for shape, mask in [((2, 5000), None), ((1, 40_000), None), ((1, 40_000), torch.arange(40_000) % 4 != 1)]:
        x = torch.zeros(shape)
        x[:, -1], x[:, 4096] = 4.0, 8.0
        error = (x - 1).double().square() * (1 if mask is None else mask)
        count = x.numel() if mask is None else int(mask.sum())
        for reduction, want in [("batch", error.sum(1)), ("sum", error.sum()), ("mean", error.sum() / count)]:
            loss = continuous.continuous_time_loss(
                x,
                torch.ones_like(x),
                None,
                0.0,
                sigma_1=0.1,
                parametrisation="data",
                clip=None,
                mask=mask,
                reduction=reduction,
                backend=backend,
            )
            torch.testing.assert_close(loss.double(), want * math.log(10), rtol=1e-6, atol=0)


@on_each
def test_a_sum_of_more_rows_of_classes_than_a_block_has_threads(backend):
    """Each block of a GPU has one row of 513 classes, of which no warp holds several: 300 partial sums and counts."""
    count = 40 if INTERPRETED else 300
    x, z = torch.zeros(count, dtype=torch.int64), torch.zeros(count, 513)
    z[:, 0], x[-1] = 1e4, 1  # this variable costs 10 000, and the others nothing
    mask = torch.arange(count) % 4 != 1
    for reduction, want in [("sum", 10_000), ("mean", 10_000 / mask.sum().item())]:
        loss = discrete.reconstruction_loss(x, z, mask=mask, reduction=reduction, backend=backend)
        torch.testing.assert_close(loss.item(), float(want), rtol=1e-6, atol=0)


@on_each
@pytest.mark.parametrize("count", [1, 12, 1500])
def test_what_lies_beyond_the_last_variable_costs_nothing(count, backend):
    """Every variable costs ½ ln(2πσ₁²), which does not become 0 where there is none."""
    x = torch.zeros(1, count)
    each = math.log(2 * math.pi * 0.01) / 2
    for reduction, want in [("sum", [count * each]), ("mean", [each]), ("batch", [count * each])]:
        loss = continuous.reconstruction_loss(
            x, x, None, sigma_1=0.1, parametrisation="data", reduction=reduction, backend=backend
        )
        torch.testing.assert_close(loss.double().flatten(), torch.tensor(want).double(), rtol=1e-6, atol=0)


HALVES = [c for c in CASES + STEPS if "draw_noise" in c.fields and (c.family == "binary" or c.num_classes == 2)]
LOGITS = ("output_logits", "unconditional", "hidden", "weight", "bias", "flow_scale")


@on_each
@pytest.mark.parametrize("case", [c for c in HALVES if joins(c) or c.family == "vocabulary"], ids=str)
def test_a_uniform_is_rounded_to_the_type_of_the_arithmetic(case, backend):
    """Two classes of 1/2: a uniform of float64 just below 1/2 draws what 1/2 does, and others the other class."""
    inputs = case.inputs((3, 4), torch.float32)
    inputs |= {name: torch.zeros_like(v) for name, v in inputs.items() if name in LOGITS and v is not None}
    half = torch.full((3, 4), 0.5, dtype=torch.float64)
    below, at, other = (case(inputs | {"draw_noise": u}, backend) for u in (half - 1e-9, half.float(), half - 1e-3))
    assert torch.equal(below, at) and not torch.equal(at, other)
