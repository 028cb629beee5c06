"""Time to quality: trains a network in the published loop and in `bfn`, and draws samples with both.

    python -m benchmarks.time_to_quality --official CHECKOUT --mnist FOLDER --text FOLDER

CHECKOUT has the code of github.com/nnaisense/bayesian-flow-networks. Without it, our transcription of the published
model is used. All loops start from the same weights and have the same data, batch size, weight decay and clipping of
gradients. "bfn" has an optimizer and a learning rate of its own; "bfn (published optimizer)" has the published ones.
"bfn (compiled before)" is "bfn" after an earlier run has filled the compiler's cache. The decay of averages is the same
in the end, but `bfn`'s starts lower. The loops take turns on the same cores, each in a separate process. Between turns,
the clocks stop, and `bfn.results.evaluate` measures the bound on held-out data in float32.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
from rich.console import Console

from benchmarks import csv_files, measure, runs_report
from benchmarks.devices import Cpu
from benchmarks.loops import AVERAGED, CURRENT, LOOPS, Clock, Process
from benchmarks.runs_report import OURS, THEIRS, WARM, Drawn, Point, Quality, Run, qualities, reaches
from bfn.configs import Config, EvaluateConfig, load
from bfn.data import Data, load_data
from bfn.model import BFN, build_model
from bfn.results.evaluate import evaluate
from bfn.results.tables import told_apart

WIDTH = 150
FIRST, LONGEST = 5.0, 30.0  # seconds of the first turns and of the longest turns
CALM = ("train.cpu=true", "network.dropout=0", "train.learning_rate=0.001", "train.max_steps=1000000")
OURS_STEPS, SAMPLERS = (5, 10, 15, 20, 25, 50), ("ode2", "sde2")


@dataclass(frozen=True)
class Experiment:
    """A configuration of the paper with a small network, and the settings of its measurement.

    own: further overrides for our own loops. folder: the option that names the folder of the data. examples: the number
    of held-out examples that are evaluated. seconds: the published loop's bounds after so many seconds, and after twice
    as many, are the targets, unless the option --seconds says otherwise.
    """

    config: str
    overrides: tuple[str, ...]
    own: tuple[str, ...]
    folder: str
    examples: int
    seconds: float


MUON = ("train.optimizer=muon", "train.learning_rate=0.005")
GPT = ("network.width=128", "network.depth=4", "network.heads=4")
EXPERIMENTS = {
    "mnist": Experiment("mnist", ("network.width=32", "train.batch_size=64", *CALM), MUON, "mnist", 128, 260.0),
    "shakespeare": Experiment(
        "text8",
        (*GPT, "data.file=shakespeare.txt", "data.length=64", "train.batch_size=128", *CALM),
        MUON,
        "text",
        256,
        120.0,
    ),
    "bins": Experiment(
        "cifar10",
        ("data.name=benchmarks.grey:patches", "network.width=64", "network.depth=2", "train.n_steps=20", *CALM),
        MUON,
        "mnist",
        128,
        100.0,
    ),
}
QUICK = ("network.width=32", "network.depth=1", "train.batch_size=2", "train.mixed_precision=no", "train.compiler=null")


@dataclass(frozen=True)
class Plan:
    """The sizes of a measurement. ends: the seconds of training after which loops are compared. first: the seconds of
    the first turn.
    examples: the number of held-out examples. repeats: the number of times t for each example. samples: the number of
    samples. theirs, ours: the numbers of steps of the samplers."""

    ends: tuple[float, ...]
    first: float
    examples: int
    repeats: int
    samples: int
    theirs: tuple[int, ...]
    ours: tuple[int, ...]


def plan_of(options: argparse.Namespace, experiment: Experiment) -> Plan:
    seconds = options.seconds or (0.5 if options.quick else experiment.seconds)
    ends = seconds, 2 * seconds
    if options.quick:
        return Plan(ends, 0.1, 4, 1, 4, (2, 4), (1, 2))
    steps = tuple(n for n in (10, 25, 50, 100, 250, 1000) if n <= options.steps)
    return Plan(ends, FIRST, experiment.examples, 4, options.samples, steps, OURS_STEPS)


def config_of(experiment: Experiment, loop: str, folder: Path, out: str, quick: bool, seed: int = 0) -> Config:
    more = [*(experiment.own if loop in (OURS, WARM) else ()), *(QUICK if quick else ())]
    return load(
        experiment.config,
        [*experiment.overrides, *more, f"data.folder={folder}", f"out={out}", f"train.seed={seed}"],
    )


def turns(ends: Sequence[float], first: float) -> Iterator[float]:
    """The time on a loop's clock at which each turn ends. Turns get longer, up to LONGEST, but none goes on past one of
    the ends."""
    now = 0.0
    while now < ends[-1]:
        now = min(now + min(max(first, now), LONGEST), *(end for end in ends if end > now))
        yield now


class Held:
    """The bound of a network's weights on held-out examples, with the same examples and times for all weights."""

    def __init__(self, model: BFN, data: Data, plan: Plan, n_steps: int | None):
        self.model, self.examples = model, data.test[: plan.examples]
        self.settings = EvaluateConfig(n_steps, plan.repeats, batch_size=32)

    def bits(self, weights: bytes) -> tuple[float, float]:
        self.model.network.load_state_dict(safetensors.torch.load(weights))
        bound = evaluate(self.model, self.examples, self.settings)
        return bound.bits, bound.error


