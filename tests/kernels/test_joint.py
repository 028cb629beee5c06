"""Models of several kinds of data at once: each part does what its module alone would do."""

import copy
import pickle

import pytest
import torch

from bfn_kernels import samplers
from bfn_kernels.nn import Circular, Joint, down_to_step, part
from bfn_kernels.schedules import VonMisesAccuracy
from bfn_kernels.solvers import RULES
from tests.kernels.joint_models import (
    ATOMS,
    BY_RULE,
    COUNTS,
    KINDS,
    SHAPES,
    Apart,
    T,
    alone,
    atoms,
    data,
    joint,
    of_atoms,
)


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


def test_a_network_may_return_the_input_of_another_part():
    """Steps overwrite the states of the parts one after another."""
    for parts in (("positions", "data"), ("types", "logits")):
        kinds = {"logits": KINDS["types"]} | KINDS
        swapped, apart = (
            Joint(
                lambda theta, t, of=of, two=parts: {a: of(theta[b]) for a, b in (two, two[::-1])},
                **{name: kinds[name]() for name in parts},
            )
            for of in (lambda same: same, torch.clone)
        )
        shape = dict.fromkeys(parts, (2, 3))
        for sampler in ("ancestral", "ode2"):
            got, want = (samplers.sample(model, shape, 4, seed=1, sampler=sampler) for model in (swapped, apart))
            torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_every_part_is_seen_in_the_type_of_the_network(dtype):
    seen = set()

    class Told(Apart):
        def forward(self, theta, t, cond=None):
            seen.update(each.dtype for each in (t, *theta.values()))
            return super().forward(theta, t, cond)

    model = Joint(Told(KINDS), **{name: KINDS[name]() for name in KINDS}).to(dtype)
    model(data(), seed=1).backward()
    samplers.sample(model, SHAPES, 4, seed=1)
    assert seen == {dtype}


def test_a_network_may_rebind_what_it_got():
    def network(theta, t):
        theta["types"] = theta["types"] * 0 + 7
        return {"types": theta["types"]}

    model = Joint(network, types=KINDS["types"]())
    want = Joint(lambda theta, t: {"types": theta["types"] * 0 + 7}, types=KINDS["types"]())
    torch.testing.assert_close(
        model.loss_by_part(data(["types"]), T, seed=1), want.loss_by_part(data(["types"]), T, seed=1)
    )


def test_a_run_starts_where_all_parts_can():
    assert joint(["types", "positions"]).solver_start == joint(["positions", "types"]).solver_start == 0.01
    assert joint(["types"]).solver_start == 0.001


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
        "shape must have one number of examples for all parts, .*; or pass counts",
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
    "a name": (lambda: Joint(None, type=KINDS["types"]()), ValueError, "the name of a part must not be .* got 'type'"),
    "a part of two": (
        lambda: Joint(None, types=joint(["types"]).parts["types"]),
        ValueError,
        "types must be a module of its own",
    ),
    "a clip": (lambda: joint(["data"], centred=["data"]), ValueError, "data: num_bins and clip must be None"),
    "a centred class": (
        lambda: joint(["types"], centred=["types"]),
        ValueError,
        "centred must name parts of Continuous",
    ),
    "no weight": (lambda: joint(["types"], weights={"types": -1.0}), ValueError, r"weights\['types'\] must lie in"),
    "examples of parts": (
        lambda: joint(["types", "flags"])({"types": torch.zeros(2, 4).long(), "flags": torch.zeros(1, 5).long()}),
        ValueError,
        r"x must have one number of examples for all parts, got \{'types': 2, 'flags': 1\}",
    ),
    "times of rows": (lambda: of_atoms()(atoms()[0], torch.rand(8), batch=atoms()[1]), ValueError, r"t must .* \[4\]"),
    "a dict of times": (lambda: joint(["types"])(data(["types"]), {"types": T}), TypeError, "t must be a tensor"),
    "guidance of rows": (
        lambda: samplers.sample(of_atoms(), ATOMS, 2, counts=COUNTS, guidance={"types": torch.ones(8)}, cond=1.0),
        ValueError,
        r"guidance must have shape \[4\], got \(8,\)",
    ),
    "known centred": (
        lambda: samplers.sample(of_atoms(), ATOMS, 2, counts=COUNTS, known={"positions": torch.zeros(8, 3)}),
        ValueError,
        "positions: known must be None for a centred part",
    ),
    "one point": (lambda: of_atoms()(atoms()[0]), ValueError, "x must have one number of examples"),
    "rows without batch": (
        lambda: joint(["positions"], centred=["positions"])({"positions": torch.zeros(6, 3)}, T),
        ValueError,
        "positions must have shape .* as a centred part",
    ),
    "coordinates": (
        lambda: joint(["positions"], centred=["positions"])(data(["positions"]), mask=torch.ones(6, 4, 3) > 0),
        ValueError,
        "positions: mask must be one for all coordinates",
    ),
    "a list": (lambda: of_atoms()(atoms()[0], batch=[0] * 8), TypeError, "batch must be a tensor, got list"),
    "an example": (lambda: of_atoms()(atoms()[0], batch=atoms()[1] + 1), IndexError, r"batch must hold examples in"),
    "a table of counts": (
        lambda: samplers.sample(of_atoms(), ATOMS, 2, counts=torch.ones(7, 1, dtype=torch.int64)),
        ValueError,
        r"counts must have shape \[B\], got \(7, 1\)",
    ),
    "a count": (lambda: samplers.sample(of_atoms(), ATOMS, 2, counts=7), TypeError, "counts must be a list of ints"),
    "counts": (lambda: samplers.sample(of_atoms(), ATOMS, 2, counts=[1, 2]), ValueError, "positions: shape must begin"),
    "no joint model": (
        lambda: samplers.sample(KINDS["types"](Apart(["types"])), (2, 3), 2, counts=[1, 1]),
        ValueError,
        "counts must be None for a model that is not joint",
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
