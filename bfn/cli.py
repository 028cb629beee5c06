"""The command line of bfn."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from bfn import molecules_3d
from bfn.atom_rows import PARTS, Atoms, Growing
from bfn.codec import commands, sources
from bfn.codec.container import MOST_STEPS, FileError
from bfn.codec.models import coded
from bfn.configs import Config, ConfigError, DataConfig, choose, flatten, load, shipped
from bfn.data import Data
from bfn.data.download import DOWNLOADS, TRAINED_BY, download, downloadable
from bfn.data.files import MissingFile, folder_of
from bfn.data.splits import SPLITS
from bfn.model import BFN, AtomsBFN, check_sampling
from bfn.official import convert, convert_back
from bfn.results import plots, tables
from bfn.results.evaluate import Bound, evaluate
from bfn.sample import fast, settings_of
from bfn.sample import sample as draw
from bfn.sample import sample_within as draw_within
from bfn.training import processes
from bfn.training.checkpoint import CheckpointError, write_atomically
from bfn.training.run_lock import RunError
from bfn.training.runs import MODEL_FILE, STATE_FILE, data_of, load_run, log_of
from bfn.training.trainer import Interrupted, Trainer
from bfn_kernels import __version__
from bfn_kernels.adaptive import TooManyCalls
from bfn_kernels.backends import BACKENDS
from bfn_kernels.samplers import SAMPLERS


def speaks() -> bool:
    """Whether this is the only or the first process of this machine. Before processes join, only these print."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


ERRORS = (ConfigError, TooManyCalls, CheckpointError, FileError, RunError, FloatingPointError, OSError)


