"""Times embeddings of noisy one-hot vectors and their gradients by the weight, in the code of language models and by
`vocabulary.noisy_embedding`.

"Duo's lines" are those of github.com/s-sahoo/duo (algo.py, models/dit.py), with the class of the largest number. "FLM's
lines" are those of github.com/david3684/flm. "the two products" are the matrix products of an embedding and of its
gradient, for vectors that are there. A step has an embedding, a network of two linear layers, a head, and Duo's bound.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import csv_files, measure, memory
from benchmarks.devices import Cpu
from benchmarks.report import MIB, duration, number
from bfn_kernels import vocabulary

CLASSES, WIDTH, TEMPERATURE = 30_522, 768, 0.1  # the vocabulary of BERT, and the network of Duo
TOKENS = (512,)
CHUNK = 64  # the tokens of a chunk of Duo's bound: the default takes twice the memory, and saves 3 % of the time
DUO, FLM, PRODUCTS = "Duo's lines", "FLM's lines", "the two products"
SOFTMAX, ARGMAX = "noisy_embedding", "noisy_embedding, return_argmax"
LINEAR, KEPT, MADE = "linear", "linear, factor kept", "linear, factor made in the call"
DUO_STEP, OUR_STEP = "a step, Duo's lines", "a step, noisy_embedding and loss_by_chunks"
LAYERS = 12  # of the network of Duo, which has 170 M parameters with the embedding and the head
LARGE, LARGE_TOKENS = {True: "a step of 12 layers, ours", False: "a step of 12 layers, Duo's lines"}, 128
COLUMNS = ("tokens", "code", "embedding", "with its gradient", "MiB")


@dataclass(frozen=True)
class Embedding:
    """The milliseconds of a call, alone and with the gradient, and the bytes by which both raise the peak of memory."""

    tokens: int
    code: str
    forward_ms: float
    both_ms: float
    peak_bytes: float


def cells(found: Embedding) -> list[str]:
    times = [duration(ms) for ms in (found.forward_ms, found.both_ms)]
    return [str(found.tokens), found.code, *times, number(found.peak_bytes / MIB, ".0f")]


def duo(x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor) -> Tensor:
    return noisy_by_duo(x, weight, scale, spread)[0]


def noisy_by_duo(x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    one_hot = F.one_hot(x, len(weight))
    y = scale[:, None, None] * one_hot + spread[:, None, None] * torch.randn(one_hot.shape)
    y = y * (1 / TEMPERATURE)
    x_t = y.argmax(-1)
    return torch.einsum("blv,ve->ble", F.softmax(y, dim=-1).float(), weight.float()), x_t


def nll_by_duo(logits: Tensor, x: Tensor, x_t: Tensor, alpha: Tensor) -> Tensor:
    """Duo's bound of each token, with dα/dt = −1."""
    classes, p = logits.shape[-1], logits.log_softmax(-1).exp()
    mixed = classes * alpha.unsqueeze(-1) * p + 1 - alpha.unsqueeze(-1)
    of_x, of_x_t = (mixed.gather(-1, index.unsqueeze(-1)).squeeze(-1) for index in (x, x_t))
    same, ratio = (x == x_t).float(), (1 - alpha) / (classes * alpha + 1 - alpha)
    first = classes * (1 / ((1 - alpha) + classes * alpha * same) - 1 / of_x_t)
    offset = ((classes - 1) * ratio * same - (1 - same) / ratio) * ratio.log()
    second = -(same * ratio + 1 - same) * (mixed.log().sum(-1) - classes * of_x_t.log())
    second = second - classes * alpha / (1 - alpha) * (of_x.log() - of_x_t.log()) * (1 - same) + offset
    return -(first - second) / (classes * alpha)


def layers() -> nn.Module:
    """The layers of the network of Duo."""
    layer = nn.TransformerEncoderLayer(WIDTH, 12, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)


def step(ours: bool, tokens: int, gradient: bool, network: nn.Module) -> Callable[[], tuple]:
    """The loss of a training step and, if wanted, all gradients."""
    x, weight, scale, spread = inputs(tokens)
    head = nn.Linear(WIDTH, CLASSES)
    parameters, alpha = [weight, *network.parameters(), *head.parameters()], torch.full(x.shape, 0.6)

    def run() -> tuple:
        with torch.set_grad_enabled(gradient):
            if ours:
                seen, x_t = vocabulary.noisy_embedding(
                    x, weight, scale=scale, spread=spread, temperature=TEMPERATURE, return_argmax=True, seed=1
                )
                hidden = network(seen)
                head_and_rows = head.weight, head.bias, x, x_t, alpha
                loss = vocabulary.loss_by_chunks(nll_by_duo, hidden, *head_and_rows, chunk_size=CHUNK)
            else:
                seen, x_t = noisy_by_duo(x, weight, scale, spread)
                loss = nll_by_duo(head(network(seen)), x, x_t, alpha).mean()
        return (loss, torch.autograd.grad(loss, parameters) if gradient else None)

    return run


