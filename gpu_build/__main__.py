"""Compile every kernel for GPUs. Then run calls of all operators in the PTX interpreter of tests/ptx, for the backends
that it can run here, and print what each call costs. The exit status is 1 if a kernel spills or needs more shared
memory than its GPU has, if a call executes more instructions or accesses more sectors (32 bytes of memory) than
budget.json allows, if the calls and the budgets do not have the same names, or if the extension `_cuda` lacks an
operator or needs a symbol that is not allowed. With `--only-call NAME`, only the calls with NAME in their names run,
and only the kernels that they launch are compiled; spills, shared memory and the extension are then not checked."""

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from gpu_build import extension, sass, table
from gpu_build.executed import executions
from gpu_build.table import Execution, Kernel

ARCHITECTURES = 80, 90, 100
AMD = "gfx90a", "gfx942"  # MI200 and MI300, for which only Triton compiles
SHARED = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448} | dict.fromkeys(AMD, 65536)  # the most bytes of a block
BUDGET = Path(__file__).with_name("budget.json")
SLACK = 1.02  # a new limit is the count times SLACK, since another version of the compiler may need a little more


def spilling(kernels: Sequence[Kernel]) -> list[str]:
    return [f"{k.backend} {k.name}, {k.architecture}: spills {k.spills} bytes" for k in kernels if k.spills]


def oversized(kernels: Sequence[Kernel]) -> list[str]:
    """The kernels that a GPU cannot launch."""
    return [
        f"{k.backend} {k.name}, {k.architecture}: takes {k.shared} bytes of shared memory, of {SHARED[k.architecture]}"
        for k in kernels
        if k.shared > SHARED[k.architecture]
    ]


def idle(ran: Sequence[Execution], budget: Iterable[str], only: str = "") -> list[str]:
    """The names in the budget that no call in `ran` has. Looks only at the backends in `ran`, and at names that contain
    `only`."""
    there, backends = {named(e) for e in ran}, {e.backend for e in ran}
    return [name for name in budget if name.split()[0] in backends and only in name and name not in there]


def rewritten(budget: dict[str, dict[str, float]], ran: Sequence[Execution], only: str = "") -> dict:
    """The budget with new limits for the calls in `ran`. Removes the names that `idle` returns, and keeps all other
    limits. Names that stay keep their order; new names come last."""
    gone = idle(ran, budget, only)
    return {name: most for name, most in budget.items() if name not in gone} | {named(e): allowed(e) for e in ran}


def over_budget(ran: Sequence[Execution], budget: dict[str, dict[str, float]], only: str = "") -> list[str]:
    """The errors: calls that exceed their budget, calls without one, and budgets without a call."""
    wrong = []
    for e in ran:
        name = named(e)
        if name not in budget:
            wrong.append(f"{name}: no budget for {e.total:.1f} instructions and {e.sectors:.3f} sectors a variable")
        for what, most in budget.get(name, {}).items():
            if getattr(e, what) > most:
                wrong.append(f"{name}: {getattr(e, what):.3f} {what} a variable, {most} are allowed")
    return wrong + [f"{name}: a budget for a call that there is not" for name in idle(ran, budget, only)]


def named(e: Execution) -> str:
    return f"{e.backend} {e.name}"


def allowed(e: Execution) -> dict[str, float]:
    """The limits of a call. Only n-step losses have a limit for the worst warp: their time depends on the data."""
    found = {"total": round(e.total * SLACK, 1), "sectors": round(e.sectors * SLACK, 3)}
    return found | {"worst": round(e.worst * SLACK)} if "L_n" in e.name else found


def verdict(kernels: Sequence[Kernel], ran: Sequence[Execution], wrong: Sequence[str]) -> str:
    """One line that says whether all is well, and which call is predicted to use the bandwidth least."""
    if wrong:
        return f"verdict: NOT well, {len(wrong)} errors"
    said = "verdict: well"
    if kernels:
        architectures = ", ".join(dict.fromkeys(k.architecture for k in kernels))
        said += f"; {len(kernels)} rows of kernels for {architectures}, none spills"
    if not ran:
        return f"{said}; nothing was executed, and no budget looked at"
    # Products on tensor cores are left out if there are other calls, since the bandwidth does not limit them.
    others = [e for e in ran if "tensor" not in e.instructions]
    least = min(others or ran, key=Execution.share_of_bandwidth)
    return f"{said}; the least predicted share of the bandwidth is {least.share_of_bandwidth():.1%}, of {named(least)}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_build", description=__doc__)
    parser.add_argument("--only", choices=("cuda", "triton"), help="the kernels of one backend")
    parser.add_argument("--only-call", default="", metavar="NAME", help="only the calls with NAME in their names")
    parser.add_argument("--write-budget", action="store_true", help="make budget.json allow what the calls execute now")
    parser.add_argument("--csv", type=Path, help="a file for what was executed and predicted")
    options = parser.parse_args(arguments)
    folder = Path("build/gpu")
    folder.mkdir(parents=True, exist_ok=True)
    compilers = {"cuda": sass.find_tool("nvcc"), "triton": importlib.util.find_spec("triton")}
    asked = [backend for backend in compilers if options.only in (None, backend)]
    for backend in asked:
        if not compilers[backend]:
            print(f"left out: the {backend} kernels, since their compiler is not installed", file=sys.stderr)
    chosen = [backend for backend in asked if compilers[backend]]
    kernels: list[Kernel] = []
    ran: list[Execution] = []
    for backend in chosen:
        if not options.only_call:
            compile_for = (*ARCHITECTURES, *AMD) if backend == "triton" else ARCHITECTURES
            kernels += importlib.import_module(f"gpu_build.compiled_{backend}").kernels(compile_for, folder)
        ran += executions(backend, options.only_call)
    if options.only_call and not ran:
        parser.error(f"--only-call {options.only_call!r} is in the name of no call that can be executed here")
    console = Console(width=180)
    if kernels:
        console.print(table.compiled(kernels))
        if any(k.straight for k in kernels):
            console.print(table.straight(kernels))
    console.print(table.executed(ran))
    if options.csv:
        table.write_csv(ran, options.csv)
    budget = json.loads(BUDGET.read_text())
    if options.write_budget:
        budget = rewritten(budget, ran, options.only_call)
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(most)}" for name, most in budget.items())
        BUDGET.write_text(f"{{\n{lines}\n}}\n")
    wrong = spilling(kernels) + oversized(kernels) + over_budget(ran, budget, options.only_call)
    if "cuda" in chosen and not options.only_call:
        wrong += extension.wrong(extension.library(folder))
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    print(verdict(kernels, ran, wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