def say(text: str) -> None:
    print(text, file=sys.stderr)


class Race:
    """An experiment: loops that take turns, and the curves of their bounds."""

    def __init__(self, name: str, seed: int, loops: dict[str, Process], held: Held, plan: Plan):
        self.name, self.seed, self.loops, self.held, self.plan = name, seed, loops, held, plan
        self.points: list[Point] = []
        self.clocks: dict[str, Clock] = {}
        self.best = (math.inf, b"")  # the bits of the best weights, and these weights

    def point(self, loop: str, seconds: float, step: int) -> None:
        """Adds the bound of a loop's weights: the averaged or the current weights, whichever are better. A short run
        may end long before the average has forgotten the first weights."""
        weights = self.loops[loop].ask("weights")
        found = {name: self.held.bits(weights[name]) for name in (AVERAGED, CURRENT)}
        better = min(found, key=lambda name: found[name][0])
        bits, error = found[better]
        self.best = min(self.best, (bits, weights[better]), key=lambda best: best[0])
        both = found[AVERAGED][0], found[CURRENT][0]
        self.points.append(Point(self.name, loop, self.seed, seconds, step, bits, error, *both))
        say(f"{self.name}, {loop}: {seconds:.0f} s, step {step}: {bits:.4f} bits (averaged {both[0]:.4f})")

    def run(self) -> None:
        for loop, process in self.loops.items():
            description = process.ask("begin")
            self.clocks[loop] = process.ask("train", 0.0)
            say(f"{self.name}, {loop}: {description}, after {self.clocks[loop].begun:.0f} s")
            self.point(loop, 0.0, 0)
            self.points.append(replace(self.points[-1], seconds=self.clocks[loop].begun))
        for end in turns(self.plan.ends, self.plan.first):
            for loop, process in self.loops.items():
                before, self.clocks[loop] = self.clocks[loop], process.ask("train", end)
                if len(self.clocks[loop].steps) > len(before.steps):
                    self.point(loop, self.clocks[loop].seconds, len(self.clocks[loop].steps))

    def summary(self, config: Config, parameters: int) -> Iterator[Run]:
        """The rows of all loops. This ends training, since "peak" does."""
        for loop, process in self.loops.items():
            clock = self.clocks[loop]
            ms = measure.Timing(tuple(1e3 * seconds for seconds in clock.steps))
            peak = process.ask("peak")
            yield Run(
                self.name,
                loop,
                self.seed,
                parameters,
                config.train.batch_size,
                len(clock.steps),
                clock.seconds,
                clock.begun,
                len(clock.steps) / sum(clock.steps),
                ms.median,
                ms.percentile(20),
                ms.percentile(80),
                math.nan if peak is None else peak,
            )

    def sampled(self, data: Data) -> Iterator[Drawn]:
        """Samples of the best weights: first by the published sampler at all numbers of steps. Then each of our
        samplers takes more and more steps, until it is as good as the published sampler with the most steps or has
        taken all numbers of steps in `plan.ours`."""
        held_out = data.test[: self.plan.samples]

        def drawn(loop: str, sampler: str, n_steps: int) -> Drawn:
            seconds, content = self.loops[loop].ask("sample", self.best[1], len(held_out), n_steps, sampler)
            samples = safetensors.torch.load(content)["samples"].to(held_out.dtype)
            share, error = told_apart(samples, held_out, differing=bool(data.symbols))
            say(f"{self.name}, {loop}, {sampler}: {n_steps + 1} calls, {seconds:.1f} s, told apart {share:.3f}")
            return Drawn(self.name, loop, sampler, len(held_out), n_steps + 1, seconds, share, error)

        for n_steps in self.plan.theirs:
            goal = drawn(THEIRS, "ancestral", n_steps)
            yield goal
        for sampler in SAMPLERS:
            for n_steps in self.plan.ours:
                one = drawn(OURS, sampler, n_steps)
                yield one
                if reaches(one, goal):
                    break


