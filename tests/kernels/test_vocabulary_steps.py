"""Sampling with large vocabularies: each step against the op that stores the logits, and against the reference."""

import itertools

import pytest
import torch

from bfn_kernels import discrete, nn, samplers, vocabulary
from bfn_kernels.nn.vocabulary import EmbeddedInput
from bfn_kernels.solvers import Coefficients
from tests.kernels.support import DTYPES, INTERPRETED, NATIVE, refused, widened
from tests.kernels.test_accuracy import FORMS, check, laid_out
from tests.kernels.test_vocabulary import native, on_cpu, small_tiles  # noqa: F401
from tests.kernels.vocabulary_cases import MODES, SHAPES, STEPS

K, WIDTH, TOKENS = 1003, 6, (3, 7)
CHOOSE = ("sample", "mode", "mean")
EACH_SIZE = itertools.product((3, 67, K), (torch.float32, torch.float64))
SIZES = [(k, dtype) for k, dtype in EACH_SIZE if not (INTERPRETED and k == K and dtype == torch.float64)]


def head(k=K, tokens=TOKENS, dtype=torch.float32, scale=1.0):
    """A state, hidden states, and a weight, a bias and an embedding of the vocabulary."""
    g = torch.Generator().manual_seed(1)
    shapes = (*tokens, k), (*tokens, WIDTH), (k, WIDTH), (k,), (k, 3)
    state, *rest = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes)
    return state, rest[0], scale * rest[1], rest[2], rest[3]


