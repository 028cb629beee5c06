"""Makes the tables, lines and phrases of the pages that come from the files under benchmarks/results.

    python -m benchmarks.docs_numbers OLD    # updates all pages; OLD is a copy of the results that the pages show now

The command replaces each text made from OLD by the text made from `SHOWN`. `FIGURES` lists the texts of each page. If a
page lacks one of its texts, a test fails and prints this text.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    csv_files,
    experiments,
    likeliest_classes,
    linear_heads,
    noisy_embeddings,
    page,
    patched,
    runs_report,
    shares,
    vocabularies,
)
from benchmarks.clients import checkouts, places
from benchmarks.clients import client_rows as clients
from benchmarks.competitors import COMPILED, EAGER
from benchmarks.report import Row, duration, factor, gain, median, number

ROOT = Path(__file__).parent.parent
SHOWN = ROOT / "benchmarks" / "results" / "epyc-2-threads"
README = {
    "loss of 98 304 pixels of 256 levels, continuous time": "discretised L∞ K=256",
    "n-step loss of these pixels, by 8 quadrature nodes": "discretised L_n 8 nodes K=256",
    "loss of 1024 tokens of 32 000": "discrete L∞ K=32000",
    "a sampling step of these tokens": "discrete update_sample K=32000",
    "a flow of 10⁷ reals": "continuous flow_sample",
}
PAPER = ("mnist", "cifar10", "text8")  # configurations with the paper's networks


def table(kind: type, name: str, module) -> Callable[[Path], str]:
    """A table of all rows of a file. `module`, which wrote the file, has the titles in COLUMNS. Its function `cells`
    makes the cells of a row."""
    return lambda folder: page.markdown_table(module.COLUMNS, map(module.cells, csv_files.read(kind, folder / name)))


def said(kind: type, name: str) -> Callable[[Path], str]:
    """A line about the times in a file: the machine, the version of torch, the day, and whether a training step ran
    before them."""

    def text(folder: Path) -> str:
        machine = csv_files.read_machine(kind, folder / name)
        when = [machine["date"].partition("T")[0]] if "date" in machine else []
        # A training step leaves a heap that makes later tensors faster. Older files, which lack the column `heap`, were
        # timed without this step.
        heap = "after a training step" if "heap" in machine else "in a fresh process"
        threads = f"{machine['threads']} thread{'' if machine['threads'] == '1' else 's'}"
        where = f"{threads} of an {machine['processor']}" + (", CPU time" if "clock" in machine else "")
        return f"*{', '.join([where, 'float32', 'torch ' + machine['torch'], *when])}; timed {heap}.*\n"

    return text


def client(start: str) -> Callable[[Path], str]:
    """A table of the client whose name begins with `start`."""

    def text(folder: Path) -> str:
        rows = [row for row in csv_files.read(clients.Row, folder / "clients.csv") if row.client.startswith(start)]
        return page.markdown_table(clients.COLUMNS, map(clients.cells, rows))

    return text


def code_bases(listed: Sequence[places.Place], name: str) -> Callable[[Path], str]:
    """A table of functions of code bases: where they are, our calls, and the times of both, which are in a file."""

    def text(folder: Path) -> str:
        return page.markdown_table(clients.PLACED, clients.placed(csv_files.read(clients.Row, folder / name), listed))

    return text


def of_cases(make: Callable[[list[Row], str], str]) -> Callable[[Path], str]:
    return lambda folder: make(csv_files.read(Row, folder / "results.csv"), "cpu")


def readme(rows: list[Row], backend: str) -> str:
    lines = []
    for name, case in README.items():
        ours, *others = (median(rows, case, [who]) for who in (backend, EAGER, COMPILED))
        cells = [cell for other in others for cell in (duration(other), f"× {factor(other / ours)}")]
        lines.append([name, duration(ours), *cells])
    header = ("forward, and backward where there is a gradient", "op", "eager PyTorch", "", "`torch.compile`", "")
    return page.markdown_table(header, lines)


def gains(rows: list[Row], backend: str) -> str:
    """How many times as fast as eager PyTorch the ops of the table `readme` are, at least and at most."""
    found = [median(rows, case, [EAGER]) / median(rows, case, [backend]) for case in README.values()]
    return f"are {factor(min(found))} to {factor(max(found))} times as fast as"


def loops_of_readme(folder: Path) -> str:
    """When the loop of `bfn` has the bound that the published loop has at its end, for each experiment."""
    runs = runs_report.loops_of(csv_files.read(runs_report.Run, folder / "runs.csv"))
    quality = runs_report.loops_of(csv_files.read(runs_report.Quality, folder / "quality.csv"))
    names = {
        "bins": "256 bins (MNIST), n-step loss",
        "shakespeare": "27 letters (Shakespeare), continuous-time loss",
        "mnist": "2 classes (MNIST), continuous-time loss",
    }
    lines = []
    for experiment, name in names.items():
        rows, size = quality[experiment, runs_report.OURS], runs[experiment, runs_report.OURS][0].parameters
        last = [row for row in rows if row.seconds == max(row.seconds for row in rows)]
        own, theirs = (number(runs_report.middle(last, name), ".0f") for name in ("own_seconds", "target_seconds"))
        lines.append(f"- **{name}**, {size / 1e6:.2g} M parameters: {own} s instead of {theirs} s.")
    return "\n".join(lines)


def small_network(folder: Path) -> str:
    """The time of a training step of the authors' code with 256 bins after and before the patch, and their ratio."""
    rows = csv_files.read(patched.Row, folder / "patched.csv")
    of_bins = [row for row in rows if row.configuration == "cifar10_discretized_256bins"]
    (step,) = [row for row in of_bins if row.part == "training step"]
    return f"{duration(step.after_ms)} instead of {duration(step.before_ms)} ({gain(step.before_ms / step.after_ms)})"


