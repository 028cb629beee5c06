"""The paper's experiments by the command line, with tiny networks on tiny files; and what the user brings himself."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import pytest

from bfn import cli
from bfn.configs import load
from bfn.data import download, load_data
from bfn.data.files import MissingFile
from bfn.training import checkpoint
from bfn.training.runs import MODEL_FILE, STATE_FILE
from bfn.training.trainer import Trainer
from tests.bfn import tiny_files
from tests.bfn.command import bfn

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "own.md").read_text()
TINY = [
    "network.width=32",
    "network.depth=1",
    "network.heads=2",
    "train.batch_size=4",
    "train.validate_every=1",
    "evaluate.repeats=2",
    "sample.n_steps=2",
    "sample.count=2",
]


def state_of(out):
    """The tensors and the state of a run, without the seconds that it took."""
    tensors, state = checkpoint.load(out / STATE_FILE)
    for entry in (state["position"], *state["log"]):
        del entry["seconds"]
    return tensors, state["position"], state["log"]


@pytest.mark.usefixtures("short_validations")
@pytest.mark.parametrize(
    "name",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in ("mnist", "cifar10")), "mnist_small", "text8", "text8_small"],
)
def test_an_experiment_starts_and_resumes_as_if_it_had_not_stopped(name, tmp_path):
    folder = tiny_files.ALL[name.partition("_")[0]](tmp_path / "data")
    settings = [f"data.folder={folder}", *(["data.length=16"] if name.startswith("text8") else []), *TINY]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = bfn("train", name, f"out={whole}", "train.max_steps=2", *settings)
    assert result.exit_code == 0, result.output
    assert re.search(r"^held-out bits per dimension: \d+\.\d{3} \(factorised baseline \d\.\d\d\)$", result.output, re.M)
    assert all((whole / f).stat().st_size > 1000 for f in (MODEL_FILE, "samples.png", "losses.png", "narrowing.png"))
    for step in range(2):
        config = load(name, [f"out={parts}", f"train.max_steps={step + 1}", *settings])
        trainer = Trainer(config, load_data(config))
        assert trainer.at.step == step
        trainer.run()
    (tensors, *rest), (tensors_whole, *rest_whole) = state_of(parts), state_of(whole)
    assert tensors.keys() == tensors_whole.keys() and rest == rest_whole
    assert all(tensors[key].equal(tensors_whole[key]) for key in tensors)


def fake_torchvision(monkeypatch, fetch):
    """A stand-in for torchvision, whose data sets call fetch(name, folder, download)."""
    torchvision, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    for name in ("MNIST", "CIFAR10"):
        setattr(datasets, name, lambda root, download, name=name: fetch(name, root, download))
    torchvision.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_torchvision_downloads_what_the_user_asks_for_where_it_is_found(name, tmp_path, monkeypatch):
    asked = []

    def fetch(kind, root, download):
        asked.append((kind, download))
        tiny_files.ALL[name](root)

    fake_torchvision(monkeypatch, fetch)
    result = bfn("data", "download", name, "--folder", tmp_path)
    assert result.output == f"downloaded; train with: bfn train {name} data.folder={tmp_path}\n"
    assert asked == [(name.upper(), True)]
    assert len(load_data(load(name, [f"data.folder={tmp_path}"])).test) == {"mnist": 12, "cifar10": 6}[name]


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def fetch(*arguments):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    fake_torchvision(monkeypatch, fetch)
    result = bfn("data", "download", "mnist", "--folder", tmp_path)
    assert result.exit_code == 1
    assert result.output == "error: mnist could not be downloaded: Error downloading train-images-idx3-ubyte.gz\n"
    monkeypatch.setattr(download, "TEXT8", (tmp_path / "nowhere").as_uri())
    result = bfn("data", "download", "text8", "--folder", tmp_path)
    assert result.exit_code == 1 and result.output.startswith("error: ") and result.output.count("\n") == 1
    assert "nowhere" in result.output and not (tmp_path / "text8.zip").exists()


RETRIES = (
    "WARNING: Retrying after connection broken by 'NameResolutionError(...)'\nERROR: No matching distribution found\n"
)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnist", "mnist could not be downloaded: Error downloading images: Tried one, got: <urlopen error> Tried two"),
        ("cifar10", "cifar10 could not be downloaded: Name or service not known"),
        ("text8", "text8 could not be downloaded: timed out"),
        ("moses", "pip could not download molsets==0.3.1: no package index answers; is there a network?"),
    ],
)
def test_a_download_without_a_network_is_one_line(name, reason, tmp_path, monkeypatch):
    def fetch(kind, *arguments):
        print("Failed to download (trying next)")
        if kind == "MNIST":
            raise RuntimeError("Error downloading images:\nTried one, got:\n<urlopen error>\nTried two\n")
        raise URLError("Name or service not known")

    def late(url):
        raise TimeoutError("timed out")

    fake_torchvision(monkeypatch, fetch)
    monkeypatch.setattr(download, "urlopen", late)
    failed = SimpleNamespace(returncode=1, stderr=RETRIES)
    monkeypatch.setattr(download.subprocess, "run", lambda *arguments, **how: failed)
    result = bfn("data", "download", name)
    assert result.exit_code == 1 and result.output == f"error: {reason}\n"


def test_a_folder_that_cannot_be_made_is_at_fault_itself(tmp_path):
    (tmp_path / "file").touch()
    result = bfn("data", "download", "text8", "--folder", tmp_path / "file" / "data")
    assert result.exit_code == 1 and result.output == f"error: {tmp_path / 'file' / 'data'}: Not a directory\n"


@pytest.mark.usefixtures("short_validations")
def test_training_finds_what_was_downloaded_and_downloads_if_it_is_told_to(own_cache, tmp_path, monkeypatch):
    asked = []

    def run(command, **how):
        asked.append(command[command.index("--dest") + 1])
        tiny_files.moses(Path(asked[-1]))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(download.subprocess, "run", run)
    command = ["train", "smiles_small", *TINY, "data.length=24", "data.count=null", "train.max_steps=1"]
    command = [*command, f"out={tmp_path / 'run'}", "evaluate.repeats=1"]
    monkeypatch.setattr(cli, "sampled", lambda *arguments: None)
    monkeypatch.setattr(cli, "plotted", lambda *arguments: [])
    refused, place = bfn(*command), own_cache / "moses"
    assert refused.exit_code == 1 and refused.output.count("\n") == 1 and asked == []
    assert refused.output.startswith("error: data.name='moses' needs the file molsets-0.3.1-py3-none-any.whl. 'bfn")
    result = bfn(*command, "--download")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"downloading moses into {place}\n") and asked == [str(place)]
    again = bfn(*command, "--download", "--fresh")
    assert again.exit_code == 0 and "downloading" not in again.output and len(asked) == 1
    (place / "molsets-0.3.1-py3-none-any.whl").unlink()
    result = bfn("data", "download", "moses")
    assert result.output == "downloaded; train with: bfn train smiles\n" and asked == [str(place)] * 2
    assert bfn("evaluate", tmp_path / "run").exit_code == 0
    elsewhere = bfn(*command, "--download", "--fresh", f"data.folder={tmp_path / 'other'}")
    assert elsewhere.exit_code == 0 and asked[2:] == [str(tmp_path / "other")]
    other = bfn("train", "text_bpe", f"data.folder={tmp_path}", "--download")
    assert other.exit_code == 1 and f"data.folder={tmp_path} has no text8" in other.output


def test_of_several_processes_one_says_that_it_downloads(monkeypatch, capsys):
    def missing(settings, fresh):
        raise MissingFile

    monkeypatch.setattr(cli, "data_of", missing)
    monkeypatch.setattr(cli, "download", lambda name, folder: None)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(MissingFile):
            cli.found(load("mnist"), fresh=False, fetch=True)
        assert capsys.readouterr().out.count("downloading mnist into") == lines


@pytest.mark.parametrize("missing", ["torchvision", "PIL"])
def test_without_torchvision_one_line_says_what_to_install(missing, tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("import PIL")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    result = bfn("data", "download", "cifar10", "--folder", tmp_path)
    assert result.exit_code == 1 and result.output == (
        f"error: downloading cifar10 needs {missing}, which is missing: pip install torchvision\n"
    )
    result = bfn("data", "download", "digits", "--folder", tmp_path)
    known = "mnist, cifar10, text8, moses, conformers, angles, photographs"
    assert result.output == f"error: the data set='digits' is not known; it takes one of {known}\n"


@pytest.mark.parametrize(
    ("name", "config", "requirement", "more"),
    [
        ("moses", "smiles", "molsets==0.3.1", []),
        ("angles", "angles", "mdanalysistests==2.11.0", []),
        (
            "photographs",
            "photographs",
            "scikit-image==0.26.0",
            ["--python-version=3.11", "--platform=manylinux_2_28_x86_64"],
        ),
    ],
)
def test_pip_fetches_the_file_of_a_package_once(name, config, requirement, more, tmp_path, monkeypatch):
    asked = []

    def run(command, **how):
        asked.append(command)
        getattr(tiny_files, name)(tmp_path)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(download.subprocess, "run", run)
    for _ in range(2):
        result = bfn("data", "download", name, "--folder", tmp_path)
        assert result.output == f"downloaded; train with: bfn train {config} data.folder={tmp_path}\n"
    assert len(asked) == 1 and asked[0][-1] == requirement
    assert {"download", "--no-deps", *more} < set(asked[0])


def test_text8_is_downloaded_once(tmp_path, monkeypatch):
    (tmp_path / "there.zip").write_bytes(b"all of it")
    monkeypatch.setattr(download, "TEXT8", (tmp_path / "there.zip").as_uri())
    folder = tmp_path / "data"
    assert bfn("data", "download", "text8", "--folder", folder).exit_code == 0
    assert (folder / "text8.zip").read_bytes() == b"all of it"
    (tmp_path / "there.zip").unlink()
    assert bfn("data", "download", "text8", "--folder", folder).exit_code == 0
    (folder / "text8.zip").rename(folder / "text8.gz")
    assert bfn("data", "download", "text8", "--folder", folder).exit_code == 0


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current directory holds the module and the configuration of the page, which no test has imported."""
    for language, name in (("python", "my_module.py"), ("yaml", "rings.yaml")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_module", None)


@pytest.mark.usefixtures("short_validations")
def test_the_example_of_the_page_trains_on_data_a_network_and_a_schedule_of_its_own(own):
    settings = ["train.max_steps=1", "train.batch_size=8", "evaluate.repeats=1", "sample.n_steps=2", "sample.count=1"]
    result = bfn("train", "rings.yaml", *settings, "data.options.thickness=2")
    assert result.exit_code == 0, result.output
    module = sys.modules["my_module"]
    _, config, data = cli.load_run(own / "runs" / "rings")
    assert config.data.options == {"thickness": 2}
    assert data.train.double().mean() > 0.25  # of thick rings
    model, _, _ = cli.load_run(own / "runs" / "rings")
    assert type(model.network) is module.Local and model.network.layers[0].kernel_size == (5, 5)
    assert type(model.schedule) is module.Even and model.schedule.beta_1 == 4
    result = bfn("train", "rings.yaml", *settings, "network.options.kernel=3", "data.options.thickness=2")
    assert "holds a run with network.options.kernel=5, not 3" in result.output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.name=my_modul:rings", "data.name='my_modul:rings' cannot be imported: No module named 'my_modul'"),
        ("network.name=my_module:Loca", "network.name='my_module:Loca' cannot be imported: module 'my_module' has no"),
        (
            "data.options.thicknes=2",
            "data.name='my_module:rings' cannot use data.options={'thickness': 1.0, 'thicknes': 2}",
        ),
        (
            "model.options.acuracy=2",
            "model.schedule='my_module:Even' cannot use model.options={'accuracy': 4.0, 'acuracy': 2}: got an un",
        ),
        ("model.schedule=:Even", "model.schedule=':Even' cannot be imported: Empty module name"),
        (
            "data.name=./my_module.py:rings",
            "data.name='./my_module.py:rings' cannot be imported: the name of a module does not",
        ),
        (
            "data.name=my_module",
            "data.name='my_module' is not known; it takes one of digits, digits_binary, text, text_bpe, mnist,",
        ),
    ],
)
def test_what_cannot_be_imported_or_called_is_one_line(override, message, own):
    result = bfn("train", "rings.yaml", override)
    assert result.exit_code == 1 and result.output.startswith(f"error: {message}"), result.output
    assert result.output.count("\n") == 1
