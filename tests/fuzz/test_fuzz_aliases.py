"""An output may share memory with an argument that the step reads before it writes the output. The result is the same
as with an output in separate memory."""

import dataclasses

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.drawn_calls import Plan, backends, examples, plans, remember
from tests.kernels.support import serves

LONG = (1025, 2047, 4096, 8192)  # classes, of which a kernel has blocks of its own


def second_order(case) -> bool:
    return not case.long and not case.into and "previous" in case.fields


@st.composite
def long_rows(draw, plan: Plan) -> Plan:
    """Sometimes of classes that fill several blocks."""
    if plan.count is None or "state" not in plan.case.fields or draw(st.integers(0, 3)):
        return plan
    return dataclasses.replace(plan, shape=(draw(st.integers(1, 2)),), count=draw(st.sampled_from(LONG)))


@examples(60)
@given(plan=plans(second_order, extremes=False).flatmap(long_rows), backend=backends, dtype=st.sampled_from((2, 4)))
def test_predicted_out_may_be_previous_and_out_the_state(plan, backend, dtype):
    """Both at once, where the types of logits, state and prediction differ."""
    assume(serves(plan.case, backend))
    remember((backend, plan))
    call = dataclasses.replace(plan, mixed=True).make()
    inputs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in call.inputs.items()}
    name = "state" if "state" in inputs else "mean"
    inputs["previous"] = inputs["previous"].to(torch.bfloat16 if dtype == 2 else torch.float32)
    beside = torch.empty_like(inputs["previous"])
    inputs.setdefault("seed", None if "noise" in inputs else 5)
    want = call.case(inputs, backend, predicted_out=beside)
    got = call.case(inputs, backend, out=inputs[name], predicted_out=inputs["previous"])
    assert got is inputs[name]
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(inputs["previous"], beside, rtol=0, atol=0, equal_nan=True)
