import math

import pytest
import torch

from bfn.data import load_data
from bfn.model import build_model
from bfn_kernels import binary


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
