"""The network of atoms in space: how its outputs turn with its inputs, and which atoms can see each other."""

import math

import pytest
import torch

from bfn.configs import ConfigError
from bfn.networks.equivariant import Equivariant, pairs
from bfn_kernels.nn import Ragged

CLASSES, COUNTS = 3, torch.tensor([4, 1, 0, 6])


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Equivariant(CLASSES, width=16, depth=2, heads=2, dropout=0.0)
    for parameter in network.parameters():  # the heads of a fresh network put out zeros
        torch.nn.init.normal_(parameter, std=0.2)
    return network.double().eval()


@pytest.fixture
def inputs():
    """The input distributions of examples with 4 atoms, 1, 0 and 6, their times, and the example of each atom."""
    torch.manual_seed(1)
    batch = torch.arange(len(COUNTS)).repeat_interleave(COUNTS)
    theta = {"positions": torch.randn(len(batch), 3), "types": torch.randn(len(batch), CLASSES).softmax(-1)}
    return {name: part.double() for name, part in theta.items()}, torch.rand(len(COUNTS)).double(), batch


def close(found, wanted):
    for name in ("positions", "types"):
        torch.testing.assert_close(found[name], wanted[name])


@pytest.mark.parametrize("mirror", [1, -1])
def test_the_noise_turns_with_the_positions_and_nothing_else_changes(mirror, network, inputs):
    theta, t, batch = inputs
    turn = torch.linalg.qr(torch.randn(3, 3).double()).Q
    turn = turn * mirror * turn.det()  # a rotation, or one with a reflection
    shift = torch.randn(len(t), 3).double()[batch]
    got = network(theta | {"positions": theta["positions"] @ turn + shift}, t, batch)
    wanted = network(theta, t, batch)
    close(got, wanted | {"positions": wanted["positions"] @ turn})
    assert wanted["positions"][batch != 1].norm(dim=1).min() > 0.01 and wanted["types"].std() > 0.01


def test_outputs_follow_the_atoms_in_any_order(network, inputs):
    theta, t, batch = inputs
    order = torch.randperm(len(batch))
    got, wanted = network({name: part[order] for name, part in theta.items()}, t, batch[order]), network(*inputs)
    close(got, {name: part[order] for name, part in wanted.items()})


def test_an_example_has_the_outputs_that_it_has_alone(network, inputs):
    theta, t, batch = inputs
    got = network(*inputs)
    for example in range(len(COUNTS)):
        own = batch == example
        alone = network({name: part[own] for name, part in theta.items()}, t[[example]], batch[own] - example)
        close(alone, {name: part[own] for name, part in got.items()})


def test_all_atoms_of_an_example_depend_on_each_other(network, inputs):
    theta, t, batch = inputs
    for name, column in (("positions", 1), ("types", 0)):
        changed = theta[name].clone()
        changed[6, column] += 0.3  # an atom of the last example, whose mean this changes, too
        got, wanted = network(theta | {name: changed}, t, batch), network(*inputs)
        for part in got:
            off = (got[part] - wanted[part]).abs().amax(1)
            assert off[batch == 3].min() > 1e-6 and off[batch < 3].max() == 0, (name, part)


def test_the_noise_has_mean_zero_and_one_atom_has_none(network, inputs):
    noise = network(*inputs)["positions"]
    batch = inputs[2]
    assert torch.zeros(len(COUNTS), 3).double().index_add_(0, batch, noise).abs().max() < 1e-12
    assert noise[batch == 1].eq(0).all()


def test_no_atoms_have_no_outputs(network):
    empty = {"positions": torch.zeros(0, 3).double(), "types": torch.zeros(0, CLASSES).double()}
    for examples in (0, 2):
        got = network(empty, torch.zeros(examples).double(), torch.zeros(0, dtype=torch.int64))
        assert got["positions"].shape == (0, 3) and got["types"].shape == (0, CLASSES)


def test_atoms_at_one_place_have_finite_gradients(network, inputs):
    theta, t, batch = inputs
    positions = torch.zeros_like(theta["positions"]).requires_grad_()
    outputs = network(theta | {"positions": positions}, t, batch)
    sum(part.square().sum() for part in outputs.values()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in (positions, *network.parameters()))


def test_time_changes_the_outputs(network, inputs):
    theta, t, batch = inputs
    got, wanted = network(theta, t.flip(0), batch), network(*inputs)
    assert (got["types"] - wanted["types"]).abs().amax(1).min() > 1e-4


def test_a_fresh_network_says_what_it_sees_and_predicts_no_noise(inputs):
    theta, t, batch = inputs
    outputs = Equivariant(CLASSES, width=8, depth=2, heads=2, dropout=0.0).double()(theta, t, batch)
    torch.testing.assert_close(outputs["types"].softmax(-1), theta["types"])
    assert outputs["positions"].eq(0).all()


def test_pairs_are_all_ordered_pairs_of_an_example():
    batch = torch.tensor([2, 0, 2, 1, 0, 2])
    wanted = {(i, j) for i in range(6) for j in range(6) if i != j and batch[i] == batch[j]}
    first, second = pairs(Ragged(batch, 4))
    assert len(first) == len(wanted) and set(zip(first.tolist(), second.tolist(), strict=True)) == wanted
    assert first.equal(first.sort().values)


def test_the_noise_is_a_multiple_of_the_positions_that_falls_and_of_the_way_to_a_molecule_that_grows(network, inputs):
    theta, _, batch = inputs
    for module in (network.time.mlp[2], network.gains):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    torch.nn.init.constant_(network.growth, 3.0)
    early, late = (network(theta, torch.full((4,), t).double(), batch)["positions"] for t in (0.2, 0.7))
    torch.testing.assert_close(late, math.exp(3 * 0.5) * early)
    with torch.no_grad():
        network.gains.bias.copy_(torch.tensor([0.4, -80.0, 0.0]))
    start = Ragged(batch, 4).centred(theta["positions"])
    for t in (0.0, 1e-6, 1e-5, 0.01, 1.0):
        got = network(theta, torch.full((4,), t).double(), batch)["positions"]
        torch.testing.assert_close(got, 0.4 * start / math.sqrt(max(t, 1e-6)))


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"network\.width=16 must be a multiple of network\.heads=3"):
        Equivariant(CLASSES, width=16, depth=1, heads=3, dropout=0.0)
