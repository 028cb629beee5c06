"""Configurations: what each key means, the YAML files that ship, and the checks made before work starts."""

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from torch.compiler import list_backends
from yaml import YAMLError

from bfn_kernels.samplers import SAMPLERS


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclass
class DataConfig:
    """`bfn.data.DATASETS` lists the settings that each data set reads. The others must keep their defaults."""

    name: str = "digits"  # a name in bfn.data.DATASETS, or module:function
    folder: str | None = None  # the folder of the files; without it, text_bpe reads a text that Python ships
    file: str = "text8"  # the file's name
    length: int = 64  # characters or tokens in a window
    vocabulary: int = 8000  # entries of the byte-pair vocabulary, which is learned from the text
    num_bins: int = 256  # levels of a colour
    count: int | None = None  # training examples that are used; None is all
    options: dict[str, Any] = field(default_factory=dict)  # whatever a function of your own reads


@dataclass
class ModelConfig:
    kind: str = "discretised"  # a name in bfn.model.KINDS
    sigma_1: float | None = None  # standard deviation of the input distribution at t = 1 (continuous and discretised)
    beta_1: float | None = None  # accuracy at t = 1 (discrete; None is final_accuracy(K)), or concentration (circular)
    schedule: str | None = None  # "logarithmic", of discrete data, or module:function of your own, in place of the rest
    options: dict[str, Any] = field(default_factory=dict)  # whatever that function reads


