"""Molecules as strings: their data, the model of padded sequences, guidance, and what RDKit says of samples."""

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from bfn.configs import ConfigError, SampleConfig, load
from bfn.data import download, load_data
from bfn.data.moses import MOLSETS, TOKEN
from bfn.data.ngrams import Trigrams, entropy
from bfn.data.splits import class_counts
from bfn.model import SequenceBFN, build_model
from bfn.molecules import Molecules, log_p
from bfn.results import plots
from bfn.sample import sample
from bfn.sequences import class_of, guiding, sent
from bfn_kernels.nn import Sampling
from bfn_kernels.schedules import LogarithmicAccuracy
from tests.bfn import tiny_files, workers
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY

moses_module = sys.modules["bfn.data.moses"]


@pytest.fixture
def settings(tmp_path):
    """The settings of a tiny run on a stand-in for MOSES."""
    folder = tiny_files.moses(tmp_path / "data")
    return [*TINY, f"data.folder={folder}", "data.length=24", "data.count=null", f"out={tmp_path / 'run'}"]


@pytest.fixture
def pair(settings):
    config = load("smiles_small", settings)
    data = load_data(config)
    torch.manual_seed(0)
    model = build_model(config, data)
    for parameter in model.parameters():  # the head of a fresh network puts out zeros
        torch.nn.init.normal_(parameter, std=0.3)
    return model, data


def test_a_molecule_is_divided_into_atoms_bonds_and_rings():
    tokens = TOKEN.findall("C[C@@H](Cl)c1c[nH]c%12=Br")
    assert tokens == ["C", "[C@@H]", "(", "Cl", ")", "c", "1", "c", "[nH]", "c", "%12", "=", "Br"]


def test_rows_are_the_property_the_tokens_and_padding(pair, tmp_path):
    _, data = pair
    lines = moses_module.read(tmp_path / "data" / MOLSETS.file, "train")
    assert data.train.shape == (270, 24) and len(data.validation) == 30 and len(data.test) == 40
    assert sorted(data.judge.strings(torch.cat([data.train, data.validation]))) == sorted(lines)
    assert data.symbols == ["", *sorted(set(TOKEN.findall("".join(lines))))] and data.num_classes == len(data.symbols)
    assert data.train[:, 0].tolist() == class_of(torch.linspace(-2, 6, 270), data.num_classes).tolist()
    assert not data.validation[:, 0].any() and not data.test[:, 0].any()
    assert data.judge.tokens == (data.test > 0).sum() / data.test.numel()
    assert data.lengths.equal(data.lengths.sort().values) and len(data.lengths) == 1000


def test_the_baseline_pays_only_for_tokens_as_the_bound_does(pair):
    _, data = pair
    counts = [c[1:] + 0.5 for c in class_counts(torch.cat([data.train, data.validation]), data.num_classes)]
    shares = [counts[place][c - 1] / counts[place].sum() for row in data.test for place, c in enumerate(row) if c > 0]
    assert data.baseline == pytest.approx(-sum(math.log2(share) for share in shares) / data.test.numel())


def test_bins_of_a_property_are_even_and_never_padding():
    assert class_of(torch.tensor([-9.0, -1.0, 2.0, 5.0, 9.0]), 8).tolist() == [1, 1, 4, 7, 7]


@pytest.mark.parametrize(
    ("override", "message"),
    [("data.length=6", "data.length=6 must be at least"), ("data.folder=null", "bfn data download moses")],
)
def test_data_that_cannot_be_used_are_one_line(override, message, settings):
    with pytest.raises(ConfigError, match=message):
        load_data(load("smiles_small", [*settings, override]))


def test_a_token_that_no_training_molecule_has_is_named():
    with pytest.raises(ConfigError, match="CCP has the token 'P', which no training molecule has"):
        moses_module.encode(["CCP"], ["", "C"], 5)


def test_trigrams_are_probabilities_of_counts():
    rows = torch.tensor([[1, 2, 0, 0], [1, 1, 1, 2]])
    model = Trigrams(rows, 3)
    probabilities = 2 ** model.log_probs.view(3, 3, 3)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 3).double())
    one = (torch.tensor([2, 4, 2]) + 0.5) / 9.5  # ends, then tokens
    two = (torch.tensor([0, 2, 2]) + one) / 5  # after 1
    torch.testing.assert_close(probabilities[0, 1], ((torch.tensor([0, 1, 1]) + two) / 3).double())
    likely = probabilities[0, 0, 1] * probabilities[0, 1, 2] * probabilities[1, 2, 0]
    assert model.bits(torch.tensor([[1, 2, 0, 0]])) == pytest.approx(-math.log2(likely))
    assert entropy(torch.tensor([1, 1, 2]), torch.tensor([1])) == pytest.approx(-math.log2(2.5 / 4.5))


