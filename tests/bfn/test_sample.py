import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bfn.data import load_data
from bfn.model import DiscretisedBFN, build_model
from bfn.sample import sample, sample_within
from bfn.training.derived_seeds import derive
from bfn_kernels import discrete, samplers
from bfn_kernels.samplers import SAMPLERS


def lively(pair):
    """Gives the model random weights, so that its outputs depend on its inputs."""
    torch.manual_seed(0)
    for parameter in pair[0].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return pair[0]


def test_samples_are_valid_and_follow_the_seed(pair):
    model, data = lively(pair), pair[1]
    drawn = [sample(model, 8, 6, seed=s) for s in (1, 1, 2)]
    assert drawn[0].shape == (8, *data.shape) and drawn[0].dtype == data.train.dtype
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    if isinstance(model, DiscretisedBFN):
        levels = (drawn[0] + 1) * 17 / 2 - 0.5
        torch.testing.assert_close(levels, levels.round(), atol=1e-5, rtol=0)
    low, high = (-1, 1) if data.train.is_floating_point() else (0, data.num_classes - 1)
    assert low <= drawn[0].min() and drawn[0].max() <= high
    assert len(drawn[0].unique()) > 1


def test_watching_shows_every_state_and_precision_grows_to_that_of_sigma_1(tiny):
    config = tiny("digits")
    data = load_data(config)
    model = build_model(config, data)
    seen = []
    sample(model, 2, 7, seed=0, watch=lambda i, state: seen.append((i, float(torch.as_tensor(state[1]).flatten()[0]))))
    assert [i for i, _ in seen] == list(range(8))
    precisions = [precision for _, precision in seen]
    # The accuracies of all messages add up to 1/sigma_1² - 1.
    assert precisions[0] == 1 and precisions == sorted(precisions)
    assert precisions[-1] == pytest.approx(1 / 0.03**2, rel=1e-5)


