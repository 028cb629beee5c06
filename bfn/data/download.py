"""Downloads the files of the data sets that need some. Nothing else in bfn reaches for the network."""

import http.client
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

from bfn.configs import choose
from bfn.training.checkpoint import write_atomically
from bfn.training.run_lock import RunError

TEXT8 = "http://mattmahoney.net/dc/text8.zip"


def torchvision_datasets(name: str) -> ModuleType:
    """torchvision's data sets, which know the mirrors and the checksums of the files."""
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise RunError(
            f"downloading {name} needs {error.name}, which is not installed: pip install 'bfn-kernels[data]'"
        ) from error
    return datasets


def mnist(folder: Path) -> None:
    torchvision_datasets("mnist").MNIST(folder, download=True)


def cifar10(folder: Path) -> None:
    torchvision_datasets("cifar10").CIFAR10(folder, download=True)


def text8(folder: Path) -> None:
    if (folder / "text8").exists() or (folder / "text8.zip").exists():
        return
    with urlopen(TEXT8) as answer:
        write_atomically(folder / "text8.zip", answer.read())


DOWNLOADS: dict[str, Callable[[Path], None]] = {"mnist": mnist, "cifar10": cifar10, "text8": text8}


def download(name: str, folder: Path) -> None:
    """Puts the files of a data set into a folder, where data.folder= finds them; what is there is not fetched again."""
    fetch = choose(DOWNLOADS, name, "the data set")
    try:
        fetch(folder)
    except (http.client.HTTPException, RuntimeError) as error:
        raise error if isinstance(error, RunError) else RunError(f"{name} could not be downloaded: {error}") from error
