"""`out=` may be a plain tensor with separate memory, or the state itself. It receives the result that a call without
`out=` returns. tests/kernels/test_out.py tests which tensors are refused."""

import re
from random import Random

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.comparison import ERRORS, allowed
from tests.fuzz.drawn_calls import arrange, backends, examples, plans, remember
from tests.fuzz.test_fuzz_values import memory
from tests.kernels.case import state_of
from tests.kernels.declared import NOISES, parameters
from tests.kernels.support import serves


class Subclass(Tensor):
    pass


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


def subclass(inputs: dict, state: Tensor, form: Random) -> Tensor:
    return torch.zeros_like(state).as_subclass(Subclass)


MAYBE = (view_of_a_leaf, detached_leaf, inference, lazy_clone, lazily_cloned_state, subclass)  # either right or refused
TAKEN = (fresh, itself, same_place, same_object_in_no_order)


def keep(case) -> bool:
    return "out" in parameters(case.op) and not case.into and not case.long and case.part == 0


@examples(150)
@given(plan=plans(keep, extremes=False), kind=st.sampled_from(TAKEN + MAYBE), backend=backends)
def test_taken(plan, kind, backend):
    """Either `out` receives the result and no other tensor changes, or `out` is refused and no tensor changes."""
    assume(serves(plan.case, backend))
    remember((kind.__name__, backend, plan))
    call = plan.make()
    inputs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in call.inputs.items()}
    if not {"seed", *NOISES} & {*inputs, *call.case.options}:
        inputs["seed"] = 5
    state = inputs[state_of(inputs)]
    out = kind(inputs, state, Random(plan.layout))
    with torch.no_grad():
        want = call.case(inputs, backend).clone()
    named = inputs[state_of(inputs)]
    tensors = {k: v for k, v in (inputs | {"before": state}).items() if isinstance(v, Tensor)}
    before = {k: (memory(v), v.is_inference() or v._version) for k, v in tensors.items()}
    around = memory(out)
    version = None if out.is_inference() else out._version
    try:
        result = call.case(inputs, backend, out=out)
    except ERRORS as error:
        assert kind in MAYBE and re.search(r"\bout\b", str(error)), f"refused: {error}"
        assert torch.equal(memory(out), around), "written to, though it was refused"
        return
    assert result is out
    most = allowed(out, want, want)
    assert most[0] <= most[1], f"error {most[0]:.3g}\n{out}\n{want}"
    if version is not None:
        assert out._version > version, "its version is the same"
    own = {id(out)} if kind is not same_place else {id(out), id(state)}
    for name, tensor in tensors.items():
        if id(tensor) in own:
            continue
        assert tensor.is_inference() or tensor._version == before[name][1], f"{name}'s version is another"
        assert torch.equal(memory(tensor), before[name][0]), f"{name} was written to"
    mirror = around.view(out.dtype).as_strided(out.shape, out.stride(), out.storage_offset())
    mirror.copy_(out.detach())
    assert torch.equal(memory(out), around), "written to between its numbers"
    assert named.dtype == out.dtype
