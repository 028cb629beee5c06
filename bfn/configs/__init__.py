"""Configurations: what each key means, the YAML files that ship, and the checks made before work starts."""

import difflib
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from torch.compiler import list_backends
from yaml import YAMLError

from bfn_kernels.records import CHOICES
from bfn_kernels.samplers import SAMPLERS


class ConfigError(ValueError):
    """A configuration that cannot be used. The message names the key, the override or the file at fault."""


@dataclass
class DataConfig:
    """`bfn.data.DATASETS` lists the settings that each data set reads. All other settings must keep their defaults."""

    name: str = "digits"  # a name in bfn.data.DATASETS, or module:function
    # The folder of the files. None: where `bfn data download` puts them, and for text_bpe Python's manual.
    folder: str | None = None
    file: str = "text8"  # the name of the text's file in the folder
    length: int = 64  # characters, tokens or residues in a window; places in the row of a molecule
    vocabulary: int = 8000  # entries of the byte-pair vocabulary, which is learned from the text
    num_bins: int = 256  # bins that the 256 levels of a colour fall into
    count: int | None = None  # training examples to use; None uses all
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of a data set of your own


@dataclass
class ModelConfig:
    kind: str = "discretised"  # a name in bfn.model.KINDS
    sigma_1: float | None = None  # standard deviation of the input distribution at t = 1 (continuous and discretised)
    # The accuracy at t = 1 (discrete) or the concentration after the last message (circular). None, for discrete data:
    # ChemBFN's 20.4054 / K with the logarithmic schedule, else bfn_kernels.schedules.final_accuracy(K).
    beta_1: float | None = None
    schedule: str | None = None  # None is the paper's; "logarithmic" (discrete), or module:function of your own
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of a schedule of your own


@dataclass
class NetworkConfig:
    name: str = "unet"  # a name in bfn.networks.NETWORKS, or module:class
    width: int = 32  # channels at full resolution, or the transformer's model width
    depth: int = 2  # residual blocks at each resolution, or the transformer's layers
    heads: int = 4  # attention heads
    dropout: float = 0.0  # the share of numbers that training sets to 0
    options: dict[str, Any] = field(default_factory=dict)  # more keyword arguments of the network, such as rotary=true

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments that every network takes."""
        return {"width": self.width, "depth": self.depth, "heads": self.heads, "dropout": self.dropout}


@dataclass
class TrainConfig:
    seed: int = 0  # the seed of the weights, the batches, the times and the noise
    batch_size: int = 128  # examples in one step, of all processes together
    micro_batch: int | None = None  # examples in one pass of the network; None is a process's share of the batch
    fully_shard: bool = False  # whether each of several processes holds only a part of the weights (FSDP2)
    optimizer: str = "adamw"  # "adamw", or "muon" for weights of linear layers and convolutions and AdamW for the rest
    learning_rate: float = 1e-3  # the learning rate after the warm-up
    final_learning_rate: float | None = None  # the learning rate at the end of a cosine; None: no fall
    beta_2: float = 0.99  # the decay of AdamW's second moment; the decay of the first moment is 0.9
    weight_decay: float = 0.01  # the weight decay
    decay_vectors: bool = True  # whether weight decay also shrinks biases and the weights of norms
    warmup_steps: int = 50  # first steps, over which the learning rate rises linearly
    clip_norm: float = 1.0  # the largest norm of the gradient; a larger gradient is scaled down
    ema_decay: float = 0.999  # the largest decay of the averaged weights
    n_steps: int | None = None  # None trains on the continuous-time loss, n on the n-step loss
    max_steps: int = 10_000  # the most steps of training
    max_seconds: float | None = None  # the most seconds of training, over all parts of a resumed run
    validate_every: int = 100  # steps between validations; each validation writes a row of the log and a checkpoint
    patience: int = 10  # validations without a better bound before training stops
    mixed_precision: str = "auto"  # "no", "bf16", "fp16" (only on a GPU), or "auto": bf16 if the device is fast in it
    compiler: str | None = "auto"  # a backend of torch.compile, None, or "auto": inductor if it shortens the run
    # With the compiler "auto": the number of steps before inductor is used. None: until it is measured to be faster.
    compile_from: int | None = None
    cpu: bool = False  # train on the CPU even if there is a GPU


@dataclass
class EvaluateConfig:
    n_steps: int | None = None  # None evaluates the continuous-time bound, n the n-step bound
    repeats: int = 32  # values of t for each example, spread evenly over [0, 1]
    batch_size: int = 512  # examples in one pass of the network
    seed: int = 0  # the seed of the times and the noise


@dataclass
class SampleConfig:
    count: int = 64  # samples to draw
    n_steps: int = 100  # steps of the sampler
    sampler: str = "ancestral"  # a name in SAMPLERS
    choose: str | None = None  # what a step uses of the output distribution: a "sample", its "mode" or its "mean"
    temperature: float | None = None  # the number by which the logits of classes are divided; None is 1
    tolerance: float | None = None  # the largest error of a step of ode2; with it, only plots use n_steps
    guide: str | None = None  # the property to which samples of molecules are guided, such as "logp=3"
    guidance: float = 2.0  # 0 ignores the property, 1 is the network's output given the property, above 1 exaggerates
    # with a tolerance: the largest number of network calls in one run; the two calls of a guided step count as one
    max_calls: int = 1000
    seed: int = 0  # the seed of the samples

    @property
    def taking(self) -> dict[str, Any]:
        """The arguments of a sampler that say what a step takes of the output distribution."""
        return {"choose": self.choose, "temperature": self.temperature}

    @property
    def calls_of_a_step(self) -> int:
        """The calls of the network in a step: a guided step makes one with the property and one without."""
        return 1 if self.guide is None else 2


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
ANY_SIGN = {"seed", "weight_decay", "guidance", "final_learning_rate"}  # the other keys of numbers must be positive
ENDLESS = {"max_seconds", "clip_norm", "tolerance"}  # keys that may be infinite, which means no limit


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):  # a checkpoint would make it a text, since it is JSON
            raise ConfigError(f"the key {key} in {prefix.rstrip('.')} must be a text; put it in quotes")
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def choose(table: Mapping[str, Any], name: str, key: str) -> Any:
    """The entry of a table that a configuration key names."""
    if name not in table:
        raise ConfigError(f"{key}={name!r} is not known; it takes one of {', '.join(table)}")
    return table[name]


def find(table: Mapping[str, Any], name: str, key: str) -> Any:
    """The entry of a table that a configuration key names, or the object that it names as module:function."""
    return imported(name, key) if ":" in name else choose({**table, "module:function": None}, name, key)


def imported(path: str, key: str) -> Any:
    """The object that module:function names; the module may lie in the current directory."""
    module, _, name = path.partition(":")
    if module.startswith("."):
        raise ConfigError(f"{key}={path!r} cannot be imported: the name of a module does not begin with a dot")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # at the end, so that no file in it hides a package
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={path!r} cannot be imported: {error}") from error


def called(function: Callable[..., Any], name: str, options: dict[str, Any], *arguments: Any, **more: Any) -> Any:
    """Calls a user's function with the options as keyword arguments. If the function does not take an option, a
    ConfigError names it. name: the setting that named the function, such as data.name=module:function."""
    try:
        inspect.signature(function).bind(*arguments, **more, **options)
    except (TypeError, ValueError) as error:  # some functions in C have no signature
        section = name.partition(".")[0]
        raise ConfigError(f"{name} cannot use {section}.options={options}: {error}") from error
    return function(*arguments, **more, **options)


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
    """The settings of a YAML file. If it names a shipped file as `base`, they replace the base's settings."""
    try:
        tree = OmegaConf.load(path)
        base = tree.pop("base", None) if isinstance(tree, DictConfig) else None
        bases = {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in sorted(FOLDER.rglob("*.yaml"))}
        return tree if base is None else OmegaConf.merge(read(choose(bases, base, f"{path}: base")), tree)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except TypeError as error:
        raise ConfigError(f"{path} does not fit its base: {first_line(error)}") from error


