"""Files of `bfn compress` hold the examples, and are as large as the bound says."""

import math
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bfn.codec.codec import Codec, Factorised
from bfn.codec.commands import counts_of
from bfn.codec.container import HEADER, FileError, compress, decompress, sealed, split
from bfn.codec.intervals import ONE, PRECISION, UNIT, Classes, Joint, Mixtures, Normals, normal_cdf, table
from bfn.codec.lattice import steps_of
from bfn.codec.models import CodedBins, CodedBits, CodedClasses, coded
from bfn.codec.rans import Stack, StackError
from bfn.configs import ConfigError, load
from bfn.data import load_data
from bfn.model import build_model
from bfn.training.runs import MODEL_FILE
from bfn_kernels import binary, continuous, discrete
from docs.pictures import compression
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY

RANDOM = np.random.default_rng()


@pytest.fixture(autouse=True)
def seed():
    RANDOM.bit_generator.state = np.random.default_rng(3).bit_generator.state


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


def filled(lanes=16, words=5000):
    """A stack of random words, whose heads are open."""
    stack = Stack(PRECISION, RANDOM.integers(0, 1 << 32, words, dtype=np.uint32))
    stack.add_heads(lanes)
    return stack


def content(stack):
    """The bits that the stack and its heads hold."""
    return stack.bits + np.log2(stack.heads.astype(float)).sum() + math.log2(stack.scalar)


def test_a_stack_gives_back_what_was_pushed():
    stack, cells = filled(), Classes(RANDOM.dirichlet([0.3] * 9, 500))
    before, symbols = stack.to_bytes(), RANDOM.integers(0, 9, 500)
    heads = stack.heads.copy()
    start, frequency = cells.intervals(symbols)
    held = content(stack)
    stack.push(start, frequency)
    assert content(stack) - held == pytest.approx((PRECISION - np.log2(frequency)).sum(), abs=0.1)
    stack.close_heads()
    stack = Stack.of_bytes(stack.to_bytes(), PRECISION)
    stack.reopen_heads(16)
    assert (cells.pop(stack) == symbols).all()
    assert (stack.heads == heads).all() and stack.to_bytes() == before
    stack.remove_heads(16)
    assert stack.size < 5000
    stack.remove_heads(0)
    assert stack.size == 5000


def test_a_full_head():
    """At the limit, a head gives a word to the stack before a symbol is pushed: otherwise it would overflow."""
    stack, width = filled(lanes=1), 77
    stack.heads[0] = head = np.uint64(width << (64 - PRECISION))
    stack.push(np.array([5]), np.array([width]))
    assert stack.pop(1, lambda slot, which: (np.zeros(1, int), np.array([5]), np.array([width]))).tolist() == [0]
    assert stack.heads[0] == head


def test_bits_that_are_not_there_are_an_error():
    stack = filled(words=17)
    with pytest.raises(StackError, match="words are read, and the stack has"):
        Classes(np.full((500, 16), 1 / 16)).pop(stack)


def test_the_table_of_the_normal():
    z = RANDOM.uniform(-9, 9, 4000)
    want = np.array([math.erfc(-each / math.sqrt(2)) / 2 for each in z])
    got = normal_cdf(np.rint(z * 2**UNIT).astype(np.int64))
    assert np.abs(got / 2**ONE - want).max() < 2e-6  # of linear interpolation: max |φ'|/8/128²
    ends = normal_cdf(np.array([-20 << UNIT, 20 << UNIT]))
    assert (np.diff(table()) >= 0).all() and ends.tolist() == [0, 1 << ONE]


def mixture():
    return Mixtures(RANDOM.normal(size=5), np.linspace(-2, 2, 17), RANDOM.dirichlet([1] * 17, 5), 0.3, 0.2)


CELLS = {
    "normal": lambda: Normals(RANDOM.normal(size=5) * 100, 0.7, 0.5),
    "narrow": lambda: Normals(RANDOM.normal(size=5), 1e-6, 1e-6),
    "mixture": mixture,
    "classes": lambda: Classes(RANDOM.dirichlet([0.01] * 256, 5)),
    "certain": lambda: Classes(np.eye(5)),
}


