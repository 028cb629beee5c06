"""Downloads the files of data sets. Nothing else in bfn uses the internet."""

import http.client
import io
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from bfn.configs import DataConfig, choose
from bfn.data.angles import PROTEINS
from bfn.data.files import TEXT_ENDINGS, locked
from bfn.data.moses import MOLSETS
from bfn.data.photographs import SCIKIT_IMAGE
from bfn.training.checkpoint import write_atomically
from bfn.training.run_lock import RunError

TEXT8 = "http://mattmahoney.net/dc/text8.zip"
PACKAGES = {"moses": MOLSETS, "conformers": MOLSETS, "angles": PROTEINS, "photographs": SCIKIT_IMAGE}


def by_torchvision(name: str, folder: Path) -> None:
    """Lets torchvision download the files, since it knows mirrors and checksums."""
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise RunError(f"downloading {name} needs {error.name}, which is missing: pip install torchvision") from error
    with redirect_stdout(io.StringIO()):  # it prints a line for each mirror
        getattr(datasets, name.upper())(folder, download=True)


def text8(name: str, folder: Path) -> None:
    if not any((folder / f"text8{ending}").exists() for ending in TEXT_ENDINGS):
        with urlopen(TEXT8) as answer:
            write_atomically(folder / "text8.zip", answer.read())


def by_pip(name: str, folder: Path) -> None:
    """Lets pip download the file of a package into the folder, without installing the package."""
    requirement, file, more = PACKAGES[name]
    if not (folder / file).exists():
        options = ["--quiet", "--no-deps", "--dest", str(folder), *more]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            *_, reason = ("", *([line for line in lines if line.startswith("ERROR")] or lines))  # notices may follow
            if "connection broken by" in done.stderr:  # then pip's last line says that there is no such package
                reason = "no package index answers; is there a network?"
            raise RunError(f"pip could not download {requirement}: {reason}")


DOWNLOADS = {"mnist": by_torchvision, "cifar10": by_torchvision, "text8": text8, **dict.fromkeys(PACKAGES, by_pip)}
TRAINED_BY = {"moses": "smiles"}  # the configuration of a data set, if their names differ


def downloadable(data: DataConfig) -> bool:
    """Whether `download` has the files that these settings ask for."""
    return data.name in DOWNLOADS and data.file == DataConfig.file


def download(name: str, folder: Path) -> None:
    """Puts the files of a data set into a folder for `data.folder`, except files that the folder already has."""
    by = choose(DOWNLOADS, name, "the data set")
    try:
        with locked(folder / ".download.lock"):
            by(name, folder)
    except RunError:
        raise
    except (http.client.HTTPException, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, URLError) and error.filename:
            raise  # the folder is at fault
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise RunError(f"{name} could not be downloaded: {reason}") from error
