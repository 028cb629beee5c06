import dataclasses
import re

import pytest

from bfn.configs import Config, ConfigError, load
from bfn.data import load_data
from bfn.model import build_model
from docs.site import settings


def test_every_shipped_configuration_builds_a_model_of_its_own_directory():
    for name in ("digits", "digits_binary", "digits_continuous", "text"):
        config = load(name)
        assert config.out == f"runs/{name}"
        model = build_model(config, load_data(config))
        assert 1e5 < sum(p.numel() for p in model.parameters()) < 2e6


# The published ones: the network's width, depth and heads, then what the optimizer takes, then the flow's variance at
# t = 1, or √β₁.
PAPER = {
    "mnist": ("unet_improved", 128, 2, 4, 0.5, 512, 1e-4, 0.98, 3.0),
    "cifar10": ("unet_vdm", 128, 32, 1, 0.1, 32, 2e-4, 0.99, 1e-6),
    "cifar10_16bins": ("unet_vdm", 128, 32, 1, 0.1, 32, 2e-4, 0.99, 1e-3),
    "text8": ("gpt", 768, 24, 12, 0.0, 416 * 8, 1e-4, 0.98, 0.75),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_experiments_have_the_papers_numbers(name):
    config = load(name)
    network, train, model = config.network, config.train, config.model
    *numbers, flow = PAPER[name]
    assert [network.name, network.width, network.depth, network.heads, network.dropout] == numbers[:5]
    assert [train.batch_size, train.learning_rate, train.beta_2] == numbers[5:]
    assert (train.weight_decay, train.clip_norm, train.ema_decay, train.warmup_steps) == (0.01, 5.0, 0.9999, 1)
    assert train.decay_vectors == (name != "text8")
    assert (train.max_seconds, train.n_steps) == (
        None,
        None,
    ) and train.patience * train.validate_every >= train.max_steps
    assert (model.beta_1**0.5 if model.sigma_1 is None else model.sigma_1**2) == pytest.approx(flow, rel=1e-6)
    assert config.data.num_bins == (16 if name == "cifar10_16bins" else 256) and config.out == f"runs/{name}"
    assert name != "text8" or config.data.length == 256


def test_overrides_replace_what_the_file_says():
    config = load("digits", ["train.max_steps=7", "network.dropout=0.25", "evaluate.n_steps=20"])
    assert (config.train.max_steps, config.network.dropout, config.evaluate.n_steps) == (7, 0.25, 20)
    assert config.model.sigma_1 == load("digits").model.sigma_1
    for precision in ("no", "bf16", "fp16"):
        assert load("digits", [f"train.mixed_precision={precision}"]).train.mixed_precision == precision


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_step=3", r"unknown key 'train.max_step' in an override; did you mean train.max_steps"),
        ("trian.max_steps=3", r"unknown key 'trian' in an override"),
        ("train.max_steps=many", r"key 'train.max_steps' in an override cannot be used: .*many"),
        ("train.max_steps=1.5", r"key 'train.max_steps' in an override cannot be used: .*1.5"),
        ("train=3", r"^train=3 in an override cannot be used: train has the settings train.seed, train.batch_size, "),
        ("data=mnist", r"^data=mnist in an override cannot be used: data has the settings data.name, data.folder, "),
        ("train.max_steps", r"override 'train.max_steps' is not of the form key=value"),
        ("train.max_steps=0", r"train.max_steps=0 must be positive"),
        ("network.dropout=1.0", r"network.dropout=1.0 must lie in \[0, 1\)"),
        ("train.final_learning_rate=0.1", r"train.final_learning_rate=0.1 must lie in \[0, 0\.\d+\]"),
        ("train.learning_rate=-1", r"train.learning_rate=-1.0 must be positive"),
        ("train.weight_decay=-1", r"train.weight_decay=-1.0 must not be negative"),
        ("model.beta_1=.inf", r"model.beta_1=inf must be finite"),
        ("sample.guidance=.nan", r"sample.guidance=nan must be finite"),
        ("sample.seed=18446744073709551616", r"sample.seed=18446744073709551616 must be a number of 64 bits"),
        ("train.compiler=gcc", r"train.compiler='gcc' is not known; it takes one of .*inductor"),
        ("train.mixed_precision=fp8", r"train.mixed_precision='fp8' is not known; it takes one of no, bf16"),
    ],
)
def test_a_bad_override_is_refused_by_name(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load("digits", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.name=digit", "data.name='digit' is not known; it takes one of digits, digits_binary, text"),
        ("model.kind=cont", "model.kind='cont' is not known; it takes one of continuous, discretised, discrete"),
        ("network.name=mlp", "network.name='mlp' is not known; it takes one of unet, transformer"),
        ("model.beta_1=3", "model.kind='discretised' needs model.sigma_1 and does not take model.beta_1"),
        ("model.sigma_1=1e-30", r"model.sigma_1=1e-30 must lie in \[1e-6, 1\)"),
        ("model.sigma_1=1.5", r"model.sigma_1=1.5 must lie in \[1e-6, 1\)"),
        ("data.name=digits_binary", "model.kind='discretised' does not fit data.name='digits_binary'"),
        ("network.name=transformer", "network.name='transformer' takes sequences"),
        ("network.width=12", "network.width=12 must be a multiple of 8"),
        ("sample.temperature=0.5", "sample.temperature must be None for data without classes, got 0.5"),
        ("data.num_bins=32", "data.name='digits' does not read data.num_bins=32; it reads no other setting"),
        ("network.options.rotary=true", "network.name='unet' cannot use network.options={'rotary': True}: got an unex"),
        ("network.options.width=64", "network.options.width is the setting network.width"),
        ("model.options.speed=3", "model.options are settings for a model.schedule of your own"),
        ("model.schedule=logarithmic", "model.schedule='logarithmic' needs model.kind='discrete', got 'discretised'"),
        (
            "sample.guide=logp=3",
            "sample.guide=logp=3 must be logp=NUMBER, with a NUMBER from -1 to 5, of a model of mol",
        ),
    ],
)
def test_names_and_values_that_do_not_fit_are_refused_before_training(override: str, message: str):
    config = load("digits", [override])
    with pytest.raises(ConfigError, match=message):
        build_model(config, load_data(config))


