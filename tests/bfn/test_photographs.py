"""Photographs: how they are fetched and split, and the codes that stand next to a model's bound."""

import hashlib
import math
import sys
import zipfile

import numpy as np
import pytest
import torch

from bfn.configs import ConfigError, load
from bfn.data import load_data
from bfn.data.image_codes import normals, png
from bfn.data.photographs import SCIKIT_IMAGE
from bfn_kernels.discretised import from_levels
from tests.bfn import tiny_files
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY

module = sys.modules["bfn.data.photographs"]  # bfn.data has a function of this name


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The settings of a tiny run on a stand-in for the wheel."""
    folder = tiny_files.photographs(tmp_path / "data")
    expect(monkeypatch, folder / SCIKIT_IMAGE.file)
    return [*TINY, f"data.folder={folder}", f"out={tmp_path / 'run'}"]


def expect(monkeypatch, wheel):
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())


def levels_of(centres):
    return ((centres + 1) * 128 - 0.5).round().int()


def pixels(crops):
    """The set of (photograph, row, column), which the colours of the stand-ins tell."""
    red, green, blue = crops.reshape(-1, 3).int().unbind(-1)
    return set(zip((blue // 2).tolist(), red.tolist(), (green + 256 * (blue % 2)).tolist(), strict=True))


def test_no_pixel_is_in_two_splits(settings):
    """The photographs have 300 columns, so the third band is not whole and only trains."""
    data = load_data(load("photographs", settings))
    parts = [data.train, levels_of(data.validation), levels_of(data.test)]
    assert [len(part) for part in parts] == [4 * 5 * (9 + 9 + 2), 8, 8] and data.shape == (32, 32, 3)
    columns = [{*range(96), *range(128, 224), *range(256, 296)}, {*range(224, 256)}, {*range(96, 128)}]
    for part, those in zip(parts, columns, strict=True):
        assert pixels(part) == {(i, row, column) for i in range(4) for row in range(64) for column in those}
    crop = data.test[1]  # below the first
    assert levels_of(crop)[5, 7].tolist() == [32 + 5, 96 + 7, 0]
    torch.testing.assert_close(data.draw(data.train[:3], torch.Generator()), from_levels(data.train[:3], num_bins=256))


def test_a_wheel_with_another_digest_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"is damaged, or is not the wheel of scikit-image==0.26.0: its SHA-256 is"):
        load_data(load("photographs", settings))
    with zipfile.ZipFile(tmp_path / "data" / SCIKIT_IMAGE.file, "w") as wheel:
        wheel.writestr("skimage/data/astronaut.png", b"none")
    expect(monkeypatch, tmp_path / "data" / SCIKIT_IMAGE.file)
    with pytest.raises(ConfigError, match=r"is damaged, or is not the wheel .*chelsea.png"):
        load_data(load("photographs", settings))


def test_png_costs_8_bits_for_noise_and_hardly_any_for_what_repeats():
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (20, 32, 32, 3), generator=random, dtype=torch.uint8)
    assert 8 + 8 / 96 < png(noise) < 8.15  # each row also has the number of its filter
    assert png(noise[:1].expand(20, -1, -1, -1)) < 1
    ramp = torch.arange(32, dtype=torch.uint8)[:, None].expand(4, 32, 32, 3)
    assert png(ramp) < 0.2


def entropy(std):
    """The bits of a normal with this std in levels."""
    return math.log2(std * math.sqrt(2 * math.pi * math.e))


def centres(values):
    return from_levels(torch.from_numpy(values.round().clip(0, 255)).byte(), num_bins=256, dtype=torch.float64)


def correlated(count, seed):
    """Red is 0.9 times the red on the left plus noise, green is red plus noise, and blue is noise."""
    random = np.random.default_rng(seed).standard_normal
    values = np.empty((count, 16, 17, 3))
    values[..., 0] = 8 * random((count, 16, 17))
    values[:, :, 0, 0] /= math.sqrt(1 - 0.9**2)
    for column in range(1, 17):
        values[:, :, column, 0] += 0.9 * values[:, :, column - 1, 0]
    values[..., 1] = values[..., 0] + 3 * random((count, 16, 17))
    values[..., 2] = 20 * random((count, 16, 17))
    return centres(128 + values)


def test_normals_cost_what_is_new_in_a_value():
    bits = normals(correlated(300, 0), correlated(100, 1))
    found = torch.stack([bits[:, :, 0].mean((0, 1)), bits[:, :, 1:].mean((0, 1, 2))])
    first, later = ([entropy(std) for std in (red, 3, 20)] for red in (8 / math.sqrt(1 - 0.9**2), 8))
    torch.testing.assert_close(found, torch.tensor([first, later]).double(), atol=0.05, rtol=0)


def test_normals_are_narrow_where_the_pixels_before_are_alike():
    def values(seed):
        random = np.random.default_rng(seed)
        stds = np.where(np.arange(200) % 2, 2, 20)[:, None, None, None]
        return centres(128 + stds * random.normal(size=(200, 9, 9, 3)))

    bits = normals(values(0), values(1))[:, 1:, 1:-1]
    wide, narrow = bits[::2].mean(), bits[1::2].mean()
    assert entropy(20) < wide < entropy(20) + 0.3 and entropy(2) < narrow < entropy(2) + 0.3


def test_normals_are_narrow_where_the_colours_before_are_near_their_means():
    def values(seed):
        random = np.random.default_rng(seed)
        stds = random.choice([2, 20], size=(100, 9, 9, 1))
        return centres(128 + stds * random.normal(size=(100, 9, 9, 3)))

    red, _, blue = normals(values(0), values(1)).mean((0, 1, 2))
    assert red - 0.3 > blue


def test_normals_know_only_the_values_before():
    train, test = correlated(50, 0), correlated(1, 1)
    bits = normals(train, test).flatten()
    for row, column, colour in ((0, 0, 0), (0, 9, 1), (5, 0, 2), (7, 16, 0), (8, 8, 1)):
        other, place = test.clone(), 3 * (17 * row + column) + colour
        other[0, row, column, colour] = -other[0, row, column, colour]
        changed = normals(train, other).flatten()
        assert torch.equal(changed[:place], bits[:place]) and not torch.equal(changed[place:], bits[place:])


def test_training_evaluation_and_pictures_end_to_end(settings, tmp_path):
    result = bfn("train", "photographs", *settings, "train.max_steps=2", "train.validate_every=1")
    assert result.exit_code == 0, result.output
    out = tmp_path / "run"
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert np.load(out / "samples.npy").shape == (4, 32, 32, 3)
    data = load_data(load("photographs", settings))
    rivals = data.rivals()
    assert list(rivals) == ["PNG", "normals given earlier pixels"]
    for output in (result.output, bfn("evaluate", out).output):
        for name, bits in rivals.items():
            assert any(name in line and f"{bits:.4f}" in line for line in output.splitlines()), output
