"""Ops of large vocabularies. Their weights do not have the data's shape, so the tests of the other ops' table do not
fit."""

import dataclasses
import gc
import itertools
import math

import pytest
import torch

from bfn_kernels import discrete, vocabulary
from bfn_kernels import noise as random
from bfn_kernels.backends import BACKENDS
from bfn_kernels.vocabulary import tiles
from tests.kernels.support import (
    DTYPES,
    INTERPRETED,
    NATIVE,
    ON_CPU,
    SHARED,
    error,
    evaluate,
    refused,
    scale,
    ulp,
    widened,
)
from tests.kernels.test_accuracy import FORMS, check, laid_out
from tests.kernels.test_gradients import check_gradients, second_derivatives
from tests.kernels.vocabulary_cases import LARGE, SHAPES, WIDE

# Of many classes, noise that is passed and masks are read by the same Python on every backend.
TABLE = [c for c in LARGE if not (INTERPRETED and c.huge and {"noise", "flow_noise", "mask"} & {*c.fields})]
FEW = [c for c in LARGE if not c.hard and not c.huge and c not in WIDE]
# How a tensor lies does not depend on the number of classes. The yardstick takes seconds for many, and the interpreter
# for a few dozen.
OF_ANY_FORM = [c for c in LARGE if c.num_classes == 5 or not (INTERPRETED or c.huge)]
WITHOUT_DRAWS = [c for c in LARGE if c.loss and "n_steps" not in c.options]
# A CPU alone has another way to the gradients of a sum.
SPOILT = [c for c in LARGE if c.gap == 10 and not (INTERPRETED and c.options["reduction"] == "sum")]
of_few = pytest.mark.parametrize("case", FEW, ids=str)
native = pytest.mark.parametrize("backend", NATIVE)
on_cpu = pytest.mark.parametrize("backend", ON_CPU)


@pytest.fixture
def small_tiles(backend, monkeypatch):
    """Tiles of a few tokens by 64 classes, so that small cases have many, and those at the ends are smaller; where a
    loss makes its gradients in the forward pass, tiles of six tokens by all classes, 64 of whose logits are made at
    once. Without the kernels of a CPU a tile of any size takes milliseconds, so tiles have more tokens."""
    monkeypatch.setattr(tiles, "TOKENS", 5 if backend == "cpu" else 32)
    monkeypatch.setattr(tiles, "NUMBERS", {"cpu": 64})
    monkeypatch.setattr(tiles, "BLOCK", 64)
    monkeypatch.setattr(vocabulary, "WIDE", 1)


def in_the_forward_pass(case) -> bool:
    """Whether a CPU can make the gradients of this loss there."""
    return case in WITHOUT_DRAWS and case.options.get("reduction", "mean") in ("mean", "sum")


@pytest.fixture(params=[False, True], ids=["again", "at_once"])
def at_once(request, case, backend, monkeypatch):
    """Both ways of a CPU to the gradients of a loss that has two."""
    if request.param and (backend != "cpu" or not in_the_forward_pass(case)):
        pytest.skip("this has one way to its gradients")
    monkeypatch.setattr(vocabulary, "WIDE", 1 if request.param else 1000)


# Numbers of 16 bits are read and written by the same code in all cases.
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(c, d, id=f"{c}-{d}", marks=[pytest.mark.slow] * (d.itemsize < 4 and c not in FEW))
        for c in TABLE
        for d in DTYPES
    ],
)
@native
def test_agrees_with_the_float64_reference(case, backend, dtype, small_tiles):
    if backend == "cuda_on_host" and case.huge and dtype == torch.float64:
        pytest.skip("67 classes have several tiles of float64")
    shapes = SHAPES[:2] if case.huge else SHAPES  # the yardstick of many classes takes seconds
    check(case, [case.inputs(shape, dtype, seed) for seed, shape in enumerate(shapes)], backend)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((c, torch.float32) for c in OF_ANY_FORM),
        *(pytest.param(c, torch.float16, marks=pytest.mark.slow) for c in FEW if c in OF_ANY_FORM),
    ],
    ids=str,
)
@native
def test_strided_inputs(case, backend, dtype, small_tiles):
    check(case, [laid_out(case.inputs((2, 3, 2, 5), dtype, seed), form) for seed, form in enumerate(FORMS)], backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["strided", "expanded"])