@pytest.mark.parametrize("kind", CELLS)
def test_each_number_belongs_to_one_cell(kind):
    cells = CELLS[kind]()
    edges = np.stack([cells.edge(np.full(cells.count, cell)) for cell in range(cells.cells + 1)], 1)
    assert (edges[:, 0] == 0).all() and (edges[:, -1] == 1 << PRECISION).all() and (np.diff(edges, axis=1) > 0).all()
    ends = [edges[:, cell] - end for cell in range(1, cells.cells) for end in (0, 1)]
    drawn = RANDOM.integers(0, 1 << PRECISION, (20, cells.count))
    for slots in (np.zeros(cells.count, int), np.full(cells.count, (1 << PRECISION) - 1), *ends, *drawn):
        symbols, start, frequency = cells.find(slots, slice(0, cells.count))
        assert ((start <= slots) & (slots < start + frequency)).all()
        assert all(np.array_equal(a, b) for a, b in zip(cells.intervals(symbols), (start, frequency), strict=True))


@pytest.mark.parametrize("components", [2, 5])
def test_the_cells_of_a_mixture_have_its_probabilities(components):
    """Components without weight are left out, in each row others."""
    shifts, p, mean = np.linspace(-2, 2, 5), np.zeros((3, 5)), RANDOM.uniform(-0.5, 0.5, 3)
    for row, place in enumerate((0, 2, 3) if components == 2 else (0, 0, 0)):
        p[row, place : place + components] = RANDOM.dirichlet([1] * components)
    cells = Mixtures(mean, shifts, p, 0.3, 0.2)
    assert cells.weights.shape == (3, components)
    j = np.arange(-15, 16)
    wanted = np.zeros((3, len(j)))
    for row, k in product(range(3), range(5)):
        edge = ((j + 0.5) * 0.2 - mean[row] - shifts[k]) / 0.3 / math.sqrt(2)
        below = ((j - 0.5) * 0.2 - mean[row] - shifts[k]) / 0.3 / math.sqrt(2)
        wanted[row] += [p[row, k] * (math.erf(a) - math.erf(b)) / 2 for a, b in zip(edge, below, strict=True)]
    got = np.stack([cells.intervals(np.full(3, each))[1] / 2**PRECISION for each in j], 1)
    np.testing.assert_allclose(got, wanted, atol=6e-6)


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_points_of_classes_have_their_probabilities(spread):
    """The coordinates' intervals multiply to the mass of the mixture over classes, which is computed in float64."""
    shift, std, delta = spread, 0.7, 0.4
    p = np.concatenate([RANDOM.dirichlet([0.5] * 4, 40), np.eye(4)[:2]])
    mean = RANDOM.normal(size=p.shape)
    of = np.array([RANDOM.choice(4, p=row) for row in p])
    points = np.rint((mean + shift * np.eye(4)[of] + std * RANDOM.normal(size=p.shape)) / delta).astype(np.int64)
    want = np.zeros(len(p))
    for k in range(4):
        centre = mean + shift * np.eye(4)[k]
        low, high = (np.vectorize(math.erf)(((points + e) * delta - centre) / std / 2**0.5) for e in (-0.5, 0.5))
        want += p[:, k] * ((high - low) / 2).prod(1)
    got = np.zeros(len(p))
    pushed = SimpleNamespace(push=lambda start, frequency: got.__iadd__(PRECISION - np.log2(frequency)))
    Joint(mean.reshape(-1), shift, p, std, delta).push(pushed, points.reshape(-1))
    np.testing.assert_allclose(got, -np.log2(want), rtol=0.01, atol=0.03)


