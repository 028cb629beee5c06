"""Models of several kinds of data at once: each part does what its module alone would do."""

import copy
import pickle

import pytest
import torch
from torch import nn

from bfn_kernels import continuous, discrete, discretised, samplers
from bfn_kernels.adaptive import error_of_step
from bfn_kernels.nn import Binary, Circular, Continuous, Discrete, Discretised, Joint, Sampling, down_to_step, part
from bfn_kernels.nn.ragged import Ragged
from bfn_kernels.schedules import LogarithmicAccuracy, VonMisesAccuracy
from bfn_kernels.solvers import RULES, Coefficients

ANGLES = VonMisesAccuracy([0.5, 1.0, 2.0, 4.0])
KINDS = {
    "positions": lambda network=None: Continuous(network, sigma_1=0.1, clip=None),
    "data": lambda network=None: Continuous(network, sigma_1=0.1, parametrisation="data"),
    "levels": lambda network=None: Discretised(network, sigma_1=0.2, num_bins=16),
    "types": lambda network=None: Discrete(network, schedule=LogarithmicAccuracy(5, 3.0), num_classes=5),
    "flags": lambda network=None: Binary(network, beta_1=4.0),
    "angles": lambda network=None: Circular(network, ANGLES, period=1.0),
}
SHAPES = {"positions": (6, 4, 3), "data": (6, 3), "levels": (6, 2), "types": (6, 4), "flags": (6, 5), "angles": (6, 3)}
BY_RULE = [name for name in KINDS if name != "angles"]


class Apart(nn.Module):
    """A network that sees no part when it puts out another one."""

    def __init__(self, names):
        super().__init__()
        sizes = {
            "positions": (3, 3),
            "data": (3, 3),
            "levels": (2, 4),
            "types": (5, 5),
            "flags": (5, 5),
            "angles": (2, 1),
        }
        torch.manual_seed(0)
        layers = {name: nn.Linear(*sizes[name]) for name in sizes}
        self.layers = nn.ModuleDict({name: layers[name] for name in names})

    def one(self, name, theta, t, cond=None):
        out = self.layers[name](theta) * (1 + t.view(-1, *(1,) * (theta.dim() - 1)))
        out = out if cond is None else out + 0.1 * cond.view(-1, *(1,) * (out.dim() - 1)).to(out.dtype)
        return {"levels": lambda: out.unflatten(-1, (2, 2)), "angles": lambda: out.squeeze(-1)}.get(name, lambda: out)()

    def forward(self, theta, t, cond=None):
        times = t if isinstance(t, dict) else dict.fromkeys(theta, t)
        return {name: self.one(name, each, times[name], cond) for name, each in theta.items()}


def joint(names=KINDS, **options) -> Joint:
    return Joint(Apart(names), **options, **{name: KINDS[name]() for name in names})


def alone(model: Joint, name: str):
    """The module of a part with its share of the joint network. It starts where the joint model does."""
    one = KINDS[name](lambda theta, t, cond=None: model.network.one(name, theta, t, cond))
    one.solver_start = model.solver_start
    return one


def data(names=KINDS):
    generator = torch.Generator().manual_seed(1)
    x = {name: torch.rand(SHAPES[name], generator=generator) * 2 - 1 for name in names}
    kinds = {
        "levels": lambda each: discretised.from_levels((8 * each + 8).long().clamp(0, 15), num_bins=16),
        "types": lambda each: (each.abs() * 5).long(),
        "flags": lambda each: (each > 0).long(),
    }
    return {name: kinds.get(name, lambda same: same)(each) for name, each in x.items()}


T = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.5, 0.25])  # starts of steps of angles