def build(tree: Any, overrides: Sequence[str] = (), where: str = "the configuration") -> Config:
    """A checked Config from a tree of settings; unknown keys and wrong types are refused with a ConfigError."""
    for override in overrides:
        if "=" not in override.lstrip("="):
            raise ConfigError(f"override {override!r} is not of the form key=value")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), sections_in(tree, where))
        where = "an override"
        merged = OmegaConf.merge(merged, sections_in(OmegaConf.from_dotlist(list(overrides)), where))
        config = OmegaConf.to_object(merged)
    except ConfigError:
        raise
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
        config.train.mixed_precision = "no"  # YAML reads `no` as the boolean False
    check(config)
    return config


def sections_in(tree: Any, where: str) -> Any:
    """Returns the tree. A single value instead of a section, such as data=mnist, is refused."""
    for section, settings in asdict(Config()).items():
        value = tree.get(section) if isinstance(tree, Mapping) and isinstance(settings, dict) else None
        if value is not None and not isinstance(value, Mapping):
            known = ", ".join(f"{section}.{key}" for key in settings)
            raise ConfigError(f"{section}={value} in {where} cannot be used: {section} has the settings {known}")
    return tree


def check(config: Config) -> None:
    """Refuse values that have the right type but no meaning."""
    for path, value in flatten(asdict(config)).items():
        key = path.rpartition(".")[2]
        if ".options." in path:  # the rules below are not for the settings of a user's function
            continue
        if type(value) in (int, float) and key not in FRACTIONS | ANY_SIGN and not value > 0:
            raise ConfigError(f"{path}={value} must be positive")
        if isinstance(value, float) and key not in ENDLESS and not math.isfinite(value):
            raise ConfigError(f"{path}={value} must be finite")
        if key == "weight_decay" and not value >= 0:
            raise ConfigError(f"{path}={value} must not be negative")
        if key in FRACTIONS and not 0 <= value < 1:
            raise ConfigError(f"{path}={value} must lie in [0, 1)")
        if key == "seed" and not -(2**63) <= value < 2**64:
            raise ConfigError(f"{path}={value} must be a number of 64 bits")
    last, rate = config.train.final_learning_rate, config.train.learning_rate
    if last is not None and not 0 <= last <= rate:
        raise ConfigError(f"train.final_learning_rate={last} must lie in [0, {rate}], up to train.learning_rate")
    choose(dict.fromkeys(("no", "bf16", "fp16", "auto")), config.train.mixed_precision, "train.mixed_precision")
    choose(dict.fromkeys(("adamw", "muon")), config.train.optimizer, "train.optimizer")
    choose(SAMPLERS, config.sample.sampler, "sample.sampler")
    if config.sample.choose is not None:
        choose(dict.fromkeys(CHOICES), config.sample.choose, "sample.choose")
    if config.train.compiler is not None:
        choose(dict.fromkeys(["auto", *list_backends(None)]), config.train.compiler, "train.compiler")
    if config.train.compile_from is not None and config.train.compiler != "auto":
        raise ConfigError(f"train.compile_from needs train.compiler='auto', got {config.train.compiler!r}")
    if config.sample.tolerance is not None and config.sample.sampler != "ode2":
        raise ConfigError(f"sample.tolerance needs sample.sampler='ode2', got {config.sample.sampler!r}")
