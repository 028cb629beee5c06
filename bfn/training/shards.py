"""Checkpoints of sharded weights: a directory of safetensors files, of which every process writes one. Any number of
processes reads them, and as with other checkpoints no code that they hold is run."""

import hashlib
import shutil
import warnings
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from bfn.training import checkpoint
from bfn.training.checkpoint import CheckpointError

PREFIX = "training."  # of a directory's name, which ends in the step


def write(to: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Writes this process's parts of tensors; returns when those of all are on the disk."""
    writer = HuggingFaceStorageWriter(str(to), save_distributed=True)
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror or str(cause), str(to)) from error
        raise cause from error
    checkpoint.sync(to)


def read(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Fills tensors, or this process's parts of them, with those of the same names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is right that one process reads all
        try:
            dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(directory)))
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise CheckpointError(f"checkpoint {directory} does not fit this version of bfn: {cause}") from error


def names(directory: Path) -> set[str]:
    """The names of the tensors that a directory holds."""
    return set(HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata)


def digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file of a directory."""
    sums = {}
    for path in sorted(directory.glob("*.safetensors")):
        sha = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2**20):
                sha.update(block)
        sums[path.name] = sha.hexdigest()
    return sums


def check(directory: Path, expected: dict[str, str]) -> None:
    """Refuses a directory whose files are not those of the digests."""
    there = digests(directory)
    for name in sorted(expected.keys() | there.keys()):
        if there.get(name) != expected.get(name):
            raise CheckpointError(f"checkpoint {directory / name} is damaged: its content does not match its checksum")


def directory(run: Path, step: int) -> Path:
    return run / f"{PREFIX}{step}"


def directories(run: Path) -> list[Path]:
    """The directories of this kind in that of a run."""
    return [path for path in run.glob(f"{PREFIX}*") if path.is_dir() and path.name.removeprefix(PREFIX).isdigit()]


def remove_others(run: Path, kept: Path | None) -> None:
    """Removes those that no training state speaks of any more, or not yet."""
    for path in directories(run):
        if path != kept:
            shutil.rmtree(path)
