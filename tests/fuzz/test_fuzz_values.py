"""Any valid call gives what the reference gives in float64 on contiguous copies, and leaves its arguments alone."""

import pytest
import torch
from hypothesis import given
from torch import Tensor

from tests.fuzz.comparison import ANSWERS_BY_NAN, check
from tests.fuzz.drawn_calls import BACKENDS, Plan, examples, plans, remember
from tests.kernels.declared import FAMILIES
from tests.kernels.support import named, serves


def snapshot(inputs: dict) -> dict:
    """The memory of the tensors, what lies between their numbers too, and how often they were written to."""
    tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
    return {k: (memory(v), v._version) for k, v in tensors.items()}


def memory(tensor: Tensor) -> Tensor:
    """A copy of all bytes that the tensor is a view of."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).clone()


def unchanged(inputs: dict, before: dict) -> None:
    for name, (now, version) in snapshot(inputs).items():
        assert torch.equal(now, before[name][0]), f"{name} was written to"
        assert version == before[name][1], f"{name}'s version is another"


def check_plan(plan, backend: str) -> None:
    """The call's results are right, and its inputs are not written to."""
    remember(plan)
    call = plan.make()
    before = snapshot(call.inputs)
    check(call, backend)
    unchanged(call.inputs, before)


@pytest.mark.parametrize(("name", "argument"), [("discretised.mode", "std"), ("circular.bayesian_update", "alpha")])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b in ANSWERS_BY_NAN])
def test_where_the_reference_refuses_a_number_nan_is_no_difference(backend, name, argument):
    call = Plan(named(name), (2, 3), torch.float32, False, None, {}, False, None, False, False, 0).make()
    call.inputs[argument][0] = -1.0
    check(call, backend)


# Large vocabularies have a fuzz of their own, test_fuzz_heads.py.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "vocabulary"])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "reference"])
def test_values(backend, family):
    def cases_to_try(case):
        return case.family == family and not case.huge and serves(case, backend)

    @examples(100 if backend == "cpu" else 40)
    @given(plan=plans(cases_to_try))
    def agrees(plan):
        check_plan(plan, backend)

    agrees()
