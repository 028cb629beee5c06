"""Whole sampling runs with the modules of bfn_kernels.nn. tests/bfn/test_sample.py compares runs with their steps."""

from functools import partial

import pytest
import torch
from torch import nn as torch_nn

from bfn_kernels import samplers
from bfn_kernels.noise import fold_in
from bfn_kernels.schedules import VonMisesAccuracy
from bfn_kernels.solvers import RULES
from tests.kernels.joint_models import BY_RULE, SHAPES, joint
from tests.kernels.test_nn import each_kind, make


def test_sampling_is_without_dropout_and_leaves_the_modes_of_modules():
    model, _ = make("continuous")
    model.network.outer = torch_nn.Sequential(torch_nn.Dropout(0.5), model.network.outer)
    model.network.inner.eval()  # as of a part that is not trained
    modes = [module.training for module in model.modules()]
    drawn = [samplers.sample(model, (4, 5), 3, seed=1) for _ in range(2)]
    assert torch.equal(*drawn) and [module.training for module in model.modules()] == modes
    samplers.sample_within(model, (4, 5), 1.0, seed=1)
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes


def test_arguments_of_a_sampler_are_checked():
    model, _ = make("binary")
    with pytest.raises(ValueError, match=r"sampler must be one of \['ancestral', 'ode1', .*, got 'euler'"):
        samplers.sample(model, (2, 3), 4, sampler="euler")
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        samplers.sample(model, (2, 3), 0)
    with pytest.raises(ValueError, match="capture must be None or False on cpu"):
        samplers.sample(model, (2, 3), 2, capture=True)


def test_known_values_may_have_any_type_that_the_steps_take():
    model, _ = make("binary")
    known = torch.tensor([[1, 0, 1]] * 2)
    first, *others = (
        samplers.sample(model, (2, 3), 3, seed=1, known=known.to(kind), known_mask=known.bool())
        for kind in (torch.int64, torch.int16, torch.int8, torch.uint8)
    )
    assert (first[known.bool()] == 1).all() and all(torch.equal(first, other) for other in others)


def test_a_compiled_module_is_sampled():
    model, _ = make("binary")
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(samplers.sample(compiled, (2, 3), 3, seed=1), samplers.sample(model, (2, 3), 3, seed=1))
    assert samplers.sample_within(compiled, (2, 3), 0.5, seed=1)[0].shape == (2, 3)


RUNS = {
    "sample": lambda model, shape, **more: samplers.sample(model, shape, 3, **more),
    "sample_within": lambda model, shape, **more: samplers.sample_within(model, shape, 0.5, **more),
}
X = torch.zeros(2, 3)
WRONG = [
    ({"shape": 5}, TypeError, "shape must be a tuple of ints, got 5"),
    ({"shape": (2, 3.0)}, TypeError, r"shape must be a tuple of ints, got \(2, 3.0\)"),
    ({"shape": (True, 3)}, TypeError, r"shape must be a tuple of ints, got \(True, 3\)"),
    ({"shape": "23"}, TypeError, "shape must be a tuple of ints, got '23'"),
    ({"shape": ()}, ValueError, r"shape must have a batch dimension and no size below 0, got \(\)"),
    ({"shape": (2, -3)}, ValueError, r"shape must have a batch dimension and no size below 0, got \(2, -3\)"),
    ({"model": torch_nn.Linear(3, 3)}, TypeError, "model must be a module of bfn_kernels.nn, got Linear"),
    ({"guidance": torch.ones(2).to_sparse()}, TypeError, "guidance must be a dense tensor, got a tensor of layout"),
    ({"known": X.to_sparse(), "known_mask": X > 0}, TypeError, "known must be a dense tensor, got a tensor of layout"),
    ({"known": 3.0, "known_mask": X > 0}, TypeError, "known must be a tensor, got float"),
    ({"start": X.to_sparse()}, TypeError, "start must be a dense tensor, got a tensor of layout"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), WRONG)
@pytest.mark.parametrize("name", RUNS)
def test_a_wrong_argument_of_every_run_is_named(name, wrong, kind, message):
    RUNS[name](make("binary")[0], [2, 3])
    with pytest.raises(kind, match=f"^{message}"):
        RUNS[name](**{"model": make("binary")[0], "shape": (2, 3), **wrong})


def test_a_tolerance_must_be_a_number():
    with pytest.raises(TypeError, match=r"^tolerance must be a number, got str"):
        samplers.sample_within(make("binary")[0], (2, 3), "0.5")