@dataclass
class NetworkConfig:
    name: str = "unet"  # a name in bfn.networks.NETWORKS, or module:class
    width: int = 32  # channels at full resolution, or the transformer's model width
    depth: int = 2  # residual blocks at each resolution, or layers
    heads: int = 4
    dropout: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)  # more keyword arguments for a network of your own

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments that every network takes."""
        return {"width": self.width, "depth": self.depth, "heads": self.heads, "dropout": self.dropout}


@dataclass
class TrainConfig:
    seed: int = 0
    batch_size: int = 128  # of all processes together
    micro_batch: int | None = None  # examples in one pass of the network; None is the share of one process
    fully_shard: bool = False  # whether each of several processes holds only a part of the weights (FSDP2)
    learning_rate: float = 1e-3
    beta_2: float = 0.99  # AdamW's second-moment decay; the first is 0.9
    weight_decay: float = 0.01
    decay_vectors: bool = True  # whether weight decay also shrinks biases and the weights of norms
    warmup_steps: int = 50
    clip_norm: float = 1.0  # the gradient's norm is cut to this
    ema_decay: float = 0.999
    n_steps: int | None = None  # None trains on the continuous-time loss, n on the n-step loss
    max_steps: int = 10_000
    max_seconds: float | None = None  # wall clock, resumed time included
    validate_every: int = 100  # steps from one validation, log row and checkpoint to the next
    patience: int = 10  # validations without a better bound before training stops
    mixed_precision: str = "auto"  # "no", "bf16", on a GPU "fp16", or "auto": bf16 where the device is fast in it
    compiler: str | None = "auto"  # a backend of torch.compile for the network, None, or "auto": inductor if it pays
    cpu: bool = False  # do not use a GPU that is there


@dataclass
class EvaluateConfig:
    n_steps: int | None = None  # None evaluates the continuous-time bound, n the n-step bound
    repeats: int = 32  # times t per example, spread evenly
    batch_size: int = 512
    seed: int = 0


@dataclass
class SampleConfig:
    count: int = 64
    n_steps: int = 100
    sampler: str = "ancestral"  # a name in SAMPLERS
    tolerance: float | None = None  # the largest error of a step of ode2; it decides the number of steps, not n_steps
    guide: str | None = None  # logp=3, for molecules: the property that samples are guided to
    guidance: float = 2.0  # how strongly: 0 ignores the property, 1 takes the network that knows it
    max_calls: int = 1000  # with a tolerance: the most calls of the network in a run
    seed: int = 0


@dataclass
class Config:
    out: str = "runs/digits"  # the run directory
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)


FOLDER = Path(__file__).parent  # of the YAML files
FRACTIONS = {"dropout", "ema_decay", "beta_2"}  # keys that must lie in [0, 1)
ANY_SIGN = {"seed", "weight_decay"}  # the other keys of numbers must be positive


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def choose(table: Mapping[str, Any], name: str, key: str) -> Any:
    """The entry of a table that a configuration key names."""
    if name not in table:
        raise ConfigError(f"{key}={name!r} is not known; it takes one of {', '.join(table)}")
    return table[name]


def find(table: Mapping[str, Any], name: str, key: str) -> Any:
    """The entry of a table that a configuration key names, or what it names as module:function."""
    return imported(name, key) if ":" in name else choose({**table, "module:function": None}, name, key)


def imported(path: str, key: str) -> Any:
    """The object that module:function names; the module may lie in the current directory."""
    module, _, name = path.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # at the end, so that no file in it hides a package
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={path!r} cannot be imported: {error}") from error


def shipped() -> list[str]:
    """Names of the configurations that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a shipped name or a YAML path, with `key=value` overrides, checked."""
    path = FOLDER / f"{name}.yaml" if name in shipped() else Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"no configuration {name!r}; give one of {', '.join(shipped())}, or a path ending in .yaml")
    return build(read(path), overrides, where=name)


def read(path: Path) -> Any:
    """The settings of a YAML file. If it names a shipped file as `base`, they replace settings of that file."""
    try:
        tree = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    base = tree.pop("base", None) if isinstance(tree, DictConfig) else None
    return tree if base is None else OmegaConf.merge(read(FOLDER / f"{base}.yaml"), tree)


def build(tree: Any, overrides: Sequence[str] = (), where: str = "the configuration") -> Config:
    """A checked Config from a tree of settings; unknown keys and wrong types are refused with a ConfigError."""
    for override in overrides:
        if "=" not in override.lstrip("="):
            raise ConfigError(f"override {override!r} is not of the form key=value")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), tree)
        where = "an override"
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        config = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        known = flatten(asdict(Config()))
        near = difflib.get_close_matches(str(error.full_key), known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known keys: {', '.join(known)}"
        raise ConfigError(f"unknown key {error.full_key!r} in {where}; {hint}") from error
    except (OmegaConfBaseException, ValueError, TypeError, YAMLError) as error:
        key = getattr(error, "full_key", None)
        where = f"{f'key {key!r}' if key else 'a value'} in {where}"
        raise ConfigError(f"{where} cannot be used: {first_line(error)}") from error
    assert isinstance(config, Config)
    if config.train.mixed_precision == "False":
        config.train.mixed_precision = "no"  # which YAML takes for a boolean
    check(config)
    return config


def check(config: Config) -> None:
    """Refuse values that have the right type and no meaning."""
    for path, value in flatten(asdict(config)).items():
        key = path.rpartition(".")[2]
        if ".options." in path:  # options of a user's own function may have any name
            continue
        if type(value) in (int, float) and key not in FRACTIONS | ANY_SIGN and not value > 0:
            raise ConfigError(f"{path}={value} must be positive")
        if key in FRACTIONS and not 0 <= value < 1:
            raise ConfigError(f"{path}={value} must lie in [0, 1)")
        if key == "seed" and not -(2**63) <= value < 2**64:
            raise ConfigError(f"{path}={value} must be a number of 64 bits")
    choose(dict.fromkeys(("no", "bf16", "fp16", "auto")), config.train.mixed_precision, "train.mixed_precision")
    choose(SAMPLERS, config.sample.sampler, "sample.sampler")
    if config.train.compiler is not None:
        choose(dict.fromkeys(["auto", *list_backends(None)]), config.train.compiler, "train.compiler")
    if config.sample.tolerance is not None and config.sample.sampler != "ode2":
        raise ConfigError(f"sample.tolerance is of sample.sampler='ode2', got {config.sample.sampler!r}")