def test_the_model_is_that_of_sequences_with_the_logarithmic_schedule(pair):
    model, data = pair
    assert isinstance(model, SequenceBFN)
    assert model.schedule == LogarithmicAccuracy(data.num_classes, 20.4054 / data.num_classes)


def test_the_network_sees_padding_and_in_training_half_of_the_properties(pair):
    model, data = pair
    x, t = data.train.long(), torch.full((len(data.train),), 0.5)
    theta, mask = model.train().flow(x, t, 3, sent(x)), sent(x)
    padding = ~mask
    padding[:, 0] = False
    assert theta[padding].argmax(-1).eq(0).all() and theta[padding].amax(-1).eq(1).all()
    assert theta[mask].amax(-1).lt(1).any() and not mask[:, 0].any()
    shown = theta[:, 0].argmax(-1)
    assert set((shown == x[:, 0]).tolist()) == {True, False} and shown[shown > 0].equal(x[shown > 0, 0])
    assert 0.4 < (shown > 0).float().mean() < 0.6
    assert model.eval().flow(x, t, 3, mask)[:, 0].argmax(-1).eq(0).all()


def test_only_tokens_cost_bits_and_means_are_over_all_places(pair):
    model, data = pair
    x, how = data.test, {"t": torch.full((len(data.test),), 0.4), "seed": 1}
    for loss in (lambda **more: model.eval()(x, **how, **more), lambda **more: model.reconstruction(x, seed=1, **more)):
        each = loss(reduction="none")
        assert each[~sent(x)].eq(0).all() and each[sent(x)].gt(0).all()
        torch.testing.assert_close(loss(), each.mean())
        torch.testing.assert_close(loss(reduction="batch"), each.sum(1))


def test_samples_have_the_lengths_of_training_molecules(pair):
    model, data = pair
    model.network.forward = lambda theta, t: one_hot(torch.ones(theta.shape[:2]).long(), data.num_classes) * 30.0
    for sampler in ("ancestral", "ode2"):
        drawn = sample(model, 200, 3, seed=1, sampler=sampler)
        lengths = (drawn > 0).sum(1)
        assert not drawn[:, 0].any() and drawn.equal((torch.arange(24) > 0) & (torch.arange(24) <= lengths[:, None]))
        wanted = data.lengths[torch.linspace(2, 997, 200).long()]
        assert (lengths.sort().values - wanted).abs().max() <= 1


def test_guidance_goes_from_the_network_that_does_not_know_the_property_to_the_one_that_does_and_beyond(pair):
    model, data = pair
    theta, t = model.eval().flow(data.test[:5], torch.full((5,), 0.3), 1, sent(data.test[:5])), torch.full((5,), 0.3)
    told = theta.clone()
    told[:, 0] = one_hot(torch.tensor(4), data.num_classes)
    free, knowing = model.output(theta, t), model.output(told, t)
    assert (free - knowing).abs().max() > 0.01
    assert model.output(theta, t, cond=4).equal(knowing)
    for strength in (0.0, 1.0, 2.5):
        options = guiding(model, SampleConfig(guide="logp=5", guidance=strength))
        assert options["cond"] == data.num_classes - 1
        got = model.guided_output(theta, t, Sampling(**options | {"cond": 4}))
        torch.testing.assert_close(got, torch.lerp(free, knowing, strength))


def test_pictures_of_a_run_follow_the_guide(pair, tmp_path, monkeypatch):
    model, data = pair
    passed, draw = [], plots.sample
    monkeypatch.setattr(plots, "sample", lambda *run, **more: passed.append(more) or draw(*run, **more))
    options = SampleConfig(guide="logp=5", guidance=3.0, n_steps=2)
    plots.plot_narrowing(model, data, tmp_path / "narrowing.png", options)
    plots.animate_flow(model, data, tmp_path / "flow.gif", options, count=2)
    assert [(more["cond"], more["guidance"]) for more in passed] == [(data.num_classes - 1, 2.0)] * 2


@pytest.mark.parametrize("guide", ["qed=0.5", "logp", "logp=high", "logp=nan", "logp=100"])
def test_a_guide_that_means_nothing_is_refused(guide, pair):
    with pytest.raises(ConfigError, match=f"sample.guide={guide} must be logp=NUMBER"):
        guiding(pair[0], SampleConfig(guide=guide))


def test_a_property_is_computed_by_one_of_several_processes(tmp_path, monkeypatch):
    computed = []

    def slow(molecules):
        time.sleep(0.2)
        computed.append(molecules)
        return torch.arange(2.0)

    monkeypatch.setattr(moses_module, "log_p", slow)
    with ThreadPoolExecutor(2) as pool:  # locks of two opened files exclude each other in one process, too
        found = list(pool.map(lambda _: moses_module.property_of(["C", "CC"], tmp_path), range(2)))
    assert len(computed) == 1 and [each.tolist() for each in found] == [[0, 1], [0, 1]]
    np.save(tmp_path / "moses_logp_2.npy", np.zeros(3))
    with pytest.raises(ConfigError, match="is damaged, or is not an array of 2 numbers"):
        moses_module.property_of(["C", "CC"], tmp_path)


