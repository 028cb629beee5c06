"""Trains `bfn train text_bpe` and a causal transformer of the same size in the same loop, for the same time, and
compares them with models that count tokens and with compressors.

    python -m benchmarks.text_models data.folder=texts data.file=shakespeare.txt train.max_seconds=1800

The arguments are settings of the configuration text_bpe. The causal transformer sees the tokens before a token, which
no model of all tokens at once can do, and its number is exact. A bound of a Bayesian flow network is an upper bound.
"""

import argparse
import gzip
import lzma
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import csv_files, measure
from benchmarks.devices import Cpu
from bfn.configs import Config, load
from bfn.data import Data, load_data
from bfn.model import VocabularyBFN, build_model, made
from bfn.networks.transformer import Layer, VectorTransformer
from bfn.results.evaluate import evaluate
from bfn.training import trainer
from bfn_kernels import vocabulary

COLUMNS = ("model", "parameters", "seconds", "bits a byte")


@dataclass(frozen=True)
class Model:
    """The bits a byte of the test split, and the standard error for a network. seconds: of training, or 0."""

    name: str
    parameters: int
    seconds: float
    bits: float
    error: float


def cells(found: Model) -> list[str]:
    if not found.parameters:
        return [found.name, "", "", f"{found.bits:.3f}"]
    size = f"{found.parameters / 1e6:.1f} M"
    return [found.name, size, f"{found.seconds:.0f}", f"{found.bits:.3f} ± {found.error:.3f}"]


class CausalLayer(Layer):
    def forward(self, h: Tensor, turns: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(self.norm_attention(h)).unflatten(-1, (3, self.heads, -1)).movedim(-2, 1).unbind(-2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        h = h + self.dropout(self.out(mixed))
        return h + self.dropout(self.mlp(self.norm_mlp(h)))


class CausalTransformer(VectorTransformer):
    """The transformer of large vocabularies, in which no place sees a later one."""

    def __init__(self, shape: tuple[int, ...], *, width: int, depth: int, heads: int, dropout: float):
        super().__init__(shape, width=width, depth=depth, heads=heads, dropout=dropout)
        self.embed: Any = nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(width, width, 5))
        self.layers = nn.ModuleList(CausalLayer(width, heads, dropout) for _ in range(depth))


class Causal(VocabularyBFN):
    """A language model with the methods that the loop calls. Its loss is the cost of each token after those before."""

    def __init__(self, config: Config, data: Data):
        super().__init__(config, data)
        self.network = made(CausalTransformer, config.network, data.shape)

    def forward(self, x: Tensor, t: Tensor | None = None, *, reduction: str = "mean", **more: Any) -> Tensor:
        before = F.pad(F.embedding(x, self.embedding.weight), (0, 0, 1, 0))[:, :-1]
        hidden = self.network(before, torch.zeros(len(x), device=x.device))[..., :-1]
        return vocabulary.reconstruction_loss(x, hidden, self.head.weight, self.head.bias, reduction=reduction)

    def reconstruction(self, x: Tensor, **more: Any) -> Tensor:
        return torch.zeros(len(x), device=x.device)


def trained(name: str, make: Any, config: Config, data: Data, token_bytes: float) -> Model:
    trainer.build_model = make
    with tempfile.TemporaryDirectory() as out:
        run = trainer.Trainer(replace(config, out=out), data, Console(stderr=True))
        run.run()
        bound = evaluate(run.best(), data.test, config.evaluate)
    size = sum(parameter.numel() for parameter in run.bare.parameters())
    return Model(name, size, run.at.seconds, bound.bits / token_bytes, bound.error / token_bytes)


def compressed(data: Data) -> Iterator[Model]:
    """The test split alone and, where the compressor sees far enough back, after the text before it."""
    tokens = (data.train[::1, 0], data.validation.flatten(), data.test.flatten())
    *before, text = (b"".join(bytes(data.symbols[token]) for token in some.tolist()) for some in tokens)  # type: ignore[arg-type]
    known = b"".join(before)
    after = len(lzma.compress(known + text, preset=9)) - len(lzma.compress(known, preset=9))
    for name, size in (
        ("gzip -9, alone", len(gzip.compress(text))),
        ("xz -9, alone", len(lzma.compress(text, preset=9))),
        ("xz -9, after the training split", after),
    ):
        yield Model(name, 0, 0.0, 8 * size / len(text), math.nan)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_models", description=__doc__)
    parser.add_argument("settings", nargs="*", help="settings of text_bpe")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/texts.csv"), help="the CSV to write")
    options = parser.parse_args(arguments)
    machine = measure.machine(Cpu())
    config = load("text_bpe", options.settings)
    data = load_data(config)
    size = data.token_bytes or 1.0
    found = [
        trained("Bayesian flow network", build_model, config, data, size),
        trained("causal transformer", Causal, config, data, size),
        Model("unigrams", 0, 0.0, data.baseline / size, math.nan),
        *(Model(name, 0, 0.0, bits / size, math.nan) for name, bits in data.rivals().items()),
        *compressed(data),
    ]
    for model in found:
        print(", ".join(cells(model)), file=sys.stderr)
    csv_files.write(Model, found, machine, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
