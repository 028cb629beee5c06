"""Texts over a vocabulary of byte pairs: the data, the model that never stores a number for each class of each token,
and what a run keeps of its tokenizer."""

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bfn import cli, model
from bfn.configs import ConfigError, load
from bfn.data import byte_pairs, load_data
from bfn.data.splits import frequencies, readable
from bfn.model import DiscreteBFN, VocabularyBFN, build_model
from bfn.training import checkpoint
from bfn.training.checkpoint import CheckpointError
from bfn.training.runs import MODEL_FILE, STATE_FILE, data_of
from bfn.training.trainer import Trainer
from bfn_kernels import discrete
from bfn_kernels.schedules import final_accuracy
from bfn_kernels.vocabulary import tiles
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY

SETTINGS = ["data.vocabulary=300", "data.length=8", "data.file=play.txt"]
TEXT = "To be, or not to be: that is the “question” – Être ou ne pas être? [bold]$x_1$\n\tWhether 'tis nobler. " * 40


@pytest.fixture(autouse=True)
def large(monkeypatch):
    monkeypatch.setattr(model, "LARGE", 257)


@pytest.fixture
def settings(tiny, tmp_path):
    def make(*overrides, text=TEXT):
        (tmp_path / "play.txt").write_text(text)
        return tiny("text_bpe", f"data.folder={tmp_path}", *SETTINGS, *overrides)

    return make


def test_the_text_that_ships_has_8000_classes_and_every_character(tiny):
    data = load_data(tiny("text_bpe"))
    assert data.num_classes == len(data.symbols) == 8000 and data.shape == (64,)
    assert len({bytes(s) for s in data.symbols}) == 8000
    text = "".join(readable(data.symbols[c] for c in row) for row in data.test.tolist())
    assert "with" in text and "\n" in text and "�" not in text
    assert data.token_bytes == pytest.approx(
        sum(len(data.symbols[c]) for c in data.test.flatten()) / data.test.numel(), rel=0.02
    )
    assert 9 < data.baseline < 10


def test_tokens_are_the_text(settings):
    data = load_data(settings())
    start = "".join(readable(data.symbols[c] for c in data.train[0].tolist()))
    assert TEXT.startswith(start) and len(start) > 8
    assert data.train[1, :-1].equal(data.train[0, 1:])
    assert data.baseline / data.token_bytes < 8


def test_the_vocabulary_is_learned_of_what_is_trained_on(settings):
    ends = (end.ljust(len(TEXT) // 10, end[-1]) for end in ("zyzzyva " * 20, "abacaba " * 20))
    one, other = (load_data(settings(text=TEXT + end)) for end in ends)
    assert one.tokenizer == other.tokenizer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data.vocabulary=256", "data.vocabulary=256 must be more than 256, since each byte is an entry"),
        ("data.file=none.txt", "has no none.txt"),
        ("data.folder=null", "data.file=play.txt needs data.folder="),
    ],
)
def test_settings_that_no_text_has_are_refused(settings, content, message):
    with pytest.raises(ConfigError, match=message):
        load_data(settings(content))