@pytest.mark.parametrize("n_steps", [None, 4])
@pytest.mark.parametrize("reduction", ["mean", "sum", "batch", "none"])
def test_a_part_costs_what_its_module_says(n_steps, reduction):
    model, x, cond = joint(), data(), torch.arange(6)
    mask = {name: torch.rand(SHAPES[name]) < 0.7 for name in ("types", "angles")}
    options = {"n_steps": n_steps, "reduction": reduction, "cond": cond}
    got = model.loss_by_part(x, T, seed=7, mask=mask, **options)
    reconstructed = model.reconstruction_by_part(x, seed=7, mask=mask, reduction=reduction, cond=cond)
    for i, name in enumerate(KINDS):
        one, seed = alone(model, name), part(7, i)
        want = one(x[name], T, seed=seed, mask=mask.get(name), **options)
        torch.testing.assert_close(got[name], want, rtol=0, atol=0)
        want = one.reconstruction(x[name], seed=seed, mask=mask.get(name), reduction=reduction, cond=cond)
        torch.testing.assert_close(reconstructed[name], want, rtol=0, atol=0)


def test_the_loss_is_the_weighted_sum_and_trains_every_part():
    model, x = joint(weights={"types": 2.0, "angles": 0.5}), data()
    parts = model.loss_by_part(x, seed=3)
    loss = model(x, seed=3)
    torch.testing.assert_close(loss, sum(model.weights[name] * parts[name] for name in KINDS))
    loss.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in model.network.layers.values())
    sums = model.reconstruction_by_part(x, seed=3, reduction="batch")
    torch.testing.assert_close(model.reconstruction(x, seed=3, reduction="batch"), sum(sums.values()))


def test_times_are_of_the_steps_of_angles_and_of_each_part_if_asked():
    seen = []

    class Told(Apart):
        def forward(self, theta, t, cond=None):
            seen.append(t)
            return super().forward(theta, t, cond)

    for names, own in ((KINDS, False), (BY_RULE, False), (KINDS, True), (BY_RULE, True)):
        model = Joint(Told(names), own_times=own, **{name: KINDS[name]() for name in names})
        model(data(names), seed=5)
        model.reconstruction(data(names), seed=5)
        times, ends = seen[-2:]
        each = list(times.values()) if own else [times]
        assert isinstance(times, dict) == isinstance(ends, dict) == own
        assert all(len(t) == 6 for t in each) and (len({tuple(t.tolist()) for t in each}) > 1) == own
        on_grid = all(torch.equal(t, down_to_step(t, 4)) for t in each)
        assert on_grid == ("angles" in names)
        if own:
            want = dict(zip(names, each, strict=True))
            again = model.loss_by_part(data(names), want, seed=5)
            torch.testing.assert_close(again, model.loss_by_part(data(names), seed=5))


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_part_is_sampled_as_its_module_alone(sampler):
    names = BY_RULE if sampler != "ancestral" else [*KINDS]
    model, x = joint(names), data(names)
    known = {name: torch.rand(SHAPES[name]) < 0.3 for name in ("positions", "types")}
    options = {
        "choose": {"types": "sample", "levels": "mean"},
        "temperature": {"types": 0.5, "flags": 2.0},
        "guidance": {"types": 0.7, "positions": torch.linspace(0, 1, 6), "levels": 0.2},
        "known": {name: x[name] for name in known},
        "known_mask": known,
    }
    if sampler != "ancestral":
        options["start"] = {"positions": torch.rand(SHAPES["positions"]), "types": torch.rand(*SHAPES["types"], 5)}
    if RULES[sampler].order == 2 if sampler in RULES else False:
        options["choose"] = {"levels": "mean"}
    cond = {"cond": torch.arange(6), "unconditional": torch.ones(6)}
    states = []
    shape = {name: SHAPES[name] for name in names}
    got = samplers.sample(
        model, shape, 4, seed=9, sampler=sampler, watch=lambda i, state: states.append(state), **cond, **options
    )
    assert len(states) == 5 and {*states[0]} == {*names}
    for i, name in enumerate(names):
        each = {key: value[name] for key, value in options.items() if name in value}
        told = cond if "guidance" in each else {"cond": cond["cond"]}
        last = []
        want = samplers.sample(
            alone(model, name),
            SHAPES[name],
            4,
            seed=part(9, i),
            sampler=sampler,
            watch=lambda i, state, last=last: last.append(state),
            **told,
            **each,
        )
        torch.testing.assert_close(got[name], want, rtol=0, atol=0)
        torch.testing.assert_close([state[name] for state in states], last, rtol=0, atol=0)


