"""The way of a seed: 0 is a seed and not the lack of one, and the parts of a call and the steps of a run draw from
seeds of their own."""

from dataclasses import replace

import pytest
import torch

from bfn_kernels import nn, samplers
from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.support import SHARED
from tests.kernels.test_nn import KINDS, Network, make
from tests.kernels.vocabulary_cases import LARGE

SHAPE, N, SCHEDULE = (3, 4), 3, VonMisesAccuracy([0.5, 1.0, 2.0])
RUNS = [(kind, sampler) for kind in KINDS for sampler in samplers.SAMPLERS] + [
    ("circular", "ancestral"),
    ("circular", "renoise"),
]
every_kind = pytest.mark.parametrize("kind", [*KINDS, "circular"])
every_run = pytest.mark.parametrize(("kind", "sampler"), RUNS)


def made(kind):
    """A model of a kind, and data."""
    if kind != "circular":
        return make(kind)
    return nn.Circular(Network(2, 1), SCHEDULE), torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))


def seeds_of(case) -> list[str]:
    """The names of the seeds among the options of a case."""
    return [name for name in case.options if name.endswith("seed")]


def alike(call, *seeds) -> list[bool]:
    """Whether two calls with each of these seeds have equal results. Torch's own seed differs between the calls."""

    def result(seed, torch_seed):
        torch.manual_seed(torch_seed)
        return call(seed)

    return [torch.equal(result(seed, 1), result(seed, 2)) for seed in seeds]


@pytest.mark.parametrize("case", [case for case in LARGE if case.num_classes == 5 and seeds_of(case)], ids=str)
@pytest.mark.parametrize("backend", SHARED)
def test_zero_is_a_seed_of_every_op_of_a_large_vocabulary(case, backend):
    def call(seed):
        return replace(case, options=case.options | dict.fromkeys(seeds_of(case), seed))(inputs, backend)

    inputs = case.inputs((3, 5), torch.float32)
    assert alike(call, 0, torch.tensor(0)) == [True, True] and not torch.equal(call(0), call(1))


@every_kind
def test_zero_is_a_seed_of_every_loss_of_a_module(kind):
    model, x = made(kind)
    for call in (model, model.reconstruction):
        assert alike(lambda seed, call=call: call(x, seed=seed), 0, None) == [True, False]


@every_run
def test_zero_is_a_seed_of_every_run(kind, sampler):
    """States are compared, since data would be equal if the network were sure of them."""
    model, _ = made(kind)

    def last_state(seed):
        states = {}
        samplers.sample(model, SHAPE, N, seed=seed, sampler=sampler, watch=states.__setitem__)
        return states[N][0]

    assert alike(last_state, 0, None) == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_is_a_seed_of_every_adaptive_run(kind):
    model, _ = make(kind)
    outputs = []
    model.network.register_forward_hook(lambda network, inputs, output: outputs.append(output))

    def last_output(seed):
        samplers.sample_within(model, SHAPE, 1.0, seed=seed)
        return outputs[-1]

    assert alike(last_output, 0, None) == [True, False]


def noted(monkeypatch, model, name, place):
    """The seeds with which a method of the model is called. place: the place of the seed among its arguments."""
    seeds, method = [], getattr(model, name)

    def call(*arguments, **keywords):
        seeds.append(int(arguments[place]))
        return method(*arguments, **keywords)

    monkeypatch.setattr(model, name, call)
    return seeds


@every_kind
def test_the_parts_of_a_loss_have_seeds_of_their_own(kind, monkeypatch):
    """The times, the flow and the draws of the expectation."""
    model, x = made(kind)
    times, spread_times = [], nn.spread_times

    def spread(count, generator, n_steps):
        times.append(generator.initial_seed())
        return spread_times(count, generator, n_steps)

    monkeypatch.setattr("bfn_kernels.nn.seeds.spread_times", spread)
    flows, draws = noted(monkeypatch, model, "flow", 2), noted(monkeypatch, model, "discrete_time_loss", 5)
    for seed in (0, 1):
        model(x, seed=seed, n_steps=N)
    assert len({seed % 2**64 for seed in (*times, *flows, *draws)}) == 6


@every_run
def test_the_first_state_and_every_step_of_a_run_have_seeds_of_their_own(kind, sampler, monkeypatch):
    model, _ = made(kind)
    ancestral = sampler == "ancestral"
    starts = noted(monkeypatch, model, "solver_state", 3)
    steps = noted(monkeypatch, model, "sample_step" if ancestral else "solver_step", 3)
    for seed in (0, 1):
        samplers.sample(model, SHAPE, N, seed=seed, sampler=sampler)
    assert len(starts) == (0 if ancestral else 2)
    assert len({*starts, *steps}) == len(starts) + 2 * N


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_state_and_every_accepted_step_of_an_adaptive_run_have_seeds_of_their_own(kind, monkeypatch):
    model, _ = make(kind)
    starts, tried = noted(monkeypatch, model, "solver_state", 3), noted(monkeypatch, model, "solve", 4)
    calls = [samplers.sample_within(model, SHAPE, 0.1, seed=seed)[1] for seed in (0, 1)]
    assert len(starts) == 2 and len({*starts, *tried}) == 2 + sum(calls) - 2  # the last call of a run is no step
