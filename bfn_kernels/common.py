"""The operators that are common to the families."""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, noise
from bfn_kernels.arguments import rows
from bfn_kernels.declarations import NATIVE, Operator


def fake_intervals(given: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    cell, start, frequency = (given.new_empty(given.shape) for _ in range(3))
    return cell, start, frequency


OPERATORS = [
    Operator(
        "row_scalars(Tensor value, Tensor? precision, int wanted, int schedule, float parameter, int num_classes, "
        "int n_steps, float scale, float t_min, int[] shape, bool wide) -> Tensor[]",
        fake=rows.fake_scalars,
        plain=True,
    ),
    Operator(
        "scaled_gradient(Tensor saved, Tensor grad, Tensor? scale, ScalarType dtype) -> Tensor",
        fake=lambda saved, grad, scale, dtype: torch.empty_like(saved, dtype=dtype),
    ),
    Operator(
        "row_noise(Tensor seed, Tensor first, int width, int stream, int draws, ScalarType dtype) -> Tensor",
        fake=lambda seed, first, width, _, draws, dtype: seed.new_empty(draws, len(seed), width, dtype=dtype),
        library=NATIVE,
    ),
    Operator(
        "row_angles(Tensor seed, Tensor first, int width, int count) -> Tensor",
        fake=lambda seed, first, width, count: seed.new_empty(count, 2, len(seed), width, dtype=torch.float32),
        library=NATIVE,
    ),
    Operator(
        "lattice_intervals(Tensor given, bool find, Tensor offset, Tensor step, int cells, int components, int shift, "
        "Tensor? weight, Tensor? edge, Tensor? width, Tensor table) -> (Tensor, Tensor, Tensor)",
        fake=fake_intervals,
    ),
    Operator(
        "class_intervals(Tensor given, bool find, Tensor weights) -> (Tensor, Tensor, Tensor)",
        fake=fake_intervals,
    ),
]

backends.add_family("common", OPERATORS)


def of_rows(name: str, seed: Tensor, first: Tensor, *arguments: Any) -> Tensor:
    """`noise.row_noise` or `noise.row_angles`, by the kernel of the CPU if there is one.

    name: the name of the function. arguments: its further arguments.
    """
    common = backends.library(None, seed.device).common if seed.is_cpu else None
    if common is None:
        return getattr(noise, name)(seed, first, *arguments)
    return getattr(common, name)(seed.contiguous(), first.contiguous(), *arguments)