def test_adaptive_steps_are_those_of_the_part_that_needs_them():
    names = ["positions", "types"]
    model = joint(names)
    shape = {name: SHAPES[name] for name in names}
    out, calls = samplers.sample_within(model, shape, 0.02, seed=9)
    each = [samplers.sample_within(alone(model, n), SHAPES[n], 0.02, seed=part(9, i)) for i, n in enumerate(names)]
    assert {*out} == {*names} and calls >= max(count for _, count in each) > 4
    one = joint(["types"])
    out, calls = samplers.sample_within(one, {"types": SHAPES["types"]}, 0.02, seed=9)
    want = samplers.sample_within(alone(one, "types"), SHAPES["types"], 0.02, seed=part(9, 0))
    assert calls == want[1] and torch.equal(out["types"], want[0])


def test_a_joint_model_is_copied_saved_and_compiled():
    model, x = joint(), data()
    want = model.loss_by_part(x, seed=1)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other.loss_by_part(x, seed=1), want)
        other.load_state_dict(model.state_dict())
    assert {key.split(".")[0] for key in model.state_dict()} == {"network", "parts"}  # the accuracies of angles
    assert model.double().parts["positions"].dtype == torch.float64
    wide = {name: each.double() if each.is_floating_point() else each for name, each in x.items()}
    assert {loss.dtype for loss in model.loss_by_part(wide, seed=1).values()} == {torch.float64}


COUNTS = [3, 0, 1, 4]