@each_kind
def test_torch_s_default_device_and_type_do_not_matter(kind):
    """A default device may have no memory at all."""

    def results():
        yield model(x, seed=1, n_steps=25)
        for sampler in ("ancestral", "ode2"):
            yield samplers.sample(model, (2, 4), 3, seed=1, sampler=sampler)
        yield samplers.sample_within(model, (2, 4), 1.0, seed=1)[0]
        yield VonMisesAccuracy.linear_entropy(2, 9.0).table

    model, x = make(kind)
    want = [*results()]
    with torch.device("meta"):
        got = [*results()]
        model(x)
    assert all(map(torch.equal, got, want))
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = [*results()]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, got, want))


@each_kind
@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_on_a_gpu_reads_the_same_numbers(kind, sampler, dtype, monkeypatch):
    """From tensors, for both kinds of seeds."""
    seeds = [7, torch.tensor([7, 8])] if kind != "vocabulary" else [7]
    model = make(kind)[0].to(dtype)
    draw = partial(samplers.sample, model, (2, 4), 5, sampler=sampler, capture=False)
    want = [draw(seed=seed) for seed in seeds]
    monkeypatch.setattr(samplers, "can_capture", lambda device: True)
    # torch's square root of several numbers may differ from the root of one in the last bit
    torch.testing.assert_close([draw(seed=seed) for seed in seeds], want, rtol=torch.finfo(dtype).eps, atol=1e-15)


@pytest.mark.parametrize("sampler", ["ancestral", "sde2"])
def test_parts_of_a_joint_run_on_a_gpu_read_the_same_numbers(sampler, monkeypatch):
    names = BY_RULE if sampler == "sde2" else [*SHAPES]
    model, shape = joint(names), {name: SHAPES[name] for name in names}
    for seed in (3, torch.arange(6)):
        draw = partial(samplers.sample, model, shape, 4, seed=seed, sampler=sampler, capture=False)
        want = draw()
        with monkeypatch.context() as on_a_gpu:
            on_a_gpu.setattr(samplers, "can_capture", lambda device: True)
            torch.testing.assert_close(draw(), want, rtol=1e-7, atol=1e-7)


def test_a_number_of_steps_is_checked():
    model, x = make("binary")
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        model(x, n_steps=0)


SCALES = {"positions": 0.25, "levels": 0.0, "types": 4.0, "flags": 0.5}  # data keep the variance


@pytest.mark.parametrize("rule", ["sde1", "sde2", "sde_euler", "renoise"])
@torch.no_grad()
def test_the_variance_of_a_run_is_that_of_its_steps(rule):
    """By the ops themselves, with a factor for each part. A second step of second order is left out."""
    model, states = joint(BY_RULE), []
    shape = {name: SHAPES[name] for name in BY_RULE}
    run = {"seed": 3, "sampler": rule, "watch": lambda i, state: states.append(state)}
    samplers.sample(model, shape, 2, variance_scale=SCALES, **run)
    for i in range(2 if RULES[rule].order == 1 else 1):
        before, after = states[i : i + 2]
        output = model.output(model.theta(before), torch.full((6,), i / 2))
        for name, seed in model.seeds(3).items():
            each, state = model.parts[name], before[name][0]
            tensors, settings = each.arguments(output[name], state)
            inputs = tensors if state is tensors[-1] else (*tensors, state)
            how = {"rule": rule, "seed": fold_in(seed, i + 1), "variance_scale": SCALES.get(name, 1.0), **settings}
            torch.testing.assert_close(after[name][0], each.ops.solver_step(*inputs, i / 2, (i + 1) / 2, **how))
    samplers.sample(model, shape, 2, **run)
    assert {name for name in BY_RULE if torch.equal(states[5][name][0], states[2][name][0])} == {"data"}


@pytest.mark.parametrize("sampler", [rule for rule in RULES if rule.startswith("ode") or rule == "ancestral"])
def test_a_run_whose_noise_has_no_variance_refuses_a_factor(sampler):
    model = joint(["positions", "types"])
    shape, run = {"positions": (2, 4, 3), "types": (2, 4)}, {"sampler": sampler}
    with pytest.raises(ValueError, match=f"types: variance_scale must be None.*{sampler}.*0.5"):
        samplers.sample(model, shape, 2, variance_scale={"types": 0.5}, **run)
    with pytest.raises(ValueError, match=r"angles: variance_scale must be None .*VonMisesAccuracy, got 0.5"):
        samplers.sample(joint(["angles"]), {"angles": (2, 3)}, 4, sampler="renoise", variance_scale=0.5)
    for wrong, words in ((-1.0, r"variance_scale must lie in \[0"), ({"type": 1.0}, "variance_scale must name parts")):
        with pytest.raises(ValueError, match=words):
            samplers.sample(model, shape, 2, variance_scale=wrong, sampler="sde1")
