import math
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bfn.configs import ConfigError
from bfn.data import load_data
from bfn.model import build_model
from bfn.results.evaluate import evaluate
from bfn.training import processes, states
from bfn.training.checkpoint import CheckpointError, load, save
from bfn.training.runs import LOG_FILE, MODEL_FILE, STATE_FILE, load_run
from bfn.training.trainer import Interrupted, Trainer

SETTINGS = ["train.max_steps=9", "train.validate_every=4"]


@pytest.fixture(autouse=True)
def interruptible():
    """Restores the default action of Ctrl-C, which a process that a shell runs in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def trained(config, data, stop_at=None):
    """The trainer after its run, which is asked to stop during step `stop_at`."""
    trainer = Trainer(config, data)
    step = trainer.step

    def interrupted_step():
        step()
        if trainer.at.step == stop_at:
            signal.raise_signal(signal.SIGINT)

    if stop_at is not None:
        trainer.step = interrupted_step
        with pytest.raises(Interrupted):
            trainer.run()
    else:
        trainer.run()
    return trainer


def assert_same_run(one, other):
    """Two runs left the same bits: weights, averages, moments, position and log, but for the seconds they took."""
    (tensors_one, state_one), (tensors_other, state_other) = (load(t.out / STATE_FILE) for t in (one, other))
    assert tensors_one.keys() == tensors_other.keys()
    assert [k for k in tensors_one if not torch.equal(tensors_one[k], tensors_other[k])] == []
    for state in (state_one, state_other):
        for entry in (state["position"], *state["log"]):
            del entry["seconds"]
    assert state_one["position"] == state_other["position"] and state_one["log"] == state_other["log"]
    best_one, best_other = (load(t.out / MODEL_FILE)[0] for t in (one, other))
    assert all(torch.equal(best_one[k], best_other[k]) for k in best_one | best_other)


@pytest.mark.usefixtures("short_validations")
@pytest.mark.parametrize(("name", "optimizer"), [("digits", "muon"), ("text", "adamw")])
def test_a_run_that_is_interrupted_and_resumed_ends_with_the_same_bits(name, optimizer, tiny, tmp_path):
    settings = [*SETTINGS, f"train.optimizer={optimizer}", *(["network.width=32"] if optimizer == "muon" else [])]
    config = tiny(name, *settings, f"out={tmp_path / 'whole'}")
    data = load_data(config)
    whole = trained(config, data)
    parts = tiny(name, *settings, f"out={tmp_path / 'parts'}")
    assert trained(parts, data, stop_at=2).at.step == 2  # before the first validation
    torch.rand(3)  # random numbers that a program draws in between must not matter
    assert trained(parts, data, stop_at=6).at.step == 6  # between two
    assert_same_run(whole, trained(parts, data))


def test_a_run_does_not_go_on_with_other_data(tiny):
    config = tiny("digits", *SETTINGS)
    data = load_data(config)
    trained(config, data, stop_at=2)
    with pytest.raises(CheckpointError, match=r"holds a run on .*1350.*, and the data are .*1349"):
        Trainer(config, replace(data, train=data.train[1:]))


def test_a_run_that_goes_on_to_the_step_where_it_was_interrupted_has_a_result(tiny):
    config = tiny("digits", *SETTINGS)
    data = load_data(config)
    trained(config, data, stop_at=2)
    ended = trained(replace(config, train=replace(config.train, max_steps=2)), data)
    assert ended.at.step == ended.at.best_step == 2 and len(ended.log) == 1
    assert load(ended.out / MODEL_FILE)[1]["step"] == 2


@pytest.mark.usefixtures("short_validations")
def test_a_run_with_a_parameter_that_is_never_used_goes_on(tiny, monkeypatch):
    def with_more(config, data):
        model = build_model(config, data)
        model.network.unused = torch.nn.Linear(1, 1)
        return model

    monkeypatch.setattr("bfn.training.trainer.build_model", with_more)
    config = tiny("digits", *SETTINGS)
    data = load_data(config)
    trained(config, data, stop_at=2)
    assert trained(config, data).at.step == 9


def test_a_converted_model_is_not_written_over(tiny):
    config = tiny("digits", *SETTINGS)
    save(Path(config.out) / MODEL_FILE, {}, {"config": {}})
    with pytest.raises(CheckpointError, match="is a converted model, which a run would replace"):
        Trainer(config, load_data(config))
    assert Trainer(config, load_data(config), fresh=True).at.step == 0


def test_a_fresh_run_that_cannot_start_leaves_what_is_there(tiny):
    config = tiny("digits", "train.max_steps=1", "train.validate_every=1")
    data = load_data(config)
    trained(config, data)
    before = {path.name: path.read_bytes() for path in Path(config.out).iterdir() if path.is_file()}
    wrong = replace(config, train=replace(config.train, micro_batch=7))
    with pytest.raises(ConfigError, match="micro_batch=7 does not divide"):
        Trainer(wrong, data, fresh=True)
    assert {path.name: path.read_bytes() for path in Path(config.out).iterdir() if path.is_file()} == before
    assert Trainer(config, data, fresh=True).at.step == 0
    assert not (Path(config.out) / STATE_FILE).exists()


def test_means_need_no_float64_on_the_device():
    assert processes.means([0.5], torch.device("mps")) == [0.5]


@pytest.mark.parametrize(("most", "tried"), [(2**30, [2**30]), (2**25, [2**30, 2**25])])
def test_a_run_keeps_the_memory_that_it_frees_and_uses_tensor_cores(most, tried, monkeypatch):
    """Older versions of glibc keep less."""
    asked = []
    glibc = SimpleNamespace(mallopt=lambda option, size: asked.append((option, size)) or size <= most)
    with monkeypatch.context() as patched:
        patched.setattr(processes.ctypes, "CDLL", lambda name: glibc)
        processes.keep_freed_memory()
    assert asked == [(option, size) for option in (-3, -1) for size in tried]
    did = []
    monkeypatch.setattr(processes, "keep_freed_memory", lambda: did.append("kept"))
    torch.set_float32_matmul_precision("highest")
    processes.start(cpu=True)
    assert did == ["kept"] and torch.get_float32_matmul_precision() == "high"


def test_what_is_written_while_training_goes_on_are_copies_that_it_does_not_change(tiny):
    config = tiny("digits")
    trainer = Trainer(config, load_data(config))

    def tensors():
        return states.snapshot(trainer.bare, trainer.averaged, trainer.optimizer.optimizer)

    trainer.step()
    saved = tensors()
    before = {name: tensor.clone() for name, tensor in saved.items()}
    trainer.step()
    assert all(torch.equal(saved[name], before[name]) for name in saved)
    after = tensors()
    assert {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])} == {
        "model",
        "ema",
        "optimizer",
    }


def test_a_second_interrupt_acts_at_once(tiny):
    config = tiny("digits", "train.max_steps=5")
    trainer = Trainer(config, load_data(config))

    def stuck_step():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer.step = stuck_step
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("old", "new"), [("model.network.stem.bias", None), ("optimizer.network.stem.bias.exp_avg", "optimizer.0.exp_avg")]
)
def test_a_training_state_of_another_version_is_one_clear_error(old, new, tiny):
    config = tiny("digits", "train.max_steps=1")
    data = load_data(config)
    path = trained(config, data).out / STATE_FILE
    tensors, state = load(path)
    tensor = tensors.pop(old)
    if new is not None:
        tensors[new] = tensor
    save(path, tensors, state)
    with pytest.raises(CheckpointError, match=rf"training.safetensors does not fit .*: the shape of {new or old}"):
        Trainer(config, data)


def test_a_training_state_that_an_older_version_wrote_in_parts_is_one_clear_error(tiny):
    config = tiny("digits", "train.max_steps=1")
    data = load_data(config)
    path = trained(config, data).out / STATE_FILE
    save(path, {}, load(path)[1] | {"shards": {"directory": "training.1", "files": {}}})
    with pytest.raises(CheckpointError, match=r"training.safetensors refers to shards, as an older version of bfn"):
        Trainer(config, data)
    assert Trainer(config, data, fresh=True).at.step == 0


def test_an_epoch_shows_every_example_once_and_the_next_in_another_order(tiny):
    config = tiny("digits", "train.batch_size=135")
    data = load_data(config)
    trainer = Trainer(config, data)
    epochs = []
    for epoch in range(2):
        batches = [batch.x for index in range(10) for batch in trainer.batches.of(10 * epoch + index)]
        epochs.append(torch.cat(batches).flatten(1))
    everything = sorted(data.train.flatten(1).tolist())
    assert sorted(epochs[0].tolist()) == everything == sorted(epochs[1].tolist())
    assert not torch.equal(epochs[0], epochs[1])


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best(tiny, monkeypatch):
    config = tiny("digits", "train.max_steps=100", "train.validate_every=1", "train.patience=3")
    trainer = Trainer(config, load_data(config))
    bounds = iter([3.0, 2.0, 2.5, 2.4, 2.3, 1.0])

    class Bound:
        error = 0.0

    def evaluate(*args):
        bound = Bound()
        bound.bits = next(bounds)
        return bound

    monkeypatch.setattr("bfn.training.trainer.evaluate", evaluate)
    trainer.run()
    assert (trainer.at.step, trainer.at.best_step, trainer.at.best, trainer.end) == (5, 2, 2.0, "train.patience=3")
    assert load(trainer.out / MODEL_FILE)[1]["step"] == 2


# Every tiny run must do better than the best factorised model of its data, and starts worse than that.
@pytest.mark.parametrize(
    ("name", "steps", "more"),
    [
        ("digits", 80, []),
        pytest.param("digits_continuous", 400, ["train.learning_rate=0.005"], marks=pytest.mark.slow),
        ("digits_binary", 100, []),
        ("text", 100, ["data.length=16", "network.width=32", "train.learning_rate=0.01"]),
    ],
)
def test_every_kind_of_data_learns(name, steps, more, tiny):
    config = tiny(name, f"train.max_steps={steps}", f"train.validate_every={steps // 2}", *more)
    data = load_data(config)
    data = replace(data, validation=data.validation[:150], test=data.test[:150])
    trainer = Trainer(config, data)
    assert evaluate(trainer.averaged, data.test, config.evaluate).bits > data.baseline
    trainer.run()
    model, _, _ = load_run(trainer.out)
    assert evaluate(model, data.test, config.evaluate).bits < 0.98 * data.baseline
    assert (trainer.out / LOG_FILE).read_text().count("\n") == 3


def test_weights_that_are_not_numbers_are_not_saved(make):
    """The loss becomes NaN only in the step after the weights, and a validation may come before this step."""
    trainer = make("train.max_steps=4", "train.validate_every=2")
    step = trainer.step

    def wrong_step():
        step()
        if trainer.at.step == 4:
            next(trainer.averaged.parameters()).data.fill_(torch.nan)

    trainer.step = wrong_step
    with pytest.raises(FloatingPointError, match="weights are not finite at step 4"):
        trainer.run()
    assert load(trainer.out / STATE_FILE)[1]["position"]["step"] == 2


def test_a_bound_that_overflows_does_not_end_a_run(make, monkeypatch):
    """It may do so in 16 bits, while the weights are sound."""
    trainer = make("train.max_steps=4", "train.validate_every=2")
    monkeypatch.setattr("bfn.training.trainer.evaluate", lambda *args: replace(evaluate(*args), messages=torch.nan))
    trainer.run()
    assert [(row["step"], math.isnan(row["validation_bits"])) for row in trainer.log] == [(2, True), (4, True)]


def test_files_are_written_while_training_goes_on_one_save_at_a_time_and_what_failed_is_raised_later(make):
    trainer, going_on, done = make(), threading.Event(), []

    def first(*args):
        assert going_on.wait(60) and threading.current_thread() is not threading.main_thread()
        done.append(1)
        raise OSError("disk full")

    with trainer.writer:
        trainer.write = first
        trainer.save()
        assert done == []  # the caller goes on while the job waits for it
        going_on.set()
        trainer.write = lambda *args: done.append(len(done) + 1)
        with pytest.raises(OSError, match="disk full"):
            trainer.save()
        trainer.save()
        trainer.save()
        assert done[:2] == [1, 2]
        trainer.wait_for_files()
        assert done == [1, 2, 3]
        trainer.wait_for_files()  # what failed is raised once
        trainer.write = lambda *args: (time.sleep(0.1), done.append(4))
        trainer.save()
    assert done[-1] == 4  # nothing is written after the end


def test_the_time_of_a_run_is_the_time(make):
    trainer = make()
    trainer.begin_clock()
    before = trainer.at.seconds
    mean, number = trainer.count_time(1e6)
    assert number == 1e6 and 0 <= mean < 1e3 and trainer.at.seconds == before + mean
