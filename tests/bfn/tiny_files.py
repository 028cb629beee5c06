"""Tiny files in the formats of MNIST, CIFAR-10 and text8."""

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np


def write_idx(path: Path, images: np.ndarray) -> None:
    content = struct.pack(">4BIII", 0, 0, 8, 3, *images.shape) + images.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


class Python2Pickler(pickle._Pickler):
    """Writes strings and bytes as Python 2 did, which wrote CIFAR-10's files."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[str] = dispatch[bytes] = save_string


def write_cifar(path: Path, images: np.ndarray) -> None:
    """Images [N, 32, 32, 3]."""
    file = io.BytesIO()
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    Python2Pickler(file, protocol=2).dump({"batch_label": path.name, "labels": [3] * len(images), "data": rows})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def levels(seed: int, *shape: int) -> np.ndarray:
    """Random levels with a bright middle, so that there is something to learn."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, shape, dtype=np.uint8)
    images[:, 8:20, 8:20] = random.integers(180, 256, images[:, 8:20, 8:20].shape, dtype=np.uint8)
    return images


def mnist(folder: Path) -> Path:
    write_idx(folder / "MNIST" / "raw" / "train-images-idx3-ubyte.gz", levels(0, 200, 28, 28))
    write_idx(folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz", levels(1, 12, 28, 28))
    return folder


def cifar10(folder: Path) -> Path:
    for i in range(1, 6):
        write_cifar(folder / "cifar-10-batches-py" / f"data_batch_{i}", levels(i, 40, 32, 32, 3))
    write_cifar(folder / "cifar-10-batches-py" / "test_batch", levels(6, 6, 32, 32, 3))
    return folder


def text8(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text8").write_text(" the quick brown fox jumps over the lazy dog" * 40)
    return folder


def moses(folder: Path) -> Path:
    """A wheel as that of MOSES with a few hundred molecules, and the file of their logP, which RDKit would compute."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = [a + b for a in ("C", "N") for b in ("O", "N", "Cl", "Br", "c1ccccc1", "c1cc[nH]c1")]
    molecules = ["C" * i + branch + end for i in range(1, 6) for branch in ("", "O", "(O)", "(Cl)") for end in ends]
    splits = {"train": (molecules * 2)[:300], "test": molecules[:40], "test_scaffolds": ["c1ccc2ccccc2c1", "CCO"] * 10}
    with zipfile.ZipFile(folder / "molsets-0.3.1-py3-none-any.whl", "w") as wheel:
        for name, lines in splits.items():
            content = gzip.compress("\n".join(["SMILES", *lines, ""]).encode())
            wheel.writestr(f"moses/dataset/data/{name}.csv.gz", content)
    np.save(folder / "moses_logp_270.npy", np.linspace(-2, 6, 270, dtype=np.float32))
    return folder


ALL = {"mnist": mnist, "cifar10": cifar10, "text8": text8}
