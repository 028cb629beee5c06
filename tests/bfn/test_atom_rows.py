"""Molecules in space as rows of atoms: the model's losses and samples, runs, and fragments that grow."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bfn.atom_rows import POSITIONS, SCALE, TYPES, Growing, atoms_of, molecules_of
from bfn.configs import ConfigError, load
from bfn.data import load_data
from bfn.data.values import require_examples
from bfn.model import build_model
from bfn.molecules_3d import Structures
from bfn.results.evaluate import evaluate
from bfn.sample import sample, settings_of
from bfn.training.checkpoint import save
from bfn.training.runs import load_run
from bfn.training.trainer import Trainer
from bfn_kernels.nn import Ragged
from tests.bfn import tiny_files, workers
from tests.bfn.command import bfn
from tests.bfn.test_processes import assert_alike
from tests.bfn.tiny_settings import TINY

COUNT = 60
pytestmark = pytest.mark.usefixtures("short_validations")


def drawn(count):
    """Molecules of 1 to 12 atoms at random places, with a bond between neighbours."""
    g = torch.Generator().manual_seed(count)
    counts = 1 + torch.arange(count) % 12
    positions, types = (
        torch.randn(int(counts.sum()), 3, generator=g),
        torch.randint(7, (int(counts.sum()),), generator=g),
    )
    bonds = torch.tensor([[0, 1, 1]]).expand(int((counts > 1).sum()), 3)
    return Structures(positions, types, counts, bonds.clone(), (counts > 1).long())


@pytest.fixture
def settings(tmp_path):
    """The settings of a tiny run on random molecules, which are made already."""
    folder = tiny_files.moses(tmp_path / "data")
    save(folder / f"conformers_{COUNT}.safetensors", vars(drawn(COUNT)), {})
    more = [f"data.folder={folder}", f"data.count={COUNT}", f"out={tmp_path / 'run'}", "train.batch_size=8"]
    return [*TINY, *more, "train.final_learning_rate=null", "train.max_steps=4", "train.validate_every=2"]


@pytest.fixture
def pair(settings):
    config = load("conformers", settings)
    data = load_data(config)
    torch.manual_seed(0)
    model = build_model(config, data).eval()  # without dropout
    for parameter in model.parameters():  # a fresh network puts out zeros
        torch.nn.init.normal_(parameter, std=0.2)
    return model, data


def test_rows_have_the_atoms_in_their_order():
    molecules = drawn(5)
    rows = molecules.rows(6)
    assert rows.shape == (5, 6, 4) and ((rows[..., 3] >= 0).sum(1) == molecules.counts).all()
    atoms, ragged = atoms_of(rows)
    assert torch.equal(atoms[POSITIONS], molecules.positions) and torch.equal(atoms[TYPES], molecules.types)
    assert torch.equal(ragged.batch, molecules.batch)
    empty = torch.cat([rows, torch.full((1, 6, 4), -1.0) * torch.tensor([0, 0, 0, 1.0])])
    assert torch.equal(molecules_of(*atoms_of(empty), 6), empty)


def test_a_loss_is_the_sum_over_atoms_of_both_parts(pair):
    model, data = pair
    x, t = data.test[:4], torch.tensor([0.1, 0.4, 0.6, 0.9])
    atoms, ragged = atoms_of(x)
    atoms[POSITIONS] = ragged.centred(atoms[POSITIONS]) / SCALE
    rows = {"batch": ragged.batch, "num_examples": 4, "reduction": "batch", "seed": 3}
    parts = model.loss_by_part(atoms, t, **rows)
    got = model(x, t, seed=3, reduction="batch")
    torch.testing.assert_close(got, parts[POSITIONS] + parts[TYPES])
    torch.testing.assert_close(model(x, t, seed=3), got.mean() / 48)
    with model.counting(TYPES):
        torch.testing.assert_close(model(x, t, seed=3, reduction="batch"), parts[TYPES])
    parts = model.reconstruction_by_part(atoms, **rows)
    wider = 3 * (ragged.sizes - 1) * math.log(SCALE)
    torch.testing.assert_close(model.reconstruction(x, seed=3, reduction="batch"), sum(parts.values()) + wider)


def noiseless(model, x, *others):
    """Returns the data themselves in place of a flow, so that the network sees no noise."""
    return {POSITIONS: x[POSITIONS], TYPES: torch.nn.functional.one_hot(x[TYPES], 7).float()}


def test_a_batch_costs_the_mean_of_its_halves_as_processes_need_it(pair, monkeypatch):
    """A molecule of 12 atoms is in one half, small ones are in the other. The noise is left out."""
    model, data = pair
    x = data.train[:8][(data.train[:8, :, 3] >= 0).sum(1).argsort()]
    _, ragged = atoms_of(x)
    assert 0 < (ragged.batch < 4).sum() < (ragged.batch >= 4).sum()
    monkeypatch.setattr(type(model), "_flow", noiseless)
    whole = model.reconstruction(x, seed=1)
    halves = [model.reconstruction(half, seed=1) for half in x.chunk(2)]
    torch.testing.assert_close(whole, sum(halves) / 2)


def test_before_the_first_messages_an_error_of_the_noise_costs_nothing(pair):
    model, data = pair
    atoms, ragged = atoms_of(data.test)
    square = ragged.sums((ragged.centred(atoms[POSITIONS]) / SCALE).square().sum(1))
    with model.counting(POSITIONS):
        early = model(data.test, torch.full((len(data.test),), 1e-5), seed=1, reduction="batch")
        late = model(data.test, torch.full((len(data.test),), 1e-2), seed=1, reduction="batch")
    torch.testing.assert_close(early, -math.log(0.015) * square, rtol=1e-3, atol=0)
    assert (late - early).abs().mean() > 1


def test_molecules_of_one_atom_and_of_none_have_losses(pair):
    model, data = pair
    x = data.test[:2].clone()
    x[0, 1:, 3], x[1, :, 3] = -1, -1
    loss = model(x, torch.tensor([0.2, 0.7]), seed=1, reduction="batch")
    assert loss.isfinite().all() and loss[0] > 0 and loss[1] == 0
    assert model.reconstruction(x, seed=1, reduction="batch")[1] == 0
    x[0, 0, 0] = math.nan
    with pytest.raises(ConfigError, match="finite numbers, got nan in example 0"):
        require_examples(x, 0, "test")


def test_samples_have_the_sizes_of_the_data(pair):
    model, data = pair
    sizes = (data.train[..., 3] >= 0).sum(1).sort().values
    for count in (5, 24):
        samples = sample(model, count, 3, seed=0)
        wanted = [sizes[int((i + 0.5) * len(sizes) / count)] for i in range(count)]
        assert (samples[..., 3] >= 0).sum(1).tolist() == wanted
    atoms, ragged = atoms_of(samples)
    assert ragged.centred(atoms[POSITIONS]).sub(atoms[POSITIONS]).abs().max() < 1e-5


def test_samples_are_in_angstrom(pair):
    model, _ = pair
    asked = model.asked(5)
    rows = drawn(12).take(torch.tensor(asked["counts"]) - 1).rows(12)
    atoms, _ = atoms_of(rows)
    assert torch.equal(model.examples({**atoms, POSITIONS: atoms[POSITIONS] / SCALE}, asked), rows)


def test_a_message_speaks_of_the_fragment_where_the_network_predicts_it(pair):
    model, _ = pair
    fragment = torch.tensor([[0.0, 0, 0, 2], [0.0, 3, 4, 0]])
    ragged = Ragged.of_counts([3, 4])
    theta, noise = torch.randn(7, 3), {POSITIONS: torch.randn(7, 3), TYPES: torch.randn(7, 7)}
    t = torch.tensor([0.5, 0.9])
    plain = model.parts[POSITIONS].mode(noise[POSITIONS], theta, t[ragged.batch])
    with Growing(model, fragment):
        got = model.growing.grown(noise, {POSITIONS: theta}, t, ragged)
    positions, places = got[POSITIONS], torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(positions[[2, 5, 6]], plain[[2, 5, 6]])
    one, other = positions[places].view(2, 2, 3).unbind(1)
    torch.testing.assert_close(SCALE * (other - one), fragment[1:, :3].expand(2, 3))
    torch.testing.assert_close(one + other, plain[places].view(2, 2, 3).sum(1))
    assert got[TYPES] is noise[TYPES]


def test_molecules_are_moved_to_the_fragment(pair):
    model, _ = pair
    rows = drawn(12).take(torch.tensor([5, 7])).rows(12)
    fragment = rows[0, :3] + torch.tensor([1.0, 2, 3, 0])
    moved = Growing(model, fragment).moved(rows.clone())
    filled = rows[..., 3] >= 0
    torch.testing.assert_close(moved[0][filled[0]], rows[0][filled[0]] + torch.tensor([1.0, 2, 3, 0]))
    assert torch.equal(moved[1, :3, :3], fragment[:, :3]) and not moved[~filled][:, :3].any()


@pytest.mark.parametrize("sampler", ["ancestral", "ode1", "sde2", "renoise"])
def test_a_fragment_stays_what_it_is_in_every_sample(pair, sampler):
    model, _ = pair
    fragment = torch.tensor([[1.0, 0, 0, 2], [2.0, 1, 0, 0], [3.0, 0, 5, 1]])
    alone = sample(model, 5, 4, seed=1, sampler=sampler)
    with Growing(model, fragment):
        grown = sample(model, 5, 4, seed=1, sampler=sampler)
    torch.testing.assert_close(grown[:, :3], fragment.expand(5, 3, 4), rtol=1e-5, atol=1e-5)
    assert ((grown[..., 3] >= 0).sum(1) > 3).all() and not torch.equal(grown[:, 3:], alone[:, 3:])
    assert torch.equal(sample(model, 5, 4, seed=1, sampler=sampler), alone)  # nothing is left behind


def test_a_fragment_that_leaves_no_room_is_refused(pair):
    with pytest.raises(ConfigError, match="the known fragment must have from 1 to 11 atoms, got 12"):
        Growing(pair[0], torch.zeros(12, 4)).__enter__()
    with pytest.raises(ConfigError, match="from 1 to 11 atoms, got 0"):
        Growing(pair[0], torch.zeros(0, 4)).__enter__()


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("conformers", "model.kind=continuous", "model.kind='continuous' does not fit data.name='conformers'"),
        ("conformers", "model.kind=circular", "model.kind='circular' does not fit data.name='conformers'"),
        ("digits", "model.kind=atoms", "model.kind='atoms' does not fit data.name='digits'"),
        ("conformers", "network.name=unet", "network.name='unet' is not known; it takes one of equivariant"),
        ("conformers", "model.sigma_1=null", "model.kind='atoms' needs model.sigma_1"),
        ("conformers", "sample.choose=median", "sample.choose='median' is not known"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, name, override, message):
    with pytest.raises(ConfigError, match=message):
        config = load(name, [*(settings if name == "conformers" else TINY), override])
        build_model(config, load_data(config))


def test_a_choice_and_a_temperature_are_those_of_the_elements(pair):
    model, _ = pair
    config = load("conformers", ["sample.temperature=0.5", "sample.choose=mode"])
    assert settings_of(model, config.sample) == {"seed": 0, "choose": {TYPES: "mode"}, "temperature": {TYPES: 0.5}}


def test_a_run_is_trained_resumed_evaluated_sampled_and_plotted(settings, tmp_path):
    pytest.importorskip("rdkit")
    done = bfn("train", "conformers", *settings)
    assert done.exit_code == 0, done.output
    for words in (
        "held-out bits per atom",
        "of positions",
        "of types",
        "samples, validity",
        "independent atoms, validity",
    ):
        assert words in done.output
    out = tmp_path / "run"
    assert np.load(out / "samples.npy").shape == (4, 12, 4)
    whole, _, data = load_run(out)
    parts = [f"out={tmp_path / 'parts'}"]
    for steps in (2, 4):
        Trainer(load("conformers", [*settings, *parts, f"train.max_steps={steps}"]), data).run()
    assert_alike(tmp_path / "parts", out)
    bounds = [evaluate(whole, data.test, replace(load("conformers").evaluate, repeats=2))]
    for name in (POSITIONS, TYPES):
        with whole.counting(name):
            bounds.append(evaluate(whole, data.test, replace(load("conformers").evaluate, repeats=2)))
    assert bounds[0].bits == pytest.approx(bounds[1].bits + bounds[2].bits, rel=1e-5)
    (tmp_path / "two.xyz").write_text("2\n\nC 0 0 0\nO 1.2 0 0\n")
    grown = bfn("sample", out, "--known", tmp_path / "two.xyz", "--to", tmp_path / "grown.png")
    assert grown.exit_code == 0, grown.output
    assert (tmp_path / "grown.xyz").read_text().splitlines()[2:4] == [
        "C 0.0000 0.0000 0.0000",
        "O 1.2000 0.0000 0.0000",
    ]


@pytest.mark.slow
def test_samplers_are_compared_and_films_are_drawn(settings, tmp_path):
    pytest.importorskip("rdkit")
    assert bfn("train", "conformers", *settings).exit_code == 0
    out = tmp_path / "run"
    compared = bfn("compare", out, "--samplers", "ancestral,ode2", "--steps", "2,3")
    assert compared.exit_code == 0 and "samplers.png" in compared.output
    assert bfn("plot", out).exit_code == 0 and (out / "flow.gif").exists() and (out / "times.png").exists()
    assert bfn("evaluate", out, "--table", "--steps", "2").exit_code == 0


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(settings, tmp_path):
    more = ["data.name=conformers", "model.kind=atoms", "model.sigma_1=0.015", "network.name=equivariant"]
    more += ["network.dropout=0", "train.micro_batch=2", "train.max_steps=3", "train.validate_every=3"]
    assert workers.difference_of_two([*settings, *more], tmp_path) < 1e-5


def test_a_known_fragment_needs_molecules_in_space(tmp_path, make):
    run = make("train.max_steps=1")
    run.run()
    done = bfn("sample", run.out, "--known", tmp_path / "two.xyz")
    assert done.exit_code == 1 and "needs a model of molecules in space" in done.output