@dataclass
class Results:
    """All rows so far. `write` writes them to files of a folder."""

    points: list[Point]
    runs: list[Run]
    quality: list[Quality]
    drawn: list[Drawn]

    def write(self, machine: dict[str, str], out: Path) -> None:
        csv_files.write(Point, self.points, machine, out / "curves.csv")
        csv_files.write(Run, self.runs, machine, out / "runs.csv")
        csv_files.write(Quality, self.quality, machine, out / "quality.csv")
        csv_files.write(Drawn, self.drawn, machine, out / "samples.csv")
        runs_report.picture(self.points, out / "runs.png")


def experiment(name: str, seed: int, options: argparse.Namespace, results: Results, save: Callable[[], None]) -> None:
    """Runs an experiment. After each part of it, `save` is called. Only the first seed draws samples."""
    of = EXPERIMENTS[name]
    plan = plan_of(options, of)
    with tempfile.TemporaryDirectory() as folder:
        place = getattr(options, of.folder)
        configs = {
            loop: config_of(of, loop, place, f"{folder}/{index}", options.quick, seed)
            for index, loop in enumerate((THEIRS, OURS) if options.two else LOOPS)
        }
        data = load_data(configs[THEIRS])
        loops = {loop: Process(loop, config, options.official) for loop, config in configs.items()}
        try:
            model = build_model(configs[THEIRS], data)
            race = Race(name, seed, loops, Held(model, data, plan, configs[THEIRS].train.n_steps), plan)
            race.run()
            results.points += race.points
            results.quality += qualities(race.points, plan.ends)
            results.runs += race.summary(configs[THEIRS], sum(p.numel() for p in model.network.parameters()))
            save()
            for one in race.sampled(data) if seed == 0 else ():
                results.drawn.append(one)
                save()
        finally:
            for process in loops.values():
                process.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_quality", description=__doc__.split("\n")[0])
    parser.add_argument("--official", type=Path, default=None, metavar="CHECKOUT", help="their code")
    parser.add_argument("--mnist", type=Path, default=None, metavar="FOLDER", help="the folder of MNIST's files")
    parser.add_argument("--text", type=Path, default=None, metavar="FOLDER", help="the folder of shakespeare.txt")
    parser.add_argument("--only", default="", metavar="TEXT", help="experiments whose name has this in it")
    parser.add_argument("--two", action="store_true", help=f"only the loops {THEIRS} and {OURS}")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... of which tables have the medians (1)")
    parser.add_argument(
        "--seconds", type=float, default=None, help="compare after so many seconds and after twice as many (100 to 260)"
    )
    parser.add_argument("--samples", type=int, default=200, help="samples that are compared (200)")
    parser.add_argument("--steps", type=int, default=100, help="the most steps of the published sampler (100)")
    parser.add_argument("--quick", action="store_true", help="tiny networks, half a second; only checks that it runs")
    parser.add_argument("--out", type=Path, default=None, help="directory of the results (runs/runs/<date>)")
    options = parser.parse_args(arguments)
    names = [name for name in EXPERIMENTS if options.only in name and getattr(options, EXPERIMENTS[name].folder)]
    if not names:
        parser.error("no experiment is left: give --mnist or --text, and an --only that fits")
    if options.steps < 10:
        parser.error(f"--steps must be at least 10, got {options.steps}")
    began, out = time.monotonic(), options.out or csv_files.new_folder("runs")
    out.mkdir(parents=True, exist_ok=True)
    source = "published code" if options.official else "transcription of the published code"
    machine = measure.machine(Cpu()) | {"against": source, "quick": str(options.quick)}
    console = Console(width=WIDTH, record=True, highlight=False)
    console.print(measure.lines_of(machine))
    results = Results([], [], [], [])
    for name in names:
        for seed in range(options.seeds):
            experiment(name, seed, options, results, lambda: results.write(machine, out))
    for table in runs_report.tables(results.runs, results.quality, results.drawn):
        console.print(table)
    console.print(f"{runs_report.NOTES}\n{time.monotonic() - began:.0f} s; results in {out}")
    (out / "report.txt").write_text(console.export_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
