"""Results in other types than the arithmetic's: each is the result in float32, rounded once."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.kernels.case import Case, covering
from tests.kernels.declared import OUTPUTS, parameters
from tests.kernels.op_cases import CASES
from tests.kernels.support import DTYPES, FIRST, INTERPRETED, NATIVE, PTX, pairs
from tests.ptx.case_checks import check_rounding

WRITING = [replace(case, into="", part=0) for case in CASES if not case.long and {*OUTPUTS} & {*parameters(case.op)}]
FEW = covering(case for case in WRITING if not (INTERPRETED and "mixture_logits" in case.fields))
WRITTEN = [(case, backend) for backend in NATIVE for case in (WRITING if backend == "cpu" else FEW)]
LAYOUTS = {"dense": torch.empty, "strided": lambda *shape, dtype: torch.empty(*shape, 2, dtype=dtype)[..., 1]}
FORMS = [*itertools.product(LAYOUTS, DTYPES)]
if INTERPRETED:
    FORMS = [("dense", torch.bfloat16), ("strided", torch.float16)]


def cast(inputs: dict, dtype: torch.dtype, *names: str) -> dict:
    return inputs | {name: inputs[name].to(dtype) for name in names}


def mixed(case: Case, shape: tuple[int, ...]) -> Iterator[dict]:
    """Inputs that are all narrow; beside a state in float32; and of which the state alone is narrow."""
    for narrow in (torch.bfloat16,) if INTERPRETED else (torch.bfloat16, torch.float16):
        inputs = case.inputs(shape, narrow)
        others = [name for name, value in inputs.items() if torch.is_tensor(value) and value.dtype == narrow]
        others.remove(case.state)
        yield inputs
        yield cast(inputs, torch.float32, case.state)
        yield cast(inputs, torch.float32, *others)


def check_stores(case: Case, shape: tuple[int, ...], backend: str, **seed: int) -> None:
    """Checks every output of an op, in every type, dense and strided. seed: makes the noise."""
    names = [name for name in OUTPUTS if name in parameters(case.op)]
    for inputs in mixed(case, shape):
        state: Tensor = inputs[case.state]
        given = {name: value for name, value in inputs.items() if not (seed and name.endswith("noise"))} | seed

        def written(layout: str, kind: torch.dtype, given=given, state=state) -> dict[str, Tensor]:
            types = {name: state.dtype if name == "out" else kind for name in names}
            outputs = {name: LAYOUTS[layout](*state.shape, dtype=types[name]) for name in names}
            case(given, backend, **outputs)
            return outputs

        want = written("dense", torch.float32)
        wide = {name: x.float() if torch.is_tensor(x) and x.is_floating_point() else x for name, x in given.items()}
        if "out" in want:
            assert torch.equal(want["out"], case(wide, backend).to(state.dtype)), state.dtype
        for layout, kind in FORMS:
            for name, got in written(layout, kind).items():
                assert torch.equal(got, want[name].to(got.dtype)), f"{name} {layout} of {kind}, {state.dtype}"


@pytest.mark.parametrize(("case", "backend"), WRITTEN, ids=[f"{backend}-{case}" for case, backend in WRITTEN])
def test_outputs_of_any_type_hold_rounded_results(case, backend):
    """CUDA's kernels make the noise of rows whose length is a multiple of 8 in vectors, on a GPU with other last digits
    than one by one."""
    check_stores(case, (3, 45), backend)
    if not (INTERPRETED or PTX) and any(name.endswith("noise") for name in case.fields):
        check_stores(case, (3, 40), backend, seed=5)


@pairs(NATIVE, lambda case: case in FIRST and not (INTERPRETED and "mixture_logits" in case.fields))
def test_narrow_results_are_those_of_float32_rounded(case, backend):
    check_rounding(case, backend)
