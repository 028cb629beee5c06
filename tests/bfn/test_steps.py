"""The effect of every setting on a training step, and what is measured, kept and written between steps."""

import csv
import math
import signal
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch._dynamo.utils import counters

from bfn.configs import Config, flatten, load
from bfn.training import checkpoint, processes
from bfn.training.checkpoint import CheckpointError
from bfn.training.runs import LOG_FILE, MODEL_FILE, STATE_FILE, same_run
from bfn.training.trainer import Interrupted


def calls(trainer, steps):
    """The arguments of the model in each of so many steps, and torch's seed at that time, which seeds dropout."""
    seen = []

    def note(module, args, kwargs):
        seen.append(SimpleNamespace(x=args[0], t=args[1], **kwargs, torch_seed=torch.initial_seed()))

    trainer.model.register_forward_pre_hook(note, with_kwargs=True)
    for _ in range(steps):
        trainer.step()
    return seen


def gradient_norm(trainer):
    norms = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
    return torch.stack(norms).norm().item() if norms else 0.0


@pytest.mark.parametrize("decay", [0.15, 0.999])
def test_the_average_decays_at_the_rate_that_is_set_once_it_has_risen_to_it(decay, make):
    trainer = make(f"train.ema_decay={decay}")
    expected = None
    for step in range(4):
        trainer.step()
        weights = trainer.model.network.stem.weight.detach().double()
        rate = min(decay, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.31
        expected = weights if expected is None else rate * expected + (1 - rate) * weights
    torch.testing.assert_close(trainer.averaged.network.stem.weight.double(), expected, atol=1e-6, rtol=1e-5)


def test_gradients_are_cut_to_the_norm_that_is_set(make):
    whole = make("train.clip_norm=1000")
    whole.step()
    norm = gradient_norm(whole)
    assert 0.01 < norm < 100
    cut = make(f"train.clip_norm={norm / 3}")
    cut.step()
    assert gradient_norm(cut) == pytest.approx(norm / 3, rel=1e-3)


def test_the_gradient_is_that_of_one_step(make, monkeypatch):
    trainer, left = make(), []
    monkeypatch.setattr(
        trainer.accelerator, "backward", lambda loss: left.append(gradient_norm(trainer)) or loss.backward()
    )
    for _ in range(3):
        trainer.step()
    assert left == [0.0, 0.0, 0.0]


def test_the_learning_rate_rises_to_its_value_over_the_warm_up(make):
    trainer = make("train.warmup_steps=4", "train.learning_rate=0.008")
    rates = []
    trainer.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    for _ in range(6):
        trainer.step()
    assert rates == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.008, 0.008])


def test_the_learning_rate_falls_along_a_cosine_to_the_end_of_the_steps_or_of_the_time(make):
    fall = ["train.learning_rate=0.008", "train.final_learning_rate=0.002", "train.warmup_steps=1"]
    trainer, half = make(*fall, "train.max_steps=400", "train.max_seconds=60"), math.sqrt(0.5)
    rates = []
    for trainer.at.step, trainer.at.seconds in ((0, 0.0), (100, 0.0), (100, 30.0), (399, 15.0), (100, 61.0)):
        rates.append(trainer.learning_rate())
    assert rates == pytest.approx([0.008, 0.005 + 0.003 * half, 0.005, 0.002, 0.002], abs=1e-6)