class Sums(nn.Module):
    """A network of rows that sees the sum of each example, as a graph network does, or of each padded example."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.positions, self.types, self.lattice = nn.Linear(8, 3), nn.Linear(8, 5), nn.Linear(2, 2)

    def forward(self, theta, t, cond=None, batch=None, mask=None):
        rows = torch.cat([theta["positions"], theta["types"]], -1)
        if batch is None:
            rows = torch.where(mask.unsqueeze(-1), rows, 0)
            rows = rows + 0.1 * rows.sum(1, keepdim=True) + t.view(-1, 1, 1)
        else:
            sums = rows.new_zeros(len(t), 8).index_add(0, batch, rows)
            rows = rows + 0.1 * sums[batch] + t[batch].unsqueeze(-1)
        lattice = self.lattice(theta["lattice"]) + t.unsqueeze(-1)
        return {"positions": self.positions(rows), "types": self.types(rows), "lattice": lattice}


def of_atoms(network=None) -> Joint:
    parts = {"positions": KINDS["positions"](), "types": KINDS["types"](), "lattice": Continuous(None, sigma_1=0.1)}
    return Joint(network or Sums(), centred=["positions"], of_examples=["lattice"], **parts)


def atoms(order=None):
    """Molecules with a lattice, and the molecule of each atom."""
    torch.manual_seed(3)
    rows = Ragged.of_counts(COUNTS)
    order = torch.arange(8) if order is None else order
    x = {"positions": rows.centred(torch.randn(8, 3))[order], "types": torch.randint(5, (8,))[order]}
    return x | {"lattice": torch.rand(4, 2)}, rows.batch[order]


def padded(value, mask):
    return value.new_zeros(*mask.shape, *value.shape[1:]).masked_scatter(
        mask.view(*mask.shape, *(1,) * (value.dim() - 1)).expand(*mask.shape, *value.shape[1:]), value
    )


@pytest.mark.parametrize("n_steps", [None, 4])
def test_rows_of_examples_are_padded_examples_with_a_mask(n_steps, monkeypatch):
    """Given equal noise. Of the reductions, all but the mean over all variables are compared by their sums."""
    x, batch = atoms()
    mask = torch.arange(4) < torch.tensor(COUNTS).unsqueeze(-1)
    wide = {"positions": padded(x["positions"], mask), "types": padded(x["types"], mask), "lattice": x["lattice"]}
    noise = {"positions": torch.randn(8, 3), "types": torch.randn(8, 5)}
    dense = {name: padded(each, mask) for name, each in noise.items()}
    t = torch.tensor([0.25, 0.5, 0.0, 0.75])

    def drawn(op, name):
        def draw(x, *arguments, seed, **options):
            given = [each[name] for each in (noise, dense) if each[name].shape[: x.dim()] == x.shape]
            return op(x, *arguments, noise=given[0], **options) if given else op(x, *arguments, seed=seed, **options)

        return draw

    monkeypatch.setattr(continuous, "flow_sample", drawn(continuous.flow_sample, "positions"))
    monkeypatch.setattr(discrete, "flow_sample", drawn(discrete.flow_sample, "types"))
    network = Sums()
    masks, told = {"positions": mask, "types": mask}, of_atoms(lambda theta, t: network(theta, t, mask=mask))
    model, n = of_atoms(network), {"n_steps": n_steps, "seed": 1}
    for each in (model, told):
        each.parts["types"].receiver = "factorised"  # the draws of the joint receiver's expectation would differ
    for reduction in ("batch", "sum", "mean", "examples"):
        got = model.loss_by_part(x, t, batch=batch, reduction=reduction, **n)
        want = told.loss_by_part(wide, t, mask=masks, reduction=reduction, **n)
        torch.testing.assert_close(got, want)
        got = model.reconstruction_by_part(x, seed=1, batch=batch, reduction=reduction)
        want = told.reconstruction_by_part(wide, seed=1, mask=masks, reduction=reduction)
        torch.testing.assert_close(got, want)
    sums = model.loss_by_part(x, t, batch=batch, reduction="batch", **n)
    assert sums["positions"].shape == (4,) and sums["positions"][1] == sums["types"][1] == 0 < sums["lattice"][1]
    each = sums["types"] / torch.tensor(COUNTS).clamp(min=1)
    got = model.loss_by_part(x, t, batch=batch, reduction="examples", **n)
    torch.testing.assert_close(got["types"], each.sum() / 3)  # the empty example does not count
    torch.testing.assert_close(got["lattice"], sums["lattice"].mean() / 2)


def test_the_order_of_rows_does_not_matter():
    """The noise of a row depends on its place, so that the network's view is compared without noise, at t = 1."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    x, batch = atoms()
    turned, of = atoms(order)
    model = of_atoms()
    ragged, other = Ragged(batch, 4), Ragged(of, 4)
    theta = {
        "positions": x["positions"],
        "types": nn.functional.one_hot(x["types"], 5).float(),
        "lattice": x["lattice"],
    }
    moved = theta | {name: theta[name][order] for name in ("positions", "types")}
    t = torch.rand(4)
    want, got = model.output(theta, t, ragged=ragged), model.output(moved, t, ragged=other)
    torch.testing.assert_close(got["types"], want["types"][order])
    want, got = model.centre(want, ragged), model.centre(got, other)
    torch.testing.assert_close(got["positions"], want["positions"][order])
    assert ragged.sums(want["positions"]).abs().max() < 1e-5 and turned["types"].tolist() == x["types"][order].tolist()


def test_noise_and_output_of_a_centred_part_have_no_mean():
    seen = []

    class Seen(Sums):
        def forward(self, theta, t, **told):
            seen.append(theta["positions"].clone())  # a sampler overwrites it
            return super().forward(theta, t, **told)

    x, batch = atoms()
    model, ragged = of_atoms(Seen()), Ragged(batch, 4)
    got = model.loss_by_part(x, batch=batch, seed=2, reduction="batch")
    assert ragged.sums(seen[-1]).abs().max() < 1e-5 < seen[-1].abs().max()
    with torch.no_grad():
        model.network.positions.bias += 5.0  # a shift of the output of all atoms
    torch.testing.assert_close(model.loss_by_part(x, batch=batch, seed=2, reduction="batch"), got)
    # an example of one atom is at the origin, and has no dimension
    assert got["positions"][2] == 0
    assert abs(model.reconstruction_by_part(x, batch=batch, seed=2, reduction="batch")["positions"][2]) < 1e-5
    shape = {"positions": (8, 3), "types": (8,), "lattice": (4, 2)}
    for sampler in ("ancestral", *RULES):
        seen.clear()
        out = samplers.sample(model, shape, 3, seed=1, sampler=sampler, counts=COUNTS)
        assert max(ragged.sums(each).abs().max() for each in (*seen, out["positions"])) < 1e-4 < out["positions"].std()


