"""Backbone angles of proteins: how they are read, the model of angles, and what a density estimate says of it."""

import functools
import math
import tarfile

import numpy as np
import pytest
import torch

from bfn import figures
from bfn.configs import ConfigError, SampleConfig, load
from bfn.data import load_data
from bfn.data.angles import PROTEINS, Density, chains, dihedral
from bfn.model import build_model
from bfn.results import plots
from bfn.results.evaluate import evaluate
from bfn.sample import sample
from bfn.training.runs import load_run
from bfn.training.trainer import Trainer
from bfn_kernels.schedules import VonMisesAccuracy
from tests.bfn import tiny_files
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY

MESSAGES = ["train.n_steps=20", "evaluate.n_steps=20", "sample.n_steps=20"]
FEW_MESSAGES = ["train.n_steps=3", "evaluate.n_steps=3", "sample.n_steps=3"]
made_once = functools.cache(VonMisesAccuracy.linear_entropy)


@pytest.fixture(autouse=True)
def schedules_are_made_once(monkeypatch):
    """A schedule and its table of quantiles take seconds."""
    monkeypatch.setattr(VonMisesAccuracy, "linear_entropy", made_once)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a stand-in for the archive."""
    return tiny_files.angles(tmp_path_factory.mktemp("angles"))


@pytest.fixture
def settings(folder, tmp_path):
    """The settings of a tiny run on the stand-in."""
    more = ["model.beta_1=200", "data.length=4", "sample.count=16", f"out={tmp_path / 'run'}"]
    return [*TINY, *MESSAGES, *more, f"data.folder={folder}"]


@pytest.fixture
def pair(settings):
    config = load("angles", settings)
    data = load_data(config)
    torch.manual_seed(0)
    return build_model(config, data), data


def off(one, other):
    """The largest angle between two tensors of angles."""
    return wrapped(torch.as_tensor(one) - torch.as_tensor(other)).abs().max()


def wrapped(angle):
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def test_a_dihedral_is_positive_if_the_farther_bond_is_turned_clockwise():
    a, b, c = np.array([[1.0, 0, 0]]), np.zeros((1, 3)), np.array([[0, 0, 1.0]])
    for degrees in (-170, -60, 0, 90, 179):
        x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        assert np.degrees(dihedral(a, b, c, np.array([[x, y, 1.0]])))[0] == pytest.approx(degrees)


def test_the_angles_of_a_file_are_those_of_its_chains():
    """Of the first model, without the ends of chains. A residue that lacks an atom breaks a chain."""
    wanted = {chain: tiny_files.torsions(i, 12) for i, chain in enumerate("AB")}
    text = tiny_files.pdb({chain: tiny_files.backbone(angles) for chain, angles in wanted.items()})
    for found, angles in zip(chains(text), wanted.values(), strict=True):
        assert off(found, angles[1:-1]) < 0.01
    lines = [line for line in text.splitlines() if not (line[12:16] == " CA " and line[21:26] == "A   6")]
    first, second, other = chains("\n".join(lines))
    assert off(first, wanted["A"][1:4]) < 0.01 and off(second, wanted["A"][7:-1]) < 0.01 and len(other) == 10


def test_windows_of_a_structure_are_in_one_split_and_those_to_train_on_overlap(pair):
    _, data = pair
    assert data.train.shape == (14 * 2 * 9, 4, 2) and data.validation.shape == data.test.shape == (3 * 2 * 3, 4, 2)
    assert torch.equal(data.train[0, 1:], data.train[1, :-1]) and not torch.equal(data.test[0, 1:], data.test[1, :-1])
    every = torch.cat([torch.from_numpy(tiny_files.torsions(i, 14)[1:-1]) for i in range(40)])
    found = torch.cat([data.train[::9].flatten(0, 1), data.validation.flatten(0, 1), data.test.flatten(0, 1)])
    near = torch.stack([wrapped(every - one).abs().amax(1) for one in found])
    assert near.min(1).values.max() < 0.01 and len(near.argmin(1).unique()) > 0.98 * len(found)


def test_a_density_estimate_is_a_density_and_takes_the_best_kernel():
    draw = torch.distributions.VonMises(torch.tensor([1.0, -3.0]), torch.tensor([8.0, 2.0]))
    torch.manual_seed(0)
    density = Density.fit(draw.sample((800,)), draw.sample((800,)))
    side = (torch.arange(120) + 0.5) * (2 * math.pi / 120)
    nats = density.nats(torch.cartesian_prod(side, side))
    assert (-2 * nats.double()).exp().sum() * (2 * math.pi / 120) ** 2 == pytest.approx(1, abs=1e-3)
    fresh = draw.sample((4000,))
    exact = -draw.log_prob(fresh).mean().item()
    assert exact < density.nats(fresh).mean() < exact + 0.05
    for kernel in (density.concentration / 8, 8 * density.concentration):
        assert Density(density.examples, kernel).nats(fresh).mean() > density.nats(fresh).mean()


def test_a_network_that_knows_the_data_costs_what_its_messages_leave(pair):
    """x̂ = x costs no messages, and the reconstruction is that of the last concentration."""
    model, data = pair
    x = data.test[:6]
    model.output = lambda theta, t, cond: x
    assert model(x, torch.full((6,), 0.45), n_steps=20, seed=1).item() == pytest.approx(0, abs=1e-6)
    k = torch.tensor(model.schedule.progress)
    want = math.log(2 * math.pi) + torch.special.i0e(k).log().item()
    assert model.reconstruction(x, seed=1).item() == pytest.approx(want, rel=1e-5)


def test_the_network_sees_no_mean_before_the_first_message_and_its_output_is_added_to_the_state(pair):
    model, data = pair
    seen = []
    model.network.forward = lambda features, t: seen.append(features) or torch.zeros(*features.shape[:-1], 2)
    x, t = data.test[:3], torch.tensor([0.0, 0.4, 0.9])
    theta = model.flow(x, t, 5)
    output = model.output(theta, t)
    assert (
        seen[0].shape == (3, 4, 2, 3)
        and not seen[0][0, ..., :2].any()
        and seen[0][1:, ..., :2].norm(dim=-1).min() > 0.99
    )
    assert off(output[1:], theta[1:, ..., 0]) < 1e-5
    concentration = model.schedule.alphas.min()
    model.network.forward = lambda features, t: torch.tensor([0.0, 1.0]).expand(*features.shape[:-1], 2) * concentration
    early = torch.stack([torch.zeros(1, 4, 2), torch.full((1, 4, 2), -1.0)], -1)
    assert off(model.output(early, torch.full((1,), 0.1)), torch.full((1, 4, 2), math.pi / 4)) < 1e-4


def test_angles_learn(settings):
    config = load("angles", [*settings, "train.max_steps=400", "train.validate_every=200", "network.width=32"])
    data = load_data(config)
    trainer = Trainer(config, data)
    before = evaluate(trainer.averaged, data.test, config.evaluate).bits
    trainer.run()
    model, _, _ = load_run(trainer.out)
    bound = evaluate(model, data.test, config.evaluate)
    assert bound.bits < before - 1
    drawn = sample(model, 64, 20, seed=1)
    assert drawn.abs().max() <= math.pi + 1e-5
    name, rival = data.judge.rival(data.test)
    assert name == "density estimate" and abs(data.judge.score(drawn)[0] - rival) < 0.2
    assert math.isfinite(far := data.judge.score(torch.full_like(drawn, 2.0))[0]) and far > 20


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.length=40", "data.length=40 must be at most 12, the longest chain of a split"),
        ("data.folder=null", "bfn data download angles"),
        ("evaluate.n_steps=9", "train.n_steps, evaluate.n_steps and sample.n_steps must agree for angles"),
        ("sample.sampler=ode1", "sample.sampler='ode1' must be 'ancestral' for angles"),
        ("model.beta_1=null", "model.kind='circular' needs train.n_steps"),
        ("model.beta_1=1e7", "model.beta_1=10000000.0 must lie in"),
        ("model.sigma_1=0.1", "model.kind='circular' needs model.beta_1 and does not take model.sigma_1"),
        ("model.kind=continuous", "model.kind='continuous' does not fit data.name='angles'"),
        ("network.name=transformer", "network.name='transformer' takes sequences"),
    ],
)
def test_settings_that_angles_cannot_have_are_one_line(override, message, settings):
    config = load("angles", [*settings, override])
    with pytest.raises(ConfigError, match=message):
        build_model(config, load_data(config))


def test_an_archive_that_is_damaged_is_one_line(settings, tmp_path):
    config, archive = load("angles", [*settings, f"data.folder={tmp_path}"]), tmp_path / PROTEINS.file
    archive.write_bytes(b"none")
    with pytest.raises(ConfigError, match="is damaged, or is not the source archive of mdanalysistests"):
        load_data(config)
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(ConfigError, match=r"is damaged, .* has no structures"):
        load_data(config)


def test_pictures_of_angles(pair, tmp_path, monkeypatch):
    model, data = pair
    drawn = []
    monkeypatch.setattr(figures, "write", lambda figure, path: drawn.append(figure))
    data.judge.draw(data.test, tmp_path / "samples.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == ["Samples", "Held-out data"] and drawn[0].axes[0].get_xlabel() == "φ"
    shown, there = (axes.lines[0].get_xydata() for axes in drawn[0].axes)
    assert np.array_equal(shown, there) and np.allclose(there, np.degrees(data.test.reshape(-1, 2)))
    plots.plot_narrowing(model, data, tmp_path / "narrowing.png", SampleConfig(n_steps=20, seed=1))
    top, bottom = drawn[1].axes
    density = top.images[0].get_array()
    assert (density[:, 0] == 1).all() and (density[:, -1] < 0.5).mean() > 0.8  # flat, then narrow
    assert bottom.images[0].get_array().shape == (9, 8)
    plots.plot_times(model, data, tmp_path / "times.png", seed=1, count=10)
    assert len(drawn[2].axes[0].lines[0].get_ydata()) == 10


@pytest.mark.slow
def test_training_and_sampling_end_to_end(settings, tmp_path):
    settings = [*settings, *FEW_MESSAGES, "train.validate_every=1"]
    result = bfn("train", "angles", *settings, "train.max_steps=2")
    assert result.exit_code == 0, result.output
    assert "held-out nats per angle: " in result.output and "(density estimate " in result.output
    assert "held-out data, nats per angle by the density" in " ".join(result.output.split())
    out = tmp_path / "run"
    again = bfn("train", "angles", *settings, "train.max_steps=3")
    assert again.exit_code == 0 and "at step 2" in again.output, again.output
    for name in ("samples.png", "losses.png", "narrowing.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert np.load(out / "samples.npy").shape == (16, 4, 2)
    assert bfn("plot", out).exit_code == 0 and "bound, nats per angle" in bfn("evaluate", out).output
    result = bfn("evaluate", out, "model.beta_1=150")
    assert result.exit_code == 1 and "was trained with other messages" in result.output
    for command in (("evaluate", out, "--table"), ("compare", out)):
        result = bfn(*command)
        assert result.output.splitlines()[-1].startswith("error: angles have one number of steps and one sampler")
