"""Times computations of other projects and the ops that can replace them, and prints a table. If draws estimate a loss,
the table also says how much the loss and its gradient vary from call to call.

    python -m benchmarks.clients             # --quick: an eighth of the rows, small networks, a few repetitions
    python -m benchmarks.clients --only joint   # whole models
    python -m benchmarks.clients --checkout bsi=FOLDER --checkout geobfn=FOLDER

A client is a published project whose computation the ops can replace. Each computation is written here from the
client's formulas. In float64 and with the same noise, the computation and the first of our calls must agree; otherwise
nothing is timed. Our other calls compute the loss in another way, so they are timed without a comparison. A network
about as large as the client's network takes turns with them all. The share of a step is the time of a call, divided by
the time of this call and the network's passes.

With --checkout, nothing is timed. The client's own functions are executed from the folder, with the same noise, and
must agree with the computation that is written here.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import csv_files, measure
from benchmarks.clients import atoms, crystal_runs, crystals, ligands, reals, tokens, whole_crystals
from benchmarks.clients.checkouts import Compared, compared
from benchmarks.clients.client import TOLERANCE, Client, disagreement
from benchmarks.clients.client_rows import Row, measured, table
from benchmarks.clients.places import LATER, PLACES
from benchmarks.devices import BusyCpu, Cpu

WIDTH = 144
REPEATS = 40  # the calls whose results show how much the result of one call varies
NAMES = tuple(dict.fromkeys(place.code.name for place in (*PLACES, *LATER) if place.code.name))


def checkout(text: str) -> tuple[str, Path]:
    """The name and the folder of NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if name not in NAMES or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FOLDER with a name of {', '.join(NAMES)}")
    if not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {folder!r}")
    return name, Path(folder)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="an eighth of the rows, small networks, a few repetitions")
    parser.add_argument(
        "--checkout",
        action="append",
        default=[],
        type=checkout,
        metavar="NAME=FOLDER",
        help=f"compare with the code in this folder. It is executed, so pass only code that you trust. Without this "
        f"option, no code of a client is executed. Repeatable. Names: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="only computations whose name begins with this text, such as joint; repeatable",
    )
    parser.add_argument(
        "--busy",
        action="store_true",
        help="measure the CPU time of this process, on a machine that other processes use; for OMP_NUM_THREADS=1",
    )
    parser.add_argument("--out", type=Path, help="directory of the CSV (runs/benchmarks/<date>)")
    options = parser.parse_args(arguments)
    options.checkout, options.only = dict(options.checkout), tuple(options.only or [""])
    return options


def makers(divisor: int, dtype: torch.dtype) -> list[Callable[[], Client]]:
    """Functions that make the clients, in the order of `places.PLACES` and `places.LATER`. `divisor` divides the number
    of rows of each client."""
    return [
        partial(tokens.smiles, 64 // divisor, dtype),
        partial(tokens.guided_step, 64 // divisor, dtype),
        partial(atoms.types_by_draws, 400 // divisor, dtype, 13, 1.5),
        partial(atoms.types_by_draws, 400 // divisor, dtype, 2, 3.0),
        partial(atoms.charges, 1152 // divisor, dtype),
        partial(crystals.fractions, 256 // divisor, dtype, max(20, crystals.MESSAGES // divisor)),
        partial(tokens.profiles, max(1, 8 // divisor), dtype),
        partial(tokens.antibodies, max(1, 8 // divisor), dtype),
        partial(reals.policy, 256 // divisor, dtype),
        partial(reals.images, max(1, 16 // divisor), dtype),
        partial(reals.inference_step, max(1, 16 // divisor), dtype),
        partial(tokens.renoised_step, 64 // divisor, dtype),
        partial(tokens.letters, 64 // divisor, dtype),
        partial(whole_crystals.step, max(1, 256 // divisor), dtype, max(20, crystals.MESSAGES // divisor)),
        partial(crystal_runs.end_back, max(1, 256 // divisor), dtype),
        partial(crystal_runs.vanilla, max(1, 256 // divisor), dtype),
        partial(ligands.step, max(2, 8 // divisor), dtype),
        partial(ligands.run, max(2, 100 // divisor), dtype, "end_back_pmf"),
        partial(ligands.run, max(2, 100 // divisor), dtype, "vanilla"),
    ]


def clients(divisor: int, dtype: torch.dtype, only: tuple[str, ...] = ("",)) -> list[Client]:
    """The clients whose name begins with a text of `only`, in the order of `makers`."""
    return [client for make in makers(divisor, dtype) if (client := make()).name.startswith(only)]


def small_clients(only: tuple[str, ...]) -> list[Client]:
    """Clients in float64, with an eighth of the rows."""
    torch.manual_seed(0)
    return clients(8, torch.float64, only)


def compare(checkouts: dict[str, Path], only: tuple[str, ...], console: Console) -> list[Compared]:
    """Compares each client with its own functions, if there is a checkout of its code."""
    found = []
    for client in small_clients(only):
        if (folder := checkouts.get(client.place.code.name)) is not None:
            found.append(compared(client, folder))
            console.print(f"{found[-1].code}, {found[-1].function}: {found[-1].difference:.1g}")
    return found


def timed(quick: bool, only: tuple[str, ...], device: Cpu) -> list[Row]:
    """The rows of clients. Each client's computation and our call must agree."""
    divisor, seconds, repeats = (8, 0.05, 5) if quick else (1, 1.0, REPEATS)
    for client in small_clients(only):
        if not (difference := disagreement(client)) <= TOLERANCE:
            raise AssertionError(
                f"{client.name}: ours differs from theirs by {difference:.1g}, allowed {TOLERANCE:.1g}"
            )
    found = clients(divisor, torch.float32, only)
    return [row for client in found for row in measured(client, seconds, repeats, divisor, device)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    console = Console(width=WIDTH, highlight=False)
    out = options.out or csv_files.new_folder("benchmarks")
    if options.checkout:
        try:
            found = compare(options.checkout, options.only, console)
        except FileNotFoundError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        csv_files.write(Compared, found, measure.machine(Cpu()), out / "checkouts.csv")
        return 0 if all(row.difference <= TOLERANCE for row in found) else 1
    device = BusyCpu() if options.busy else Cpu()
    machine = measure.begun(device) | {"quick": str(options.quick)}
    rows = timed(options.quick, options.only, device)
    console.print(measure.lines_of(machine))
    console.print(table(rows))
    csv_files.write(Row, rows, machine, out / "clients.csv")
    print(out / "clients.csv")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
