"""One page about one run: Markdown, and HTML that needs no other file.

python -m benchmarks.page runs/benchmarks/<date>     # rebuilds the page from results.csv

If the folder has training.csv (python -m benchmarks.training), the page has its table, too.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from benchmarks import csv_files, shares
from benchmarks.competitors import COMPILED, EAGER, PRODUCTS, PUBLISHED, UNFUSED
from benchmarks.report import MIB, Row, Target, beside_base, duration, gain, median, memory, names, number, targets
from benchmarks.shares import Share
from benchmarks.timed_cases import CASES
from bfn_kernels.backends import BACKENDS

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 14px; display: block; overflow-x: auto }
th, td { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
"""
ABOUT = """\
Times are medians of repetitions, in which all competitors take turns. `cpu` or another backend is the public function
of bfn_kernels. `eager` is the closed form in plain PyTorch with autograd, `compiled` the same code under torch.compile,
and `published` the formulation of the authors' code. A competitor is timed only if its outputs and gradients agree with
float64. "closed form" is the faster of `eager` and `compiled`. docs/benchmarks.md explains the method.
"""
NETWORKS = """\
The ops pay if they are much of the work. In a training step of a network of full size, the flow and the loss are little
work in any implementation. The table has the times of a network's forward and backward pass, and of a flow sample with
the loss and its gradient. "before" and "after" are the shares of the published form and of our ops in a step.
"""


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---", *["--:"] * (len(header) - 1)], *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n"


def times(rows: Sequence[Row], backend: str) -> str:
    def line(case: str) -> list[str]:
        own = next(row for row in rows if row.case == case)
        ours = median(rows, case, [backend])
        eager, compiled, published = (median(rows, case, [name]) for name in (EAGER, COMPILED, PUBLISHED))
        best = min((ms for ms in (eager, compiled) if not math.isnan(ms)), default=math.nan)
        every = [duration(ms) for ms in (ours, eager, compiled, published)]
        return [case, own.shape, *every, gain(best / ours), gain(published / ours), f"{own.error:.0e}"]

    header = ("case", "shape", backend, EAGER, COMPILED, PUBLISHED, "closed form / ours", "published / ours", "error")
    return markdown_table(header, map(line, names(rows)))


def peaks(rows: Sequence[Row], backend: str) -> str:
    """The peak extra memory of all competitors, in the cases in which the backend's peak was measured."""
    order = (backend, EAGER, COMPILED, PUBLISHED)
    lines = []
    for case in names(rows):
        values = [memory(rows, case, name) for name in order] + [memory(rows, case, backend, "allowed_bytes")]
        if not math.isnan(values[0]):
            lines.append([case, *(number(value / MIB, ".1f") for value in values)])
    return markdown_table(("case, MiB", *order, "allowed"), lines)


def vocabularies(rows: Sequence[Row], backend: str) -> str:
    """Cases of large vocabularies, compared with only their matrix products and with our ops that store `[..., K]`."""
    lines = []
    for case in names(row for row in rows if row.competitor == PRODUCTS):
        ours = median(rows, case, [backend])
        of = [median(rows, case, [name]) for name in (PRODUCTS, UNFUSED)]
        lines.append([case, *map(duration, (ours, *of)), f"{ours / of[0]:.2f}", gain(of[1] / ours)])
    header = ("case", backend, PRODUCTS, UNFUSED, f"{backend} / {PRODUCTS}", f"{UNFUSED} / {backend}")
    return markdown_table(header, lines)


def revisions(rows: Sequence[Row], backend: str) -> str:
    """The times of this revision and of the other revision that was measured."""
    lines = (
        [case, duration(now), duration(before), f"{before / now:.2f}"]
        for case, now, before in beside_base(rows, backend)
    )
    return markdown_table(("case", "now", "before", "before / now"), lines)


def goals(found: Sequence[Target]) -> str:
    words = {True: "met", False: "**not met**", None: "not measured"}
    return markdown_table(("target", "", "measured", ""), ([t.what, t.limit, t.measured, words[t.met]] for t in found))


def page(folder: Path, found: Sequence[Target] | None = None) -> str:
    """The Markdown of a run's results. found: the targets; None computes them from the rows, without the errors of
    expectations. A run on a GPU has no targets."""
    results = folder / "results.csv"
    rows, machine = csv_files.read(Row, results), csv_files.read_machine(Row, results)
    backend = next(name for name in BACKENDS if any(row.competitor == name for row in rows))
    if found is None:
        cases = [case for case in CASES if case.name in names(rows)]
        found = [] if "gpu" in machine else targets(cases, rows, backend, {})
    parts = ["# Benchmarks of bfn-kernels\n", markdown_table(("machine", ""), machine.items()), ABOUT]
    parts += ["## Times\n", times(rows, backend)]
    if found:
        parts += ["## Targets\n", goals(found)]
    if any(not math.isnan(row.peak_extra_bytes) for row in rows):
        parts += ["## Peak extra memory\n", peaks(rows, backend)]
    if any(row.competitor == PRODUCTS for row in rows):
        parts += ["## Large vocabularies\n", vocabularies(rows, backend)]
    if "base" in machine:
        parts += [f"## Beside revision {machine['base']}\n", revisions(rows, backend)]
    if (folder / "training.csv").exists():
        lines = map(shares.cells, csv_files.read(Share, folder / "training.csv"))
        parts += ["## Where they do not pay\n", NETWORKS, markdown_table(shares.COLUMNS, lines)]
    return "\n".join(parts)


def html(text: str) -> str:
    body = MarkdownIt().enable("table").render(text)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>bfn-kernels</title>'
    return f"<!doctype html><html><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>"


def write(folder: Path, found: Sequence[Target] | None = None) -> Path:
    text = page(folder, found)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(html(text))
    return folder / "report.html"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="Rebuild the page about one run.")
    parser.add_argument("folder", type=Path, help="the folder of the run, with results.csv")
    print(write(parser.parse_args().folder))
