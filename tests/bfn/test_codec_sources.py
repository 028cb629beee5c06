"""Text files and folders of images, which `bfn compress` takes and `bfn decompress` writes."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bfn.codec.commands import of_all
from bfn.data.image_codes import FORMATS, picture_bytes
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY


def trained(folder, name, *more):
    out = folder / name
    result = bfn("train", name, *TINY, *more, f"out={out}", "train.max_steps=2", "evaluate.repeats=2")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), "text", "data.length=8")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), "digits_binary")


@pytest.mark.parametrize("count", [3, 8, 403])
def test_a_text_comes_back(text, tmp_path, count):
    """Whether or not it ends with a whole window."""
    source, to, back = (tmp_path / name for name in ("a.txt", "a.bfn", "b.txt"))
    source.write_text(("a text of some length " * 20)[:count])
    result = bfn("compress", text, source, "--to", to, "--steps", "2")
    assert result.exit_code == 0 and f"{-(-count // 8)} examples" in result.output, result.output
    result = bfn("decompress", to, "--run", text, "--to", back)
    assert result.exit_code == 0 and back.read_bytes() == source.read_bytes()


def test_images_come_back(digits, tmp_path):
    source, to, back = (tmp_path / name for name in ("images", "a.bfn", "again"))
    source.mkdir()
    pixels = 255 * np.random.default_rng(1).integers(0, 2, (20, 8, 8), dtype=np.uint8)
    for number, each in enumerate(pixels):
        picture = Image.fromarray(each)
        (picture.convert("1") if number % 2 else picture).save(source / f"{number:02}.png")
    result = bfn("compress", digits, source, "--to", to, "--steps", "2")
    assert result.exit_code == 0 and "PNG, one picture" in result.output, result.output
    result = bfn("decompress", to, "--run", digits, "--to", back)
    assert result.exit_code == 0, result.output
    found = [np.array(Image.open(path)) for path in sorted(back.iterdir())]
    assert np.array_equal(np.stack(found), pixels)


def test_wrong_sources_are_one_line(digits, text, tmp_path):
    folder, letters, to = tmp_path / "images", tmp_path / "letters.txt", tmp_path / "a.bfn"
    folder.mkdir()

    def said(run, source):
        result = bfn("compress", run, source, "--to", to)
        assert result.exit_code == 1 and not to.exists()
        return " ".join(result.stderr.split())

    assert "must hold images, got no files" in said(digits, folder)
    for pixels, wrong in (
        (np.full((8, 8), 7, np.uint8), "must have pixels of 0 and 255 alone, got 7"),
        (np.zeros((8, 9), np.uint8), "must be an image of 8 bits per value and shape [8, 8], got L [8, 9]"),
        (np.zeros((8, 8, 3), np.uint8), "got RGB [8, 8, 3]"),
    ):
        Image.fromarray(pixels).save(folder / "a.png")
        assert wrong in said(digits, folder)
    (folder / "a.png").write_bytes(b"no image")
    assert "must be an image" in said(digits, folder)
    assert "only models of images in 2 or 256 levels" in said(text, folder)
    letters.write_text("ab\nc")
    assert r"alone, got '\n' at place 2" in said(text, letters)
    letters.write_bytes(b"")
    assert "alone, got nothing" in said(text, letters)
    letters.write_bytes(b"\xff")
    assert "must be a text in UTF-8" in said(text, letters)
    assert "only models of characters read and write text files" in said(digits, letters)


def test_all_examples_are_in_one_picture():
    examples = np.arange(5 * 2 * 3).reshape(5, 2, 3) + 1
    picture = of_all(examples)
    assert picture.shape == (4, 9)
    assert np.array_equal(picture[:2, 3:6], examples[1]) and np.array_equal(picture[2:, :3], examples[3])
    assert not picture[2:, 6:].any()
    assert {form: picture_bytes(np.zeros((9, 9, 3), np.uint8), form) < 150 for form in FORMATS} == {
        "PNG": True,
        "WebP": True,
    }


@pytest.mark.parametrize(
    ("at", "left"),
    [
        pytest.param("bfn.codec.commands.decompress", [], marks=pytest.mark.slow),
        ("os.fsync", [".a.bfn.partial"]),
    ],
)
def test_a_command_that_is_killed_leaves_no_file(digits, tmp_path, at, left):
    """While it verifies, and while it writes."""
    to, module = tmp_path / "a.bfn", at.rpartition(".")[0]
    script = f"""
import os, signal, sys, {module}
from unittest import mock
from bfn.__main__ import main
with mock.patch("{at}", lambda *given: os.kill(os.getpid(), signal.SIGKILL)):
    sys.argv = ["bfn", "compress", {str(digits)!r}, "--to", {str(to)!r}, "--steps", "2"]
    main()
"""
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == left
