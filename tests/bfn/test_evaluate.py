import math

import pytest
import torch

from bfn.configs import EvaluateConfig
from bfn.data import load_data
from bfn.model import build_model
from bfn.results.evaluate import down_to_step, evaluate


class Fixed(torch.nn.Module):
    """A model whose loss at time t is a known function of example and time."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.times: list[torch.Tensor] = []
        self.seeds: list[int] = []

    def forward(self, x, t, *, seed, n_steps, reduction):
        assert reduction == "batch" and not self.training
        self.times.append(t)
        self.seeds.append(seed)
        return x[:, 0] * t**2

    def reconstruction(self, x, *, seed, reduction):
        assert reduction == "batch" and not self.training
        self.seeds.append(seed)
        return x[:, 1]


def test_the_bound_is_the_mean_over_examples_and_times_in_bits_per_dimension():
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    model = Fixed()
    bound = evaluate(model, x, EvaluateConfig(repeats=200, batch_size=20))
    nats = x[:, 0] / 3 + x[:, 1]  # the integral of t² is 1/3
    assert bound.messages == pytest.approx((x[:, 0] / 3).mean().item() / 3 / math.log(2), rel=1e-3)
    assert bound.reconstruction == pytest.approx(x[:, 1].mean().item() / 3 / math.log(2), rel=1e-6)
    assert bound.bits == bound.messages + bound.reconstruction
    assert bound.error == pytest.approx(nats.std().item() / math.sqrt(50) / 3 / math.log(2), rel=1e-2)
    times = torch.stack([torch.cat(model.times[i * 200 : (i + 1) * 200]).view(200, -1)[:, 0] for i in range(3)])
    assert torch.equal((times * 200).floor().long(), torch.arange(200).expand(3, 200))  # one time in each stratum


def test_the_n_step_bound_visits_every_step_alike():
    model = Fixed()
    bound = evaluate(model, torch.ones(10, 2), EvaluateConfig(n_steps=5, repeats=10))
    assert torch.stack(model.times).flatten().mul(5).round().long().bincount().tolist() == [20] * 5
    assert bound.messages == pytest.approx(sum((i / 5) ** 2 for i in range(5)) / 5 / 2 / math.log(2), rel=1e-5)


@pytest.mark.parametrize("n_steps", [None, 6])
def test_the_bound_agrees_with_plain_monte_carlo(n_steps, pair):
    model, data = pair[0].eval(), pair[1]
    torch.nn.init.normal_(model.network.head.weight, std=0.05)
    many = data.test[:4].repeat(32, *[1] * (data.test.dim() - 1))
    bound = evaluate(model, many, EvaluateConfig(n_steps=n_steps, repeats=1))
    t = torch.rand(len(many)) if n_steps is None else torch.randint(n_steps, (len(many),)) / n_steps
    with torch.no_grad():
        messages = model(many, t, seed=9, n_steps=n_steps, reduction="batch")
        reconstruction = model.reconstruction(many, seed=10, reduction="batch")
    for got, nats in ((bound.messages, messages), (bound.reconstruction, reconstruction)):
        bits = nats / many[0].numel() / math.log(2)
        tolerance = 5 * bits.std().item() / math.sqrt(len(many))
        assert tolerance < 0.5 * got
        assert abs(got - bits.mean().item()) < tolerance


def test_the_same_seed_gives_the_same_bound_without_dropout_and_whatever_was_drawn_before(tiny):
    config = tiny("digits", "network.dropout=0.5")
    data = load_data(config)
    model = build_model(config, data)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    bounds = []
    for seed in (0, 0, 1):
        torch.rand(7)
        bounds.append(evaluate(model.train(), data.test[:4], EvaluateConfig(repeats=2, seed=seed)).bits)
    assert bounds[0] == bounds[1] != bounds[2] and not model.training


def shuffled(t):
    """Do steps from one time to the next differ, even where a time beyond 1 goes on from 0?"""
    return len((t.diff() * len(t)).round().remainder(len(t)).unique()) > 2


def test_every_call_has_a_seed_of_its_own():
    model, seeds = Fixed(), []
    for seed in (0, 1):
        evaluate(model, torch.rand(5, 2), EvaluateConfig(repeats=4, batch_size=2, seed=seed))
        seeds.append(model.seeds)
        model.seeds = []
    assert [len(of_run) for of_run in seeds] == [15, 15]  # four times, and the reconstruction, of three batches
    assert len({seed for of_run in seeds for seed in of_run}) == 30


@pytest.mark.parametrize("repeats", [1, 3])
def test_times_are_spread_over_the_examples_too(repeats):
    model = Fixed()
    evaluate(model, torch.rand(20, 2), EvaluateConfig(repeats=repeats, batch_size=20))
    times = torch.stack(model.times)  # [repeats, examples]
    order = times.flatten().sort().values
    torch.testing.assert_close(order.diff(), torch.full((20 * repeats - 1,), 1 / 20 / repeats), atol=1e-6, rtol=0)
    assert shuffled(times[0] * repeats)  # whatever order the examples come in


@pytest.mark.parametrize("n_steps", [1, 3, 7, 20, 1000])
def test_times_of_steps_are_their_starts_in_float32_even_where_they_round_to_one(n_steps):
    starts = torch.arange(n_steps, dtype=torch.float32) / n_steps
    last = starts[-1:]
    inside = (torch.arange(n_steps, dtype=torch.float64) + 0.5).div(n_steps).float()
    assert torch.equal(down_to_step(inside, n_steps), starts)
    for just_below_one in (torch.tensor([1 - 2**-24]), torch.ones(1)):
        assert torch.equal(down_to_step(just_below_one, n_steps), last)


def test_a_last_time_that_rounds_to_one_is_of_the_last_step(monkeypatch):
    offsets = torch.tensor([1 - 2**-24, 0.5])  # in float32, 31 more than the first is 32
    monkeypatch.setattr("bfn.results.evaluate.spread_times", lambda count, generator: offsets)
    model = Fixed()
    evaluate(model, torch.rand(2, 2), EvaluateConfig(n_steps=4, repeats=32))
    assert torch.stack(model.times)[-1].tolist() == [0.75, 0.75]
