"""The precision and the compiler of a run: what is allowed, what is chosen, and that a run keeps its choice."""

import io
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from bfn.configs import ConfigError, TrainConfig, load
from bfn.data import load_data
from bfn.training import checkpoint, compiling, speed, tuning
from bfn.training.runs import STATE_FILE
from bfn.training.speed import Choice, can_compile, choices, choose, fast_bf16
from bfn.training.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PLAIN, COMPILED, EAGER = Choice("no", None), Choice("bf16", "inductor"), Choice("no", "eager")
pytestmark = pytest.mark.usefixtures("short_validations")


@pytest.fixture
def fast(monkeypatch):
    """A machine that has a compiler and products of bfloat16."""
    monkeypatch.setattr(speed, "fast_bf16", lambda device: True)
    monkeypatch.setattr(speed, "can_compile", lambda device: True)


@pytest.mark.parametrize(
    ("settings", "device", "allowed"),
    [
        ({}, CPU, [PLAIN, COMPILED]),
        ({}, GPU, [Choice("bf16", None), COMPILED]),
        ({"fully_shard": True}, GPU, [Choice("bf16", None)]),
        ({"mixed_precision": "no"}, GPU, [PLAIN, Choice("no", "inductor")]),
        ({"mixed_precision": "bf16"}, CPU, [Choice("bf16", None), COMPILED]),
        ({"compiler": None}, CPU, [PLAIN]),
        ({"compiler": "inductor"}, CPU, [COMPILED]),
        ({"compiler": "eager"}, CPU, [Choice("no", "eager")]),
    ],
)
def test_settings_and_device_allow(settings, device, allowed, fast):
    assert choices(TrainConfig(**settings), device) == allowed


def test_a_machine_without_a_compiler_or_fast_bfloat16_has_one_choice(monkeypatch):
    monkeypatch.setenv("BFN_BF16", "0")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    assert not fast_bf16(CPU) and not can_compile(CPU)
    assert choices(TrainConfig(), CPU) == [PLAIN]


def chosen(
    seconds: dict[Choice, tuple[float, float] | Exception], left: float = 1e6, limit: float = math.inf
) -> tuple[Choice, list[Choice], list[str]]:
    """The choice between what takes these times in the first pass and in later ones, what was tried, and what was
    said. left: the seconds of the run with steps as long as a later pass of PLAIN."""
    tried, said = [], []

    def try_out(choice, passes):
        if isinstance(found := seconds[choice], Exception):
            raise found
        first, later = found
        times = [later if choice in tried else first] + [later] * (passes - 1)
        tried.append(choice)
        return times

    def time_left(step):
        return min(limit, left * step / seconds[PLAIN][1])

    return choose(list(seconds), time_left, try_out, said.append), tried, said


def test_the_faster_choice_is_taken_and_said_with_its_times():
    choice, tried, (line,) = chosen({PLAIN: (1.0, 0.5), COMPILED: (40.0, 0.25)})
    assert choice == COMPILED and tried == [PLAIN, PLAIN, COMPILED]
    assert line == (
        "bf16, compiled by inductor: a step takes 0.25 s with bf16, compiled by inductor, 0.5 s with float32, not "
        "compiled; compiling took 40 s"
    )
    choice, _, (line,) = chosen({PLAIN: (1.0, 0.5), COMPILED: (40.0, 0.75)})
    assert choice == PLAIN and line.startswith("float32, not compiled: a step takes 0.75 s with bf16")


def test_nothing_is_compiled_for_a_run_that_ends_too_soon():
    limit = speed.WORTH * speed.COMPILING
    times = {PLAIN: (1.0, 0.5), COMPILED: (40.0, 0.25)}
    assert chosen(times, limit / 2 - 1) == (PLAIN, [PLAIN], [])  # the first pass takes twice as long
    assert chosen(times, limit - 1) == (PLAIN, [PLAIN, PLAIN], [])
    assert chosen(times, limit=limit - 1) == (PLAIN, [], [])  # a limit of seconds needs no step to be tried
    assert chosen(times, limit + 1)[0] == COMPILED
    assert chosen({COMPILED: RuntimeError("what is set is not tried")}) == (COMPILED, [], [])


def test_a_network_that_cannot_be_compiled_runs_as_before_and_says_so_once():
    choice, _, (line,) = chosen({PLAIN: (1.0, 0.5), COMPILED: RuntimeError("no such operator\nand more")})
    assert choice == PLAIN
    assert line == "float32, not compiled: the network cannot be compiled (RuntimeError: no such operator)"


class Text(Console):
    """A console whose lines a test reads."""

    def __init__(self):
        super().__init__(file=io.StringIO(), width=200)

    @property
    def said(self) -> str:
        return self.file.getvalue()