def test_samples_are_those_of_steps_by_themselves(pair):
    """A sampling run whose steps do not share memory, except for the state."""
    model = lively(pair).eval()
    state, n = model.prior((3, *model.shape), torch.device("cpu")), 4
    with torch.no_grad():
        for i in range(1, n + 1):
            alpha = model.schedule.alpha(torch.tensor(i, dtype=torch.float64), n)
            model.sample_step(state, torch.tensor((i - 1) / n), alpha, torch.tensor(derive(9, i)))
        want = model.sample_final(state)
    seen = []
    got = sample(model, 3, n, seed=9, watch=lambda i, state: seen.append(state))
    assert torch.equal(got, want)
    for value, last in zip(state, seen[-1], strict=True):
        assert torch.equal(value, last)
    assert not torch.equal(seen[-2][0], seen[-1][0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_what_a_network_is_sure_of(pair, oracle, sampler):
    model, data = pair
    x = data.validation[:5]
    model.network = oracle(model, x)
    drawn = sample(model, 5, 9, seed=3, sampler=sampler)
    if x.is_floating_point():
        torch.testing.assert_close(drawn, x, rtol=0, atol=1e-4)
    else:
        assert torch.equal(drawn, x)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_call_the_network_once_a_step_and_once_at_the_end(pair, oracle, sampler):
    model, data = pair
    model.network = network = oracle(model, data.validation[:2])
    sample(model, 2, 4, seed=3, sampler=sampler)
    start = model.solver_start if sampler.startswith("ode") else 0.0
    want = [start + (1 - start) * i / 4 for i in range(5)]
    assert [t[0].item() for _, t in network.seen] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("sampler", ["ode2", "sde2"])
def test_samples_of_a_solver_follow_the_seed(pair, sampler):
    model = lively(pair)
    drawn = [sample(model, 4, 5, seed=s, sampler=sampler) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_run_of_second_order_is_that_of_steps_by_themselves(tiny):
    """The first step of first order, and each other one with the prediction and the time of the step before."""
    config = tiny("text")
    model = lively((build_model(config, load_data(config)), None)).eval()
    run, n = SAMPLERS["ode2"](model, (2, *model.shape), 4, 0, torch.device("cpu")), 4
    state, theta, predicted = (value.clone() for value in run.state)
    assert state.std().item() == pytest.approx((27 * model.schedule.beta(0.001)) ** 0.5, rel=0.1)
    times = [0.001 + 0.999 * i / n for i in range(n + 1)]
    for i in range(n):
        before = {"previous": predicted.clone(), "t_previous": times[i - 1]} if i else {}
        with torch.no_grad():
            run.step()
            output = model.output(theta, torch.full((2,), times[i]))
        to = {"theta_out": theta, "predicted_out": predicted}
        state = discrete.solver_step(
            output, state, *times[i : i + 2], rule="ode2", schedule=model.schedule, **to, **before
        )
        torch.testing.assert_close(run.state, (state, theta, predicted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ancestral", "ode2", "sde1"])
def test_a_step_leaves_its_state_where_it_was(pair, sampler, monkeypatch):
    monkeypatch.setattr(samplers, "can_capture", lambda device: True)
    run = SAMPLERS[sampler](pair[0].eval(), (2, *pair[0].shape), 3, 0, torch.device("cpu"))
    places = [value.data_ptr() for value in (*run.state, run.done)]
    with torch.no_grad():
        run.step()
    assert [value.data_ptr() for value in (*run.state, run.done)] == places
    assert run.done.item() == 1 and run.state[0].abs().sum() > 0


def test_a_state_of_classes_has_what_its_network_sees(tiny):
    config = tiny("text")
    model = lively((build_model(config, load_data(config)), None)).eval()
    state = model.prior((2, *model.shape), torch.device("cpu"))
    for i in range(3):
        torch.testing.assert_close(model.theta(state), state[0].softmax(-1))
        with torch.no_grad():
            model.sample_step(state, torch.tensor(i / 3), torch.tensor(0.5), torch.tensor(i))


class Blind(TorchDispatchMode):
    """Makes it an error to read a number of a tensor, for which one would have to wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number was looked at"
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("sampler", ["ancestral", "ode2", "sde2"])
def test_a_step_looks_at_no_number(pair, sampler, monkeypatch):
    monkeypatch.setattr(samplers, "can_capture", lambda device: True)
    run = SAMPLERS[sampler](pair[0].eval(), (2, *pair[0].shape), 3, 0, torch.device("cpu"))
    importlib.import_module("torch._dynamo")  # its import registers is_compiling, which must be torch's own by then
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # when it is checked no more than on a GPU
    with torch.no_grad(), Blind():
        run.step()
    assert run.done.tolist() == [1]


@pytest.fixture
def compiled_for_captured(monkeypatch):
    """What torch.compile records of a step takes the place of a CUDA graph; it is recorded once more wherever a step is
    not as the one before. A list of what has been captured."""
    made = []

    def captured(step, device):
        made.append(step)
        return torch.compile(step, fullgraph=True, backend="eager")

    monkeypatch.setattr("bfn.networks.layers.SHORT", 0)  # a CUDA graph has the attention of the step that it records
    monkeypatch.setattr(samplers, "captured", captured)
    monkeypatch.setattr(samplers, "can_capture", lambda device: True)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield made
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ancestral", "sde2"])
def test_one_graph_serves_all_steps_after_the_first(pair, sampler, compiled_for_captured):
    model, of = lively(pair), {"seed": 3, "sampler": sampler}
    plain = sample(model, 2, 6, capture=False, **of)
    assert compiled_for_captured == []
    states = []
    assert torch.equal(sample(model, 2, 6, watch=lambda i, state: states.append(state), **of), plain)
    assert len(compiled_for_captured) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert len({value.sum().item() for value, *_ in states}) == 7
    sample(model, 2, 1, **of)
    assert len(compiled_for_captured) == 1


def test_adaptive_steps_can_draw_no_examples(pair):
    model, data = pair
    drawn, calls = sample_within(model, 0, 0.1)
    assert drawn.shape == (0, *data.shape) and drawn.dtype == data.train.dtype and calls > 1


def test_adaptive_steps_take_more_calls_for_a_smaller_error(pair):
    """The calls are counted. The end is that of many steps. What the network says last is compared, since a draw, its
    mode, differs where rounding decides between two classes."""
    model, said = lively(pair), []
    model.network.register_forward_hook(lambda *call: said.append(call[-1].double()))
    sample(model, 3, 300, seed=5, sampler="ode2")
    many, off, counts = said[-1], [], []
    for tolerance in (0.3, 0.003):
        said.clear()
        _, count = sample_within(model, 3, tolerance, seed=5)
        assert count == len(said)
        counts.append(count)
        off.append(((said[-1] - many).abs().mean() / many.abs().mean()).item())
    assert 2 < counts[0] < counts[1] < 300 and off[1] < 0.01 and off[0] < 0.1, (counts, off)