class Commands(TyperGroup):
    """Commands whose errors print one line without a traceback, if a user can fix them. If a machine runs several
    processes, only the first one prints the line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ERRORS as error:
            reason = str(error)
            if isinstance(error, OSError) and error.filename and error.strerror:
                reason = f"{error.filename}: {error.strerror}"
            if speaks():
                errors = Console(stderr=True, highlight=False, soft_wrap=True)
                errors.print(f"error: {reason}", style="red", markup=False)
            raise typer.Exit(1) from error


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False)  # its help is the docstring of `main`
data_app = typer.Typer(help="The files of data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console(highlight=False, soft_wrap=True, markup=False)

Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to replace: key=value.")]
Run = Annotated[Path, typer.Argument(help="The directory of a run, or its model file.")]
Steps = Annotated[str, typer.Option(help="Numbers of steps, with commas between them.")]
DEFAULT_STEPS = ",".join(map(str, tables.STEPS))
shown = partial(track, description="", console=console, transient=True)  # shows a progress bar over slow items


def print_version(wanted: bool) -> None:
    if wanted:
        available = ", ".join(name for name, backend in BACKENDS.items() if backend.missing is None)
        console.print(f"bfn {__version__}, torch {torch.__version__}, backends {available}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print versions.")]


@app.callback()
def main(version: Version = False) -> None:
    """Train, evaluate and sample Bayesian flow networks of images, text, angles, molecules as strings and in space."""


def all_settings() -> str:
    """The settings with their defaults, a paragraph for each section, without `options`, which are empty."""
    sections: dict[str, list[str]] = {}
    for key, value in flatten(asdict(Config())).items():
        sections.setdefault(key.partition(".")[0], []).append(f"{key}={value}")
    title = "Settings and their defaults; bfn/configs has an explanation of each, and the YAML files that replace some:"
    return "\n\n".join([title, *map(", ".join, sections.values())])


@app.command(epilog=all_settings())
def train(
    config: Annotated[str, typer.Argument(help=f"One of {', '.join(shipped())}, or the path of a YAML file.")],
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="First delete the run in `out`, if there is one.")] = False,
    fetch: Annotated[bool, typer.Option("--download", help="Download the data's files if they are missing.")] = False,
) -> None:
    """Train, or continue a run that was interrupted; then evaluate, sample and plot."""
    processes.refuse_lost()
    settings = load(config, overrides or [])
    data = found(settings, fresh=fresh, fetch=fetch)
    trainer = Trainer(settings, data, console, fresh=fresh)
    console.quiet = not (main := processes.is_main())
    try:
        trainer.run()
    except Interrupted:
        command = "the same command without --fresh" if fresh else "the same command"
        console.print(f"interrupted and saved at step {trainer.at.step}; {command} continues from there")
        processes.leave()
        raise typer.Exit(130) from None
    at, out = trainer.at, trainer.out
    console.print(f"trained {at.step} steps in {at.seconds:.0f} s; {trainer.end} ended it")
    console.print(f"best weights: of step {at.best_step}")
    model = trainer.best()
    bound = evaluated(model, settings, data)
    console.print(f"held-out bits per dimension: {bound.bits:.3f} (factorised baseline {data.baseline:.2f})")
    if (size := data.token_bytes) is not None:
        console.print(f"held-out bits per byte: {bound.bits / size:.3f} (unigrams {data.baseline / size:.3f})")
    if data.judge is not None:
        name, rival = data.judge.rival(data.test)
        console.print(f"held-out {data.judge.unit}: {data.judge.worth(bound.bits):.3f} ({name} {rival:.3f})")
    console.print(f"checkpoint: {out / MODEL_FILE}")
    processes.leave()
    if main:
        if trainer.sharded:  # the main process has only a shard of the weights, and sampling needs all of them
            model, _, _ = load_run(out, device=trainer.accelerator.device, data=data)
        console.print(f"samples:    {sampled(model, settings, data, out / 'samples.png')}")
        for path in plotted(model, settings, data, out):
            console.print(f"plot:       {path}")


@app.command(name="evaluate")
def evaluate_command(
    run: Run,
    overrides: Overrides = None,
    table: Annotated[bool, typer.Option("--table", help="The bound for --steps and for continuous time.")] = False,
    steps: Annotated[str | None, typer.Option(help=f"Other numbers of steps for --table than {DEFAULT_STEPS}.")] = None,
) -> None:
    """The bound on held-out data, in bits per dimension."""
    if steps is not None and not table:
        raise ConfigError(f"--steps={steps} needs --table; evaluate.n_steps= is the number of steps of one bound")
    numbers = parsed(DEFAULT_STEPS if steps is None else steps)
    model, settings, data = load_run(run, overrides, processes.start().device)
    console.quiet = not processes.is_main()
    if table:
        bounds = tables.bounds(model, data, settings, numbers)
        rows = list(shown(bounds, total=len(numbers) + 1))
        console.print(tables.bounds_table(rows, data, settings))
        if processes.is_main():
            console.print(f"plot: {plots.plot_bounds(rows, data, directory(run) / 'bounds.png')}")
    else:
        evaluated(model, settings, data)
    processes.leave()


@app.command(name="compare")
def compare_command(
    run: Run,
    overrides: Overrides = None,
    samplers: Annotated[str, typer.Option(help=f"Some of {', '.join(SAMPLERS)}.")] = "ancestral,ode1,ode2,sde2",
    steps: Steps = DEFAULT_STEPS,
    guide: Annotated[str | None, typer.Option(help="logp=3, for molecules: also samples that are guided.")] = None,
) -> None:
    """Compare samplers: the quality of their samples, and the calls of the network that they need."""
    processes.refuse_several()
    overrides = [*(overrides or []), *([] if guide is None else [f"sample.guide={guide}"])]
    numbers, names = parsed(steps), [name.strip() for name in samplers.split(",")]
    for name in names:
        choose(SAMPLERS, name, "--samplers")
    model, settings, data = load_run(run, overrides, processes.start().device)
    tables.refuse_angles(model)
    compared = tables.compared(settings.sample, names, numbers)
    for options in compared:
        check_sampling(model, options)
    calls = sum(options.calls_of_a_step * (options.n_steps + 1) for options in compared)
    with fast(model, settings, min(len(data.test), tables.SAMPLES), calls, console.print):
        rows = [tables.drawn(model, data, options) for options in shown(compared)]
    console.print(tables.samplers_table(rows, settings))
    console.print(f"plot: {plots.plot_samplers(rows, directory(run) / 'samplers.png')}")


@app.command(name="sample")
def sample_command(
    run: Run,
    overrides: Overrides = None,
    sampler: Annotated[str | None, typer.Option(help=f"sample.sampler: one of {', '.join(SAMPLERS)}.")] = None,
    steps: Annotated[int | None, typer.Option(help="sample.n_steps: the number of steps.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="sample.tolerance: the allowed error of a step.")] = None,
    guide: Annotated[str | None, typer.Option(help="sample.guide: for molecules, such as logp=3.")] = None,
    known: Annotated[Path | None, typer.Option(help="A fragment, .xyz, that molecules in space shall contain.")] = None,
    to: Annotated[Path | None, typer.Option(help="The picture, .png; by default samples.png of the run.")] = None,
) -> None:
    """Draw samples, and write a picture of them and a .npy file of the same name with their numbers."""
    chosen = {"sample.sampler": sampler, "sample.n_steps": steps, "sample.tolerance": tolerance, "sample.guide": guide}
    overrides = [*(overrides or []), *(f"{key}={value}" for key, value in chosen.items() if value is not None)]
    processes.refuse_several()
    if to is not None and to.suffix != ".png":
        raise ConfigError(f"--to={to} must end in .png")
    model, settings, data = load_run(run, overrides, processes.start().device)
    growing: AbstractContextManager[None] = nullcontext()
    if known is not None:
        if not isinstance(model, Atoms):
            raise ConfigError(f"--known={known} needs a model of molecules in space")
        growing = Growing(model, molecules_3d.read_xyz(known))
    with growing:
        console.print(f"samples: {sampled(model, settings, data, to or directory(run) / 'samples.png')}")


@app.command(name="compress")
def compress_command(
    run: Run,
    source: Annotated[
        Path | None,
        typer.Argument(
            help="An .npy file of levels or classes, a .txt file, or a folder of images; otherwise --split."
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="The file to write.")] = Path("compressed.bfn"),
    steps: Annotated[int, typer.Option(help="The number of messages of an example.", min=1, max=MOST_STEPS)] = 20,
    split: Annotated[
        str, typer.Option(help=f"Instead of a file, one of {', '.join(SPLITS)} of the run's data.")
    ] = "test",
    count: Annotated[int | None, typer.Option(help="Only so many examples, from the first on.", min=1)] = None,
) -> None:
    """Write examples to a file that is about as small as the bound of the run's model, without a loss. To read it, the
    same run, software and kind of machine are needed."""
    processes.refuse_several()
    if split not in SPLITS:
        raise ConfigError(f"--split={split} must be one of {', '.join(SPLITS)}")
    model, settings, data = load_run(run)
    by = coded(model)
    levels, padding = sources.read(by, data, source or split)
    if count is not None and count < len(levels):
        levels, padding = levels[:count], 0
    with Progress(console=console, transient=True) as bar:
        encoded, times = commands.to_file(by, levels, padding, data, steps, to, bar)
    bound = commands.bound_of(by, levels, settings.evaluate, steps)
    title = f"{settings.data.name}, {len(levels)} examples"
    console.print(commands.table_of(encoded, levels, by.levels, bound, steps, title))
    console.print(f"{encoded.first} examples were encoded by their frequencies; {times}")
    console.print(f"file: {to}")


@app.command(name="decompress")
def decompress_command(
    source: Annotated[Path, typer.Argument(help="A file of `bfn compress`.")],
    run: Annotated[Path, typer.Option(help="The run that compressed it, or its model file.")],
    to: Annotated[
        Path, typer.Option(help="The .npy or .txt file to write; a name without a suffix is a folder of images.")
    ] = Path("decompressed.npy"),
) -> None:
    """Read the examples of a file of `bfn compress`, as levels or classes."""
    processes.refuse_several()
    model, _, data = load_run(run)
    with Progress(console=console, transient=True) as bar:
        examples = commands.from_file(coded(model), data, source, to, bar)
    console.print(f"{examples} examples: {to}")


@app.command(name="plot")
def plot_command(run: Run, overrides: Overrides = None) -> None:
    """Plot the loss against steps and time, an input distribution after each message, and a film of the flow."""
    processes.refuse_several()
    model, settings, data = load_run(run, overrides, processes.start().device)
    out = directory(run)
    times = plots.plot_times(model, data, out / "times.png", seed=settings.sample.seed)
    film = plots.animate_flow(model, data, out / "flow.gif", settings.sample)
    for path in [*plotted(model, settings, data, out), times, film]:
        console.print(f"plot: {path}")


@app.command(name="convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="A published checkpoint; with --back, a run or its model file.")],
    out: Annotated[Path, typer.Argument(help="The directory of a new run; with --back, a file for the official code.")],
    overrides: Overrides = None,
    config: Annotated[str | None, typer.Option(help="The source's configuration, if not the paper's.")] = None,
    back: Annotated[bool, typer.Option("--back", help="Write a model of bfn as a published checkpoint.")] = False,
) -> None:
    """Turn a checkpoint that was published with the paper into a run, or a run into such a checkpoint."""
    processes.refuse_several()
    if back:
        if config is not None or overrides:
            raise ConfigError("with --back, convert takes neither --config nor settings; the model file has its own")
        convert_back(source / MODEL_FILE if source.is_dir() else source, out)
    else:
        if any((out / name).exists() for name in (MODEL_FILE, STATE_FILE)):  # a young run has only its state
            raise RunError(f"{out} holds a run, which a checkpoint would replace; choose another directory")
        out = out / MODEL_FILE
        convert(source, out, config, overrides)
    console.print(f"checkpoint: {out}")


@data_app.command(name="download")
def download_command(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(DOWNLOADS)}.")],
    folder: Annotated[Path | None, typer.Option(help="Where to put the files; `bfn train` finds the default.")] = None,
) -> None:
    """Download the files of a data set. By default, they come into the folder BFN_DATA or ~/.cache/bfn, where `bfn
    train` finds them. To train on files in another folder, set data.folder."""
    download(name, folder or folder_of(DataConfig(name)))
    more = f" data.folder={folder}" if folder else ""
    console.print(f"downloaded; train with: bfn train {TRAINED_BY.get(name, name)}{more}")


def found(settings: Config, *, fresh: bool, fetch: bool) -> Data:
    """The data of a run. With `fetch`, missing files are downloaded."""
    try:
        return data_of(settings, fresh=fresh)
    except MissingFile:
        if not (fetch and downloadable(settings.data)):
            raise
    name, folder = settings.data.name, folder_of(settings.data)
    if speaks():
        console.print(f"downloading {name} into {folder}")
    download(name, folder)
    return data_of(settings, fresh=fresh)


def parsed(steps: str) -> list[int]:
    """The numbers in the value of the option --steps."""
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in steps.split(",")]
    if min(numbers) < 1:
        raise ConfigError(f"--steps={steps} must be positive whole numbers with commas between them")
    return numbers


def directory(run: Path) -> Path:
    """The directory of a run, from this directory or from the run's model file."""
    return run if run.is_dir() else run.parent