def test_a_file_is_read_and_its_unknown_keys_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {max_steps: 5}\nmodel: {sigma_1: 0.1}\n")
    assert load(str(path)).train.max_steps == 5
    path.write_text("data: {options: {weights: {3: 0.5}}}\n")
    with pytest.raises(ConfigError, match=r"the key 3 in data.options.weights must be a text; put it in quotes"):
        load(str(path))
    path.write_text("data: {options: {weights: {'3': 0.5}}}\n")
    assert load(str(path)).data.options == {"weights": {"3": 0.5}}
    path.write_text("train: {max_stepz: 5}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'train.max_stepz' in .*mine.yaml; did you mean"):
        load(str(path))
    path.write_text("train: [unclosed\n")
    with pytest.raises(ConfigError, match=r"mine.yaml is not valid YAML"):
        load(str(path))
    path.write_bytes(b"out: \xff\n")
    with pytest.raises(ConfigError, match=r"mine.yaml is not valid YAML: .*utf-8"):
        load(str(path))
    path.write_text("data: mnist\n")
    with pytest.raises(ConfigError, match=r"^data=mnist in .*mine.yaml cannot be used: data has the set"):
        load(str(path))
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match=r"mine.yaml"):
        load(str(path))


def test_a_file_takes_what_it_does_not_say_from_its_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: text\nnetwork: {depth: 1}\n")
    config, text = load(str(path)), load("text")
    assert config.network == dataclasses.replace(text.network, depth=1) and config.data == text.data
    path.write_text("base: text\ntrain: [1]\n")
    with pytest.raises(ConfigError, match=r"mine.yaml does not fit its base: Cannot merge"):
        load(str(path))
    path.write_text("base: shared/paper\n")
    assert load(str(path)).train.clip_norm == 5
    path.write_text("base: txt\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: base='txt' is not known; it takes one of angles, .*, text_bpe$"):
        load(str(path))


def test_a_configuration_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"no configuration 'digit'; give one of angles, cifar10, .*, digits_binary"):
        load("digit")
    with pytest.raises(ConfigError, match=r"cannot read the configuration nowhere.yaml: No such file"):
        load("nowhere.yaml")


def test_what_a_file_does_not_say_is_what_it_was():
    """A file of a year ago trains the same model."""
    defaults = {
        "out": "runs/digits",
        "data": {"name": "digits", "folder": None, "file": "text8", "length": 64, "vocabulary": 8000, "num_bins": 256}
        | {"count": None},
        "model": {"kind": "discretised", "sigma_1": None, "beta_1": None, "schedule": None},
        "network": {"name": "unet", "width": 32, "depth": 2, "heads": 4, "dropout": 0.0},
        "train": {"seed": 0, "batch_size": 128, "micro_batch": None, "fully_shard": False, "cpu": False}
        | {"optimizer": "adamw"}
        | {"learning_rate": 1e-3, "final_learning_rate": None, "beta_2": 0.99, "weight_decay": 0.01}
        | {
            "decay_vectors": True,
            "warmup_steps": 50,
            "clip_norm": 1.0,
            "ema_decay": 0.999,
            "n_steps": None,
            "max_steps": 10_000,
            "max_seconds": None,
        }
        | {"validate_every": 100, "patience": 10, "mixed_precision": "auto", "compiler": "auto"}
        | {"compile_from": None},
        "evaluate": {"n_steps": None, "repeats": 32, "batch_size": 512, "seed": 0},
        "sample": {
            "count": 64,
            "n_steps": 100,
            "sampler": "ancestral",
            "choose": None,
            "temperature": None,
            "tolerance": None,
            "max_calls": 1000,
            "guide": None,
            "guidance": 2.0,
            "seed": 0,
        },
    }
    for part in ("data", "model", "network"):
        defaults[part]["options"] = {}
    assert dataclasses.asdict(Config()) == defaults


def test_the_page_of_settings_says_what_the_code_says():
    said = settings.PAGE.read_text()
    assert said == settings.text(), "run `python docs/site/settings.py`, which writes the page"
    meanings = dict(re.findall(r"^\| `([\w.]+)` \| (?:`.*?`)? ?\| (.*) \|$", said, re.MULTILINE))
    out, *sections = dataclasses.asdict(Config()).items()
    assert [*meanings] == [out[0], *(f"{name}.{key}" for name, values in sections for key in values)]
    assert all(meanings.values()), f"comments must explain {[key for key in meanings if not meanings[key]]}"
