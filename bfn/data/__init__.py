"""The data sets by name. `data.name` chooses one, and `Data` is what it makes."""

from collections.abc import Callable
from dataclasses import asdict

from bfn.configs import Config, ConfigError, DataConfig, find
from bfn.data.angles import angles
from bfn.data.byte_pairs import text_bpe
from bfn.data.moses import moses
from bfn.data.published import cifar10, mnist, text8
from bfn.data.shipped import digits, digits_binary, text
from bfn.data.splits import Data as Data
from bfn.data.splits import image_baseline as image_baseline

# The function that makes each data set, and the settings of `data` that it reads.
DATASETS: dict[str, tuple[Callable[..., Data], list[str]]] = {
    "digits": (digits, []),
    "digits_binary": (digits_binary, []),
    "text": (text, ["length"]),
    "text_bpe": (text_bpe, ["folder", "file", "length", "vocabulary"]),
    "mnist": (mnist, ["folder"]),
    "cifar10": (cifar10, ["folder", "num_bins"]),
    "text8": (text8, ["folder", "file", "length"]),
    "moses": (moses, ["folder", "length", "count"]),
    "angles": (angles, ["folder", "length"]),
}


def load_data(config: Config, tokenizer: str | None = None) -> Data:
    """The data set that `data.name` names; tokenizer: of a run that is there, for data that are tokens."""
    make = find({name: make for name, (make, _) in DATASETS.items()}, config.data.name, "data.name")
    refuse_unread(config.data)
    return make(config) if tokenizer is None else make(config, tokenizer)


def refuse_unread(settings: DataConfig) -> None:
    """Refuse settings that the data set does not read, which would change nothing; one of a user's own may read all."""
    if settings.name not in DATASETS:
        return
    reads, defaults = DATASETS[settings.name][1], asdict(DataConfig(settings.name))
    for key, value in asdict(settings).items():
        if key not in reads and value != defaults[key]:
            wanted = f"which reads {', '.join(f'data.{name}' for name in reads)}" if reads else "which reads no other"
            raise ConfigError(f"data.{key}={value} means nothing to data.name={settings.name!r}, {wanted}")
