"""A wrong argument is one error that names it. An argument that turns out to be right gives the reference's result."""

import dataclasses
import re
from random import Random
from typing import NamedTuple

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.comparison import ERRORS, allowed
from tests.fuzz.drawn_calls import Plan, backends, examples, plans, remember
from tests.kernels.declared import parameters
from tests.kernels.support import serves

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TYPES = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.complex64)
WRONG_NUMBERS = (3, -1, 0, 2**63, 2**70, 1.5, float("nan"), -1e300, True, torch.zeros(0), torch.tensor(0.5))
OBJECTS = (None, "mean", "", b"t", object(), [], {}, (1,), torch.float32, ..., range(3), len, torch.Size([2]))


def other_shape(value, form: Random):
    if not isinstance(value, Tensor):
        return torch.zeros(form.choice(((), (0,), (2,), (1, 1), (7, 7, 7))))
    kind = form.randrange(6)
    shape = tuple(value.shape)
    d = form.randrange(len(shape)) if shape else 0
    if kind == 0:
        return value.unsqueeze(form.randrange(len(shape) + 1))
    if kind == 1 and shape:
        return value.narrow(d, 0, max(0, shape[d] - 1))
    if kind == 2 and shape:
        return torch.cat([value, value], d)
    if kind == 3:
        return value.reshape(-1)
    if kind == 4 and len(shape) > 1:
        return value.transpose(0, form.randrange(1, len(shape)))
    return value.sum() if value.dtype != torch.bool else value.any()


def other_type(value, form: Random):
    return value.to(form.choice(TYPES)) if isinstance(value, Tensor) else str(value)


def elsewhere(value, form: Random):
    return value.to("meta") if isinstance(value, Tensor) else torch.zeros(2, 3, device="meta")


def gradient(value, form: Random):
    return value.detach().clone().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else 1j


def nothing_like_it(value, form: Random):
    return form.choice((*WRONG_NUMBERS, *OBJECTS))


WRONG = (other_shape, other_type, elsewhere, gradient, nothing_like_it)


class Mistake(NamedTuple):
    plan: Plan
    name: str
    kind: str
    backend: str


def small(case) -> bool:
    return not case.long


@examples(500)
@given(plan=plans(small, extremes=False), backend=backends, data=st.data())
def test_wrong_arguments(plan, backend, data):
    assume(serves(plan.case, backend))
    call = plan.make()
    name = data.draw(st.sampled_from([n for n in parameters(call.case.op) if not left_out(call.case, n)]), label="name")
    wrong = data.draw(st.sampled_from(WRONG), label="wrong")
    remember(Mistake(plan, name, wrong.__name__, backend))
    arguments = {**call.case.options, **call.inputs}
    value = wrong(arguments.get(name), Random(plan.layout))
    if huge(name, value):
        return
    arguments[name] = value
    case = dataclasses.replace(call.case, options={}, into="")

    def outcome(backend, **others):
        torch.manual_seed(3)
        try:
            return case({**arguments, **others}, backend)
        except ERRORS as error:
            return error

    got = outcome(backend)
    names = parameters(call.case.op)
    if isinstance(got, Exception):
        assert re.search(rf"\b({'|'.join(names)})\b", str(got)), f"it names no argument: {got!r}"
        return
    want = outcome("reference")
    if backend != "cpu" and "must lie in" in str(want):
        return  # on a GPU nobody looks at values, as the reference does on the CPU
    assert not isinstance(want, Exception), f"{value!r} was taken, which the reference refuses: {want!r}"
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if got.device.type != "meta" and call.case.op.split(".")[1] != "mode" and got.numel():
        off, most = allowed(got.detach(), want.detach(), want.detach())
        if "reduction" in names:  # the rounding errors of terms remain where their sum is 0
            terms = outcome("reference", reduction="none").detach()
            most = max(most, allowed(terms, terms, terms.abs().sum())[1])
        # two roundings of one number, beside one another
        assert off <= 64 * most or "sample" in call.case.op, f"{off:.3g}, allowed {most:.3g}"


def left_out(case, name: str) -> bool:
    """`out` has tests of its own, and what is asked for as a truth may be anything."""
    return name in ("backend", "out") or (name == "clip" and case.family == "discretised")


def huge(name: str, value: object) -> bool:
    """Numbers that mean no mistake, but hours or all memory."""
    counts = ("num_bins", "num_classes", "n_samples", "n_steps", "quadrature")
    return name in counts and isinstance(value, int) and value > 1000