def test_a_file_that_is_no_text_is_refused(settings, tmp_path):
    config = settings()
    (tmp_path / "play.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"play\.txt is damaged, or is not a text in UTF-8"):
        load_data(config)


def test_windows_longer_than_a_training_split_of_few_tokens_are_refused(settings):
    other = "".join(map(chr, range(33, 127)))  # training data have no such pairs, so each letter is a token
    with pytest.raises(ConfigError, match=r"data.length=8 must be at most [1-7], the length of the shortest split"):
        load_data(settings(text="a" * 1024 + other))


def test_a_saved_tokenizer_is_the_one_that_was_learned():
    learned = byte_pairs.learn(TEXT, 400)
    again = byte_pairs.parsed(learned.to_str())
    for text in (TEXT, "日本 \x00\r\n", ""):
        assert again.encode(text).ids == learned.encode(text).ids
        assert b"".join(byte_pairs.pieces(again)[c] for c in again.encode(text).ids) == text.encode()


def test_what_is_no_tokenizer_is_refused():
    good = json.loads(byte_pairs.learn("", 256).to_str())["model"]
    few = {entry: number for entry, number in good["vocab"].items() if number < 255}
    for bad in (
        "",
        "[]", "{}", '{"model": {"vocab": "/etc/hosts", "merges": []}}', '{"model": {"vocab": {"a": 1}, "merges": []}}',
        json.dumps({"model": {"vocab": few, "merges": []}}),
        json.dumps({"model": {"vocab": good["vocab"] | {"日": 256}, "merges": []}}),
        json.dumps({"model": {"vocab": good["vocab"], "merges": [["a", "b"]]}}),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match="the checkpoint's tokenizer cannot be used"):
            byte_pairs.parsed(bad)


def test_text_neither_steers_a_terminal_nor_is_broken():
    assert readable([b"\x1b[31m", "é".encode()[:1], "é".encode()[1:], b"\n", b"\xff", "a"]) == "�[31mé\n�a"


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that is made within it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.count = max(self.count, tensor.numel())
        return result


def test_training_stores_nothing_for_each_class_of_each_token(settings, monkeypatch):
    config = settings("network.width=8")
    data, batch = load_data(config), 64
    monkeypatch.setattr(tiles, "NUMBERS", {"cpu": 2**13})
    monkeypatch.setattr(tiles, "TOKENS", 64)
    for least in (257, 10**6):
        monkeypatch.setattr(model, "LARGE", least)
        built = build_model(config, data)
        assert type(built) is (VocabularyBFN if least == 257 else DiscreteBFN)
        x, numbers = data.train[:batch].long(), batch * 8 * data.num_classes
        with Largest() as largest:
            built(x, seed=1).backward()
        assert (largest.count >= numbers) == (least > 257)


def test_a_model_costs_at_first_what_unigrams_cost(settings):
    """Then all messages cost what unigrams cost."""
    config = settings("network.width=64", "network.dropout=0")
    data = load_data(config)
    torch.manual_seed(0)
    built = build_model(config, data).eval()
    p = frequencies(data).double()
    x = data.train[torch.arange(0, len(data.train), 11)].long()
    unigrams = -p.log()[x].mean().item()
    with torch.no_grad():
        t = torch.zeros(len(x))
        seen = built.flow(x, t, 1)
        start = built.logits(built.output(seen, t), torch.zeros(1)).softmax(-1)
        torch.testing.assert_close(start, p.float().expand_as(start))
        # At t = 1, the mean of the rows is all but the row of x.
        late = built.flow(x, t + 1, 1).vectors
        row = built.embedding.weight[x]
        assert torch.linalg.vector_norm(late / late[..., :1] - row, dim=-1).median() < 0.1
        bounds = [built(x, seed=i) + built.reconstruction(x, seed=-i) for i in range(1, 61)]
    bound, error = torch.stack(bounds).mean().item(), torch.stack(bounds).std().item() / 60**0.5
    assert bound == pytest.approx(unigrams, abs=3 * error) and error < 0.005 * unigrams
    assert built.schedule.beta_1 == final_accuracy(data.num_classes)


def test_a_fresh_sampler_sees_in_its_state_what_training_shows(settings):
    """The vectors of a state are those of the flow that has it as its sample."""
    data = load_data(settings())
    built = build_model(settings(), data)
    state = built.prior((2, 8), torch.device("cpu"))
    x = torch.zeros(2, 8, dtype=torch.int64)
    torch.testing.assert_close(built.theta(state).vectors, built.flow(x, torch.zeros(2), 1).vectors)


@pytest.mark.slow
def test_a_run_is_trained_told_in_bytes_and_continued_in_its_own_tokens(tmp_path, monkeypatch):
    (tmp_path / "play.txt").write_text(TEXT)
    shared = [f"data.folder={tmp_path}", *TINY, *SETTINGS]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = bfn("train", "text_bpe", f"out={whole}", "train.max_steps=2", *shared)
    assert result.exit_code == 0, result.output
    said = re.search(r"^held-out bits per byte: (\d\.\d+) \(unigrams (\d\.\d+)\)$", result.output, re.M)
    data = load_data(cli.load(*["text_bpe", shared]))
    assert float(said[2]) == pytest.approx(data.baseline / data.token_bytes, abs=1e-3)
    with monkeypatch.context() as patched:
        patched.setattr(cli, "plotted", lambda *of_run: [])  # pictures take longer than all else
        assert bfn("train", "text_bpe", f"out={parts}", "train.max_steps=1", *shared).exit_code == 0
        result = bfn("train", "text_bpe", f"out={parts}", "train.max_steps=2", *shared)
    assert result.exit_code == 0 and "at step 1" in result.output
    (tensors, state), (tensors_whole, _) = checkpoint.load(parts / STATE_FILE), checkpoint.load(whole / STATE_FILE)
    assert all(tensors[name].equal(tensor) for name, tensor in tensors_whole.items())
    # Samples of a run are drawn in the tokens of its own file, also when the text has become another one.
    (tmp_path / "play.txt").write_text(TEXT.replace("be", "exist"))
    result = bfn("sample", parts, "sample.count=1", "sample.n_steps=1")
    assert result.exit_code == 0, result.output
    assert checkpoint.load(parts / MODEL_FILE)[1]["tokenizer"] == state["tokenizer"] == data.tokenizer
    assert bfn("plot", parts, "sample.n_steps=3").exit_code == 0
    result = bfn("evaluate", parts, "--table", "--steps", "2", "evaluate.repeats=1")
    assert result.exit_code == 0 and "∞" in result.output and f"plot: {parts / 'bounds.png'}" in result.output


def test_a_run_of_other_tokens_is_not_continued(settings):
    config = settings("train.max_steps=1")
    data = load_data(config)
    few = replace(data, validation=data.validation[:2])
    Trainer(config, few).run()
    with pytest.raises(CheckpointError, match="holds a run with other tokens"):
        Trainer(config, replace(few, tokenizer="{}"))


def test_a_run_goes_on_with_its_tokenizer(settings):
    """The text may have changed since the run began. A run on other data has no tokenizer for this text."""
    began, config = load_data(settings(text=TEXT.upper())), settings()
    state = {"config": asdict(config), "tokenizer": began.tokenizer}
    checkpoint.save(Path(config.out) / STATE_FILE, {}, state)
    assert data_of(config).tokenizer == began.tokenizer != load_data(config).tokenizer
    assert data_of(config, fresh=True).tokenizer == load_data(config).tokenizer
    state["config"]["data"]["name"] = "another"
    checkpoint.save(Path(config.out) / STATE_FILE, {}, state)
    assert data_of(config).tokenizer == load_data(config).tokenizer


def test_only_byte_pairs_take_the_tokenizer_of_a_run(settings, monkeypatch):
    """A user's function may make data with a tokenizer, and `bfn evaluate` may name other data than a run was
    trained on. Both functions take a configuration alone."""
    config = settings()
    data = load_data(config)
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(tokens=lambda config: data))
    assert load_data(replace(config, data=replace(config.data, name="mine:tokens")), data.tokenizer) is data
    assert load_data(load("text"), data.tokenizer).tokenizer is None
    few = byte_pairs.learn("", 256).to_str()
    assert load_data(config, few).tokenizer == few and load_data(config, few).num_classes == 256


def test_messages_and_frequencies_make_the_model(settings):
    """The network sees the mean of the embedding under both. Its output follows the messages, and starts as the
    distribution that both of them make."""
    config = settings("network.dropout=0")
    data = load_data(config)
    torch.manual_seed(0)
    built, x, t = build_model(config, data), data.train[:6].long(), torch.linspace(0, 0.9, 6)
    seen = built.flow(x, t, 3)
    y = discrete.flow_sample(x, t, num_classes=data.num_classes, schedule=built.schedule, output="logits", seed=3)
    both = (y + frequencies(data).log()).softmax(-1)
    vectors = seen.vectors / seen.vectors[..., :1]
    torch.testing.assert_close(vectors, both @ built.embedding.weight, rtol=1e-3, atol=1e-4)
    known = torch.cat([vectors, torch.ones(6, 8, 1)], -1)  # a network that follows the messages once
    got = built.continuous_time_loss(x, known, seen, t, reduction="none")
    want = discrete.continuous_time_loss(x, both.log(), t, schedule=built.schedule, reduction="none")
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