def trainer(tiny, *overrides: str) -> tuple[Trainer, Text]:
    config, console = tiny("digits", "train.validate_every=2", *overrides), Text()
    return Trainer(config, load_data(config), console), console


def test_what_is_tried_changes_neither_weights_nor_gradients_nor_buffers(tiny, monkeypatch):
    monkeypatch.setattr("bfn.networks.layers.SHORT", 0)  # longer sequences have the same attention if they are compiled
    plain, _ = trainer(tiny, "train.max_steps=4", "train.compiler=null")
    other, _ = trainer(tiny, f"out={plain.out}-tried", "train.max_steps=4")

    def count(network, args):
        network.seen += network.training

    for one in (plain, other):
        one.bare.network.register_buffer("seen", torch.zeros(()))
        one.bare.network.register_forward_pre_hook(count)
        one.averaged.network.register_buffer("seen", torch.zeros(()))
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN, EAGER])
    other.begin_clock()
    other.begin_steps()
    other.tuning.change_over()
    other.tuning.later = EAGER
    assert all(parameter.grad is None for parameter in other.bare.parameters()) and other.bare.network.seen == 0
    with pytest.raises(ZeroDivisionError), monkeypatch.context() as patched:
        patched.setattr(other.accelerator, "backward", lambda loss: 1 / 0)
        other.try_out(PLAIN, 1)
    assert other.bare.network.seen == 0
    plain.run()
    other.run()
    want, got = plain.bare.state_dict(), other.bare.state_dict()
    assert all(torch.equal(want[name], got[name]) for name in want) and got["network.seen"] == 4


def test_a_run_keeps_its_choice_and_says_another_one(tiny, tmp_path, monkeypatch):
    out = f"out={tmp_path / 'a[/b]'}"  # rich would take the brackets for markup
    first, _ = trainer(tiny, out, "train.max_steps=2", "train.mixed_precision=no", "train.compiler=eager")
    first.run()
    assert first.tuning.choice == EAGER

    def refuse(*args):
        raise AssertionError("a run that goes on changed over")

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "choices", lambda train, device: [PLAIN, EAGER])
        patched.setattr(tuning.Tuning, "change_over", refuse)
        second, console = trainer(tiny, out, "train.max_steps=4")
        second.run()
    assert second.tuning.choice == EAGER and "continues with" not in console.said
    assert "a[/b] at step 2" in console.said
    third, console = trainer(tiny, out, "train.max_steps=6", "train.compiler=null")
    third.run()
    assert "continues with float32, not compiled; until here: float32, compiled by eager" in console.said


def test_an_old_run_whose_choice_is_in_its_settings_keeps_it(tiny, monkeypatch):
    old, _ = trainer(tiny, "train.max_steps=2", "train.mixed_precision=no", "train.compiler=null")
    old.run()
    tensors, state = checkpoint.load(old.out / STATE_FILE)
    del state["choice"]
    checkpoint.save(old.out / STATE_FILE, tensors, state)
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN, COMPILED])
    resumed, _ = trainer(tiny, "train.max_steps=4")
    assert resumed.before == PLAIN
    resumed.run()
    assert resumed.tuning.choice == PLAIN


class Done:
    """A process that has compiled at once."""

    ended, trained, process = True, True, None

    def __init__(self, passes):
        self.reason = ""

    def share(self):
        pass

    def error(self):
        return self.reason

    def close(self):
        pass


@pytest.fixture
def eager(monkeypatch):
    """Every run may change over to torch's backend "eager", and looks after every step."""
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN, EAGER])
    monkeypatch.setattr(tuning, "pays", lambda left, compiling: True)
    monkeypatch.setattr(tuning, "Compilation", Done)
    monkeypatch.setattr("bfn.training.trainer.LOOK_STEPS", 1)


def test_a_run_starts_at_once_and_changes_over_when_the_network_is_compiled(tiny, eager, monkeypatch):
    monkeypatch.setattr(tuning, "choose", lambda allowed, *others: allowed[-1])
    started, seen = speed.PASSES + 1, []
    monkeypatch.setattr(Trainer, "try_out", lambda *args: pytest.fail("the first step waits for trial passes"))
    run, console = trainer(tiny, f"train.max_steps={started + 2}", "train.validate_every=1")
    run.write = lambda result, tensors, state: seen.append(state["choice"])
    run.run()
    assert seen == [None] * started + [EAGER] * 2  # a checkpoint before the change does not hold the run to a choice
    assert run.at.compiled_from == started + 1 and f"compiled from step {started + 2} on" in console.said


def test_a_run_that_ends_soon_starts_no_process(tiny, eager, monkeypatch):
    asked = []
    monkeypatch.setattr(tuning, "pays", lambda left, compiling: asked.append(left))
    monkeypatch.setattr(tuning, "Compilation", lambda *args, **more: pytest.fail("a process was started"))
    run, _ = trainer(tiny, "train.max_steps=8")
    run.run()
    (left,) = asked
    assert run.tuning.decided == PLAIN and 0 < left < 8