def flm(x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor) -> Tensor:
    one_hot = F.one_hot(x, len(weight)).float()
    y = spread[:, None, None] * torch.randn_like(one_hot) + scale[:, None, None] * one_hot
    return torch.einsum("blv,ve->ble", y, weight)


def noisy(x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor, **options) -> Tensor:
    found = vocabulary.noisy_embedding(x, weight, scale=scale, spread=spread, seed=1, **options)
    return found[0] if isinstance(found, tuple) else found


def by_factor(x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor) -> Tensor:
    return noisy(x, weight, scale, spread, output="linear", factor=vocabulary.noise_factor(weight))


def inputs(tokens: int) -> tuple[Tensor, ...]:
    """Classes, a weight, and the scale and the spread of Duo at four times."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(CLASSES, (4, tokens // 4), generator=generator)
    gamma = torch.linspace(-3.5, -1.75, 4)
    weight = torch.randn(CLASSES, WIDTH, generator=generator) / math.sqrt(WIDTH)
    return x, weight.requires_grad_(), torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


def call(code: str, tokens: int, gradient: bool) -> Callable[[], tuple]:
    """The call of a code. The tensors that it reads are made here."""
    if code in (DUO_STEP, OUR_STEP):
        network = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        return step(code == OUR_STEP, tokens, gradient, network)
    if code in LARGE.values():
        return step(code == LARGE[True], tokens, gradient, layers())
    x, weight, scale, spread = inputs(tokens)
    if code == PRODUCTS:
        y, grad = torch.rand(tokens, CLASSES), torch.rand(tokens, WIDTH)
        return lambda: (y @ weight.detach(), y.t() @ grad if gradient else None)
    kept = vocabulary.noise_factor(weight.detach()) if code == KEPT else None
    functions: dict[str, Callable[..., Tensor]] = {
        DUO: duo,
        FLM: flm,
        SOFTMAX: partial(noisy, temperature=TEMPERATURE),
        ARGMAX: partial(noisy, temperature=TEMPERATURE, return_argmax=True),
        LINEAR: partial(noisy, output="linear"),
        KEPT: partial(noisy, output="linear", factor=kept),
        MADE: by_factor,
    }

    def run() -> tuple:
        with torch.set_grad_enabled(gradient):
            embedding = functions[code](x, weight, scale, spread)
        return (embedding, torch.autograd.grad(embedding.sum(), weight) if gradient else None)

    return run


CODES = (PRODUCTS, DUO, ARGMAX, SOFTMAX, FLM, LINEAR, MADE, KEPT, DUO_STEP, OUR_STEP)


def runs(code: str, tokens: int) -> tuple[Callable[[], tuple], Callable[[], tuple]]:
    """The call with its gradient, and the same call with few tokens."""
    return call(code, tokens, True), call(code, 8, True)


def measured(tokens: int, codes: Sequence[str] = CODES) -> list[Embedding]:
    each = [
        measure.timings({code: call(code, tokens, gradient) for code in codes}, Cpu.seconds, Cpu())
        for gradient in (False, True)
    ]
    ms = [{code: 1e3 * found.median for code, found in times.items()} for times in each]
    found = []
    for code in codes:
        peak = memory.peak_in_a_process(runs, code, tokens)
        found.append(Embedding(tokens, code, ms[0][code], ms[1][code], math.nan if peak is None else peak))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noisy_embeddings", description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/noisy.csv"), help="the CSV to write")
    options = parser.parse_args(arguments)
    machine = measure.begun(Cpu())
    torch.set_flush_denormal(True)  # small probabilities would otherwise slow all products down
    found: list[Embedding] = []
    for tokens in options.tokens:
        found += measured(tokens)
    found += measured(LARGE_TOKENS, tuple(LARGE.values()))
    for embedding in found:
        print(", ".join(cells(embedding)), file=sys.stderr)
    csv_files.write(Embedding, found, machine, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
