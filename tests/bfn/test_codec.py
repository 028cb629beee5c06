"""Files of `bfn compress` hold the examples, and are as large as the bound says."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from bfn.codec.codec import Codec, Factorised, Ladder
from bfn.codec.commands import counts_of
from bfn.codec.container import HEADER, FileError, Run, compress, decompress, runs_of, sealed, split
from bfn.codec.models import CodedBins, CodedBits, CodedClasses, coded
from bfn.codec.rans import Stack
from bfn.configs import ConfigError, load
from bfn.data import load_data
from bfn.model import build_model
from bfn.training.runs import MODEL_FILE
from bfn_kernels import binary, continuous, discrete
from bfn_kernels.coding import PRECISION
from docs.pictures import compression
from tests.bfn.command import bfn
from tests.bfn.test_codec_intervals import RANDOM, content, filled, reseed
from tests.bfn.tiny_settings import TINY

seed = pytest.fixture(autouse=True)(reseed)


def made(name):
    """A model with random weights, its data, and counts."""
    config = load(name, [*TINY, "network.dropout=0", *["data.length=6"] * (name == "text")])
    data = load_data(config)
    torch.manual_seed(1)
    by = coded(build_model(config, data))
    return by, by.to_levels(data.test), counts_of(by, data)


@pytest.fixture(scope="module", params=["digits", "digits_binary", "text"])
def model(request):
    return made(request.param)


@pytest.fixture(scope="module")
def small():
    """For tests of the format, which is the same for all models."""
    return made("digits_binary")


def test_what_the_network_sees(model):
    """The state without noise, A·x, is the input distribution of the model's own flow without noise."""
    by, levels, _ = model
    x, t = by.from_levels(levels[:5]), torch.full((5,), 0.7)
    accuracy = by.accuracy(torch.tensor(0.7, dtype=torch.float64)).item()
    assert by.time_of(accuracy) == pytest.approx(0.7)
    state = torch.from_numpy(accuracy * by.values(levels[:5])).view(*by.shape_of_states(5))
    op, more = {
        CodedBits: (binary.flow_sample, {}),
        CodedBins: (continuous.flow_sample, {}),
        CodedClasses: (discrete.flow_sample, {"num_classes": by.levels}),
    }[type(by)]
    want = op(x, t, schedule=by.model.schedule, noise=torch.zeros(by.shape_of_states(5)), **more)
    torch.testing.assert_close(by.theta(state, accuracy).float(), want)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_examples_cost_what_the_bound_says(model, n_steps):
    by, levels, _ = model
    codec, levels, repeats = Codec(by, n_steps, 0.2), levels[:48], 4  # a random network costs less on coarse lattices
    bits = 0.0
    for _ in range(repeats):
        stack = filled(words=40_000)
        before, heads, held = stack.to_bytes(), stack.heads.copy(), content(stack)
        codec.encode(stack, levels)
        bits += (content(stack) - held) / repeats
        assert (codec.decode(stack, 48) == levels).all()
        assert stack.to_bytes() == before and (stack.heads == heads).all()
    with torch.no_grad():
        x, nats = by.from_levels(levels), 0.0
        for r in range(repeats):
            nats += by.model.reconstruction(x, seed=r, reduction="batch").sum().item()
            for i in range(n_steps):
                t, seed = torch.full((48,), i / n_steps), n_steps * r + i
                nats += by.model(x, t, seed=seed, n_steps=n_steps, reduction="batch").sum().item() / n_steps
    assert bits == pytest.approx(nats / repeats / math.log(2), rel=0.03)


def test_a_file_holds_the_examples(model):
    by, levels, counts = model
    for size in (0, 1, 200):
        encoded = compress(by, levels[:size], counts, n_steps=2, largest=16)
        assert encoded.first + sum(encoded.sizes) == size and max(encoded.sizes, default=0) <= 16
        assert (decompress(by, encoded.data, counts) == levels[:size]).all()
    assert encoded.sizes  # some examples were encoded by the network


