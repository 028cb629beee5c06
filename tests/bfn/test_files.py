"""Reading the files of public data sets, whole and damaged."""

import gzip
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bfn.configs import ConfigError, load
from bfn.data.files import MissingFile, find_file, find_text, folder_of, read_cifar, read_idx, read_letters
from tests.bfn import tiny_files


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_images_of_an_idx_file_are_read(name, tmp_path):
    images = tiny_files.levels(0, 5, 28, 20)
    tiny_files.write_idx(tmp_path / name, images)
    assert np.array_equal(read_idx(tmp_path / name), images)


def test_images_of_a_cifar_file_are_read_with_their_colours_last(tmp_path):
    images = tiny_files.levels(0, 3, 32, 32, 3)
    tiny_files.write_cifar(tmp_path / "batch", images)
    assert b"cnumpy.core.multiarray\n_reconstruct" in (tmp_path / "batch").read_bytes()  # as the published ones
    assert np.array_equal(read_cifar(tmp_path / "batch"), images)


@pytest.mark.parametrize("kind", ["plain", "zip", "gz"])
def test_texts_are_read_as_27_symbols(kind, tmp_path):
    text = " A  Bc, d\n\n\u00e9z1".encode()
    path = tmp_path / {"plain": "text8", "zip": "text8.zip", "gz": "text.gz"}[kind]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("text8", text)
    else:
        path.write_bytes(gzip.compress(text) if kind == "gz" else text)
    assert "".join(" abcdefghijklmnopqrstuvwxyz"[c] for c in read_letters(path)) == " a bc d z "


def test_an_empty_text_has_no_symbols(tmp_path):
    (tmp_path / "text8").write_bytes(b"")
    assert len(read_letters(tmp_path / "text8")) == 0


def cut(content):
    return content[:-30]


def flip(content):
    """Another byte in the compressed data, past the header."""
    return content[:60] + bytes([content[60] ^ 255]) + content[61:]


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("images", cut, "it has 3890 pixels, and its header says 5x28x28"),
        ("images.gz", cut, "Compressed file ended"),
        ("images.gz", flip, ""),
        ("images", lambda content: b"\0\0\x08\x01" + content[4:], "it begins with 00000801, and not with 00000803"),
        ("images", lambda content: content[:9], ""),
        ("images", lambda content: b"", "it begins with , and not"),
        ("images.gz", gzip.decompress, "Not a gzipped file"),
    ],
)
def test_damaged_images_are_one_line(name, damage, reason, tmp_path):
    path = tmp_path / name
    tiny_files.write_idx(path, tiny_files.levels(0, 5, 28, 28))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"{name} is damaged, or is not an idx file of images: .*{reason}") as error:
        read_idx(path)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({b"data": Bomb()}), "it asks for .*.mkdir"),
        (pickle.dumps({b"data": np.float64}), "it asks for numpy.float64"),
        (pickle.dumps({b"pixels": 3}), "b'data'"),
        (pickle.dumps({b"data": 3}), "dtype"),
        (pickle.dumps({b"data": np.zeros((2, 3072))}), "its images are float64, and not uint8"),
        (pickle.dumps({b"data": np.zeros((2, 100), np.uint8)}), "reshape"),
        (b"", "Ran out of input"),
        (b"\x80\x02}q\x01", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_colours_are_one_line_and_no_code_is_run(content, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(
        ConfigError, match=f"batch is damaged, or is not a file of CIFAR-10's Python version: .*{reason}"
    ):
        read_cifar(tmp_path / "batch")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_archive_of_text_is_one_line(damage, tmp_path):
    path = tmp_path / "text8.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text8", "the quick brown fox " * 50)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ConfigError, match=r"text8.zip is damaged, or is not a text, plain or as .gz, or alone in a .zip"
    ):
        read_letters(path)


def test_an_archive_of_two_texts_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "text8.zip", "w") as archive:
        archive.writestr("a", "a")
        archive.writestr("b", "b")
    with pytest.raises(ConfigError, match=r"text8.zip is damaged, or is not .* alone in a .zip"):
        read_letters(tmp_path / "text8.zip")


def test_a_file_that_may_not_be_read_is_one_line(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ConfigError, match="images cannot be read: Is a directory"):
        read_idx(tmp_path / "images")


def test_files_are_found_where_they_may_lie_and_their_names_are_said_if_not(tmp_path):
    config = load("mnist", [f"data.folder={tmp_path}"])
    names, folders = ["images", "images.gz"], ["", "raw"]
    with pytest.raises(ConfigError) as error:
        find_file(config, names, folders)
    assert str(error.value) == f"data.folder={tmp_path} has no images or images.gz, in itself or raw"
    with pytest.raises(ConfigError, match=r"has no images or images.gz$"):
        find_file(config, names, [""])
    (tmp_path / "raw").mkdir()
    for place in ("raw/images.gz", "raw/images", "images.gz", "images"):  # each is preferred to those before
        (tmp_path / place).touch()
        assert find_file(config, names, folders) == tmp_path / place


def test_without_a_folder_files_have_a_place_that_variables_move(own_cache, tmp_path, monkeypatch):
    config = load("mnist")
    with pytest.raises(MissingFile) as error:
        find_file(config, ["images"], ["", "raw"])
    assert str(error.value) == (
        "data.name='mnist' needs the file images. 'bfn data download mnist' or 'bfn train … --download' puts it into "
        f"{own_cache / 'mnist'}. To use another folder, set data.folder=."
    )
    (own_cache / "mnist" / "raw").mkdir(parents=True)
    (own_cache / "mnist" / "raw" / "images").touch()
    assert find_file(config, ["images"], ["", "raw"]) == own_cache / "mnist" / "raw" / "images"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable, folder in (("BFN_DATA", "xdg/bfn"), ("XDG_CACHE_HOME", "home/.cache/bfn")):
        monkeypatch.setenv(variable, "")  # counts as not set
        assert folder_of(config.data) == tmp_path / folder / "mnist"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the specification
    assert folder_of(config.data) == tmp_path / "home" / ".cache" / "bfn" / "mnist"
    assert folder_of(load("mnist", ["data.folder=here"]).data) == Path("here")
    monkeypatch.setenv("BFN_DATA", "~/data")  # no shell replaces ~ in a file of settings
    assert folder_of(config.data) == tmp_path / "home" / "data" / "mnist"
    assert folder_of(load("mnist", ["data.folder=~/mine"]).data) == tmp_path / "home" / "mine"


def test_a_text_of_the_user_has_no_place_of_its_own():
    with pytest.raises(ConfigError, match=r"data.file=play.txt needs data.folder=, the folder of this file"):
        find_text(load("text8", ["data.file=play.txt"]))