def full_size(folder: Path) -> str:
    """How many times as fast the ops make a training step of the paper's networks, at least and at most."""
    shown = [share for share in csv_files.read(shares.Share, folder / "training.csv") if share.config in PAPER]
    gains = sorted(share.gain(share.published_ms) for share in shown)
    return f"{gains[0]:.3f} to {gains[-1]:.3f} times as fast"


def time_to_quality(title: str) -> Callable[[Path], str]:
    """The table of benchmarks.time_to_quality with this title. The table of speeds gets one more row: how many times as
    fast ops alone make training steps of full-size networks."""

    def text(folder: Path) -> str:
        runs = csv_files.read(runs_report.Run, folder / "runs.csv")
        quality = csv_files.read(runs_report.Quality, folder / "quality.csv")
        drawn = csv_files.read(runs_report.Drawn, folder / "samples.csv")
        columns, lines = runs_report.parts(runs, quality, drawn)[title]
        if title == runs_report.SPEED:
            alone = ["full-size networks, by ops alone", *[""] * (len(columns) - 1)]
            alone[columns.index("faster by")] = full_size(folder)
            lines.append(alone)
        return page.markdown_table(columns, lines)

    return text


GUIDE = "docs/guides/{}.md".format
FIGURES: tuple[tuple[str, Callable[[Path], str]], ...] = (
    ("README.md", of_cases(readme)),
    ("README.md", said(Row, "results.csv")),
    ("README.md", of_cases(gains)),
    ("README.md", loops_of_readme),
    ("README.md", small_network),
    ("README.md", full_size),
    ("docs/benchmark_cases.md", of_cases(page.times)),
    ("docs/benchmark_cases.md", said(Row, "results.csv")),
    ("docs/benchmarks.md", of_cases(page.vocabularies)),
    ("docs/benchmarks.md", said(Row, "results.csv")),
    ("docs/benchmarks.md", table(noisy_embeddings.Embedding, "noisy.csv", noisy_embeddings)),
    ("docs/benchmarks.md", said(noisy_embeddings.Embedding, "noisy.csv")),
    ("docs/benchmarks.md", table(likeliest_classes.Found, "likeliest.csv", likeliest_classes)),
    ("docs/benchmarks.md", said(likeliest_classes.Found, "likeliest.csv")),
    ("docs/benchmarks.md", table(linear_heads.Head, "heads.csv", linear_heads)),
    ("docs/benchmarks.md", said(linear_heads.Head, "heads.csv")),
    ("docs/results.md", table(vocabularies.Step, "vocabularies.csv", vocabularies)),
    ("docs/results.md", table(experiments.Run, "experiments.csv", experiments)),
    *(
        ("docs/where_kernels_pay.md", time_to_quality(title))
        for title in (runs_report.SPEED, runs_report.QUALITY, runs_report.SAMPLES)
    ),
    ("docs/where_kernels_pay.md", table(shares.Share, "training.csv", shares)),
    ("docs/where_kernels_pay.md", said(shares.Share, "training.csv")),
    (GUIDE("official"), table(patched.Row, "patched.csv", patched)),
    (GUIDE("official"), said(patched.Row, "patched.csv")),
    (GUIDE("clients"), code_bases(places.PLACES, "clients.csv")),
    (GUIDE("clients"), said(clients.Row, "clients.csv")),
    (GUIDE("clients"), code_bases(places.LATER, "later.csv")),
    (GUIDE("clients"), said(clients.Row, "later.csv")),
    (GUIDE("clients"), table(checkouts.Compared, "checkouts.csv", checkouts)),
    (GUIDE("molecules"), client(places.TYPES.client)),
    (GUIDE("molecules"), client(places.FLAGS.client)),
    (GUIDE("molecules"), said(clients.Row, "clients.csv")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs_numbers", description="Update the pages' figures.")
    parser.add_argument("old", type=Path, help="a copy of the results that the pages show now")
    old = parser.parse_args(arguments).old
    for name, text in FIGURES:
        before, after = text(old), text(SHOWN)
        if before == after:
            continue
        content = (ROOT / name).read_text()
        found = before in content
        print(f"{name}: {'replaced' if found else 'does not have'}\n{after if found else before}")
        (ROOT / name).write_text(content.replace(before, after))
    return 0


if __name__ == "__main__":
    sys.exit(main())
