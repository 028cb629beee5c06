"""The files of a run in its directory: what they hold, whether a run may go on from them, and its model."""

import csv
import io
import math
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bfn.configs import Config, ConfigError, build, first_line, flatten
from bfn.data import Data, load_data
from bfn.model import BFN, build_model
from bfn.training import checkpoint
from bfn.training.checkpoint import CheckpointError, Saved
from bfn.training.run_lock import RunError
from bfn_kernels.schedules import VonMisesAccuracy

FILES = STATE_FILE, MODEL_FILE, LOG_FILE = "training.safetensors", "model.safetensors", "log.csv"
# Keys that may change when a run is resumed: its length, the folder of its data, and the keys that say how the work of
# a step is divided and how fast it is done. Another micro_batch changes the noise, but not its distribution.
FREE = {"train.max_steps", "train.max_seconds", "train.patience", "data.folder"}
FREE |= {"train.micro_batch", "train.fully_shard", "train.mixed_precision", "train.compiler", "train.compile_from"}


def require_room(out: Path, model: BFN) -> None:
    """Refuse to start if the disk has no room for two checkpoints. The files that they will replace count as room."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    replaced = sum(file.stat().st_size for file in (out / STATE_FILE, out / MODEL_FILE) if file.exists())
    needed = 2 * 5 * weights - replaced  # 5: weights, their average, two moments, and the best average
    if (free := shutil.disk_usage(out).free) < needed:
        raise RunError(
            f"{out} needs {needed / 1e6:.1f} MB for two checkpoints, and its disk has {free / 1e6:.1f} MB free; "
            "make room, or choose another out="
        )


def resumable(out: Path, config: Config, data: Data) -> Saved:
    """The tensors and the state from which a trainer of this configuration continues; empty if there is no run."""
    path, model = out / STATE_FILE, out / MODEL_FILE
    if not path.exists():
        if model.exists() and "step" not in checkpoint.state(model):
            raise CheckpointError(f"{model} is a converted model, which a run would replace; choose another out=")
        return {}, {}
    tensors, state = checkpoint.load(path)
    same_run(path, state.get("config", {}), config)
    if state.get("tokenizer") != data.tokenizer:
        raise CheckpointError(f"{path} holds a run with other tokens; choose another out=, or --fresh")
    now = seen(data)
    before = state.get("data", now)
    if before["examples"] != now["examples"] or not math.isclose(before["baseline"], now["baseline"], rel_tol=1e-3):
        raise CheckpointError(
            f"{path} holds a run on {before}, and the data are {now}; choose another out=, or --fresh"
        )
    if "shards" in state:
        raise CheckpointError(f"{path} refers to shards, as an older version of bfn wrote them; use --fresh")
    return tensors, state


def same_run(path: Path, saved: dict[str, Any], config: Config) -> None:
    """Refuse to resume a run under settings that would have made another run."""
    before = flatten(asdict(Config())) | flatten(saved)  # keys that an older run lacks had their default values
    now = flatten(asdict(config))
    for key in sorted(before.keys() | now.keys()):
        decisive = key.partition(".")[0] in ("data", "model", "network", "train") and key not in FREE
        if decisive and before.get(key) != now.get(key):
            raise CheckpointError(
                f"{path} holds a run with {key}={before.get(key)}, not {now.get(key)}; "
                "choose another out=, or start afresh with --fresh"
            )


def seen(data: Data) -> dict[str, float]:
    """Two numbers by which other data are noticed."""
    return {"examples": len(data.train), "baseline": data.baseline}


def as_csv(log: list[dict[str, Any]]) -> bytes:
    """The log as the content of its file."""
    file = io.StringIO()
    csv.writer(file).writerows([*log[:1], *(row.values() for row in log)])  # the keys, then every row
    return file.getvalue().encode()


def log_of(out: Path) -> list[dict[str, float]]:
    """The log of a run, from its training state or, if that has none, from the log's file; empty without both."""
    path = out / LOG_FILE
    with suppress(CheckpointError, LookupError):
        return checkpoint.state(out / STATE_FILE)["log"]
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            return [{key: float(row[key]) for key in row} for row in csv.DictReader(file, strict=True)]
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path} is damaged, and {STATE_FILE} does not replace it: {error}") from error


def data_of(config: Config, *, fresh: bool = False) -> Data:
    """The data of a run. A run that is continued keeps the tokenizer that it began with."""
    tokenizer = None
    if not fresh:
        # the trainer will report a bad checkpoint, or one of another data set
        with suppress(CheckpointError, ValueError, AttributeError, LookupError, TypeError):
            state = checkpoint.state(Path(config.out) / STATE_FILE)
            tokenizer = state.get("tokenizer") if state["config"]["data"]["name"] == config.data.name else None
    return load_data(config, tokenizer)


def load_run(
    path: Path,
    overrides: list[str] | None = None,
    device: torch.device | str = "cpu",
    data: Data | None = None,
) -> tuple[BFN, Config, Data]:
    """The best model of a run in eval mode, from its directory or its model file, with its configuration and data.
    data: the run's data; None loads them."""
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}; give the directory of a run, such as {Config.out}")
    path = path / MODEL_FILE if path.is_dir() else path
    tensors, state = checkpoint.load(path)
    if "position" in state:
        raise CheckpointError(f"{path} is the training state of a run; give its directory, or its {MODEL_FILE}")
    if "config" not in state:
        raise CheckpointError(f"checkpoint {path} holds no configuration")
    config = build(state["config"], overrides or [], where=str(path))
    if data is None:
        data = load_data(config, state.get("tokenizer"))
    model = build_model(config, data).to(device)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = (str(error).splitlines()[1:] or [first_line(error)])[0].strip()
        raise CheckpointError(f"checkpoint {path} does not fit its configuration: {reason}") from error
    saved = build(state["config"], where=str(path))
    changed = (saved.model, saved.train.n_steps) != (config.model, config.train.n_steps)
    if changed and isinstance(model.schedule, VonMisesAccuracy):  # the file has its messages
        raise ConfigError(f"{path} was trained with other messages; model.* and train.n_steps cannot change")
    return model.eval(), config, data
