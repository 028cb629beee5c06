"""Tensors whose elements lie further apart than an int32 counts, as those of a batch of long sequences over a large
vocabulary do, give the same results."""

import mmap
import sys

import pytest
import torch

from tests.kernels.op_cases import CASES
from tests.kernels.support import NATIVE, PTX, error, evaluate, joins, scale, serves, ulp, widened
from tests.kernels.vocabulary_cases import LARGE, STEPS

pytestmark = pytest.mark.skipif(bool(PTX) or sys.platform != "linux", reason="only Linux has memory without pages")
FAR = 2**30 + 16  # a stride is an int32, and four of them are more than a uint32
SHAPE = (5, 6)


def far(x: torch.Tensor, along: int) -> torch.Tensor:
    """The same numbers, so far apart along a dimension; nobody has the pages in between."""
    strides = [*torch.empty(x.shape).stride()]
    strides[along] = FAR
    count = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    memory = mmap.mmap(-1, count * x.element_size(), flags=flags)
    return torch.frombuffer(memory, dtype=x.dtype).as_strided(x.shape, strides).copy_(x)


def on_each(cases):
    return pytest.mark.parametrize(
        ("case", "backend"),
        [
            pytest.param(case, backend, id=f"{backend}-{case.name}")
            for backend in NATIVE
            for case in cases
            if serves(case, backend) and not case.long and not case.hard
            if not (case.family == "vocabulary" and case.num_classes == 2)  # of 5 classes it runs the same
        ],
    )


def compare(case, backend, dtype, along):
    """Returns the inputs and what was found."""
    inputs = case.inputs(SHAPE, dtype)
    apart = {name: far(v, along) if torch.is_tensor(v) and v.dim() > 0 else v for name, v in inputs.items()}
    got, want = evaluate(case, apart, backend), evaluate(case, inputs, backend)
    for name, value in want.items():  # torch's products round by the layout of what they multiply
        assert error(got[name], value) <= 16 * ulp(got[name].dtype, scale(value)) + 1e-6, name
    return inputs, got


along = pytest.mark.parametrize("along", [0, -1], ids=["rows", "columns"])


@along
@on_each(filter(joins, CASES))
def test_elements_that_are_far_apart(case, backend, along):
    compare(case, backend, torch.float32, along)


@along
@on_each([*LARGE, *STEPS])
def test_vocabularies_that_are_far_apart(case, backend, along):
    """In 16 bits, too, which have kernels of their own, whose results are near the reference in float64."""
    compare(case, backend, torch.float32, along)
    inputs, got = compare(case, backend, torch.bfloat16, along)
    for name, value in evaluate(case, widened(inputs), "reference").items():
        assert error(got[name], value) <= 0.1 * scale(value) + 1e-3, name