def test_logp_keeps_one_molecule_at_a_time_in_memory(monkeypatch):
    pytest.importorskip("rdkit")
    events = []

    def strings():
        for _ in range(3):
            events.append("parsed")
            yield "C"

    monkeypatch.setattr("rdkit.Chem.Crippen.MolLogP", lambda molecule: events.append("computed") or 0.0)
    log_p(strings())
    assert events == ["parsed", "computed"] * 3


def test_two_processes_take_the_steps_of_one(settings, tmp_path):
    more = ["data.name=moses", "model.kind=discrete", "model.sigma_1=null", "model.schedule=logarithmic"]
    more += ["network.name=transformer", "train.max_steps=3", "train.validate_every=3", "train.micro_batch=8"]
    assert workers.difference_of_two([*settings, *more], tmp_path) < 1e-5


def test_a_download_that_fails_and_rdkit_that_is_missing_are_one_line(tmp_path, monkeypatch, settings):
    failed = SimpleNamespace(returncode=1, stderr="much\nERROR: no such package\n")
    monkeypatch.setattr(download.subprocess, "run", lambda *arguments, **how: failed)
    result = bfn("data", "download", "moses", "--folder", tmp_path)
    assert result.output == "error: pip could not download molsets==0.3.1: ERROR: no such package\n"
    monkeypatch.setitem(sys.modules, "rdkit", None)
    next(tmp_path.glob("data/*.npy")).unlink()
    result = bfn("train", "smiles_small", *settings)
    assert result.output == "error: molecules need rdkit, which is missing: pip install rdkit\n"


SYMBOLS = ["", "C", "O", "N", "1", "(", ")", "c", "2"]


def judge(train=(), references=("CCO",)):
    splits = {"train": list(train), "test": list(references), "test_scaffolds": list(references)}
    return Molecules(symbols=SYMBOLS, read=splits.__getitem__, tokens=0.5, trigrams=2.0, lengths=0.1)


def rows(*strings):
    encoded = moses_module.encode(strings, SYMBOLS, 16)
    return encoded.long()


def test_bits_per_token_are_those_of_the_tokens_and_of_the_length():
    assert judge().worth(0.8) == pytest.approx(1.7)


def test_measures_of_samples():
    pytest.importorskip("rdkit")
    measured = judge(train=["CCO"]).measures(rows("CCO", "OCC", "CCN", "C1CC", "", "C(C)(C)(C)(C)C"))
    assert measured["validity"] == 0.5 and measured["uniqueness"] == pytest.approx(2 / 3)
    assert measured["novelty"] == 0.5 and 0 < measured["internal diversity"] < 1
    assert measured["fragments, test"] == pytest.approx(2 / math.sqrt(5))  # two CCO and one CCN
    assert math.isnan(measured["scaffolds, test"])
    assert measured["mean logP"] == pytest.approx((-0.0014 * 2 - 0.035) / 3, abs=1e-3)
    rings = judge(references=["c1ccc2ccccc2c1"]).measures(rows("Cc1ccc2ccccc2c1", "Cc1ccc2ccccc2c1", "c1ccccc1"))
    assert rings["scaffolds, test"] == 1 and rings["uniqueness"] == pytest.approx(2 / 3)
    assert judge().measures(rows("CC", "CC"))["internal diversity"] == 0
    assert judge().measures(rows("(")) == {"validity": 0}
    share, error, more = judge(train=["C"]).score(rows("CC", "C", "(", "1"))
    assert error == pytest.approx(0.5 / math.sqrt(4))  # of a share of one half
    assert (share, more["uniqueness"], more["novelty"]) == (0.5, 1, 0.5)


def test_training_sampling_and_comparing_end_to_end(settings, tmp_path):
    pytest.importorskip("rdkit")
    result = bfn("train", "smiles_small", *settings, "train.max_steps=2", "train.validate_every=1")
    assert result.exit_code == 0, result.output
    assert "held-out bits per token: " in result.output and "validity" in result.output
    out = tmp_path / "run"
    assert len((out / "samples.smi").read_text().splitlines()) == 4
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")
    result = bfn("sample", out, "--guide", "logp=3", "--to", tmp_path / "guided.png")
    assert result.exit_code == 0 and (tmp_path / "guided.smi").exists(), result.output
    result = bfn("compare", out, "--samplers", "ode2", "--steps", "2,3", "--guide", "logp=3")
    assert result.exit_code == 0 and "valid" in result.output, result.output  # a narrow table cuts words off
    assert result.output.count("ode2") == 4 and result.output.count("logp=3") == 2, result.output
    assert bfn("evaluate", out).exit_code == 0 and bfn("plot", out).exit_code == 0
