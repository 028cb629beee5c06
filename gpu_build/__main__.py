"""Compile every kernel for GPUs and print what each costs. The exit status is 1 if a kernel spills or has more
instructions than budget.json allows, or if the extension `_cuda` lacks an operator or needs a symbol that is not
allowed."""

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gpu_build import extension
from gpu_build.table import Kernel, table

ARCHITECTURES = (80, 90, 100)
BUDGET = Path(__file__).with_name("budget.json")


def over_budget(kernels: Sequence[Kernel], budget: dict[str, float]) -> list[str]:
    """The errors: kernels that spill or exceed their budget, kernels without a budget, and budgets without a kernel."""
    wrong = [f"{k.backend} {k.name}, sm_{k.architecture}: spills {k.spills} bytes" for k in kernels if k.spills]
    gated = {f"{k.name}, sm_{k.architecture}": k for k in kernels if k.gated}
    for name, k in gated.items():
        if name not in budget:
            wrong.append(f"{name}: no budget, {k.total:.1f} instructions")
        elif k.total > budget[name]:
            wrong.append(f"{name}: {k.total:.1f} instructions, {budget[name]} are allowed")
    return wrong + [f"{name}: a budget for a kernel that there is not" for name in budget if name not in gated]


def verdict(kernels: Sequence[Kernel], wrong: Sequence[str]) -> str:
    """One line that says whether all is well, and which kernel is predicted to use the bandwidth least."""
    if wrong:
        return f"verdict: NOT well, {len(wrong)} errors"
    said = f"verdict: well; {len(kernels)} kernels for sm_{', sm_'.join(map(str, ARCHITECTURES))}, none spills"
    counted = [k for k in kernels if k.bytes]
    if not counted:
        return said
    least = min(counted, key=Kernel.share_of_bandwidth)
    return f"{said}; the least predicted share of the bandwidth is {least.share_of_bandwidth():.0%}, of {least.name}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_build", description=__doc__)
    parser.add_argument("--only", choices=("cuda", "triton"), help="the kernels of one backend")
    parser.add_argument("--write-budget", action="store_true", help="allow the CUDA kernels what they have now")
    options = parser.parse_args(arguments)
    folder = Path("build/gpu")
    folder.mkdir(parents=True, exist_ok=True)
    kernels: list[Kernel] = []
    for backend, needs in (("cuda", "gpu_build.cuda"), ("triton", "triton")):
        if options.only not in (None, backend):
            continue
        if importlib.util.find_spec(needs) is None:
            print(f"left out: the {backend} kernels, since {needs} is not installed", file=sys.stderr)
            continue
        kernels += importlib.import_module(f"gpu_build.{backend}").kernels(ARCHITECTURES, folder)
    Console(width=150).print(table(kernels))
    if options.write_budget:
        counted = {f"{k.name}, sm_{k.architecture}": round(k.total + 0.05, 1) for k in kernels if k.gated}
        BUDGET.write_text(json.dumps(counted, indent=2) + "\n")
    budget = json.loads(BUDGET.read_text()) if options.only != "triton" else {}
    wrong = over_budget(kernels, budget)
    if options.only != "triton":
        wrong += extension.wrong(extension.library(folder))
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    print(verdict(kernels, wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
