import re
import shutil
import signal
from dataclasses import asdict

import numpy as np
import pytest
import torch

import bfn_kernels
from bfn import cli
from bfn.configs import Config, flatten, load
from bfn.sample import sample as draw
from bfn.training import checkpoint
from bfn.training.run_lock import RunError
from bfn.training.runs import LOG_FILE, MODEL_FILE, STATE_FILE, load_run, log_of
from tests.bfn.command import bfn
from tests.bfn.tiny_settings import TINY

PLOTS = ["losses.png", "narrowing.png"]
pytestmark = pytest.mark.usefixtures("short_validations")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a tiny run, and what training said."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    result = bfn("train", "digits", *TINY, f"out={out}", "train.max_steps=2", "evaluate.repeats=2")
    assert result.exit_code == 0, result.output
    return out, result.output


def test_training_ends_with_the_bits_the_baseline_and_the_paths(run):
    out, output = run
    line = re.search(r"^held-out bits per dimension: (\d\.\d{3}) \(factorised baseline 2\.44\)$", output, re.M)
    assert line and 2 < float(line[1]) < 8
    paths = re.findall(r"^(?:checkpoint|samples|plot): +(\S+)$", output, re.M)
    assert paths == [str(out / name) for name in (MODEL_FILE, "samples.png", *PLOTS)]
    assert all((out / name).stat().st_size > 1000 for name in (MODEL_FILE, "samples.npy", "samples.png", *PLOTS))


def test_evaluating_says_what_training_said(run):
    out, output = run
    result = bfn("evaluate", out)
    assert result.exit_code == 0
    bound = re.search(r"bound\D+(\d\.\d{4}) ± \d", result.output)
    said = re.search(r"held-out bits per dimension: (\d\.\d{3})", output)
    assert bound and said and float(said[1]) == pytest.approx(float(bound[1]), abs=6e-4)
    assert "digits, 297 held-out examples, continuous time" in result.output
    assert "20 steps" in bfn("evaluate", out, "evaluate.n_steps=20").output


def test_a_table_of_bounds_and_one_of_samplers(run):
    out, _ = run
    result = bfn("evaluate", out, "--table", "--steps", "2,30")
    assert result.exit_code == 0 and f"plot: {out / 'bounds.png'}" in result.output
    assert re.findall(r"^│ +(\d+|∞) │", result.output, re.M) == ["2", "30", "∞"]
    assert "factorised baseline: 2.4369 bits per dimension, 108.10 nats" in result.output
    result = bfn("compare", out, "--samplers", "ode1,ode2", "--steps", "2,3")
    assert result.exit_code == 0 and (out / "samplers.png").exists()
    assert re.findall(r"^│ (\w+) +│ +(\d) │", result.output, re.M) == [
        ("ode1", "3"), ("ode1", "4"), ("ode2", "3"), ("ode2", "4")
    ]  # fmt: skip
    spaced = bfn("compare", out, "--samplers", "ancestral, ode2", "--steps", "2, 3")
    assert re.findall(r"^│ (\w+) +│ +(\d) │", spaced.output, re.M)[::2] == [("ancestral", "3"), ("ode2", "3")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--table", "--steps", "5,x"), "--steps=5,x must be positive whole numbers"),
        (("evaluate", "--steps", "20"), "--steps=20 needs --table"),
        (("convert", "back.pt", "--back", "--config", "digits"), "with --back, convert takes neither --config nor"),
        (("evaluate", "network.width=24"), "does not fit its configuration: size mismatch for network."),
        (("compare", "--steps", "0"), "--steps=0 must be positive whole numbers"),
        (("compare", "--samplers", "ode3"), "--samplers='ode3' is not known; it takes one of ancestral, ode1"),
        (("sample", "--to", "samples.jpg"), "--to=samples.jpg must end in .png"),
    ],
)
def test_options_that_mean_nothing_are_refused(run, arguments, message):
    command, *options = arguments
    result = bfn(command, run[0], *options)
    assert result.exit_code == 1 and message in result.output


def test_a_loaded_run_has_no_dropout(run):
    model, settings, data = load_run(run[0])
    assert settings.network.dropout > 0 and not model.training
    losses = [model(data.test[:8], seed=0).item() for _ in range(2)]
    assert losses[0] == losses[1]
    assert load_run(run[0], data=data)[2] is data  # which is not loaded again