@native
def test_a_wide_bias_is_read_where_it_lies(form, dtype, backend):
    """No conversion to the type of the arithmetic makes a float32 bias dense, not even that of a head of 16 bits."""
    x, hidden, weight = tokens_of(203, dtype=dtype)
    bias = laid_out({"bias": torch.randn(203, generator=torch.Generator().manual_seed(2))}, form)["bias"]
    assert bias.stride() != (1,)
    hidden.requires_grad_()

    def results(bias):
        head, options = (x, hidden, weight, bias), {"beta_1": 0.01, "backend": backend}
        losses = [
            vocabulary.continuous_time_loss(*head, 0.5, **options),
            vocabulary.reconstruction_loss(*head, backend=backend),
            vocabulary.discrete_time_loss(*head, 0.4, n_steps=5, n_samples=2, seed=1, **options),
        ]
        mode = vocabulary.mode(hidden.detach(), weight, bias, backend=backend)
        return *losses, mode, *torch.autograd.grad(sum(losses), hidden)

    for got, want in zip(results(bias), results(bias.contiguous()), strict=True):
        assert torch.equal(got, want)


# The table of cases compares the gradients of the others with the reference's.
@pytest.mark.parametrize("backend", [name for name in ("cpu", "reference") if name in ON_CPU])
@of_few
def test_gradcheck(case, backend, at_once):
    check_gradients(case, backend)


@pytest.mark.parametrize("backend", SHARED)
@of_few
def test_what_autograd_asks_for(case, backend, at_once):
    """Some of the gradients; the same twice of one graph; no second derivatives, and none of other inputs."""
    inputs = case.inputs((3, 5), torch.float32)
    together = evaluate(case, inputs, backend)
    for name in case.diff:
        alone = evaluate(case, inputs, backend, (name,))
        assert torch.equal(alone[name], together[name])
    leaves = {k: inputs[k].clone().requires_grad_() for k in case.diff}
    result = case(inputs | leaves, backend).sum()
    first = torch.autograd.grad(result, leaves.values(), retain_graph=True)
    copies = [g.clone() for g in first]
    for before, after, saved in zip(first, torch.autograd.grad(result, leaves.values()), copies, strict=True):
        assert torch.equal(before, after) and torch.equal(before, saved)
    with pytest.raises(RuntimeError, match="second derivative"):
        second_derivatives(case, inputs, backend)
    for name in inputs.keys() - case.diff:
        if inputs[name].is_floating_point():
            with pytest.raises(ValueError, match=rf"\b{name} requires a gradient, but .*torch\.no_grad\(\)"):
                case(inputs | {name: inputs[name].clone().requires_grad_()}, backend)


@on_cpu
@pytest.mark.parametrize("case", [c for c in LARGE if "mask" in c.fields], ids=str)
def test_what_a_mask_leaves_out_is_not_read(case, backend, at_once):
    inputs = case.inputs((3, 5), torch.float32)
    want = evaluate(case, inputs, backend)
    spoilt = torch.where(inputs["mask"].unsqueeze(-1), inputs["hidden"], torch.nan)
    got = evaluate(case, inputs | {"hidden": spoilt}, backend)
    assert (got["hidden"][~inputs["mask"]] == 0).all() and (got["hidden"][inputs["mask"]] != 0).any()
    for name, value in want.items():
        assert value.isfinite().all() and torch.equal(got[name], value), name
    for name, value in evaluate(case, inputs | {"mask": torch.zeros(3, 5, dtype=torch.bool)}, backend).items():
        assert (value == 0).all(), name


@native
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("case", [c for c in WITHOUT_DRAWS if not (INTERPRETED and c.huge)], ids=str)
def test_what_is_no_number_stays_none(case, bad, backend):
    inputs = case.inputs((3, 4), torch.float32)
    case = dataclasses.replace(case, options={**case.options, "reduction": "none"})
    for name in case.diff:
        value = inputs[name].clone()
        value.view(-1)[:: max(1, value.numel() // 2)] = bad
        want, got = (case(inputs | {name: value}, b) for b in ("reference", backend))
        assert (got.isnan() | ~want.isnan()).all(), name


@native
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 30, 66, slice(None)])
@pytest.mark.parametrize("case", SPOILT, ids=str)
def test_classes_that_are_no_number(case, place, bad, backend, small_tiles, at_once, monkeypatch):
    """One of the first tile, of one in the middle or of the last, or all: losses and gradients are NaN where those of
    the reference, which stores the logits, are."""
    monkeypatch.setattr(tiles, "NUMBERS", {"cpu": 1})
    for name in ("weight", "bias"):
        inputs = case.inputs((3, 4), torch.float32)
        inputs[name][place] = bad
        want, got = (evaluate(case, inputs, b) for b in ("reference", backend))
        for of, value in got.items():
            assert (value.isnan() | ~want[of].isnan()).all(), of


