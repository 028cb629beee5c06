import math
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bfn.configs import ConfigError, load
from bfn.data import load_data
from bfn.data.shipped import SYMBOLS, read_topics


@pytest.fixture(scope="module")
def digits():
    return load_data(load("digits"))


def test_digits_are_split_without_overlap_or_loss(digits):
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1350, 150, 297]
    together = torch.cat([digits.train, digits.validation, digits.test])
    levels = ((together + 1) * 17 / 2 - 0.5).round().int().flatten(1)
    everything = load_digits().data.astype(int)
    assert sorted(levels.tolist()) == sorted(everything.tolist())


def test_digits_lie_on_the_centres_of_17_bins_of_which_both_ends_occur(digits):
    centres = torch.tensor([(2 * k + 1) / 17 - 1 for k in range(17)])
    torch.testing.assert_close(digits.train.unique(), centres)
    assert digits.num_classes == 17 and digits.shape == (8, 8)


def test_factorised_baseline_of_digits(digits):
    assert round(digits.baseline, 2) == 2.44
    # The same by loops: counts of the 1500 images that are not held out, plus one half.
    levels = [((s.flatten(1) + 1) * 17 / 2 - 0.5).round().int().numpy() for s in (digits.train, digits.validation)]
    held_out = ((digits.test.flatten(1) + 1) * 17 / 2 - 0.5).round().int().numpy()
    seen, bits = np.concatenate(levels), 0.0
    for pixel in range(64):
        for level in held_out[:, pixel]:
            bits -= math.log2(((seen[:, pixel] == level).sum() + 0.5) / (1500 + 17 / 2))
    assert digits.baseline == pytest.approx(bits / held_out.size, abs=1e-6)


def test_binary_digits_threshold_the_same_images(digits):
    binary = load_data(load("digits_binary"))
    assert torch.equal(binary.test, (digits.test > 0).long()) and binary.num_classes == 2
    assert 0.5 < binary.baseline < 0.6


def test_text_has_27_symbols_and_no_runs_of_space():
    text = read_topics()
    assert set(text) == set(SYMBOLS) and len(SYMBOLS) == 27
    assert "  " not in text and text == text.strip() and len(text) > 300_000


def test_text_splits_do_not_overlap_and_windows_are_whole():
    config = load("text", ["data.length=50"])
    data, text = load_data(config), read_topics()
    ends = [len(text) * 90 // 100, len(text) * 95 // 100]

    def decode(row):
        return "".join(SYMBOLS[c] for c in row)

    assert data.shape == (50,)
    assert decode(data.train[0]) == text[:50] and decode(data.train[1]) == text[6:56]
    assert ends[0] - 6 < 50 + 6 * (len(data.train) - 1) <= ends[0]
    for windows, start, end in ((data.validation, ends[0], ends[1]), (data.test, ends[1], len(text))):
        whole = (end - start) // 50
        assert "".join(map(decode, windows)) == text[start : start + 50 * whole]


def test_unigram_baseline_of_text_is_its_cross_entropy():
    data = load_data(load("text"))
    assert 4.0 < data.baseline < 4.2
    text = read_topics()
    end = len(text) * 95 // 100  # the end of training and validation data, as for the digits
    counts, held_out = Counter(text[:end]), Counter(text[end:])
    bits = -sum(n * math.log2((counts[c] + 0.5) / (end + 27 / 2)) for c, n in held_out.items()) / held_out.total()
    assert data.baseline == pytest.approx(bits, abs=1e-9)


def test_windows_longer_than_a_split_are_refused():
    shortest = len(read_topics()) * 95 // 100 - len(read_topics()) * 90 // 100
    assert len(load_data(load("text", [f"data.length={shortest}"])).validation) == 1
    with pytest.raises(ConfigError, match=f"data.length={shortest + 1} must be at most {shortest}"):
        load_data(load("text", [f"data.length={shortest + 1}"]))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_data_without_examples_are_refused(split, digits, monkeypatch):
    data = replace(digits, **{split: getattr(digits, split)[:0]})
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(few=lambda config: data))
    with pytest.raises(ConfigError, match=f"data.name='mine:few' has no {split} examples"):
        load_data(load("digits", ["data.name=mine:few"]))
