"""`out=` is plain memory of its own or the state itself, and gets what would have been returned; all else is refused,
and nothing is written then."""

import math
import re
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.comparison import ERRORS, allowed
from tests.fuzz.drawn_calls import NOISE, Plan, arrange, backends, examples, plans, remember
from tests.kernels.case import state_of
from tests.kernels.declared import parameters
from tests.kernels.support import serves


class Subclass(Tensor):
    pass


def memory(x: Tensor) -> Tensor:
    """A copy of all bytes that the tensor is a view of."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()).clone()


# What may be done with an `out` of the state's shape and type; each gets the inputs and may put others in the place.


def fresh(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return arrange(torch.zeros_like(state, memory_format=torch.contiguous_format), form, plain=True)


def itself(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return state


def same_place(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return state.view_as(state)


def same_object_in_no_order(inputs: dict, state: Tensor, form: Random) -> Tensor:
    inputs[state_of(inputs)] = state = arrange(state.clone(), form, plain=True)
    return state


def lazy_clone(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch._lazy_clone(state)


def lazily_cloned_state(inputs: dict, state: Tensor, form: Random) -> Tensor:
    inputs[state_of(inputs)] = torch._lazy_clone(state)
    return inputs[state_of(inputs)]


def view_of_a_leaf(inputs: dict, state: Tensor, form: Random) -> Tensor:
    leaf = torch.zeros(2, *state.shape, dtype=state.dtype, requires_grad=True)
    return leaf[1]


def detached_leaf(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch.zeros(state.shape, dtype=state.dtype, requires_grad=True).detach()


def inference(inputs: dict, state: Tensor, form: Random) -> Tensor:
    with torch.inference_mode():
        return torch.zeros_like(state)


# And what may not.


def negative(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch._neg_view(torch.zeros_like(state))


def imaginary(inputs: dict, state: Tensor, form: Random) -> Tensor:
    if state.dtype not in (torch.float32, torch.float64):
        return negative(inputs, state, form)
    return torch.complex(torch.zeros_like(state), torch.zeros_like(state)).conj().imag


def negative_state(inputs: dict, state: Tensor, form: Random) -> Tensor:
    inputs[state_of(inputs)] = torch._neg_view(state.clone())
    return inputs[state_of(inputs)]


def expanded(inputs: dict, state: Tensor, form: Random) -> Tensor:
    d = form.choice([d for d, n in enumerate(state.shape) if n > 1])
    return torch.zeros_like(state).narrow(d, 0, 1).expand(state.shape)


def overlapping_itself(inputs: dict, state: Tensor, form: Random) -> Tensor:
    if sum(n > 1 for n in state.shape) < 2:
        return expanded(inputs, state, form)
    return torch.zeros(sum(state.shape), dtype=state.dtype).as_strided(state.shape, (1,) * state.dim())


def shifted(inputs: dict, state: Tensor, form: Random) -> Tensor:
    """A part of the state's memory, a little further on."""
    base = torch.cat([state.flatten(), torch.zeros(1, dtype=state.dtype)])
    by = form.choice((0, 1))
    inputs[state_of(inputs)] = base[by : by + state.numel()].view(state.shape)
    return base[1 - by : 1 - by + state.numel()].view(state.shape)


def turned(inputs: dict, state: Tensor, form: Random) -> Tensor:
    """The state's memory, in another order."""
    strides, stride = [], 1
    for n in state.shape:
        strides.append(stride)
        stride *= n
    inputs[state_of(inputs)] = plain = state.contiguous()
    out = plain.as_strided(plain.shape, strides)
    dims = zip(strides, plain.stride(), plain.shape, strict=True)
    return out if any(a != b for a, b, n in dims if n > 1) else shifted(inputs, state, form)


def another_input(inputs: dict, state: Tensor, form: Random) -> Tensor:
    """Memory of an input other than the state."""
    tensors = {k: v for k, v in inputs.items() if k != state_of(inputs) and isinstance(v, Tensor)}
    others = [k for k, v in tensors.items() if v.dtype == state.dtype and v.numel() >= state.numel()]
    if not others:
        return shifted(inputs, state, form)
    name = form.choice(others)
    inputs[name] = inputs[name].resolve_neg().contiguous()
    return inputs[name].flatten()[: state.numel()].view(state.shape)


def known_mask(inputs: dict, state: Tensor, form: Random) -> Tensor:
    """Memory of an input of another type."""
    memory = torch.zeros(state.numel(), dtype=state.dtype)
    mask = memory.view(torch.uint8)[: state.numel()].view(torch.bool)
    lead = inputs["known"].shape if "known" in inputs else None
    if lead is None:
        return shifted(inputs, state, form)
    inputs["known_mask"] = mask[: lead.numel()].view(lead)
    return memory.view(state.shape)