def test_points_of_classes_come_back():
    p, mean = RANDOM.dirichlet([0.1] * 27, 50), RANDOM.normal(size=50 * 27)
    points = np.rint(mean / 0.5).astype(np.int64) + RANDOM.integers(-2, 3, mean.shape)
    stack = filled(words=20_000)
    before, heads = stack.to_bytes(), stack.heads.copy()
    Joint(mean, 2.0, p, 0.9, 0.5).push(stack, points)
    assert (Joint(mean, 2.0, p, 0.9, 0.5).pop(stack) == points).all()
    assert stack.to_bytes() == before and (stack.heads == heads).all()


@pytest.mark.parametrize("symbol", [-1000, 1000])
def test_a_message_outside_of_the_lattice_is_an_error(symbol):
    with pytest.raises(OverflowError, match="outside of the lattice"):
        Normals(np.zeros(1), 1.0, 0.5).intervals(np.array([symbol]))


def test_fine_lattices_have_the_receiver_of_the_paper():
    alpha = np.array([0.3, 0.5, 1.1])
    for i, step in enumerate(steps_of(alpha, 1e-4)):
        if i:
            assert step.w == pytest.approx(alpha[i - 1], rel=1e-6) and step.std == pytest.approx(alpha[i - 1] ** 0.5)
            assert step.seen == pytest.approx(alpha[:i].sum()) and step.g == pytest.approx(float(i > 1))


def test_the_moments_of_coarse_lattices():
    """Of states that are drawn as the codec draws them: S_i given S_{i−1} and x is as the receiver says."""
    alpha, n, x = np.array([0.5, 0.7, 0.9]), 400_000, 0.6
    steps = steps_of(alpha, 1.5)
    step = steps[3]
    state = step.spacing * np.rint((x * alpha.sum() + RANDOM.normal(size=n) * alpha.sum() ** 0.5) / step.spacing)
    for i in (3, 2):
        step, to = steps[i], steps[i - 1].spacing
        before = to * np.rint((step.back * state + RANDOM.normal(size=n) * step.bridge) / to)
        (slope, _), rest = np.polyfit(before, state, 1), state - step.g * before - step.w * x
        assert slope == pytest.approx(step.g, abs=0.01) and rest.mean() == pytest.approx(0, abs=0.01)
        assert rest.var() == pytest.approx(step.std**2 + step.spacing**2 / 12, rel=0.02)
        assert state.var() == pytest.approx(alpha[:i].sum() * step.seen**-1 * alpha[:i].sum(), rel=0.02)
        state = before


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
    content = content[: many_steps[0].start] + many_steps[1] + content[many_steps[0].stop :]
    with pytest.raises(FileError, match="the file is damaged"):
        decompress(by, sealed(content), counts)


def test_words_that_are_left_are_an_error(small):
    by, levels, counts = small
    data = compress(by, levels[:200], counts, n_steps=1).data
    *_, stack = split(data)
    start = data[: -4 - len(stack)] + stack[:8]
    with pytest.raises(FileError, match="the first examples are not what was encoded"):
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
    result = bfn("compress", run, "--to", to, "--steps", "3", "--count", "150")
    assert result.exit_code == 0 and f"file: {to}" in result.output, result.output
    for part in ("digits_binary, 150 examples", "file", "bound, 3 steps", "raw", "gzip", "xz", "verifying"):
        assert part in result.output
    options = ["decompress", to, "--run", run / MODEL_FILE, "--to", back]
    subprocess.run([sys.executable, "-m", "bfn", *map(str, options)], check=True, capture_output=True)
    levels = np.load(back)
    assert levels.shape == (150, 8, 8) and levels.dtype == np.uint8
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
        (np.array([None, 1]), "must be a .npy file of whole numbers"),
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
    monkeypatch.setattr(by, "probabilities", lambda *given: used.append(torch.get_num_threads()) or original(*given))
    original = type(by).probabilities.__get__(by)
    try:
        torch.set_num_threads(here + 1)
        data = compress(by, levels[:200], counts, n_steps=1).data
        torch.set_num_threads(here)
        used.clear()
        assert (decompress(by, data, counts) == levels[:200]).all()
        assert {*used} == {here + 1} and torch.get_num_threads() == here
    finally:
        torch.set_num_threads(here)
