"""Files of tensors and JSON. They are written completely or not at all. Reading a file runs no code in it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Saved = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and a state that JSON can hold


class CheckpointError(RuntimeError):
    """The error of a file that cannot be used. The message names the file and the cause."""


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """The SHA-256 of everything that a file holds; safetensors itself would not notice a flipped bit."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        sha.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        sha.update(tensors[name].flatten().view(torch.uint8).numpy().data)  # numpy has no bfloat16
    return sha.hexdigest()


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Replaces a file in one step: whatever happens, `path` holds either the old content or the new. Two processes must
    not do this for one file at the same time. content: bytes, or a function that writes them into an open file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # the error of a full disk does not name the file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    number = os.open(path.parent, os.O_RDONLY)
    try:  # the rename is on the disk only after the directory has been written
        os.fsync(number)
    finally:
        os.close(number)


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes tensors and a state that JSON can hold; if it fails, the old file stays as it was."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    metadata = {"state": text, "sha256": digest(tensors, text)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load(path: Path) -> Saved:
    """The tensors and the state of a file that `save` wrote; anything else is a CheckpointError."""
    with opened(path) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if digest(tensors, metadata["state"]) != metadata["sha256"]:
        raise CheckpointError(f"checkpoint {path} is damaged: its content does not match its checksum")
    return tensors, json.loads(metadata["state"])


def state(path: Path) -> dict[str, Any]:
    """The state of a file that `save` wrote. This reads no tensors and does not compare the checksum."""
    with opened(path) as (_, metadata):
        try:
            return json.loads(metadata["state"])
        except ValueError as error:
            raise CheckpointError(f"checkpoint {path} is damaged: its state is not JSON") from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A file that `save` wrote, and its header."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "state" not in metadata or "sha256" not in metadata:
                raise CheckpointError(
                    f"checkpoint {path} was not written by bfn: its header lacks a state or a checksum"
                )
            yield file, metadata
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read, it may be truncated: {error}") from error
