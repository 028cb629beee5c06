"""Calls of some three thousand variables. Kernels divide variables into blocks, of 1024 numbers on a CPU and in Triton.
The result of a variable does not depend on the block in which the variable lies."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.kernels.case import Case, covering
from tests.kernels.op_cases import CASES
from tests.kernels.support import FIRST, INTERPRETED, NATIVE, error, scale, ulp, weights_like
from tests.kernels.test_noise import RANDOM, seeded

PIECE = 340  # the most rows or columns of a call that makes a part of the results


def calls(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrises a test over (case, backend). The CPU's kernels are fast enough for all cases. In the interpreter a
    mixture takes seconds, and a few variables of it are several blocks."""
    few = covering(c for c in cases if not (c.long or (INTERPRETED and "mixture_logits" in c.fields)))
    table = [(case, backend) for backend in NATIVE for case in (cases if backend == "cpu" else few)]
    return pytest.mark.parametrize(("case", "backend"), table, ids=[f"{backend}-{case}" for case, backend in table])


def shapes_of(case: Case) -> list[tuple[int, ...]]:
    """Shapes with more than two blocks: rows longer than a block, rows of three numbers, and rows of one. The length of
    the long rows is a multiple of 8, since CUDA's kernels read such rows in vectors."""
    count = max(8, 2064 // max(case.num_classes, 2) // 8 * 8)
    if INTERPRETED and case.family == "discretised":
        return [(3, 136)]  # blocks of these kernels are smaller, and take longer
    return [(3, count), (count + 1, 3), (3 * count + 1,)] if case in FIRST and not INTERPRETED else [(3, count)]


def pieces(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of the variables: of one of three long rows, or of many rows."""
    across = len(shape) == 2 and shape[0] < shape[1]
    length = shape[1] if across else shape[0]
    for first in range(0, length, PIECE):
        part = slice(first, first + PIECE)
        yield from ((slice(row, row + 1), part) for row in range(3)) if across else [(part, slice(None))[: len(shape)]]


def taken(name: str, value, where: tuple[slice, ...], shape: tuple[int, ...]):
    """The part of an argument or a result that belongs to some of the variables. shape: the shape of all variables."""
    if not isinstance(value, Tensor) or (name == "class_mask" and value.dim() == 1):
        return value
    for before in (0, 1, 2):  # the draws of an expectation, or the uniforms of proposals, come first
        if value.shape[before : before + len(shape)] == shape:
            return value[(*[slice(None)] * before, *where)]
    assert value.shape == shape[: value.dim()], name
    return value[where[: value.dim()]]


def computed(case: Case, inputs: dict, backend: str, weigh: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The result of a case, and the gradients of its sum, which `weigh` weighs."""
    leaves = {name: inputs[name].clone().requires_grad_() for name in case.diff}
    result = case({**inputs, **leaves}, backend)
    found = {"result": result.detach()}
    if leaves:
        found |= dict(zip(leaves, torch.autograd.grad(result, list(leaves.values()), weigh(result)), strict=True))
    return found


def reduced(case: Case, reduction: str) -> Case:
    """The case with another reduction, if it is a loss."""
    return replace(case, options=case.options | {"reduction": reduction}) if case.loss else case


ALL = [case for case in CASES if case.kernels and not case.huge]


@calls([case for case in ALL if "seed" not in case.options])
def test_each_variable_is_computed_alike_in_every_block(case, backend):
    """Results and gradients are the same, whether variables come in one call or in several small ones."""
    case = reduced(case, "none")
    for shape in shapes_of(case):
        inputs = case.inputs(shape, torch.float32)
        every = computed(case, inputs, backend, weights_like)
        weights = weights_like(every["result"]).float()
        for where in pieces(shape):
            part = {name: taken(name, value, where, shape) for name, value in inputs.items()}
            own = taken("weights", weights, where, shape)
            for name, got in computed(case, part, backend, lambda result, own=own: own).items():
                want = taken(name, every[name], where, shape)
                assert error(got, want) <= 4 * ulp(got.dtype, scale(every[name])), f"{name} at {where} of {shape}"


@calls([case for case in ALL if case in RANDOM or "seed" in case.options])
def test_a_seed_makes_the_noise_of_every_block(case, backend):
    """It is the reference's noise. At one of 500 variables a draw may lie so near to the border of two values that the
    last digit decides."""
    options = {name: value for name, value in case.options.items() if name != "seed"}
    case, shape = reduced(replace(case, options=options), "none"), shapes_of(case)[0]
    want, got = (seeded(case, shape, name, -9) for name in ("reference", backend))
    most = 2e-6 * max(1.0, scale(want)) * (4 if case.loss else 1)
    differs = ~torch.isclose(got, want, rtol=0, atol=most, equal_nan=True)
    count = shape[0] * shape[1]
    assert differs.view(count, -1).any(1).sum() <= count // 500


@calls([case for case in ALL if case.loss])
def test_the_losses_of_all_blocks_count(case, backend):
    """Sums of losses, the mean over a mask, and their gradients agree with the losses of each variable."""
    shape = shapes_of(case)[0]
    inputs = case.inputs(shape, torch.float32)
    each = computed(reduced(case, "none"), inputs, backend, torch.ones_like)
    losses = each.pop("result").double()
    share = 1 / inputs.get("mask", torch.ones(shape, dtype=torch.bool)).sum().item()
    sums = {"sum": (losses.sum(), 1.0), "batch": (losses.sum(1), 1.0), "mean": (losses.sum(), share)}
    for reduction, (want, factor) in sums.items():
        found = computed(reduced(case, reduction), inputs, backend, torch.ones_like)
        size = losses.abs().sum().item() * factor
        assert error(found.pop("result"), want * factor) <= 4 * ulp(torch.float32, size), reduction
        for name, got in found.items():
            assert error(got, each[name] * factor) <= 4 * ulp(got.dtype, scale(each[name]) * factor), (reduction, name)