@pytest.mark.parametrize("vectors", [True, False])
def test_the_optimizer_is_adamw_with_the_decays_that_are_set(vectors, make):
    settings = ["train.beta_2=0.75", "train.weight_decay=0.5", "train.warmup_steps=1", "train.learning_rate=0.01"]
    trainer = make(*settings, f"train.decay_vectors={vectors}")
    weights = [p for p in trainer.model.parameters()]
    before = [p.detach().clone() for p in weights]
    trainer.step()
    for weight, old in zip(weights, before, strict=True):
        moments = trainer.optimizer.state[weight]
        torch.testing.assert_close(moments["exp_avg"], 0.1 * weight.grad)
        torch.testing.assert_close(moments["exp_avg_sq"], 0.25 * weight.grad**2)
        step = 0.01 * weight.grad / (weight.grad.abs() + 1e-8)  # the first step's, whatever the betas are
        decay = 0.5 if vectors or weight.dim() > 1 else 0.0
        torch.testing.assert_close(weight.detach(), old * (1 - 0.01 * decay) - step, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n_steps", [None, 8])
def test_the_times_of_a_step_are_spread_over_its_examples_and_start_steps(n_steps, make):
    steps = calls(make(f"train.n_steps={'null' if n_steps is None else n_steps}"), 3)
    for step in steps:
        assert step.n_steps == n_steps and step.t.dtype == torch.float32 and len(step.t) == len(step.x) == 32
        order = step.t.sort().values
        if n_steps is None:
            torch.testing.assert_close(order.diff(), torch.full((31,), 1 / 32), atol=1e-6, rtol=0)
            assert order[0] >= 0 and order[-1] < 1
        else:
            assert torch.equal(order, torch.arange(8.0).repeat_interleave(4) / 8)
        assert not torch.equal(step.t, order) and not torch.equal(step.t, order.flip(0))
    assert not torch.equal(steps[0].t, steps[1].t) and not torch.equal(steps[1].t, steps[2].t)


def test_every_step_of_every_run_has_seeds_and_weights_of_its_own_and_each_is_used_again_by_the_same(make):
    trainers = [make(f"train.seed={seed}") for seed in (0, 1, 0)]
    weights = [trainer.model.network.stem.weight.clone() for trainer in trainers]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    one, other, again = (calls(trainer, 3) for trainer in trainers)
    for seeds in ([step.seed for step in one + other], [step.torch_seed for step in one + other]):
        assert len(set(seeds)) == 6
    assert [step.seed for step in again] == [step.seed for step in one]
    assert [step.torch_seed for step in again] == [step.torch_seed for step in one]
    batches = [[step.x for step in steps] for steps in (one, other, again)]
    assert torch.equal(torch.stack(batches[0]), torch.stack(batches[2]))
    assert not torch.equal(torch.stack(batches[0]), torch.stack(batches[1]))


def test_a_step_takes_its_micro_batches_one_by_one_and_each_has_seeds_of_its_own(make):
    fresh, parts = make("network.dropout=0"), make("network.dropout=0", "train.micro_batch=8")
    split = calls(parts, 1)
    assert [len(part.x) for part in split] == [8] * 4
    assert len({part.seed for part in split}) == len({part.torch_seed for part in split}) == 4
    with torch.no_grad():
        losses = [fresh.model(part.x, part.t, seed=part.seed, n_steps=None) for part in split]
    assert parts.losses[0].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_the_gradient_of_a_step_is_the_mean_of_those_of_its_micro_batches(make):
    trainer, expected = make("network.dropout=0", "train.micro_batch=16", "train.clip_norm=1e9"), []
    for batch in trainer.batches.of(0):
        trainer.model.zero_grad()
        trainer.model(batch.x, batch.t, seed=batch.seed).backward()
        expected.append(trainer.model.network.head.bias.grad.clone())
    assert len(expected) == 2 and not torch.equal(*expected)
    trainer.step()
    torch.testing.assert_close(trainer.model.network.head.bias.grad, torch.stack(expected).mean(0))


def test_a_step_trains_with_dropout_in_whatever_mode_the_model_was_left(make):
    trainer = make()
    training = []
    trainer.model.network.register_forward_pre_hook(lambda network, args: training.append(network.training))
    trainer.step()
    trainer.model.eval()
    trainer.step()
    assert training == [True, True]


def validated(trainer, monkeypatch, bounds, losses):
    """The run with these bounds and losses in the place of real ones; what `evaluate` was called with."""
    asked, bits = [], iter(bounds)

    def evaluate(*args):
        asked.append(args)
        return SimpleNamespace(bits=next(bits), error=0.5)

    def step():
        trainer.losses.append(torch.tensor(losses[trainer.at.step]))
        trainer.at.step += 1

    monkeypatch.setattr("bfn.training.trainer.evaluate", evaluate)
    trainer.step = step
    trainer.run()
    return asked


def test_validation_is_of_the_averaged_weights_on_the_validation_split_with_one_seed(make, monkeypatch):
    trainer = make("train.max_steps=2", "train.validate_every=1", "train.n_steps=7", "train.seed=5")
    first, second = validated(trainer, monkeypatch, [2.0, 1.0], [1.0, 1.0])
    for model, data, settings in (first, second):
        assert model is trainer.averaged and data is trainer.data.validation
        assert (settings.n_steps, settings.repeats) == (7, 16)
    assert first[2] == second[2]  # the seeds are equal, so that bounds differ only if the weights do
    other = make("train.max_steps=1", "train.seed=6")
    assert validated(other, monkeypatch, [1.0], [1.0])[0][2].seed != first[2].seed


def test_a_network_is_compiled_where_that_is_asked_for(make, monkeypatch):
    monkeypatch.setattr("bfn.networks.layers.SHORT", 0)  # longer sequences have the same attention if they are compiled
    plain, compiled = make("train.max_steps=2"), make("train.max_steps=2", "train.compiler=eager")
    torch.compiler.reset()  # or code that another test had compiled would not be compiled again
    counters.clear()
    plain.run()
    assert not counters["frames"]
    compiled.run()
    assert counters["frames"]["total"] > 0
    assert "forward" not in vars(compiled.best().network)  # whoever evaluates it decides anew
    want, got = plain.best().state_dict(), compiled.best().state_dict()
    assert want.keys() == got.keys() and all(torch.equal(want[name], got[name]) for name in want)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_and_validation_are_in_the_precision_that_is_set(precision, make):
    AcceleratorState._reset_state(reset_partial_state=True)  # there is one precision in a process
    try:
        trainer, types = make("train.max_steps=1", f"train.mixed_precision={precision}", "train.cpu=true"), []
        for model in (trainer.model, trainer.averaged):
            model.network.stem.register_forward_hook(lambda stem, args, output: types.append(output.dtype))
        trainer.run()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert len(types) > 2 and set(types) == {torch.bfloat16 if precision == "bf16" else torch.float32}


def test_the_log_is_in_bits_per_dimension_since_the_last_row(make, monkeypatch):
    trainer = make("train.max_steps=5", "train.validate_every=2")
    validated(trainer, monkeypatch, [3.0, 2.0, 2.5], [4.0, 2.0, 1.0, 2.0, 0.5])
    with open(trainer.out / LOG_FILE, newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert [row["train_bits"] for row in rows] == pytest.approx([nats / math.log(2) for nats in (3.0, 1.5, 0.5)])
    assert [row["validation_bits"] for row in rows] == [3.0, 2.0, 2.5]
    assert [row["validation_error"] for row in rows] == [0.5] * 3
    assert trainer.log == checkpoint.load(trainer.out / STATE_FILE)[1]["log"]
    assert (trainer.at.best, trainer.at.best_step, trainer.at.stale) == (2.0, 4, 1)


def test_the_seconds_of_a_run_are_those_of_its_steps_and_of_its_validations(make, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("bfn.training.trainer.time", SimpleNamespace(monotonic=lambda: clock[0]))
    trainer = make("train.max_steps=100", "train.validate_every=2", "train.max_seconds=25")

    def takes(seconds, call):
        def slow():
            call()
            clock[0] += seconds

        return slow

    def step():
        trainer.at.step += 1
        trainer.losses.append(torch.ones(()))

    monkeypatch.setattr("bfn.training.trainer.evaluate", lambda *args: SimpleNamespace(bits=2.0, error=0.5))
    trainer.step, trainer.validate, trainer.save = (
        takes(1, step),
        takes(10, trainer.validate),
        takes(1000, trainer.save),
    )
    trainer.run()
    # Two steps and a validation take twelve seconds: after two of these, the fifth step passes the limit.
    assert trainer.at.step == 5 and trainer.at.seconds == 35 and trainer.end == "train.max_seconds=25"
    assert [row["seconds"] for row in trainer.log] == [2, 14, 25]


def test_the_averaged_weights_are_what_a_run_results_in(make):
    trainer = make("train.max_steps=3")
    trainer.run()
    tensors, state = checkpoint.load(trainer.out / MODEL_FILE)
    averaged, raw = trainer.averaged.state_dict(), trainer.model.state_dict()
    assert tensors.keys() == averaged.keys() == raw.keys()
    assert all(torch.equal(tensors[name], averaged[name]) for name in tensors)
    assert not torch.equal(tensors["network.stem.weight"], raw["network.stem.weight"])
    want = {"config": asdict(trainer.config), "step": 3, "validation_bits": trainer.at.best, "tokenizer": None}
    assert state == want


# The settings of data, model, network and training that may change when a run continues. All others must stay equal.
MAY_CHANGE = {"train.max_steps", "train.max_seconds", "train.patience", "train.micro_batch", "train.fully_shard"}
MAY_CHANGE |= {"train.mixed_precision", "train.compiler", "train.compile_from", "data.folder"}


@pytest.mark.parametrize("key", flatten(asdict(Config())))
def test_a_run_goes_on_only_under_the_settings_that_made_it(key, tmp_path):
    config = load("digits")
    saved = asdict(config)
    section, _, name = key.rpartition(".")
    settings = saved[section] if section else saved
    now, settings[name] = settings[name], "another"
    if key in MAY_CHANGE or section in ("", "evaluate", "sample"):
        same_run(tmp_path, saved, config)
    else:
        with pytest.raises(CheckpointError, match=f"holds a run with {key}=another, not {now};"):
            same_run(tmp_path, saved, config)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_after_its_step(number, make):
    def act_at_once(number, frame):
        raise ChildProcessError  # the default action of the signal would end the tests themselves

    before = signal.signal(number, act_at_once)
    try:
        trainer = make("train.max_steps=5")
        step = trainer.step

        def interrupted_step():
            signal.raise_signal(number)
            if number == signal.SIGTERM:  # a scheduler's may come once more by way of torchrun
                signal.raise_signal(number)
            step()

        trainer.step = interrupted_step
        with pytest.raises(Interrupted):
            trainer.run()
    finally:
        signal.signal(number, before)
    assert checkpoint.load(trainer.out / STATE_FILE)[1]["position"]["step"] == trainer.at.step == 1


def test_signals_mean_during_a_run_alone_that_it_should_stop(make):
    trainer, numbers = make("train.max_steps=1"), (signal.SIGINT, signal.SIGTERM)
    step, during = trainer.step, []
    trainer.step = lambda: (step(), during.extend(map(signal.getsignal, numbers)))
    before = list(map(signal.getsignal, numbers))
    trainer.run()
    assert list(map(signal.getsignal, numbers)) == before
    assert not {*before} & {*during}


def test_a_handler_that_python_did_not_set_becomes_the_default_action(monkeypatch):
    handlers = {signal.SIGINT: None, signal.SIGTERM: None}

    def exchange(number, handler):
        if handler is None:
            raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
        before, handlers[number] = handlers[number], handler
        return before

    monkeypatch.setattr(processes.signal, "signal", exchange)
    with processes.asked_to_stop() as asked:
        handlers[signal.SIGINT](signal.SIGINT, None)
    assert asked == [signal.SIGINT] and set(handlers.values()) == {signal.SIG_DFL}


def test_a_run_that_is_asked_to_stop_in_its_last_step_is_done(make):
    trainer = make("train.max_steps=1")
    step = trainer.step
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trainer.step = lambda: (step(), signal.raise_signal(signal.SIGINT))
        trainer.run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.end and (trainer.out / MODEL_FILE).exists()