def test_the_density_of_centred_data_is_that_of_their_dimensions():
    """With a network that puts out no noise, x̂ = μ/γ. The loss is that of a normal in an orthonormal basis."""
    model = of_atoms(lambda theta, t, batch: {n: torch.zeros_like(v) for n, v in theta.items()})
    x, batch = atoms()
    got = model.reconstruction_by_part(x, batch=batch, seed=4, reduction="batch")["positions"]
    theta = model.flow(x, torch.ones(4), 4, ragged=Ragged(batch, 4))["positions"]
    residual = x["positions"] - theta / (1 - 0.1**2)
    normal = torch.distributions.Normal(0.0, 0.1)
    for example, count in enumerate(COUNTS):
        basis = torch.linalg.svd(torch.eye(count) - 1 / max(count, 1)).U[:, : max(count - 1, 0)]
        want = -normal.log_prob(basis.T @ residual[batch == example]).sum()
        torch.testing.assert_close(got[example], want, rtol=1e-4, atol=1e-4)


def test_the_error_of_a_step_is_of_the_example_with_the_largest():
    step, p, batch = Coefficients(1.0, 0.5, extrapolation=2.0), torch.zeros(4, 3), torch.tensor([7, 0, 7, 0])
    p[1], p[0] = 2.0, 1.0  # mean squares 2 and 1/2
    assert error_of_step(step, p, torch.zeros(4, 3), 3.0, batch) == pytest.approx(3 * 2**0.5)
    assert error_of_step(step, p, torch.zeros(4, 3), 3.0) == pytest.approx(3 * 2.0)


def test_adaptive_steps_of_rows():
    """Atoms that see each other are sampled as examples; the lattice has an error of its own."""
    shape = {"positions": (8, 3), "types": (8,), "lattice": (4, 2)}
    out, calls = samplers.sample_within(of_atoms(), shape, 0.05, seed=1, counts=COUNTS)
    assert calls > 3 and Ragged.of_counts(COUNTS).sums(out["positions"]).abs().max() < 1e-4 < out["positions"].std()
    assert samplers.sample_within(of_atoms(), shape, 0.5, seed=1, counts=COUNTS)[1] < calls


def test_guidance_of_examples_is_of_their_rows():
    x, batch = atoms()
    model, seen = of_atoms(), []

    def network(theta, t, cond, batch):
        seen.append(cond)
        return {name: each + cond for name, each in model.network(theta, t, batch=batch).items()}

    guided = of_atoms(network)
    theta = {"positions": x["positions"], "types": torch.rand(8, 5), "lattice": x["lattice"]}
    weight = torch.tensor([0.0, 1.0, 2.0, 3.0])
    told = Sampling(cond=2.0, unconditional=1.0, guidance={"types": weight, "lattice": weight}, ragged=Ragged(batch, 4))
    got, plain = guided.guided_output(theta, T[:4], told), model.output(theta, T[:4], ragged=Ragged(batch, 4))
    torch.testing.assert_close(got["types"] - plain["types"], (2 + weight[batch]).unsqueeze(-1).expand(8, 5))
    torch.testing.assert_close(got["lattice"] - plain["lattice"], (2 + weight).unsqueeze(-1).expand(4, 2))
    assert seen == [2.0, 1.0]