def close(got, want, dtype):
    torch.testing.assert_close(got, want, rtol=64 * torch.finfo(dtype).eps, atol=64 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@native
@pytest.mark.parametrize("case", [c for c in STEPS if not (INTERPRETED and c.huge and "known" in c.fields)], ids=str)
def test_agrees_with_the_float64_reference(case, backend, dtype, small_tiles):  # noqa: F811
    if backend == "cuda_on_host" and case.huge and dtype == torch.float64:
        pytest.skip("test_a_step_is_that_of_the_op_that_stores_the_logits has several tiles of float64")
    check(case, [case.inputs(shape, dtype, seed) for seed, shape in enumerate(SHAPES)], backend)


@native
@pytest.mark.parametrize("case", [c for c in STEPS if not INTERPRETED or c.num_classes == 5], ids=str)
def test_strided_inputs(case, backend):
    batches = [laid_out(case.inputs((2, 3, 2, 5), torch.float32, seed), form) for seed, form in enumerate(FORMS)]
    check(case, batches, backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@native
@pytest.mark.parametrize("case", MODES, ids=str)
def test_modes(case, backend, dtype, small_tiles):  # noqa: F811
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16; tests/ptx runs these products")
    for seed, shape in enumerate(SHAPES):
        inputs = case.inputs(shape, dtype, seed)
        assert torch.equal(case(inputs, backend), case(widened(inputs), "reference"))
    hidden, weight = torch.ones(2, 3), torch.zeros(130, 3)
    assert vocabulary.mode(hidden, weight, backend=backend).tolist() == [0, 0]  # the first of many


@on_cpu
@pytest.mark.parametrize(("k", "dtype"), SIZES, ids=str)
def test_a_step_is_that_of_the_op_that_stores_the_logits(k, dtype, backend, small_tiles):  # noqa: F811
    """The same noise, and the same class where the uniform is not within rounding of a boundary."""
    state, hidden, weight, bias, embedding = head(k, dtype=dtype)
    logits, of = hidden @ weight.t() + bias, {"seed": 5, "backend": backend}
    known, mask = torch.arange(21).view(TOKENS) % k, torch.arange(21).view(TOKENS) % 4 == 0
    for choose in CHOOSE:
        for options in ({}, {"known": known, "known_mask": mask}):
            options = {"choose": choose, **options, **of}
            want = discrete.update_sample(logits, state, 2 / k, **options)
            got, seen = vocabulary.update_sample(state, hidden, weight, bias, 2 / k, embedding=embedding, **options)
            close(got, want, dtype)
            close(seen, discrete.theta(want) @ embedding, dtype)
            close(vocabulary.update_sample(state, hidden, weight, bias, 2 / k, **options), want, dtype)
            solve = {"rule": "sde1", "beta_1": 4 / k, **options}
            want = discrete.solver_step(logits, state, 0.3, 0.6, **solve)
            close(vocabulary.solver_step(state, hidden, weight, bias, 0.3, 0.6, **solve), want, dtype)


@on_cpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_state_may_be_narrower_than_the_rest(dtype, backend, small_tiles):  # noqa: F811
    """Arithmetic is in float32, and there is one rounding at the end; what the network sees is of what was rounded."""
    state, hidden, weight, bias, embedding = head()
    state, of = state.to(dtype), {"seed": 5, "backend": backend}
    wide = vocabulary.update_sample(state.float(), hidden, weight, bias, 2e-3, **of)
    own = state.clone()
    got, seen = vocabulary.update_sample(own, hidden, weight, bias, 2e-3, embedding=embedding, out=own, **of)
    assert got is own and got.dtype == dtype and seen.dtype == torch.float32
    assert (got.float() - wide).abs().max() <= torch.finfo(dtype).eps * wide.abs().max()
    assert (got != wide.to(dtype)).float().mean() < 1e-3
    close(seen, got.float().softmax(-1) @ embedding, torch.float32)


@on_cpu
def test_out_may_be_the_state(backend):
    state, hidden, weight, bias, embedding = head(67)
    step = lambda s, out: vocabulary.update_sample(  # noqa: E731
        s, hidden, weight, bias, 0.1, seed=3, embedding=embedding, out=out, backend=backend
    )
    (want, seen), own, version = step(state, None), state.clone(), state._version
    assert state._version == version
    new, again = step(own, own)
    assert new is own and own._version > 0 and torch.equal(own, want) and torch.equal(again, seen)
    columns = torch.full((*TOKENS, 134), torch.nan)[..., ::2]
    swapped = torch.full((TOKENS[1], TOKENS[0], 67), torch.nan).transpose(0, 1)
    for other in (columns, swapped):
        assert step(state, other)[0] is other and torch.equal(other, want)


@on_cpu
def test_hidden_states_may_have_no_numbers(backend):
    """If hidden states have width 0, the logits are the bias."""
    assert vocabulary.mode(torch.zeros(2, 0), torch.zeros(5, 0), torch.arange(5.0), backend=backend).tolist() == [4, 4]


@on_cpu
def test_the_ends_of_the_uniform(backend, small_tiles):  # noqa: F811
    """The first class at 0; at 1 the last that has a share, in whichever tile it is."""
    k, zero = 200, torch.zeros(3, 200)
    logits = torch.full((k,), -torch.inf)
    logits[[3, 70, 71]] = 0.0
    u = torch.tensor([0.0, 0.5, 1.0])
    new = vocabulary.update_sample(
        zero, zero[:, :1], zero[:1].t(), logits, 1.0, noise=zero, draw_noise=u, backend=backend
    )
    assert new.argmax(-1).tolist() == [3, 70, 71]


@on_cpu
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("choose", CHOOSE)
def test_what_is_no_number_stays_none(choose, bad, backend, small_tiles):  # noqa: F811
    state, hidden, weight, bias, embedding = head(130)
    hidden[1, 2] = bad
    known, mask = torch.zeros(TOKENS, dtype=torch.int64), torch.zeros(TOKENS, dtype=torch.bool)
    of = {"choose": choose, "seed": 1, "backend": backend}
    got, seen = vocabulary.update_sample(state, hidden, weight, bias, 0.1, embedding=embedding, **of)
    wrong = torch.zeros(TOKENS, dtype=torch.bool)
    wrong[1, 2] = True
    assert torch.equal(got.isnan().all(-1), wrong) and torch.equal(seen.isnan().all(-1), wrong)
    assert torch.equal(got.isnan().any(-1), wrong)
    got = vocabulary.update_sample(state, hidden, weight, bias, 0.1, known=known, known_mask=mask | wrong, **of)
    assert got.isfinite().all()  # a known class is sent whatever the network says


@on_cpu
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 100, 199, slice(None)])
@pytest.mark.parametrize("spoilt", ["weight", "bias"])
def test_classes_that_are_no_number(spoilt, place, bad, backend, small_tiles):  # noqa: F811
    """One of the first tile, of one in the middle or of the last, or all: what is sent is NaN where it is that of the
    op that stores the logits, and the mode is that of these logits."""
    state, hidden, weight, bias, embedding = head(200)
    {"weight": weight, "bias": bias}[spoilt][place] = bad
    logits, arguments, of = hidden @ weight.t() + bias, (state, hidden, weight, bias), {"seed": 5, "backend": backend}
    times = {"t": 0.3, "t_next": 0.6, "beta_1": 0.1}
    assert torch.equal(vocabulary.mode(*arguments[1:], backend=backend), logits.argmax(-1))
    for choose in CHOOSE:
        want = discrete.update_sample(logits, state, 0.01, choose=choose, **of | {"backend": "reference"})
        got, seen = vocabulary.update_sample(*arguments, 0.01, choose=choose, embedding=embedding, **of)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert torch.equal(seen.isnan().any(-1), want.isnan().any(-1))
        want = discrete.solver_step(logits, state, **times, choose=choose, **of | {"backend": "reference"})
        got = vocabulary.solver_step(*arguments, **times, choose=choose, **of)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)


