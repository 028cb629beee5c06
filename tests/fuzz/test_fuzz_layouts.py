"""Results lie in memory as `torch.empty_like` says, and as a compiler that runs nothing expects."""

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.fuzz.comparison import ERRORS
from tests.fuzz.drawn_calls import backends, examples, plans, remember
from tests.kernels.support import evaluate, serves

# Whose layout the result has, where it has the shape of an input.
LIKE = {
    "continuous.flow_sample": "x", "continuous.sender_sample": "x", "continuous.bayesian_update": "mean",
    "continuous.update_sample": "mean", "continuous.predict_data": "noise_pred", "discretised.expected_value": "mean",
    "discretised.sample": "mean", "discretised.mode": "mean", "discretised.update_sample": "mean",
    "discrete.update_sample": "state", "continuous.solver_step": "mean", "discretised.solver_step": "mean",
    "discrete.solver_step": "state", "binary.solver_step": "state", "discrete.theta": "logits",
}  # fmt: skip


def small(case) -> bool:
    return not case.huge


def strides(x: Tensor) -> list[int]:
    """The strides that matter, which are those of dimensions with several elements."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1 and x.numel()]


@pytest.mark.slow
@examples(250)
@given(plan=plans(small, extremes=False, layouts=True), backend=backends)
def test_strides(plan, backend):
    assume(serves(plan.case, backend) and backend != "reference")
    remember((backend, plan))
    call = plan.make()
    try:
        real = evaluate(call.case, call.inputs, backend)
    except ERRORS:
        return  # classes that a mask hides no more
    like = call.inputs.get(LIKE.get(call.case.op))
    if like is not None and "mixture_logits" not in call.inputs:
        want = strides(torch.empty_like(like))
        assert strides(real["result"]) == want, f"not like {like.stride()} of {tuple(like.shape)}"
    with FakeTensorMode() as mode:
        inputs = {k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in call.inputs.items()}
        fake = evaluate(call.case, inputs, backend)
    for r, f in zip(real.values(), fake.values(), strict=True):
        assert (r.shape, r.dtype) == (f.shape, f.dtype)
        assert strides(r) == strides(f), f"{r.stride()}, but the fake has {f.stride()}; shape {tuple(r.shape)}"