def subclass(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch.zeros_like(state).as_subclass(Subclass)


def leaf(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch.zeros_like(state).requires_grad_()


def other_shape(inputs: dict, state: Tensor, form: Random) -> Tensor:
    shape = form.choice(
        [(1, *state.shape), state.shape[:-1], (*state.shape[:-1], state.shape[-1] + 1), (state.numel() + 1,)]
    )
    return torch.zeros(shape, dtype=state.dtype)


def other_type(inputs: dict, state: Tensor, form: Random) -> Tensor:
    types = [t for t in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.complex64)
             if t != state.dtype]  # fmt: skip
    return torch.zeros(state.shape, dtype=form.choice(types))


def meta(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch.zeros_like(state, device="meta")


def sparse(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch.zeros_like(state).to_sparse()


def no_tensor(inputs: dict, state: Tensor, form: Random):
    return form.choice(["out", 3.0, [0.0], state.tolist()])


MAYBE = (view_of_a_leaf, detached_leaf, inference, lazy_clone, lazily_cloned_state, subclass)  # either right or refused
TAKEN = (fresh, itself, same_place, same_object_in_no_order)
REFUSED = (
    negative, imaginary, negative_state, expanded, overlapping_itself, shifted, turned, another_input, known_mask,
    leaf, other_shape, other_type, meta, sparse, no_tensor,
)  # fmt: skip


class Attempt(NamedTuple):
    plan: Plan
    kind: Callable
    backend: str

    def __repr__(self) -> str:
        return f"out={self.kind.__name__} {self.backend} {self.plan!r}"


def keep(case) -> bool:
    return "out" in parameters(case.op) and not case.into and not case.long and case.part == 0


def prepared(attempt: Attempt):
    """The arguments, what came of them without `out`, and `out`."""
    call = attempt.plan.make()
    inputs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in call.inputs.items()}
    if not {"seed", *NOISE} & {*inputs, *call.case.options}:
        inputs["seed"] = 5
    state = inputs[state_of(inputs)]
    out = attempt.kind(inputs, state, Random(attempt.plan.layout))
    with torch.no_grad():
        want = call.case(inputs, attempt.backend).clone()
    return call, inputs, state, out, want


def written(attempt: Attempt, refused_too: bool) -> None:
    """It holds what would have been returned, and nothing else has changed; or it was refused, and nothing has."""
    call, inputs, state, out, want = prepared(attempt)
    named = inputs[state_of(inputs)]
    tensors = {k: v for k, v in (inputs | {"before": state}).items() if isinstance(v, Tensor)}
    before = {k: (memory(v), v.is_inference() or v._version) for k, v in tensors.items()}
    around = memory(out)
    version = None if out.is_inference() else out._version
    try:
        result = call.case(inputs, attempt.backend, out=out)
    except ERRORS as error:
        assert refused_too and re.search(r"\bout\b", str(error)), f"refused: {error}"
        assert torch.equal(memory(out), around), "written to, though it was refused"
        return
    assert result is out
    most = allowed(out, want, want)
    assert most[0] <= most[1], f"error {most[0]:.3g}\n{out}\n{want}"
    if version is not None:
        assert out._version > version, "its version is the same"
    own = {id(out)} if attempt.kind is not same_place else {id(out), id(state)}
    for name, tensor in tensors.items():
        if id(tensor) in own:
            continue
        if tensor.is_inference() or tensor._version == before[name][1]:
            assert torch.equal(memory(tensor), before[name][0]), f"{name} was written to"
        else:
            raise AssertionError(f"{name}'s version is another")
    mirror = around.view(out.dtype).as_strided(out.shape, out.stride(), out.storage_offset())
    mirror.copy_(out.detach())
    assert torch.equal(memory(out), around), "written to between its numbers"
    assert named.dtype == out.dtype


@examples(150)
@given(plan=plans(keep, extremes=False), kind=st.sampled_from(TAKEN + MAYBE), backend=backends)
def test_taken(plan, kind, backend):
    assume(serves(plan.case, backend))
    attempt = Attempt(plan, kind, backend)
    remember(attempt)
    written(attempt, kind in MAYBE)


@examples(300)
@given(plan=plans(keep, extremes=False), kind=st.sampled_from(REFUSED), backend=backends)
def test_refused(plan, kind, backend):
    assume(serves(plan.case, backend) and math.prod(plan.shape) > 1)  # a single number has no part that could overlap
    attempt = Attempt(plan, kind, backend)
    remember(attempt)
    call, inputs, _, out, _ = prepared(attempt)
    readable = isinstance(out, Tensor) and out.layout == torch.strided and out.device.type == "cpu"
    before = memory(out) if readable else None
    with pytest.raises(ERRORS, match=r"\bout\b"):
        call.case(inputs, backend, out=out)
    if readable:
        assert torch.equal(memory(out), before), "written to, though it was refused"


@examples(50)
@given(plan=plans(keep, extremes=False), backend=backends)
def test_autograd_notices(plan, backend):
    """Writing over a tensor that a backward pass needs is an error, and never gives a wrong gradient."""
    assume(serves(plan.case, backend))
    remember((backend, plan))
    call = plan.make()
    inputs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in call.inputs.items()}
    state = inputs[state_of(inputs)]
    weight = torch.ones_like(state, requires_grad=True)
    product = (state * weight).sum()
    call.case(inputs, backend, out=state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
