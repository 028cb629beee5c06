"""Measure every case, print the tables, write a CSV and a page. The exit status is 1 if a row has the status FAILED,
since a result was wrong or a call raised an error."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import accuracy, csv_files, gate, measure, page, report, timed_cases
from benchmarks.competitors import (
    BASE,
    COMPILED,
    EAGER,
    PRODUCTS,
    PUBLISHED,
    UNFUSED,
    Competitor,
    available,
    competitors,
    prepared,
)
from benchmarks.devices import DEVICES, Device
from benchmarks.other_revision import OtherRevision, reason, resolved
from benchmarks.report import FAILED, OK, STOPPED, Row
from benchmarks.timed_cases import CASES, Case
from bfn_kernels.backends import BACKENDS

SECONDS_QUICK = 0.1  # for all repetitions of a competitor in a case of a quick run
WIDTH = 118
NAMES = (*BACKENDS, PUBLISHED, EAGER, COMPILED, UNFUSED, PRODUCTS)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the chosen `cases` and the directory `out` of the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="an eighth of the rows, nothing compiled, few repetitions")
    parser.add_argument("--device", choices=tuple(DEVICES), default="cpu", help="where the cases run (cpu)")
    parser.add_argument("--without", action="append", default=[], choices=NAMES, help="leave out a competitor")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this in it")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak extra memory")
    parser.add_argument("--base", metavar="REV", help="also time the kernels of this git revision")
    parser.add_argument("--out", type=Path, default=None, help="directory of the results (runs/benchmarks/<date>)")
    options = parser.parse_args(arguments)
    options.cases = [case for case in CASES if options.only in case.name]
    if not options.cases:
        parser.error(f"--only {options.only!r} is in the name of no case; they are: {', '.join(c.name for c in CASES)}")
    if options.base:
        try:
            options.base = resolved(options.base)
        except ValueError as error:
            parser.error(f"--base: {error}")
    options.out = options.out or csv_files.new_folder("benchmarks")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options, began = parsed(arguments), time.monotonic()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"error: torch {torch.__version__} sees no GPU", file=sys.stderr)
        return 2
    backends = [name for name in available(options.device) if name not in options.without]
    if not backends:
        print("error: no backend is built; `python -m bfn_kernels.env` says how to get one", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=WIDTH, record=True, highlight=False)
    device = DEVICES[options.device]()
    machine = measure.begun(device) | {"quick": str(options.quick)}
    base = OtherRevision(options.base, backends[0], device.name) if options.base else None
    machine["copy_gb_per_s"] = f"{measure.copy_bandwidth(device):.1f}"
    if base is not None:
        machine["base"] = base.revision
    console.print(measure.lines_of(machine))
    rows = run_cases(options, backends, device, base)
    needed = any(case.op == "discretised.discrete_time_loss" for case in options.cases)
    errors = accuracy.of_expectations(backends[0], device.name) if needed else {}
    if base is not None:
        base.close()
    about = tell(console, options, machine, rows, backends, errors)
    failed = [row for row in rows if row.status == FAILED]
    console.print(f"{time.monotonic() - began:.0f} s; the report is {about}")
    for row in failed:
        console.print(f"[red]FAILED[/] {row.case}, {row.competitor}: {escape(row.note)}")
    (options.out / "report.txt").write_text(console.export_text())
    return 1 if failed else 0


def run_cases(
    options: argparse.Namespace, backends: list[str], device: Device, base: OtherRevision | None
) -> list[Row]:
    """The rows of all cases. A line is printed after each case."""
    rows: list[Row] = []
    bar = Progress(TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn(), console=Console(stderr=True))
    with bar:
        task = bar.add_task("", total=len(options.cases))
        for case in options.cases:
            bar.update(task, description=case.name)
            actual = timed_cases.on_gpu(case) if options.device == "cuda" else case
            actual = timed_cases.quick(actual) if options.quick else actual
            taking_part = competitors(actual, backends, options.quick, device.max_elements)
            taking_part = [c for c in taking_part if c.name not in options.without]
            rows += run_case(actual, taking_part, device, options.quick, not options.no_memory, base)
            bar.advance(task)
            bar.console.print(report.one_line([row for row in rows if row.case == actual.name]))
    return rows


def tell(
    console: Console,
    options: argparse.Namespace,
    machine: dict[str, str],
    rows: Sequence[Row],
    backends: Sequence[str],
    errors: dict[str, accuracy.Errors],
) -> Path:
    """Prints the tables, and writes the CSV and the page. Returns the path of the page."""
    console.print(report.results_table(rows))
    held = {row.held_to: None for row in rows if row.held_to}
    console.print("error: relative, in the 2-norm of a row; the largest of all rows, of the output and all gradients.")
    for text in held:
        who = {(row.case, row.competitor): None for row in rows if row.held_to == text}
        names = "everybody else" if len(who) > len(rows) // 2 else ", ".join(f"{n} in {c}" for c, n in who)
        console.print(f"held to the {text}: {names}")
    if errors:
        console.print(report.errors_table(errors))
    met = report.targets(options.cases, rows, backends[0], errors) if options.device == "cpu" else []
    if met:
        console.print(report.targets_table(met, options.quick))
    else:
        console.print(report.bandwidth_table(rows, backends, float(machine["copy_gb_per_s"])))
    if "base" in machine:
        console.print(report.base_table(rows, backends[0], machine["base"]))
    csv_files.write(Row, rows, machine, options.out / "results.csv")
    return page.write(options.out, met)


def run_case(
    case: Case,
    taking_part: Sequence[Competitor],
    device: Device,
    quick: bool,
    with_memory: bool,
    base: OtherRevision | None = None,
) -> list[Row]:
    """A row for each competitor, the backends first: the verdict of the gate, the time and the memory."""
    tensors, noise = timed_cases.inputs(case, device=device.name)
    backends = [c.name for c in taking_part if c.name in BACKENDS]
    found, runs = admitted(case, taking_part, tensors, noise)
    if base is not None:
        found[BASE] = judged(base.check(case), STOPPED)
        if found[BASE]["status"] == OK:
            runs[BASE] = base
    moved = sum(t.nbytes for t in tensors.values()) + sum(timed_cases.written(case, tensors, noise))
    times = measure.timings(runs, SECONDS_QUICK if quick else device.seconds, device)
    for name, timing in times.items():
        found[name] |= {
            "median_ms": timing.median * 1e3,
            "p20_ms": timing.percentile(20) * 1e3,
            "p80_ms": timing.percentile(80) * 1e3,
            "repetitions": timing.repetitions,
            "bytes_moved": moved,
            "gb_per_s": moved / timing.median / 1e9,
        }
        if backends[0] in times:
            found[name]["ratio"] = timing.median / times[backends[0]].median
        if name in backends:
            found[name]["allowed_bytes"] = timed_cases.allowed(case, tensors, noise)
        if not with_memory or name == BASE or (quick and name not in backends):
            continue
        competitor = next(c for c in taking_part if c.name == name)
        peak = device.peak(case, competitor, runs[name])
        if peak is not None:
            found[name]["peak_extra_bytes"] = peak
    torch.compiler.reset()
    shape, dtype = "×".join(map(str, case.shape)), str(case.dtype).removeprefix("torch.")
    same = (case.name, case.series, case.op, shape, dtype, case.k, bool(case.diff))
    return [Row(*same, competitor=name, **values) for name, values in found.items()]


def admitted(
    case: Case, taking_part: Sequence[Competitor], tensors: dict, noise: dict
) -> tuple[dict[str, dict], dict[str, measure.Run]]:
    """The gate's findings about each competitor, and the runs of the competitors that passed the gate."""
    found: dict[str, dict] = {}
    runs: dict[str, measure.Run] = {}
    for competitor in taking_part:
        name = competitor.name
        try:
            verdict = gate.check(case, competitor, tensors, noise)
            run = prepared(competitor, case, tensors)
            if verdict.agrees and competitor.compiled:
                run()
        except Exception as error:
            # a failure of torch.compile is not a failure of our ops
            status = STOPPED if competitor.compiled else FAILED
            found[name] = judged(reason(error), status)
            continue
        found[name] = judged(verdict)
        if verdict.agrees:
            runs[name] = run
    return found, runs


def judged(verdict: gate.Verdict | str, stopped: str = FAILED) -> dict:
    """The fields of a row for a verdict. If there is none, `verdict` is the reason, and `stopped` the row's status."""
    if isinstance(verdict, str):
        return {"status": stopped, "note": verdict}
    said = {"error": verdict.worst, "tolerance": verdict.tolerance, "held_to": verdict.held_to}
    if verdict.agrees:
        return said | {"status": OK}
    return said | {"status": FAILED, "note": ", ".join(f"{what} {e:.1e}" for what, e in verdict.errors.items())}


if __name__ == "__main__":
    sys.exit(main())