def test_a_training_state_is_no_model(run):
    for command in ("evaluate", "sample", "plot"):
        result = bfn(command, run[0] / STATE_FILE)
        reason = f"{run[0] / STATE_FILE} is the training state of a run; give its directory, or its model.safetensors"
        assert result.exit_code == 1 and result.output == f"error: {reason}\n"


DAMAGED = [b"", b"step,seconds\n\xff", b"step,bits\n1,2\n3\n", b"step\nthree\n", b'step\n"3\n']


@pytest.mark.parametrize("damaged", DAMAGED, ids=repr)
def test_a_damaged_log_is_replaced_by_the_training_state_or_is_one_line(damaged, run, tmp_path):
    for name in (STATE_FILE, MODEL_FILE):
        shutil.copy(run[0] / name, tmp_path)
    log = log_of(run[0])
    assert [row["step"] for row in log] and set(log[0]) == {
        "step", "seconds", "train_bits", "validation_bits", "validation_error"
    }  # fmt: skip
    (tmp_path / LOG_FILE).write_bytes(damaged)
    assert log_of(tmp_path) == log
    for state in (b"nothing", None):
        (tmp_path / STATE_FILE).write_bytes(state) if state else (tmp_path / STATE_FILE).unlink()
        if damaged:
            with pytest.raises(
                RunError, match=rf"log.csv is damaged, and {STATE_FILE} does not replace it: ."
            ) as error:
                log_of(tmp_path)
            assert "\n" not in str(error.value)
        else:
            assert log_of(tmp_path) == []
    shutil.copy(run[0] / LOG_FILE, tmp_path)
    assert log_of(tmp_path) == [pytest.approx(row) for row in log]


def test_a_finished_run_whose_log_is_damaged_ends_and_is_plotted(run, tmp_path):
    for name in (STATE_FILE, MODEL_FILE):
        shutil.copy(run[0] / name, tmp_path)
    (tmp_path / LOG_FILE).write_text("step\nthree\n")
    result = bfn("plot", tmp_path)
    assert result.exit_code == 0 and (tmp_path / "losses.png").exists(), result.output
    (tmp_path / "losses.png").unlink()
    result = bfn("train", "digits", *TINY, f"out={tmp_path}", "train.max_steps=2", "evaluate.repeats=1")
    assert result.exit_code == 0 and (tmp_path / "losses.png").exists(), result.output


def test_a_run_of_other_data_is_named(tmp_path):
    state = {"config": asdict(load("text_bpe")), "tokenizer": "{}"}
    checkpoint.save(tmp_path / STATE_FILE, {}, state)
    result = bfn("train", "digits", f"out={tmp_path}", *TINY)
    assert result.exit_code == 1 and "holds a run with data." in result.output, result.output


def test_a_directory_with_brackets_is_printed_whole(tmp_path):
    assert cli.console.render_str("runs/a[lr=1e-3]").plain == "runs/a[lr=1e-3]"


def test_samples_are_written_as_numbers_and_where_one_asks(run, tmp_path):
    out, _ = run
    result = bfn("sample", out, "--to", tmp_path / "three.png", "sample.count=3")
    assert result.exit_code == 0 and (tmp_path / "three.png").exists()
    samples = np.load(tmp_path / "three.npy")
    assert samples.shape == (3, 8, 8) and (samples != 0).any() and (np.abs(samples) < 1).all()


def test_the_help_of_training_has_every_setting_and_its_default():
    said = " ".join(bfn("train", "--help").output.split())
    missing = [f"{key}={value}" for key, value in flatten(asdict(Config())).items() if f"{key}={value}" not in said]
    assert missing == []


def test_the_version_is_that_of_the_kernels():
    assert bfn("--version").output.startswith(f"bfn {bfn_kernels.__version__}, torch ")


@pytest.mark.parametrize(
    ("command", "written"),
    [("sample", ["samples.png"]), ("plot", ["losses.png", "times.png", "narrowing.png", "flow.gif"])],
)
def test_pictures_are_written_again_on_demand(run, command, written):
    out, _ = run
    for name in written:
        (out / name).unlink(missing_ok=True)
    result = bfn(command, out)
    assert result.exit_code == 0 and all(str(out / name) in result.output for name in written)
    assert all((out / name).exists() for name in written)


