import math

import pytest
import torch

from bfn.data import load_data
from bfn.model import build_model
from bfn_kernels import binary, discrete


def test_a_fresh_network_is_differentiable_everywhere(pair):
    model, data = pair
    # Zero-initialised layers hide those before them: give every parameter a value first.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model(data.train[:4], torch.tensor([0.1, 0.4, 0.7, 0.9]), seed=1).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_a_network_that_knows_the_data_costs_nothing(pair, oracle):
    model, data = pair
    x = data.test[:6]
    model.network = oracle(model, x)
    t = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    late = t > 0  # at t = 0 the noise says nothing of continuous data
    for n_steps, times in ((None, t * 0.8), (5, t.clamp(max=0.8))):
        loss = model(x, times, seed=3, n_steps=n_steps, reduction="batch")[late]
        assert loss.abs().max() < 1e-2 * x[0].numel()
    assert model.reconstruction(x, seed=4) < 0.1


def test_two_classes_are_seen_and_put_out_the_right_way_round(tiny, oracle):
    config = tiny("digits_binary")
    data = load_data(config)
    model = build_model(config, data)
    x = data.test[:5]
    model.network = oracle(model, x)
    theta = model.flow(x, torch.ones(5), 1)
    logits = model.output(theta, torch.ones(5))
    features = model.network.seen[0][0]
    assert features.shape == (5, 8, 8, 1)
    # Class 0 is all but certain where x is 0: the network sees 2·theta_0 - 1 near 1 there, and near -1 where x is 1.
    assert torch.equal((features[..., 0] < 0).long(), x) and features.abs().min() > 0.5
    assert torch.equal(model.mode(logits, theta, torch.ones(5)), x)
    torch.testing.assert_close(binary.theta(logits), torch.sigmoid(80.0 * x - 40))


def test_an_ignorant_network_costs_what_the_paper_says(tiny):
    """Two classes at p = 1/2: L∞ = K·beta_1·t·1/2 nats on average beta_1/2, and the reconstruction ln 2."""
    config = tiny("digits_binary")
    data = load_data(config)
    model = build_model(config, data)  # its head starts at zero
    x = data.test[:4]
    t = torch.tensor([0.125, 0.375, 0.625, 0.875])
    assert model(x, t, seed=0).item() == pytest.approx(9.0 / 2, rel=1e-5)
    assert model.reconstruction(x, seed=0).item() == pytest.approx(math.log(2), rel=1e-5)


def test_noise_follows_the_seed(pair):
    model, data = pair
    x, t = data.train[:4], torch.full((4,), 0.5)
    for n_steps in (None, 4):
        losses = [model(x, t, seed=s, n_steps=n_steps).item() for s in (1, 1, 2)]
        assert losses[0] == losses[1]
    states = [model.flow(x, t, s) for s in (1, 1, 2)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_the_loss_of_two_classes_is_a_sum_and_that_of_more_is_drawn(tiny):
    t = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8])
    for name, draws, settings in (("digits_binary", False, []), ("text", True, ["data.length=16"])):
        config = tiny(name, *settings)
        model = build_model(config, load_data(config))
        shape, classes = (5, *model.shape), model.num_classes
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(classes, shape, generator=generator)
        family, each = (discrete, [classes]) if draws else (binary, [])
        logits = 3 * torch.randn(*shape, *each, generator=generator)

        def loss(seed, model=model, x=x, logits=logits):
            return model.discrete_time_loss(x, logits, logits, t, 5, seed, reduction="none")

        def kernel(model=model, x=x, logits=logits, family=family, **expectation):
            settings = {"schedule": model.schedule, "n_steps": 5, "reduction": "none"}
            return family.discrete_time_loss(x, logits.double(), t, **settings, **expectation).float()

        assert torch.equal(loss(1), loss(2)) != draws
        want = kernel(n_samples=10, seed=1) if draws else kernel(quadrature=128)
        torch.testing.assert_close(loss(1), want, atol=1e-5, rtol=1e-4)


def test_what_is_drawn_for_the_loss_does_not_depend_on_what_was_drawn_for_the_flow(pair, monkeypatch):
    model, data = pair
    seeds = []
    flow, loss = model.flow, model.discrete_time_loss
    monkeypatch.setattr(model, "flow", lambda x, t, seed, mask: seeds.append(seed) or flow(x, t, seed))
    monkeypatch.setattr(
        model, "discrete_time_loss", lambda *args, **keywords: seeds.append(args[5]) or loss(*args, **keywords)
    )
    for seed in (1, 2):
        model(data.test[:2], torch.zeros(2), seed=seed, n_steps=4)
    assert len(set(seeds)) == 4


@pytest.mark.parametrize("name", ["digits", "digits_continuous"])
def test_reconstruction_counts_the_grey_levels_at_the_end_of_the_flow(name, tiny):
    """The network puts out zeros: the output distribution is then N(mean/gamma, std²) with gamma = 1 - sigma_1²."""
    config = tiny(name)
    data = load_data(config)
    model = build_model(config, data)
    x, sigma_1 = data.test[:4], config.model.sigma_1
    mean = model.flow(x, torch.ones(4), 3).double()
    gamma = 1 - sigma_1**2
    std = sigma_1 if name == "digits_continuous" else sigma_1 / math.sqrt(gamma)  # as each family has it
    output = torch.distributions.Normal(mean / gamma, std)
    low, high = x.double() - 1 / 17, x.double() + 1 / 17
    below = torch.where(low < -1 + 1e-6, 0.0, output.cdf(low))
    above = torch.where(high > 1 - 1e-6, 1.0, output.cdf(high))
    want = -(above - below).log().mean().item()
    assert model.reconstruction(x, seed=3).item() == pytest.approx(want, rel=1e-3)