@pytest.mark.parametrize(
    ("n_steps", "messages"), [(1, [1]), (6, [1, 3, 6]), (1000, [1, 3, 7, 15, 31, 62, 125, 250, 500, 1000])]
)
def test_stages_of_a_file(small, n_steps, messages, monkeypatch):
    by, levels, _ = small
    monkeypatch.setattr("bfn.codec.codec.DRAWN", 50)  # so that an example has more heads than one
    ladder = Ladder(by, n_steps, 1.5)
    stages = [*range(ladder.stages)]
    assert [ladder.codec(stage).n for stage in stages] == messages + [n_steps] * 6
    assert [*map(ladder.size, stages)] == [1] * len(messages) + [2, 4, 8, 16, 32, 64]
    assert stages[-1] < 16  # four bits of the file
    heads = ladder.codec(ladder.full).need // 50
    assert [*map(ladder.heads, stages)] == [1] * ladder.full + [heads << i for i in range(7)] and heads > 1
    for stage in stages:
        need = ladder.size(stage) * ladder.codec(stage).need
        enough = -(-(need + ladder.heads(stage) * 101) // 32)
        assert ladder.best(filled(words=enough, lanes=0), 64) == stage
        assert ladder.best(filled(words=enough - 1, lanes=0), 64) == (stage - 1 if stage else None)
        stack = filled(words=enough - 2, lanes=0)
        stack.heads = np.zeros(2, np.uint64)  # heads that are there need not be made
        assert ladder.best(stack, 64) == stage
        if n_steps < 10:
            stack = filled(words=enough, lanes=0)
            stack.add_heads(ladder.heads(stage))
            ladder.codec(stage).encode(stack, levels[: ladder.size(stage)])  # the stack has enough bits
    assert ladder.best(filled(words=100_000, lanes=0), 5) == ladder.full + 2


def test_examples_of_few_messages_come_first(small):
    """Frequencies encode no more examples than the first stage needs."""
    by, levels, counts = small
    encoded = compress(by, levels[:200], counts, n_steps=20)
    _, runs, *_ = split(encoded.data)
    stages = [run.stage for run in runs]
    assert stages[0] == 0 and max(stages) > 4
    ladder, factorised, stack = Ladder(by, 20, 1.5), Factorised(counts), Stack(PRECISION)
    for each in levels[: encoded.first]:
        assert ladder.best(stack, 1) is None
        factorised.encode(stack, each)
    assert ladder.best(stack, 1) == 0


def test_runs_of_batches(small):
    by, levels, _ = small
    ladder, stages = Ladder(by, 2, 1.5), [0] + [1] * 33 + [2] * 3
    runs = [*runs_of(stages, ladder, levels[:40])]
    assert [(run.stage, run.batches) for run in runs] == [(0, 1), (1, 16), (1, 16), (1, 1), (2, 3)]
    assert [Run.of_bytes(*run.to_bytes()) for run in runs] == runs
    ends = [0, 1, 17, 33, 34, 40]
    for run, start, end in zip(runs, ends, ends[1:], strict=False):
        assert run == Run.of_levels(run.stage, run.batches, levels[start:end])


def changed(data, place):
    """With another bit at this place."""
    return data[:place] + bytes([data[place] ^ 1 << RANDOM.integers(8)]) + data[place + 1 :]


def test_a_damaged_file_is_an_error(small):
    by, levels, counts = small
    whole = compress(by, levels[:200], counts, n_steps=1).data
    for data in (b"", b"PNG", *(changed(whole, place) for place in range(4))):
        with pytest.raises(FileError, match="this is no file of `bfn compress`"):
            decompress(by, data, counts)
    cut = (whole[:end] for end in (4, 20, HEADER.size + 4, len(whole) - 1))
    places = RANDOM.integers(4, len(whole), 300)
    for data in (whole + b"1234", *cut, *(changed(whole, place) for place in places)):
        with pytest.raises(FileError, match="the file is damaged"):
            decompress(by, data, counts)


def test_a_file_that_was_made_to_deceive_is_an_error(small):
    """Its checksum fits. It never holds other examples in silence."""
    by, levels, counts = small
    content = compress(by, levels[:200], counts, n_steps=1).data[:-4]
    many_steps = slice(13, 15), b"\xff\xff"
    others = 17, 18, 13, 14  # many threads or steps take long
    first = [place for place in range(4, HEADER.size) if place not in others]
    for place in (*first, *RANDOM.integers(HEADER.size, len(content), 12)):
        try:
            got = decompress(by, sealed(changed(content, place)), counts)
        except FileError:
            continue
        assert np.array_equal(got, levels[:200])  # a part that is not read, such as the name of the software
    no_stage = slice(HEADER.size, HEADER.size + 1), b"\x0f"
    for place, wrong in (many_steps, no_stage):
        with pytest.raises(FileError, match="the file is damaged"):
            decompress(by, sealed(content[: place.start] + wrong + content[place.stop :]), counts)


def test_words_that_are_left_are_an_error(small):
    by, levels, counts = small
    data = compress(by, levels[:200], counts, n_steps=1).data
    *_, stack = split(data)
    start = data[: -4 - len(stack)] + stack[:8]
    with pytest.raises(FileError, match="the examples are not what was encoded"):
        decompress(by, sealed(start + b"left" + stack[8:]), counts)


def test_another_model_or_other_counts_are_refused(small):
    by, levels, counts = small
    data = compress(by, levels[:3], counts, n_steps=2).data
    with pytest.raises(FileError, match="another model, or with other training data"):
        decompress(by, data, counts + 1)


def test_a_file_says_which_software_wrote_it(small, monkeypatch):
    by, levels, counts = small
    monkeypatch.setattr("bfn.codec.container.software", lambda: "1.0")
    data = compress(by, levels[:200], counts, n_steps=1).data
    monkeypatch.undo()
    assert (decompress(by, data, counts) == levels[:200]).all()  # if it decodes, nothing is said
    with pytest.raises(
        FileError, match=r"cannot be decoded: .*; torch, bfn and the processor were 1\.0 when it was written, and are 2"
    ):
        decompress(by, sealed(changed(data[:-4], len(data) - 30)), counts)


def test_frequencies_of_the_first_examples():
    counts = np.array([[0, 8], [8, 0], [4, 4]])
    factorised, stack = Factorised(counts), Stack(PRECISION)
    for levels in ([0, 1, 1], [1, 0, 1]):
        factorised.encode(stack, np.array(levels))
    assert [factorised.decode(stack).tolist() for _ in range(2)] == [[1, 0, 1], [0, 1, 1]]
    assert (stack.size, stack.scalar) == (0, 1 << 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    result = bfn("train", "digits_binary", *TINY, f"out={out}", "train.max_steps=2", "evaluate.repeats=2")
    assert result.exit_code == 0, result.output
    return out


def test_commands(run, tmp_path):
    """The file is decoded by another process."""
    source, to, back = tmp_path / "levels.npy", tmp_path / "file.bfn", tmp_path / "back.npy"
    result = bfn("compress", run, "--to", to, "--steps", "3", "--count", "60")
    assert result.exit_code == 0 and f"file: {to}" in result.output, result.output
    for part in ("digits_binary, 60 examples", "file", "bound, 3 steps", "raw", "gzip", "xz", "verifying"):
        assert part in result.output
    options = ["decompress", to, "--run", run / MODEL_FILE, "--to", back]
    subprocess.run([sys.executable, "-m", "bfn", *map(str, options)], check=True, capture_output=True)
    levels = np.load(back)
    assert levels.shape == (60, 8, 8) and levels.dtype == np.uint8
    np.save(source, levels)
    result = bfn("compress", run, source, "--to", tmp_path / "again.bfn", "--steps", "3")
    assert result.exit_code == 0 and (tmp_path / "again.bfn").read_bytes() == to.read_bytes()


def test_the_picture_of_the_guide(run, tmp_path, monkeypatch):
    for name, value in (("SIZES", (1, 2)), ("STEPS", 2), ("SHOWN", (0, 1, 2))):
        monkeypatch.setattr(compression, name, value)
    assert compression.picture(run, tmp_path / "picture.png").stat().st_size > 10_000


def test_wrong_files_are_one_line(run, tmp_path):
    to, source = tmp_path / "file.bfn", tmp_path / "levels.npy"
    for wrong, said in (
        (np.zeros((2, 8, 8)), "must hold whole numbers from 0 to 1 of shape [N, 8, 8], got float64 [2, 8, 8]"),
        (np.zeros((2, 8), int), "got int64 [2, 8]"),
        (np.full((2, 8, 8), 2), "got 2 to 2"),
        (np.zeros((0, 8, 8), int), "got no examples"),
        (np.array([None, 1]), "must be an .npy file of whole numbers"),
    ):
        np.save(source, wrong, allow_pickle=True)
        result = bfn("compress", run, source, "--to", to)
        assert result.exit_code == 1 and said in result.stderr and not to.exists()
    result = bfn("decompress", source, "--run", run, "--to", to)
    assert result.exit_code == 1 and "this is no file of `bfn compress`" in result.stderr and not to.exists()
    assert "--split=all must be one of train, validation, test" in bfn("compress", run, "--split", "all").stderr


def test_data_without_bits_are_refused():
    for name, more, said in (
        ("digits_continuous", [], "got continuous data of 17 levels or classes .continuous data have a density"),
        ("text_bpe", ["data.vocabulary=300"], "got discrete data of 300 levels or classes"),
    ):
        config = load(name, [*TINY, *more])
        with pytest.raises(ConfigError, match=said):
            coded(build_model(config, load_data(config)))


def test_a_file_of_another_number_of_threads_is_decoded_with_it(small, monkeypatch):
    by, levels, counts = small
    here, used = torch.get_num_threads(), []
    monkeypatch.setattr(by, "output", lambda *given: used.append(torch.get_num_threads()) or original(*given))
    original = type(by).output.__get__(by)
    try:
        torch.set_num_threads(here + 1)
        data = compress(by, levels[:200], counts, n_steps=1).data
        torch.set_num_threads(here)
        used.clear()
        assert (decompress(by, data, counts) == levels[:200]).all()
        assert {*used} == {here + 1} and torch.get_num_threads() == here
    finally:
        torch.set_num_threads(here)
