"""Downloads the files of data sets. Nothing else in bfn uses the internet."""

import http.client
from pathlib import Path
from urllib.request import urlopen

from bfn.configs import choose
from bfn.data.moses import fetch
from bfn.training.checkpoint import write_atomically
from bfn.training.run_lock import RunError

TEXT8 = "http://mattmahoney.net/dc/text8.zip"


def by_torchvision(name: str, folder: Path) -> None:
    """Lets torchvision download the files, since it knows mirrors and checksums."""
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        needs = f"{error.name}, which is not installed: pip install 'bfn-kernels[data]'"
        raise RunError(f"downloading {name} needs {needs}") from error
    getattr(datasets, name.upper())(folder, download=True)


def text8(name: str, folder: Path) -> None:
    if not (folder / "text8").exists() and not (folder / "text8.zip").exists():
        with urlopen(TEXT8) as answer:
            write_atomically(folder / "text8.zip", answer.read())


DOWNLOADS = {"mnist": by_torchvision, "cifar10": by_torchvision, "text8": text8, "moses": fetch}
TRAINED_BY = {"moses": "smiles"}  # configurations that have another name than their data


def download(name: str, folder: Path) -> None:
    """Puts the files of a data set into a folder for `data.folder`, except files that the folder already has."""
    by = choose(DOWNLOADS, name, "the data set")
    try:
        by(name, folder)
    except RunError:
        raise
    except (http.client.HTTPException, RuntimeError) as error:
        raise RunError(f"{name} could not be downloaded: {error}") from error