def test_pictures_of_a_model_file_are_written_beside_it(run):
    out, _ = run
    (out / "samples.png").unlink(missing_ok=True)
    result = bfn("sample", out / MODEL_FILE, "sample.count=2")
    assert result.exit_code == 0 and (out / "samples.png").exists()


def test_the_same_command_continues_and_fresh_starts_again(run):
    out, _ = run
    settings = [f"out={out}", *TINY]
    result = bfn("train", "digits", "train.max_steps=3", *settings)
    assert "at step 2" in result.output and "trained 3 steps" in result.output
    assert "; train.max_steps=3 ended it\n" in result.output
    result = bfn("train", "digits", "--fresh", *settings, "train.max_steps=4", "train.validate_every=2")
    assert "continuing" not in result.output and "trained 4 steps" in result.output
    assert re.findall(r"^step (\d/\d), \d+ s: validation \d", result.output, re.M) == ["2/4", "4/4"]


def test_text_samples_are_printed(tmp_path):
    settings = [*TINY, "data.length=16", f"out={tmp_path}", "train.max_steps=1", "sample.count=2"]
    result = bfn("train", "text", *settings)
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"^│ [a-z ]{16} │$", result.output, re.M)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digit"], "no configuration 'digit'"),
        (["evaluate", "nowhere"], "there is no checkpoint nowhere"),
        (["sample", "digits"], "there is no checkpoint digits; give the directory of a run, such as runs/digits"),
    ],
)
def test_what_the_user_can_put_right_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bfn(*arguments)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("error: ") and result.output.count("\n") == 1 and message in result.output


@pytest.mark.parametrize("name", [STATE_FILE, MODEL_FILE])
def test_a_truncated_checkpoint_is_one_line(run, tmp_path, name):
    for file in (STATE_FILE, MODEL_FILE):
        shutil.copy(run[0] / file, tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    result = bfn(*(["train", "digits", f"out={tmp_path}", *TINY] if name == STATE_FILE else ["evaluate", tmp_path]))
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert f"{name} cannot be read, it may be truncated" in result.output


@pytest.mark.parametrize(("more", "command"), [([], "command"), (["--fresh"], "command without --fresh")])
def test_an_interrupted_run_says_how_to_go_on(more, command, tmp_path, monkeypatch):
    def step(trainer):
        trainer.at.step += 1
        trainer.losses.append(torch.zeros(()))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("bfn.training.trainer.Trainer.step", step)
    result = bfn("train", "digits", f"out={tmp_path}", *TINY, *more)
    assert result.exit_code == 130 and not (tmp_path / MODEL_FILE).exists()
    assert result.output.endswith(f"interrupted and saved at step 1; the same {command} continues from there\n")


def test_a_loss_that_is_not_finite_is_one_line(tmp_path):
    result = bfn("train", "digits", *TINY, f"out={tmp_path}", "train.learning_rate=1e30", "train.warmup_steps=1")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: the loss at step 2 is not finite; try a lower train.learning_rate")


def test_a_sampler_and_its_steps_are_options(run, monkeypatch):
    out, _ = run
    asked = []
    monkeypatch.setattr(
        cli,
        "draw",
        lambda model, count, n_steps, **k: asked.append((n_steps, k["sampler"])) or draw(model, count, 1, **k),
    )
    assert bfn("sample", out, "--sampler", "ode2", "--steps", 2).exit_code == 0
    assert bfn("sample", out, "sample.sampler=sde1").exit_code == 0
    assert asked == [(2, "ode2"), (5, "sde1")]
    refused = bfn("sample", out, "--sampler", "euler")
    assert refused.exit_code == 1 and "sample.sampler='euler' is not known" in refused.output
    within = bfn("sample", out, "--sampler", "ode2", "--tolerance", 0.5)
    assert within.exit_code == 0 and re.search(r"^calls of the network: \d+$", within.output, re.M)
    refused = bfn("sample", out, "--sampler", "ode2", "--tolerance", 0.5, "sample.max_calls=3")
    assert refused.exit_code == 1 and "error: max_calls=3 calls of the network reach t = " in refused.output
    refused = bfn("sample", out, "--tolerance", 0.5)
    assert refused.exit_code == 1 and "sample.tolerance needs sample.sampler='ode2', got 'ancestral'" in refused.output