def test_a_run_compiles_at_once_what_was_compiled_before(tiny, eager, tmp_path, monkeypatch):
    """It starts no process, and needs fewer seconds to be worth compiling."""
    asked = []
    monkeypatch.setattr(tuning, "choose", lambda allowed, *others: allowed[-1])
    monkeypatch.setattr(tuning, "pays", lambda left, compiling: asked.append(compiling) or True)
    monkeypatch.setattr(tuning, "Compilation", lambda *args, **more: pytest.fail("a process was started"))
    monkeypatch.setattr(compiling.Passes, "compiled_before", True)
    run, _ = trainer(tiny, "train.max_steps=8")
    run.run()
    assert run.at.compiled_from == speed.PASSES + 1 and asked == [speed.CACHED]


def test_the_compiler_is_trusted_if_it_knows_the_latest_instructions(monkeypatch):
    from torch._inductor import config, cpu_vec_isa

    class Set:
        def __init__(self, flag, works):
            self.flag, self.works = flag, works

        def __str__(self):
            return self.flag

        def __bool__(self):
            return self.works

    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["old", "new"])
    for works, trusted in ((True, True), (False, None)):
        sets = [Set("unknown", True), Set("new", works), Set("old", True)]
        monkeypatch.setattr(cpu_vec_isa, "supported_vec_isa_list", sets)
        with config.patch({"cpp.vec_isa_ok": None}):  # monkeypatch would delete the setting instead of putting it back
            speed.trust_compiler.__wrapped__()
            assert config.cpp.vec_isa_ok is trusted


def test_a_process_that_fails_changes_nothing_but_a_line(tiny, eager, monkeypatch):
    monkeypatch.setattr(Done, "error", lambda self: "no such operator")
    run, console = trainer(tiny, "train.max_steps=8")
    run.run()
    assert run.tuning.decided == PLAIN and run.at.compiled_from is None
    assert console.said.count("float32, not compiled: the network cannot be compiled (no such operator)") == 1


def test_runs_with_one_step_of_the_change_are_equal_however_often_they_stop(tiny, eager, tmp_path, monkeypatch):
    """The backend halves what the network puts out, so that the step of the change is seen."""
    halved = lambda graph, inputs: lambda *args: [out / 2 for out in graph(*args)]  # noqa: E731
    torch._dynamo.register_backend(halved, name="halved")
    choice = Choice("no", "halved")
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN, choice])
    fixed = ["train.compile_from=3", "train.validate_every=1"]
    whole, _ = trainer(tiny, f"out={tmp_path / 'whole'}", "train.max_steps=5", *fixed)
    whole.run()
    weights = []
    for steps in (2, 4, 5):  # before and after the change
        part, _ = trainer(tiny, f"train.max_steps={steps}", *fixed)
        part.run()
        weights.append(part.bare.state_dict())
    assert whole.at.compiled_from == 3 and part.tuning.choice == choice
    assert all(torch.equal(value, weights[-1][name]) for name, value in whole.bare.state_dict().items())


def test_a_step_of_the_change_needs_the_automatic_choice():
    with pytest.raises(ConfigError, match=r"train.compile_from needs train.compiler='auto', got None"):
        load("digits", ["train.compile_from=3", "train.compiler=null"])


def test_a_continued_run_that_had_not_compiled_compiles_at_a_step_that_is_set(tiny, eager, monkeypatch):
    monkeypatch.setattr(tuning, "pays", lambda left, compiling: False)
    for steps, more in ((6, []), (9, ["train.compile_from=8"])):
        run, console = trainer(tiny, f"train.max_steps={steps}", "train.validate_every=1", *more)
        run.run()
    assert run.at.compiled_from == 8 and run.tuning.decided == EAGER and "compiled from step 9 on" in console.said


def test_a_step_that_is_set_counts_without_room_for_a_process(tiny, eager, monkeypatch):
    monkeypatch.setattr(tuning, "room", lambda device: False)
    run, _ = trainer(tiny, "train.max_steps=9", "train.compile_from=7")
    run.run()
    assert run.at.compiled_from == 7


def test_a_step_of_the_change_without_a_compiler_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(tuning, "choices", lambda train, device: [PLAIN])
    run, _ = trainer(tiny, "train.compile_from=7")
    with pytest.raises(ConfigError, match="compile_from=7 needs a compiler, and this run has none"):
        run.run()


def test_compiling_is_undone():
    network = nn.Linear(2, 2)
    Choice("no", "eager").compile(network)
    assert "forward" in vars(network) and list(network.state_dict()) == ["weight", "bias"]
    PLAIN.compile(network)
    assert "forward" not in vars(network)