@on_cpu
def test_refusals(backend):
    state, hidden, weight, bias, embedding = head(5)
    arguments = {"state": state, "hidden": hidden, "weight": weight, "bias": bias, "alpha": 0.5, "backend": backend}
    step = lambda **k: vocabulary.update_sample(**arguments | k)  # noqa: E731
    x = torch.zeros(TOKENS, dtype=torch.int64)
    everywhere = {"known_mask": torch.ones(TOKENS, dtype=torch.bool)}
    for name, value, kind in (
        ("out", state[:1], ValueError), ("out", state.double(), TypeError), ("known", x, ValueError),
        ("weight", weight[:1], ValueError), ("hidden", hidden.clone().requires_grad_(), ValueError),
        ("embedding", embedding.clone().requires_grad_(), ValueError),
    ):  # fmt: skip
        with pytest.raises(kind, match=rf"\b{name} "):
            step(**{name: value})
    for known in (x - 1, x + 5):
        with pytest.raises(IndexError, match="known must hold classes"):
            step(known=known, **everywhere)
    with pytest.raises(ValueError, match="out must be the state itself or share no memory"):
        step(out=state, noise=state)
    solve = lambda **k: vocabulary.solver_step(  # noqa: E731
        **{"t": 0.3, "t_next": 0.5, "beta_1": 1.0} | {n: v for n, v in arguments.items() if n != "alpha"} | k
    )
    with pytest.raises(ValueError, match="previous must be given together"):
        solve(previous=hidden)
    with pytest.raises(ValueError, match='previous must be None with choose="mode"'):
        solve(previous=hidden, t_previous=0.1, rule="ode2", choose="mode")
    scale, second = torch.ones(TOKENS), {"previous": hidden, "t_previous": 0.1, "rule": "ode2"}
    for wrong, message in (
        ({"previous_scale": scale, "previous_state": state}, "previous_scale must be None without previous"),
        ({"previous_scale": scale, **second}, "previous_scale and previous_state must be given together"),
        ({"previous_state": state, **second}, "previous_scale and previous_state must be given together"),
        ({"previous_scale": scale, "previous_state": hidden, **second}, "previous_state must have.*as state of shape"),
        ({"flow_scale": scale.clone().requires_grad_()}, r"flow_scale requires a gradient, but .*no_grad"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(**wrong)
    for wrong in ({"flow_scale": scale}, {"state": state}):
        with pytest.raises(ValueError, match="flow_scale and state must be given together"):
            vocabulary.mode(hidden, weight, **wrong, backend=backend)


@pytest.mark.skipif("cpu" not in NATIVE, reason="no extension was built")
def test_the_kernel_of_a_tile_refuses_what_does_not_fit():
    tile, numbers, x, row = torch.rand(3, 70), torch.rand(3, 70), torch.arange(3), torch.rand(3)
    call = torch.ops.bfn_kernels.vocabulary_step_tile

    def step(x=x, rows=x, alpha=row, state=tile, out=tile, tile=numbers, top=row, again=False):
        call(x, rows, alpha, None, None, 0, 70, None, None, False, again, state, out, tile, top, row, row)

    for wrong in (
        {"x": x[:2]}, {"rows": x.int()}, {"alpha": row.double()}, {"state": tile[:2]}, {"out": tile[:, :9]},
        {"tile": tile.t()}, {"top": row[:2]},
    ):  # fmt: skip
        with refused("tile"):
            step(**wrong)
    for again in (False, True):
        with refused("top, total and kept must be given together"):
            step(top=None, again=again)


def network(seen, t):
    return torch.cat([seen.tanh(), 1 + seen[..., :1].tanh()], -1) * (1 + t.view(-1, 1, 1))


def model_of(k=30, width=6, kind=nn.Vocabulary, **options):
    torch.manual_seed(0)
    return kind(network, 0.5, num_classes=k, width=width, **options)


class Stored(nn.Vocabulary):
    """The same, sampled by the ops that store logits and probabilities."""

    def logits(self, output, state):
        return self.head(output[..., :-1]) + output[..., -1:] * state

    def prior(self, shape, device, seed=None):
        return nn.Discrete.prior(self, shape, device)

    def solver_state(self, shape, device, t, seed):
        return nn.Discrete.solver_state(self, shape, device, t, seed)

    def theta(self, state):
        return EmbeddedInput(state[1] @ self.weight(), state=state[0])

    def start_from(self, state, start):
        nn.Discrete.start_from(self, state, start)

    def update(self, output, state, *step):
        nn.Discrete.update(self, self.logits(output, state[0]), state, *step)

    def solve(self, output, state, *step):
        nn.Discrete.solve(self, self.logits(output, state[0]), state, *step)

    def step_error(self, coefficients, state, before, sampling):
        return nn.Discrete.step_error(self, coefficients, state, before)

    def mode(self, output, theta, t):
        return self.logits(output, theta.state).argmax(-1)


@pytest.mark.parametrize("sampler", ["ancestral", "ode1", "ode2", "sde2", "renoise"])
@pytest.mark.parametrize("options", [{}, {"tied": True}, {"frequencies": torch.arange(1.0, 31.0)}], ids=str)
def test_a_run_is_that_of_the_ops_that_store_the_logits(sampler, options):
    states = []
    for model in (model_of(**options), model_of(kind=Stored, **options)):
        states.append([])
        watch = lambda i, state: states[-1].append(state[0])  # noqa: E731
        samplers.sample(model, (4, 5), 6, seed=3, sampler=sampler, watch=watch)
    for got, want in zip(*states, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_steps_that_fit_their_error_are_those_of_the_ops_that_store_the_logits():
    models = model_of(), model_of(kind=Stored)
    (drawn, calls), (want, as_many) = (samplers.sample_within(m, (4, 5), 0.05, seed=3) for m in models)
    assert torch.equal(drawn, want) and calls == as_many > 5


def test_the_embedding_of_a_state_is_made_of_some_tokens_at_a_time(monkeypatch):
    layer, state = nn.NoisyEmbedding(67, 3), torch.randn(3, 5, 67)
    want = layer.embed(state.softmax(-1))
    monkeypatch.setattr(nn.layers, "NUMBERS", 67 * 4)
    torch.testing.assert_close(layer.embed_state(state), want)


@pytest.mark.parametrize(("sampler", "most"), [("ancestral", 1), ("ode2", 4)])
def test_nothing_but_the_state_has_its_size(sampler, most):
    """Of all that a run of two steps allocates, few tensors are larger than a fifth of the state: the state itself or,
    with a solver, also the logits of the step before and one more in each step. Where logits are stored, more are."""
    k, count = 30_000, []
    for model in (model_of(k=k), model_of(k=k, kind=Stored)):
        samplers.sample(model, (1, 2), 1, seed=1, sampler=sampler)
        with torch.profiler.profile(profile_memory=True) as profile:
            samplers.sample(model, (2, 64), 2, seed=1, sampler=sampler)
        sizes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        count.append(sum(size > 2 * 64 * k * 4 / 5 for size in sizes))
    assert count[0] <= most and count[1] >= most + 7, count


@on_cpu
def test_coefficients_take_the_place_of_times(backend):
    state, hidden, weight, bias, _ = head(67)
    options = {"coefficients": Coefficients(0.9, 0.05, 0.02, 0.5), "seed": 4, "backend": backend}
    before = hidden.flip(0)
    p = (before @ weight.t() + bias).softmax(-1)
    want = discrete.solver_step(hidden @ weight.t() + bias, state, previous=p, **options)
    close(vocabulary.solver_step(state, hidden, weight, bias, previous=before, **options), want, torch.float32)


@on_cpu
def test_autocast_changes_no_result(backend):
    """Under autocast torch's matrix products of float32 are in bfloat16."""
    state, hidden, weight, bias, embedding = head()
    x, of = state.argmax(-1), {"beta_1": 0.01, "seed": 1, "backend": backend}
    model = nn.Vocabulary(torch.nn.Linear(WIDTH, WIDTH + 1), 0.01, num_classes=K, width=WIDTH)

    def results():
        yield vocabulary.flow_embedding(x, 0.9, weight, **of)
        yield vocabulary.discrete_time_loss(x, hidden, weight, bias, 0.5, n_steps=2, **of)
        update = {"alpha": 0.1, "choose": "mean", "embedding": embedding, "seed": 1, "backend": backend}
        yield from vocabulary.update_sample(state, hidden, weight, bias, **update)
        with torch.no_grad():
            yield model.embedding.embed_state(state)
            yield model.embedding.embed(state.softmax(-1))
            yield model.logits(torch.cat([hidden, hidden[..., :1]], -1), state)

    want = [*results()]
    with torch.autocast("cpu", torch.bfloat16):
        got = [*results()]
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)