def tokens_of(k=1003, tokens=(3, 7), dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    x = torch.randint(k, tokens, generator=g)
    weight, hidden = (torch.randn(*lead, 6, generator=g).to(dtype) for lead in ((k,), tokens))
    return x, hidden, weight


@on_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k", [3, 1003])
def test_noise_is_that_of_the_ops_that_store_it(k, dtype, backend, small_tiles):
    x, hidden, weight = tokens_of(k, dtype=dtype)
    t, mask, of = torch.tensor([0.0, 0.4, 1.0]), torch.rand(3, 7) < 0.7, {"beta_1": 15 / k, "seed": 5}
    theta = discrete.flow_sample(x, t, num_classes=k, mask=mask, dtype=dtype, backend="reference", **of)
    got = vocabulary.flow_embedding(x, t, weight, mask=mask, backend=backend, **of)
    close = {"rtol": 64 * torch.finfo(dtype).eps, "atol": 32 * torch.finfo(dtype).eps}
    torch.testing.assert_close(got, theta @ weight, **close)
    of |= {"n_steps": 5, "step": 3, "n_samples": 2, "mask": mask, "reduction": "none"}
    want = discrete.discrete_time_loss(x, hidden @ weight.t(), backend="reference", **of)
    got = vocabulary.discrete_time_loss(x, hidden, weight, None, backend=backend, **of)
    torch.testing.assert_close(got, want, rtol=64 * torch.finfo(dtype).eps, atol=256 * torch.finfo(dtype).eps)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("first", [0, 3])
def test_noise_of_a_part_of_the_classes(first, dtype, backend, monkeypatch, small_tiles):
    """The seed's, which kernels make, wherever the part begins, and also where their tiles are smaller than ours."""
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16; tests/ptx runs these products")
    if backend.startswith("triton"):
        monkeypatch.setattr("bfn_kernels.triton_ops.class_tiles._TILES", ())
        monkeypatch.setattr("bfn_kernels.triton_ops.class_tiles._LARGE", (32, 4))
        # a program takes several tiles one after the other, or each has a program
        monkeypatch.setattr("bfn_kernels.vocabulary.triton_products.MANY", 1 if first else 99)
    k, count, seed, each = 203, 130, torch.tensor(5), torch.full((3, 2), 0.02)
    ops, of, wanted = getattr(torch.ops, BACKENDS[backend].library), (first, k, None), [True, True, False, False]
    x, hidden, weight = tokens_of(k, (3, 2), dtype)
    x[0] = torch.tensor([0, k - 1])
    weight = weight[first : first + count]

    def results(noise, draws):
        flow = each, each * k, None if noise is not None else seed, noise
        out, stats = ops.vocabulary_flow_embedding(x, weight, *flow, *of)
        grad = ops.vocabulary_flow_embedding_backward(out, x, *flow, stats, count, out.dtype, *of)
        head = x, hidden, weight, None, *[None] * 6, each, None if draws is not None else seed, draws, 5, 2
        loss, stats = ops.vocabulary_loss(*head, None, 0, *of)
        grads = ops.vocabulary_loss_backward(loss, *head, None, 0, stats, *of, wanted)
        return out, grad, loss, *grads

    shape = torch.Size((3, 2, k))
    noise = random.class_normal(shape, seed)
    draws = torch.stack([random.class_normal(shape, seed, random.MONTE_CARLO, draw) for draw in range(2)])
    for got, want in zip(results(None, None), results(noise, draws), strict=True):
        close = 1e-5 if got.dtype == torch.float32 == dtype else 2 * torch.finfo(torch.bfloat16).eps
        torch.testing.assert_close(got, want, rtol=close, atol=close * scale(want))


@native
def test_a_tied_weight_gets_one_summed_gradient(backend):
    x, _, weight = tokens_of()

    def loss(weight, backend):
        seen = vocabulary.flow_embedding(x, 0.5, weight, beta_1=0.01, seed=1, backend=backend)
        return vocabulary.continuous_time_loss(x, seen.tanh(), weight, None, 0.5, beta_1=0.01, backend=backend)

    got, want = (
        torch.autograd.grad(loss(w, b), w)[0]
        for w, b in ((weight.clone().requires_grad_(), backend), (weight.double().requires_grad_(), "reference"))
    )
    assert error(got, want) <= 16 * ulp(torch.float32, scale(want))


@pytest.mark.skipif("cpu" not in NATIVE, reason="no extension was built")
@pytest.mark.parametrize("case", [c for c in LARGE if in_the_forward_pass(c)], ids=str)
def test_logits_are_made_once(case, monkeypatch):
    """Whatever of the head is frozen; a gradient is also that of a loss times a number."""
    inputs = case.inputs((3, 5), torch.float32)
    want = evaluate(case, inputs, "cpu")
    tile, made = tiles.Logits.tile, []

    def counted(self, *of):
        made.append(of)
        return tile(self, *of)

    monkeypatch.setattr(vocabulary, "WIDE", 1)
    monkeypatch.setattr(tiles.Logits, "tile", counted)
    tokens = int(inputs["mask"].sum()) if "mask" in inputs else 15
    for names in (case.diff, ("hidden",), ("bias", "weight")):
        made.clear()
        leaves = {k: inputs[k].clone().requires_grad_() for k in names}
        grads = torch.autograd.grad(3 * case(inputs | leaves, "cpu"), leaves.values())
        width = inputs["hidden"].shape[-1] // (2 if "flow_scale" in inputs else 1)  # beside the flow's tile
        assert len(made) == -(-tokens // width)
        for name, grad in zip(names, grads, strict=True):
            assert error(grad, 3 * want[name].double()) <= 16 * ulp(torch.float32, scale(3 * want[name])), name


@pytest.mark.skipif("cpu" not in NATIVE, reason="no extension was built")
@pytest.mark.parametrize(("bias", "follows"), [(False, False), (True, True)])
@pytest.mark.parametrize("loss", ["continuous_time_loss", "reconstruction_loss"])
def test_a_loss_takes_its_gradients_a_tile_as_large_and_a_twentieth_of_the_logits(loss, bias, follows):
    k, tokens, width = 8000, 1024, 256
    x, weight, hidden = torch.arange(tokens), torch.randn(k, width), torch.randn(tokens, width)
    leaves = [each.requires_grad_() for each in (hidden, weight, torch.randn(k))[: 2 + bias]]
    more = {"t": torch.rand(tokens), "beta_1": 1e-3} if follows or "continuous" in loss else {}
    if follows:
        leaves.append(torch.ones(tokens, requires_grad=True))
        more |= {"flow_scale": leaves[-1], "flow_seed": 1}
    gc.collect()  # what earlier tests leave would be freed, and counted, in between
    with torch.profiler.profile(profile_memory=True) as profile:
        result = getattr(vocabulary, loss)(x, *leaves[: 2 + bias], *[None][bias:], **more)
        torch.autograd.grad(result, leaves)
    events = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    peak = max(itertools.accumulate(events))
    assert 8 * k * width <= peak <= 4 * (k * (2 * width + bias) + 0.05 * k * tokens)


@pytest.mark.skipif("cpu" not in NATIVE, reason="no extension was built")
@pytest.mark.parametrize("widest", [0, 10], ids=["at_once", "again"])
@pytest.mark.parametrize("narrow", ["hidden", "bias"])
@pytest.mark.parametrize("loss", ["continuous_time_loss", "reconstruction_loss"])
def test_a_scaled_loss_keeps_its_small_gradients(loss, narrow, widest, monkeypatch):
    """Gradients that float16 cannot hold before they are scaled: they belong to a mean over many tokens, or to an
    unlikely class."""
    monkeypatch.setattr(vocabulary, "WIDE", widest)
    g, count = torch.Generator().manual_seed(1), 2**14
    inputs = {name: torch.randn(shape, generator=g) for name, shape in (("hidden", (count, 4)), ("weight", (3, 4)))}
    inputs |= {"x": torch.randint(1, 3, (count,), generator=g), "bias": torch.tensor([-16.0, 0.0, 0.5])}
    inputs[narrow] = inputs[narrow].half()
    more = {"t": 0.5, "beta_1": 0.1} if "continuous" in loss else {}

    def gradient(inputs, backend):
        inputs = inputs | {narrow: inputs[narrow].clone().requires_grad_()}
        result = getattr(vocabulary, loss)(**inputs, **more, backend=backend)
        return torch.autograd.grad(count * result, inputs[narrow])[0]

    got, want = gradient(inputs, "cpu"), gradient(widened(inputs), "reference")
    torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-6 * scale(want))


@on_cpu
def test_types_may_differ(backend):
    """As under autocast: the hidden states are narrow, the parameters are not."""
    x, hidden, weight = tokens_of()
    inputs = hidden.bfloat16().requires_grad_(), weight.requires_grad_()
    loss = vocabulary.reconstruction_loss(x, *inputs, backend=backend)
    by_hidden, by_weight = torch.autograd.grad(loss, inputs)
    assert (loss.dtype, by_hidden.dtype, by_weight.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    want = vocabulary.reconstruction_loss(x, *widened(dict(enumerate(inputs))).values(), backend="reference")
    assert error(loss, want) <= 8 * ulp(torch.float32, scale(want))


@native
def test_gradients_are_laid_out_as_compiled_code_expects_them(backend):
    """As the fakes say: side by side, however the hidden states lie."""
    hidden = torch.rand(4, 6).t().requires_grad_()
    loss = vocabulary.continuous_time_loss(
        torch.arange(6), hidden, torch.rand(7, 4), None, 0.5, beta_1=1.0, backend=backend
    )
    assert torch.autograd.grad(loss, hidden)[0].is_contiguous()


def test_times_of_tokens_that_are_dropped_later_are_no_nan():
    """On a GPU, tokens behind a mask are dropped from the results alone, and NaN times 0 would be NaN."""
    tokens = tiles.Tokens(torch.tensor([1, 2]), tiles.Shard(0, 5, None), torch.tensor([False, True]))
    tokens.indices = None
    assert tokens.scalars(torch.tensor([torch.nan, 0.5])).tolist() == [0, 0.5]


def test_refusals():
    x, hidden, weight = tokens_of(5)
    loss = lambda **k: vocabulary.continuous_time_loss(  # noqa: E731
        **{"x": x, "hidden": hidden, "weight": weight, "bias": None, "t": 0.5, "beta_1": 1.0} | k
    )
    for name, value, kind in (("weight", weight[:1], ValueError), ("x", x - 1, IndexError), ("x", x + 5, IndexError)):
        with pytest.raises(kind, match=rf"\b{name} "):
            loss(**{name: value})
    with pytest.raises(IndexError, match="x must hold classes"):
        vocabulary.flow_embedding(x + 1, 0.5, weight, beta_1=1.0)
    flow_scale, flow_noise = torch.ones(3, 7), torch.zeros(3, 7, 5)
    for wrong, message in (
        ({"flow_scale": flow_scale}, "exactly one of flow_seed and flow_noise must be given with flow_scale"),
        (
            {"flow_scale": flow_scale, "flow_seed": 1, "flow_noise": flow_noise},
            "exactly one of flow_seed and flow_noise",
        ),
        ({"flow_seed": 0}, "flow_seed must be None without flow_scale, got 0"),
        ({"flow_noise": flow_noise}, "flow_noise must be None without flow_scale"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(**wrong)
    with pytest.raises(ValueError, match="exactly one of beta_1 and schedule must be given"):
        vocabulary.reconstruction_loss(x, hidden, weight, flow_scale=flow_scale, flow_seed=1)


@pytest.mark.skipif("cpu" not in NATIVE, reason="no extension was built")
def test_kernels_of_tiles_refuse_what_does_not_fit():
    tile, x = torch.rand(3, 70), torch.arange(3)
    sums = torch.zeros(3, 4, dtype=torch.float64)
    call = torch.ops.bfn_kernels.vocabulary_sums_tile
    for wrong in ((tile.t(), x, 0, sums), (tile, x[:2], 0, sums), (tile, x, 0, sums.float()), (tile[0], x, 0, sums)):
        with refused("tile"):
            call(*wrong)


@native
def test_the_cost_of_a_likely_class_keeps_its_digits(backend):
    """−ln p is far below the smallest difference between numbers near 1, or between the logits."""
    hidden, weight = torch.ones(2, 1), torch.tensor([[60.0], [0.0], [0.0]])
    x = torch.zeros(2, dtype=torch.long)
    cost = vocabulary.reconstruction_loss(x, hidden, weight, reduction="none", backend=backend)
    torch.testing.assert_close(cost, torch.full((2,), 2 * math.exp(-60)), rtol=1e-5, atol=0)
