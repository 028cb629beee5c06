"""Seeds of examples: an example draws the same alone in a batch, among others, and in any order.

Noise is compared to the bit. What kernels make of it may be rounded otherwise at another place of a batch.
"""

from functools import partial

import pytest
import torch
from torch import nn

from bfn_kernels import backends, continuous, noise, samplers
from bfn_kernels.common import of_rows
from bfn_kernels.nn import Continuous, ExampleSeeds, Joint, Ragged, Sampling, Vocabulary, part, spread_times
from tests.kernels.joint_models import BY_RULE, KINDS, SHAPES, data
from tests.kernels.support import refused

SEEDS = torch.tensor([5, -3, 7, 2**62, 0, 9])
COUNTS = [3, 0, 1, 4, 0, 2]
LATTICE = "lattice"


class Plain(nn.Module):
    """A network whose output for a variable has the same bits in every batch: it has no sums."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, theta, t, batch=None):
        out = {}
        for name, each in theta.items():
            of_rows = t if batch is None or name == LATTICE else t[batch]
            each = each[..., 0] if name == "angles" else each
            value = self.gain * each + of_rows.view(-1, *(1,) * (each.dim() - 1))
            out[name] = torch.stack([value, -value], -1) if name == "levels" else value
        return out


def model_of(names, ragged: bool) -> Joint:
    parts = {name: KINDS[name]() for name in names}
    if not ragged:
        return Joint(Plain(), **parts)
    return Joint(Plain(), of_examples=[LATTICE], **parts, lattice=Continuous(None, sigma_1=0.1))


def examples(ragged: bool, order=None):
    """Data, the keywords that say their examples, and a function that returns the rows of an example in a result."""
    if not ragged:
        return data(), {}, lambda e, result: {name: each[e : e + 1] for name, each in result.items()}
    rows = sum(COUNTS)
    order = torch.arange(rows) if order is None else order
    generator = torch.Generator().manual_seed(2)
    x = {name: torch.cat([each, each])[:rows][order] for name, each in data().items()}
    x[LATTICE] = torch.rand(len(COUNTS), 2, generator=generator)
    batch = Ragged.of_counts(COUNTS).batch[order]

    def of(e, result):
        return {name: each[e : e + 1] if name == LATTICE else each[batch == e] for name, each in result.items()}

    return x, {"batch": batch, "num_examples": len(COUNTS)}, of


def alone(one):
    """The keywords of a batch of one example."""
    return {"batch": torch.zeros(len(one["types"]), dtype=torch.int64), "num_examples": 1}


def same(got, want):
    assert got.keys() == want.keys()
    for name in got:
        assert torch.equal(got[name], want[name]), name


def draws(seeds: ExampleSeeds, rows: int) -> list[torch.Tensor]:
    """All noise that examples draw, rows first."""
    shapes = (rows,), (rows, 3), (rows, 2, 5)
    each = [make(shape) for make in (seeds.normals, seeds.uniforms, seeds.start_normals) for shape in shapes]
    each += [seeds.normals((rows, 3), torch.float64, noise.OUTPUT), seeds.class_normals((rows, 2, 5))]
    each += [seeds.class_normals((rows, 70), torch.float64, noise.MONTE_CARLO, 3).transpose(0, 1)]
    return each + [seeds.angle_uniforms(shape).movedim(2, 0) for shape in shapes]


def of_seed(seed: int, rows: int) -> list[torch.Tensor]:
    """The noise that the functions of one seed make in place of `draws`. Normals are equal within rounding."""
    key = torch.tensor(seed)
    shapes = (rows,), (rows, 3), (rows, 2, 5)
    each = [noise.normal(torch.Size(shape), key) for shape in shapes]
    each += [noise.class_uniform(torch.Size(shape), key) for shape in shapes]
    each += [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for shape in shapes]
    each += [noise.normal(torch.Size((rows, 3)), key, noise.OUTPUT, dtype=torch.float64)]
    each += [noise.class_normal(torch.Size((rows, 2, 5)), key)]
    of_draws = [noise.class_normal(torch.Size((rows, 70)), key, noise.MONTE_CARLO, n, torch.float64) for n in range(3)]
    each += [torch.stack(of_draws, 1)]
    return each + [noise.angle_uniforms(torch.Size(shape), key, 17).movedim(2, 0) for shape in shapes]


ORDERS = {"rows": None, "ragged": torch.arange(10), "unsorted": torch.tensor([9, 3, 0, 4, 8, 1, 5, 2, 6, 7])}
in_each_order = pytest.mark.parametrize("order", ORDERS)


@in_each_order
def test_noise_of_an_example_is_its_own(order):
    """To the bit among others and alone; to rounding, what its seed makes as the one seed of a batch."""
    order = ORDERS[order]
    batch = torch.arange(6) if order is None else Ragged.of_counts(COUNTS).batch[order]
    seeds = ExampleSeeds(SEEDS, None if order is None else Ragged(batch, 6))
    got, folded, steps = draws(seeds, len(batch)), seeds.folded(3).seeds, seeds.folded(torch.arange(4)).seeds
    for e, seed in enumerate(SEEDS.tolist()):
        rows = int((batch == e).sum())
        alone = ExampleSeeds(SEEDS[e : e + 1], Ragged(torch.zeros(rows, dtype=torch.int64), 1))
        for every, own, one in zip(got, draws(alone, rows), of_seed(seed, rows), strict=True):
            assert torch.equal(every[batch == e], own) and own.dtype == one.dtype
            torch.testing.assert_close(own, one, rtol=0, atol=2e-6)
        assert folded[e] == part(seed, 3) and steps[:, e].tolist() == [part(seed, i) for i in range(4)]
        assert seeds.start_uniforms()[e] == alone.start_uniforms()


@in_each_order
def test_losses_of_an_example_are_its_own(order):
    """The losses contain the flow, the time and the draws of L_n."""
    ragged = order != "rows"
    x, told, of = examples(ragged, ORDERS[order])
    model = model_of(KINDS, ragged)
    assert model.parts["types"].expectation(0)["n_samples"] == 10  # draws, and no quadrature
    calls = [partial(model.loss_by_part, n_steps=n) for n in (None, 4)] + [model.reconstruction_by_part]
    calls += [partial(model.loss_by_part, t=torch.full((6,), 0.5))]
    for call in calls:
        got = call(x, seed=SEEDS, reduction="none", **told)
        for e, seed in enumerate(SEEDS.tolist()):
            one = of(e, x)
            options = {"seed": seed, "reduction": "none", **(alone(one) if ragged else {})}
            if "t" in getattr(call, "keywords", {}):
                options["t"] = torch.full((1,), 0.5)
            want = call(one, **options)
            torch.testing.assert_close(of(e, got), want)
            same(call(one, **options | {"seed": SEEDS[e : e + 1]}), want)
    again = model.loss_by_part(x, seed=SEEDS + 1, reduction="none", **told)
    same({n: (again[n] != got[n]).any() for n in got}, dict.fromkeys(got, torch.tensor(True)))


def test_gradients_are_sums_of_the_examples():
    x, told, of = examples(True)
    model = model_of(KINDS, True)
    model(x, seed=SEEDS, reduction="sum", n_steps=4, **told).backward()
    got, model.network.gain.grad = model.network.gain.grad, None
    for e, seed in enumerate(SEEDS.tolist()):
        one = of(e, x)
        model(one, seed=seed, reduction="sum", n_steps=4, **alone(one)).backward()
    torch.testing.assert_close(got, model.network.gain.grad, rtol=1e-4, atol=0)


RUNS = [
    *((sampler, None, BY_RULE) for sampler in samplers.SAMPLERS),
    *((sampler, "sample", ["levels", "types", "flags"]) for sampler in ("ode1", "sde2")),
    ("renoise", None, ["angles"]),
    ("ancestral", None, ["angles", "types"]),
]


@pytest.mark.parametrize("ragged", [False, True], ids=["rows", "ragged"])
@pytest.mark.parametrize(("sampler", "choose", "names"), RUNS, ids=str)
def test_samples_of_an_example_are_its_own(sampler, choose, names, ragged):
    """All states of the run are compared, since samples of classes may be equal by chance."""
    model = model_of(names, ragged)

    def states(seed, counts):
        number = sum(counts) if ragged else len(counts)
        shape = {name: (number, *SHAPES[name][1:]) for name in names}
        if ragged:
            shape[LATTICE] = (len(counts), 2)
        found = []
        keep = {} if choose is None else {"choose": dict.fromkeys(names, choose)}
        more = {"counts": counts} if ragged else {}
        watch = lambda i, state: found.append({name: each[0] for name, each in state.items()})  # noqa: E731
        out = samplers.sample(model, shape, 4, seed=seed, sampler=sampler, watch=watch, **keep, **more)
        return [*found, out]

    batch = Ragged.of_counts(COUNTS).batch
    got = states(SEEDS, COUNTS)
    for e, seed in enumerate(SEEDS.tolist()):
        want = states(seed, COUNTS[e : e + 1])
        for state, one, own in zip(got, want, states(SEEDS[e : e + 1], COUNTS[e : e + 1]), strict=True):
            same(one, own)
            place = {n: (batch == e) if ragged and n != LATTICE else slice(e, e + 1) for n in state}
            torch.testing.assert_close({n: each[place[n]] for n, each in state.items()}, one)


def test_a_run_of_adaptive_steps_has_the_noise_of_its_examples():
    """The lengths of the steps are of the whole batch, so that only an example alone is compared."""
    model = model_of(BY_RULE, True)
    shape = {name: (2, *SHAPES[name][1:]) for name in BY_RULE} | {LATTICE: (1, 2)}
    choose = {"types": "sample", "flags": "sample", "levels": "sample"}
    got, want = (
        samplers.sample_within(model, shape, 0.2, seed=seed, counts=[2], choose=choose)
        for seed in (torch.tensor([7]), 7)
    )
    same(got[0], want[0])
    assert got[1] == want[1]


def test_times_are_independent_of_the_batch():
    model, times = model_of(["data"], False), []
    network = model.network.forward
    model.network.forward = lambda theta, t: times.append(t) or network(theta, t)
    for n_steps in (None, 4):
        model({"data": data()["data"]}, seed=SEEDS, n_steps=n_steps)
        want = [
            spread_times(1, torch.Generator().manual_seed(part(part(seed, 0), 2)), n_steps) for seed in SEEDS.tolist()
        ]
        assert torch.equal(times.pop(), torch.cat(want))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_one_kind_takes_seeds_of_examples(kind):
    network = Plain()
    model = KINDS[kind](lambda theta, t: network({kind: theta}, t)[kind])
    x = data()[kind]
    for n_steps in (None, 4) if kind != "angles" else (4,):
        got = model(x, seed=SEEDS, n_steps=n_steps, reduction="none")
        want = [model(x[e : e + 1], seed=s, n_steps=n_steps, reduction="none") for e, s in enumerate(SEEDS.tolist())]
        torch.testing.assert_close(got, torch.cat(want))
    got = model.reconstruction(x, seed=SEEDS, reduction="none")
    want = [model.reconstruction(x[e : e + 1], seed=s, reduction="none") for e, s in enumerate(SEEDS.tolist())]
    torch.testing.assert_close(got, torch.cat(want))
    assert samplers.sample(model, x.shape, 4, seed=SEEDS).shape == x.shape


@pytest.mark.slow
def test_losses_with_seeds_of_examples_compile_in_one_graph():
    x, told, _ = examples(True, ORDERS["unsorted"])
    names = ["types"]
    model, x = model_of(names, True), {name: x[name] for name in (*names, LATTICE)}

    def losses(seeds):
        return model.loss_by_part(x, torch.full((6,), 0.5), seed=seeds, reduction="none", n_steps=4, **told)

    torch.testing.assert_close(torch.compile(losses, backend="aot_eager", fullgraph=True)(SEEDS), losses(SEEDS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_doubles_have_noise_in_double(dtype):
    model = model_of(KINDS, False).to(dtype)
    x = {name: each.to(dtype) if each.is_floating_point() else each for name, each in data().items()}
    got = model.loss_by_part(x, seed=SEEDS, reduction="none", n_steps=4)
    one = {name: each[2:3] for name, each in x.items()}
    want = model.loss_by_part(one, seed=7, reduction="none", n_steps=4)
    torch.testing.assert_close({name: each[2:3] for name, each in got.items()}, want)
    same(model.loss_by_part(one, seed=SEEDS[2:3], reduction="none", n_steps=4), want)
    model, states = model_of(BY_RULE, False).to(dtype), []
    for seed in (SEEDS[2:3], 7):
        shape = {name: (1, *SHAPES[name][1:]) for name in BY_RULE}
        samplers.sample(model, shape, 1, seed=seed, sampler="sde1", watch=lambda i, state: states.append(state))
    same(*({name: each[0] for name, each in states[i].items()} for i in (1, 3)))


@pytest.mark.parametrize("width", [0, 1, 3, 4, 63, 64, 65, 1030])
def test_the_kernel_makes_the_words_of_the_reference(width):
    """For rows that start within a group, negative seeds and numbers beyond 32 bits."""
    seed, first = torch.tensor([7, -(2**63), 7, 2**40]), torch.tensor([0, 3, 2**35 + 1, 6])
    for dtype in (torch.int64, torch.float32, torch.float64):
        arguments = seed, first, width, noise.MONTE_CARLO, 2, dtype
        got, want = of_rows("row_noise", *arguments), noise.row_noise(*arguments)
        assert got.shape == want.shape == (2, 4, width) and got.dtype == dtype
        torch.testing.assert_close(got, want, rtol=0, atol={torch.int64: 0, torch.float32: 2e-6}.get(dtype, 1e-14))
    got, want = (make(seed, first, width, 3) for make in (partial(of_rows, "row_angles"), noise.row_angles))
    assert got.shape == (3, 2, 4, width) and torch.equal(got, want)
    one = torch.full((3,), 7), width * torch.arange(3), width, noise.SENDER
    drawn = continuous.sender_sample(torch.zeros(3, width), 1.0, seed=7)
    assert torch.equal(of_rows("row_noise", *one, 1, torch.float32)[0], drawn)


@pytest.mark.skipif(backends.CPU_BUILD is None, reason="no extension was built")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first": torch.zeros(3, dtype=torch.int64)}, "first must have a number for each seed"),
        ({"seed": torch.zeros(2)}, "seed must be contiguous, int64 and have shape"),
        ({"width": -1}, "width and draws must not be below 0"),
        ({"dtype": torch.float16}, "dtype must be int64, float32 or float64"),
    ],
)
def test_the_operator_refuses_wrong_arguments(change, words):
    given = {"seed": torch.arange(2), "first": torch.arange(2), "width": 3, "stream": 0, "draws": 1}
    with refused(words):
        getattr(torch.ops, backends.NATIVE).common_row_noise(*(given | {"dtype": torch.int64} | change).values())


WRONG = {
    "shape": (torch.arange(4), ValueError, r"seed must be an int or have shape \[6\].*got \(4,\)"),
    "one": (torch.arange(1), ValueError, r"seed must be an int or have shape \[6\].*got \(1,\)"),
    "matrix": (torch.zeros(6, 1, dtype=torch.int64), ValueError, r"seed must .*got \(6, 1\)"),
    "type": (torch.zeros(6), TypeError, "seed must be an int or an int64 tensor, got torch.float32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_seeds_are_refused_before_anything_runs(name):
    seed, kind, words = WRONG[name]
    x, told, _ = examples(True)
    model = model_of(KINDS, True)
    model.network.forward = None
    sampled = model_of(BY_RULE, True)
    shape = {name: (10, *SHAPES[name][1:]) for name in BY_RULE} | {LATTICE: (6, 2)}
    calls = (
        lambda: model(x, seed=seed, **told),
        lambda: model.reconstruction(x, seed=seed, **told),
        lambda: model.flow(x, torch.rand(6), seed, ragged=Ragged(*told.values())),
        lambda: KINDS["types"](None)(x["types"][:6], seed=seed),
        lambda: samplers.sample(sampled, shape, 4, seed=seed, counts=COUNTS),
        lambda: samplers.sample_within(sampled, shape, 0.1, seed=seed, counts=COUNTS),
    )
    for call in calls:
        with pytest.raises(kind, match=words):
            call()


def test_a_large_vocabulary_refuses_seeds_of_examples():
    model = Vocabulary(None, beta_1=0.5, num_classes=7, width=2)
    for call in (
        lambda: model(torch.zeros(6, 2, dtype=torch.int64), seed=SEEDS),
        lambda: samplers.sample(model, (6, 2), 3, seed=SEEDS),
    ):
        with pytest.raises(ValueError, match="seed must be an int for Vocabulary, which stores no noise"):
            call()


def test_a_batch_without_examples_draws_nothing():
    model = model_of(KINDS, True)
    x = {name: each[:0] for name, each in examples(True)[0].items()}
    told = {"batch": torch.zeros(0, dtype=torch.int64), "num_examples": 0}
    none = torch.zeros(0, dtype=torch.int64)
    assert {
        each.numel() for each in model.loss_by_part(x, seed=none, reduction="none", n_steps=4, **told).values()
    } == {0}
    model = model_of(BY_RULE, True)
    shape = {name: (0, *SHAPES[name][1:]) for name in BY_RULE} | {LATTICE: (0, 2)}
    assert samplers.sample(model, shape, 3, seed=none, counts=[])["types"].shape == (0, 4)


def test_steps_of_a_module_take_the_seeds_of_their_rows():
    """`update` and `solve` are public, too."""
    rows = Ragged(torch.tensor([1, 0, 1]), 2)
    seeds = ExampleSeeds(torch.tensor([4, 7]), rows)
    model = KINDS["data"]()
    both, alone = model.prior((3, 3), torch.device("cpu")), model.prior((2, 3), torch.device("cpu"))
    for state, seed, count in ((both, seeds, 3), (alone, torch.tensor(7), 2)):
        model.update(torch.zeros(count, 3), state, torch.tensor(0.5), torch.tensor(2.0), seed, Sampling())
    assert torch.equal(both[0][[0, 2]], alone[0])


def test_numbers_of_draws_and_shapes_that_do_not_fit_are_refused():
    seeds = ExampleSeeds(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="count must be"):
        seeds.angle_uniforms((2, 3), 0)
    with pytest.raises(ValueError, match="draws must be"):
        seeds.class_normals((2, 3), draws=0)
    for make in (seeds.normals, seeds.uniforms, seeds.class_normals, seeds.angle_uniforms):
        with pytest.raises(ValueError, match=r"shape must begin with 2, the number of rows, got \(3, 2\)"):
            make((3, 2))