def evaluated(model: BFN, settings: Config, data: Data) -> Bound:
    """Evaluate on held-out data and print the table."""
    bound, parts = evaluate(model, data.test, settings.evaluate), {}
    if isinstance(model, AtomsBFN):
        for name in PARTS:
            with model.counting(name):
                parts[name] = evaluate(model, data.test, settings.evaluate)
    console.print(tables.bound_table(bound, data, settings, parts))
    return bound


def sampled(model: BFN, settings: Config, data: Data, path: Path) -> Path:
    """Draw samples, print them if they are text, and write their picture and their numbers."""
    options = settings.sample
    more = settings_of(model, options)
    steps = options.n_steps if options.tolerance is None else options.max_calls
    with fast(model, settings, options.count, options.calls_of_a_step * steps, console.print):
        started = time.monotonic()
        if options.tolerance is not None:
            samples, steps = draw_within(model, options.count, options.tolerance, max_calls=options.max_calls, **more)
            console.print(f"calls of the network: {options.calls_of_a_step * steps}")
        else:
            samples = draw(model, options.count, options.n_steps, sampler=options.sampler, **more)
        samples, seconds = samples.cpu(), time.monotonic() - started
    console.print(f"{len(samples)} samples in {seconds:.1f} s, {len(samples) / seconds:.3g} a second")
    if data.judge is not None:
        console.print(tables.measures_table(data.judge.measures(samples)))
    elif data.symbols:
        table = Table("", title="samples", show_lines=True)
        for line in plots.to_text(samples, data.symbols):
            table.add_row(Text(line))  # rich would take brackets in a str for markup
        console.print(table)
    write_atomically(path.with_suffix(".npy"), lambda file: np.save(file, samples.numpy()))
    return plots.plot_samples(samples, data, path)


def plotted(model: BFN, settings: Config, data: Data, out: Path) -> list[Path]:
    """Plot the loss curves, if the run has a log, and an input distribution after each message."""
    log, dropout = log_of(out), settings.network.dropout > 0
    losses = [plots.plot_losses(log, data, out / "losses.png", dropout=dropout)] if log else []
    return [*losses, plots.plot_narrowing(model, data, out / "narrowing.png", settings.sample)]