def test_masked_points_are_at_the_origin_and_do_not_count():
    rows = Ragged(torch.tensor([0, 1, 0, 0]), 2)
    values, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0], [torch.nan, 0.0], [3.0, 6.0]]), torch.tensor([1, 1, 0, 1]) > 0
    want = torch.tensor([[-1.0, -2.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    torch.testing.assert_close(rows.centred(values, mask), want)
    torch.testing.assert_close(rows.centred(values.nan_to_num(7.0)).mean(0), torch.zeros(2))


def test_a_run_starts_where_all_parts_can():
    assert joint(["types", "positions"]).solver_start == joint(["positions", "types"]).solver_start == 0.01
    assert joint(["types"]).solver_start == 0.001


def test_examples_of_no_atoms_at_all():
    model = of_atoms()
    x = {"positions": torch.zeros(0, 3), "types": torch.zeros(0, dtype=torch.int64), "lattice": torch.rand(2, 2)}
    empty = torch.zeros(0, dtype=torch.int64)
    for reduction in ("mean", "sum", "batch", "examples"):
        got = model.loss_by_part(x, batch=empty, seed=1, reduction=reduction)
        assert got["positions"].sum() == got["types"].sum() == 0 < got["lattice"].sum()
    model(x, batch=empty).backward()
    out = samplers.sample(model, {"positions": (0, 3), "types": (0,), "lattice": (2, 2)}, 3, counts=[0, 0])
    assert out["types"].shape == (0,) and out["lattice"].isfinite().all()


def network_of(**parts):
    return lambda theta, t: parts


SHAPE = {"types": (2, 3)}
REFUSED = {
    "no part": (lambda: Joint(None), ValueError, "parts must have at least one part"),
    "no module": (lambda: Joint(None, types=3), TypeError, "types must be a module of bfn_kernels.nn for one kind"),
    "a network": (lambda: Joint(None, types=KINDS["types"](Apart([]))), ValueError, "types must have no network"),
    "a weight": (lambda: joint(weights={"typs": 1.0}), ValueError, "weights must name parts among"),
    "steps": (
        lambda: Joint(None, a=KINDS["angles"](), b=Circular(None, VonMisesAccuracy([1.0]))),
        ValueError,
        r"parts must have schedules of the same number of steps, got \{'a': 4, 'b': 1\}",
    ),
    "n_steps": (lambda: joint()(data(), n_steps=5), ValueError, "n_steps must be 4, as a part has it, got 5"),
    "a missing part": (lambda: joint()(data(["types"])), ValueError, "x must be a dict with the parts"),
    "no dict": (lambda: joint()(torch.zeros(2)), ValueError, "x must be a dict with the parts .* got Tensor"),
    "a class": (lambda: joint(["types"])({"types": torch.full((1,), 7)}), IndexError, "types: x must hold classes"),
    "a mask": (lambda: joint()(data(), mask={"typ": None}), ValueError, r"mask must name parts among .*'typ'"),
    "none": (
        lambda: joint()(data(), reduction="none"),
        ValueError,
        'reduction must be "mean", "sum", "batch" or "examples"',
    ),
    "a shape": (lambda: samplers.sample(joint(["types"]), (2, 3), 4), ValueError, "shape must be a dict"),
    "examples": (
        lambda: samplers.sample(joint(["types", "flags"]), {"types": (2,), "flags": (3,)}, 4),
        ValueError,
        "shape must have one number of examples",
    ),
    "a rule": (
        lambda: samplers.sample(joint(["angles"]), {"angles": (2,)}, 4, sampler="ode1"),
        ValueError,
        'angles: sampler must be "ancestral"',
    ),
    "known": (
        lambda: samplers.sample(joint(["types"]), SHAPE, 4, known={"types": torch.zeros(2)}),
        ValueError,
        "types: known and known_mask",
    ),
    "an output": (
        lambda: Joint(network_of(types=torch.zeros(2, 3)), types=KINDS["types"]())({"types": torch.zeros(2, 3).long()}),
        ValueError,
        r"types: network must return a tensor of shape \(2, 3, 5\)",
    ),
    "no output": (
        lambda: Joint(network_of(), types=KINDS["types"]())({"types": torch.zeros(2, 3).long()}),
        ValueError,
        "the network's output must be a dict with the parts",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    call, kind, words = REFUSED[what]
    with pytest.raises(kind, match=words):
        call()
