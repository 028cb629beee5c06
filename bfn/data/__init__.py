"""The data sets. The setting `data.name` names a data set; the function of this data set makes a `Data`."""

from collections.abc import Callable
from dataclasses import asdict

from bfn.configs import Config, ConfigError, DataConfig, called, find
from bfn.data.angles import angles
from bfn.data.byte_pairs import text_bpe
from bfn.data.conformers import conformers
from bfn.data.moses import moses
from bfn.data.paper_datasets import cifar10, mnist, text8
from bfn.data.photographs import photographs
from bfn.data.shipped import digits, digits_binary, text
from bfn.data.splits import Data as Data
from bfn.data.splits import check
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
    "conformers": (conformers, ["folder", "count"]),
    "photographs": (photographs, ["folder"]),
}


def load_data(config: Config, tokenizer: str | None = None) -> Data:
    """The data set that `data.name` names. tokenizer: the tokenizer of an existing run, if its data are tokens. Only
    text_bpe takes it.

    Settings that a built-in data set does not read are refused, since they would change nothing. data.name may also
    name a user's function, which may read any setting, and which takes the options as keyword arguments.
    """
    name, settings = config.data.name, asdict(config.data)
    where = f"data.name={name!r}"
    make = find({name: make for name, (make, _) in DATASETS.items()}, name, "data.name")
    reads, defaults = DATASETS[name][1] if name in DATASETS else list(settings), asdict(DataConfig(name))
    for key, value in settings.items():
        if key not in reads and value != defaults[key]:
            used = ", ".join(f"data.{each}" for each in reads) or "no other setting"
            raise ConfigError(f"{where} does not read data.{key}={value}; it reads {used}")
    data = text_bpe(config, tokenizer) if make is text_bpe else called(make, where, config.data.options, config)
    check(data, where)
    return data
