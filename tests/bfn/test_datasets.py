"""The paper's data sets, from tiny files in their formats."""

import math

import pytest
import torch

from bfn.configs import ConfigError
from bfn.data import load_data
from bfn.data.paper_datasets import binarise, hold_out
from bfn.data.splits import class_counts, factorised_bits
from bfn.training.trainer import Trainer
from tests.bfn import tiny_files


@pytest.fixture
def config(tiny, tmp_path):
    """config("mnist") writes tiny files in MNIST's format, and returns a configuration that reads them."""

    def make(name, *overrides):
        folder = tiny_files.ALL[name.partition("_")[0]](tmp_path)
        return tiny(name, f"data.folder={folder}", "network.width=32", *overrides)

    return make


def test_training_and_validation_are_split_as_published():
    """The published code splits with torch's random_split."""
    parts = torch.utils.data.random_split(range(300), [0.99, 0.01], torch.Generator().manual_seed(2147483647))
    kept, held_out = hold_out(300)
    assert (kept.tolist(), held_out.tolist()) == (list(parts[0]), list(parts[1])) and len(held_out) == 3


def test_a_pixel_is_white_with_the_probability_of_its_grey_level():
    levels = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).expand(20_000, 4)
    pixels = binarise(levels, torch.Generator().manual_seed(0))
    assert pixels.dtype == torch.int64 and set(pixels.unique().tolist()) == {0, 1}
    means = pixels.double().mean(0)
    assert (means[0], means[3]) == (0, 1)
    torch.testing.assert_close(means[1:3], torch.tensor([0.2, 0.8]).double(), atol=0.015, rtol=0)


def test_mnist_is_binarised_in_every_epoch_for_training_and_once_for_validation_and_test(config):
    settings = config("mnist", "train.batch_size=198")
    one, other = load_data(settings), load_data(settings)
    assert [tuple(part.shape) for part in (one.train, one.validation, one.test)] == [
        (198, 28, 28),
        (2, 28, 28),
        (12, 28, 28),
    ]
    assert torch.equal(one.validation, other.validation) and torch.equal(one.test, other.test)
    assert (one.num_classes, one.shape) == (2, (28, 28)) and set(one.test.unique().tolist()) == {0, 1}
    assert one.train.unique().numel() > 100  # grey levels
    trainer = Trainer(settings, one)
    first, again, later = (next(trainer.batches.of(step)).x for step in (0, 0, 1))  # the last is of the next epoch
    assert torch.equal(first, again)
    assert set(first.unique().tolist()) == {0, 1} and first.sum(0).ne(later.sum(0)).any()
    trainer.lock.close()


def test_the_baseline_of_mnist_counts_binarised_pixels(config):
    data = load_data(config("mnist"))
    # Bright pixels are white with probability near 0.85, other pixels with probability near 0.12.
    bright = 144 / 784
    entropy = sum(
        share * -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for share, p in ((bright, 0.853), (1 - bright, 0.116))
    )
    assert data.baseline == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize("num_bins", [16, 17, 256])
def test_levels_of_cifar_fall_into_bins_as_published(num_bins, config, tmp_path):
    settings = config("cifar10", f"data.num_bins={num_bins}", "train.batch_size=200")
    levels = torch.arange(256).repeat(12).view(1, 32, 32, 3).byte()
    tiny_files.write_cifar(tmp_path / "test_batch", levels.numpy())  # read instead of the one in the subfolder
    data = load_data(settings)
    # The published code scales levels to [0, 1] and takes the centre of the bin. With the 1e-9, a level on a bin's edge
    # does not round to the bin below.
    unit = levels.double() / 255
    want = (2 * ((unit * num_bins + 1e-9).floor().clamp(max=num_bins - 1) + 0.5) / num_bins - 1).float()
    torch.testing.assert_close(data.test, want)
    assert (data.num_classes, data.shape) == (num_bins, (32, 32, 3))
    trainer = Trainer(settings, data)
    batch = next(trainer.batches.of(0)).x
    assert batch.dtype == torch.float32 and len(batch) == 198
    assert torch.isin(batch, data.test.unique()).all()
    trainer.lock.close()


def test_bins_that_cifar_cannot_have_are_refused(config):
    with pytest.raises(ConfigError, match=r"data.num_bins=257 must lie between 2 and 256"):
        load_data(config("cifar10", "data.num_bins=257"))


def test_windows_of_text8_start_anywhere_in_training_and_do_not_overlap_otherwise(config):
    data = load_data(config("text8", "data.length=20"))
    text = (" the quick brown fox jumps over the lazy dog" * 40).encode()
    ends = [len(text) * 90 // 100, len(text) * 95 // 100]

    def decode(row):
        return "".join(data.symbols[c] for c in row).encode()

    assert len(data.train) == ends[0] - 19 and decode(data.train[7]) == text[7:27]
    assert b"".join(map(decode, data.validation)) == text[ends[0] : ends[0] + 20 * len(data.validation)]
    assert b"".join(map(decode, data.test)) == text[ends[1] : ends[1] + 20 * len(data.test)]
    assert data.train.dtype == torch.uint8 and data.test.dtype == torch.int64
    assert data.draw(data.train[:3], torch.Generator()).dtype == torch.int64


def test_a_text_of_another_name_is_read(config, tmp_path):
    (tmp_path / "play.txt").write_text("To be, or not to be: that is the question. " * 30)
    data = load_data(config("text8", "data.file=play.txt", "data.length=12"))
    assert "".join(data.symbols[c] for c in data.train[0]) == "to be or not"


def test_classes_are_counted_in_each_column_a_few_rows_at_a_time():
    columns = 2**21  # with so many columns, class_counts counts two rows at a time
    classes = torch.zeros(5, columns, dtype=torch.uint8)
    classes[[0, 2, 4], 0] = 1
    classes[:, -1] = 1
    counts = class_counts(classes, 2)
    assert counts[[0, 1, -1]].tolist() == [[2, 3], [5, 0], [0, 5]] and counts.sum() == classes.numel()


def test_the_factorised_baseline_scores_other_data_than_it_counted():
    counted, scored = torch.tensor([[0, 2], [1, 2], [1, 0]]), torch.tensor([[0, 1], [0, 2]])
    bits = [math.log2(4.5 / p) for p in (1.5, 0.5, 1.5, 2.5)]
    assert factorised_bits(counted, scored, 3) == pytest.approx(sum(bits) / 4)


def test_the_factorised_baseline_does_not_pay_for_known_classes():
    """A model that knows where the class 0 is needs no bits for it, and it divides the probability among the others."""
    counted, scored = torch.tensor([[0, 2], [1, 2], [1, 0]]), torch.tensor([[0, 1], [0, 2]])
    bits = [math.log2(3 / p) for p in (0.5, 2.5)]
    assert factorised_bits(counted, scored, 3, known=1) == pytest.approx(sum(bits) / 4)
