"""Times and errors of embeddings of the k likeliest classes of noisy one-hot vectors (`vocabulary.noisy_top_k`), and
times of `vocabulary.noisy_embedding`, which is exact.

    python -m benchmarks.likeliest_classes --duo CHECKOUT

CHECKOUT has the code of github.com/s-sahoo/duo, whose function sample_tempered_softmax_topk also draws k classes. All
times include the gradient of the weight.
"""

import argparse
import ast
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from benchmarks import csv_files, measure
from benchmarks.devices import Cpu
from benchmarks.noisy_embeddings import CLASSES, TOKENS, inputs, noisy
from benchmarks.report import duration
from bfn_kernels import vocabulary
from bfn_kernels.vocabulary.top_k import likeliest

K = 128
RATIOS = (2.0, 3.0, 4.0, 9.0, 90.0, 900.0)  # spread / temperature; Duo's settings have 9 to 98, its scripts 850 to 980
SCALE, SPREAD, COMPARED = 0.5, 0.9, 64  # of y, and the number of tokens whose embeddings are compared
COLUMNS = (
    "spread / temperature",
    "probability outside",
    "error of the embedding",
    "noisy_embedding",
    "noisy_top_k",
    "Duo's k classes",
)


@dataclass(frozen=True)
class Found:
    """The mean probability of the classes that are not drawn, the error of the embedding as a share of its root mean
    square, and milliseconds."""

    ratio: float
    outside: float
    error: float
    exact_ms: float
    top_k_ms: float
    duo_ms: float


def cells(found: Found) -> list[str]:
    times = [duration(ms) for ms in (found.exact_ms, found.top_k_ms, found.duo_ms)]
    return [f"{found.ratio:g}", f"{found.outside:.2g}", f"{found.error:.2g}", *times]


def duo_function(checkout: Path) -> Callable[..., tuple[Tensor, ...]]:
    """The function of Duo, without the packages that the other functions of its file need."""
    tree = ast.parse((checkout / "utils.py").read_text())
    wanted = ("sample_tempered_softmax_topk", "_sample", "_log_mean_exp_trunc_normal")
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith(wanted)]
    names: dict[str, Any] = {"torch": torch, "Optional": Optional}
    exec(compile(tree, "utils.py", "exec"), names)
    return names["sample_tempered_softmax_topk"]


def errors(ratio: float) -> tuple[float, float]:
    """The probability outside, and the error of the embedding. Both embeddings are made from the same y."""
    x, weight = torch.arange(COMPARED), inputs(8)[1].detach().double()
    spread = torch.full((COMPARED,), ratio, dtype=torch.float64)
    noise = torch.randn(COMPARED, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = ratio * noise
    y[x, x] += SCALE / SPREAD * ratio
    own = y.gather(1, x.unsqueeze(1))
    largest, classes = noise.scatter(1, x.unsqueeze(1), -math.inf).topk(K)
    p, places = likeliest(largest, own, spread, CLASSES - 1)
    classes = torch.cat([classes, x.unsqueeze(1)], 1).gather(1, places)
    exact = y.softmax(-1)
    want, got = exact @ weight, embedding_bag(classes, weight, per_sample_weights=p, mode="sum")
    outside = 1 - exact.gather(1, classes).sum(1).mean().item()
    return outside, ((got - want).square().mean() / want.square().mean()).sqrt().item()


def times(ratio: float, duo: Callable[..., tuple[Tensor, ...]]) -> list[float]:
    x, weight, scale, spread = inputs(TOKENS[0])
    scale, spread = torch.full_like(scale, SCALE), torch.full_like(spread, SPREAD)
    given: dict[str, Any] = {"scale": scale, "spread": spread, "temperature": SPREAD / ratio}

    def embedded(p: Tensor, classes: Tensor) -> Tensor:
        return embedding_bag(classes.flatten(0, 1), weight, per_sample_weights=p.flatten(0, 1).float(), mode="sum")

    def of(embed: Callable[[], Tensor]) -> Callable[[], tuple]:
        return lambda: torch.autograd.grad(embed().sum(), weight)

    runs = {
        "exact": of(lambda: noisy(x, weight, **given)),
        "top_k": of(lambda: embedded(*vocabulary.noisy_top_k(x, CLASSES, K, seed=1, **given))),
        "duo": of(lambda: embedded(*duo(x, scale, spread, x.shape[1], K, CLASSES, ratio / SPREAD)[:2])),
    }
    return [1e3 * found.median for found in measure.timings(runs, Cpu.seconds, Cpu()).values()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.likeliest_classes", description=__doc__)
    parser.add_argument("--duo", type=Path, required=True, metavar="CHECKOUT", help="a checkout of s-sahoo/duo")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/likeliest.csv"), help="the CSV to write")
    options = parser.parse_args(arguments)
    machine, duo = measure.begun(Cpu()), duo_function(options.duo)
    torch.set_flush_denormal(True)
    found = [Found(ratio, *errors(ratio), *times(ratio, duo)) for ratio in RATIOS]
    for row in found:
        print(", ".join(cells(row)), file=sys.stderr)
    csv_files.write(Found, found, machine, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
