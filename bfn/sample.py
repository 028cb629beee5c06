"""Draws samples of a model of this package, which knows the shape of an example."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bfn.atom_rows import TYPES, Atoms
from bfn.configs import Config, SampleConfig
from bfn.model import BFN
from bfn.sequences import guiding
from bfn.training.speed import PLAIN, Choice, choices, choose, timed
from bfn_kernels import samplers

COMPILING = 20.0  # about how many seconds it takes to compile a network without its backward pass


def settings_of(model: BFN, options: SampleConfig) -> dict[str, Any]:
    """The arguments of `sample` and `sample_within` that the settings `sample.*` give."""
    taking: dict[str, Any] = options.taking
    if isinstance(model, Atoms):  # positions have neither choices nor a temperature
        taking = {name: {TYPES: value} for name, value in taking.items() if value is not None}
    return {"seed": options.seed, **taking, **guiding(model, options)}


def sample(model: BFN, count: int, n_steps: int, **more: Any) -> Tensor:
    """Draws `count` examples on the model's device. more: further arguments of samplers.sample."""
    asked = model.asked(count)
    options: dict[str, Any] = {"device": model.device, **asked, **more}
    if isinstance(model, Atoms):  # the network makes pairs of atoms, for which the CPU must read sizes
        options["capture"] = False
    return model.examples(samplers.sample(model, n_steps=n_steps, **options), asked)


def sample_within(model: BFN, count: int, tolerance: float, **more: Any) -> tuple[Tensor, int]:
    """Draws `count` examples in steps of adaptive length. more: further arguments of samplers.sample_within."""
    asked = model.asked(count)
    options: dict[str, Any] = {"device": model.device, **asked, **more}
    samples, calls = samplers.sample_within(model, tolerance=tolerance, **options)
    return model.examples(samples, asked), calls


@contextmanager
def fast(model: BFN, config: Config, count: int, calls: int, say: Callable[[str], None]) -> Iterator[None]:
    """Inside the `with`, the network runs with the precision and the compiler of the training settings. It runs in
    float32 if they say "fp16". For "auto", both are chosen such that `calls` calls for `count` examples take the least
    time. say: prints a line for the user."""
    call = model.call(count, model.device)

    def try_out(choice: Choice, passes: int) -> list[float]:
        choice.compile(model.network)
        with choice.autocast(model.device):
            return timed(call, model.device, passes)

    try:
        with samplers.evaluating(model), torch.no_grad():
            allowed = choices(config.train, model.device)
            choice = choose(allowed, lambda seconds: calls * seconds, try_out, say, COMPILING)
        choice.compile(model.network)
        with choice.autocast(model.device):
            yield
    finally:
        PLAIN.compile(model.network)
