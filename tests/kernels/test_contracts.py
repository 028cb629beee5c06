"""Contracts that hold for every op that has an argument: what a mask hides, which type a result has, and what one
argument in float64 changes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.kernels.case import ROWS, Case, covering, state_of
from tests.kernels.declared import NOISES, parameters
from tests.kernels.op_cases import CASES
from tests.kernels.support import DTYPES, INTERPRETED, ON_CPU, error, evaluate, scale, serves, ulp, widened
from tests.kernels.vocabulary_cases import LARGE, MODES, STEPS

SHAPE = (3, 4)
TABLE = [case for case in [*CASES, *LARGE, *STEPS, *MODES] if not case.long]


def calls(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrises a test over (case, backend)."""
    cases = [
        case for case in cases if not (INTERPRETED and "mixture_logits" in case.fields)
    ]  # which take seconds there
    table = [(case, backend) for backend in ON_CPU for case in cases if serves(case, backend)]
    return pytest.mark.parametrize(("case", "backend"), table, ids=[f"{backend}-{case}" for case, backend in table])


UNMASKED = [case for case in TABLE if "mask" in parameters(case.op) and "mask" not in case.fields]
FLOWS = [case for case in UNMASKED if not case.loss]
LOSSES = [replace(case, options=case.options | {"reduction": "none"}) for case in UNMASKED if case.loss]
KEEP = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
MASKS = pytest.mark.parametrize("mask", [KEEP, KEEP[:, 2]], ids=["for each variable", "for each row"])


def where(mask: Tensor, x: Tensor, other: Tensor | float) -> Tensor:
    """x where the mask is True. x may have several numbers for each variable."""
    keep = mask.view(*mask.shape, *[1] * (x.dim() - mask.dim()))
    return torch.where(keep, x, other).to(x.dtype)


def hidden(x: Tensor, mask: Tensor) -> Tensor:
    """Data that have a value that no op may read where the mask is False."""
    if x.dtype == torch.bool:
        return where(mask, x, ~x)
    return where(mask, x, torch.nan if x.is_floating_point() else 255 if x.dtype == torch.uint8 else -100)


@MASKS
@calls(FLOWS)
def test_a_flow_returns_the_prior_where_a_mask_is_false(case, mask, backend):
    """The prior is the state at t = 0, or at the first step, where nothing is known. Its gradients are 0."""
    inputs = case.inputs(SHAPE, torch.float32)
    start = {"step": 1} if "step" in inputs else {"scale": 0.0, "spread": 0.0} if "scale" in inputs else {"t": 0.0}
    leaves = {name: inputs[name].requires_grad_() for name in case.diff}
    unknown = {name: value for name, value in inputs.items() if not name.startswith("known")}
    flow, prior = case(inputs, backend), case({**unknown, "x": torch.zeros_like(inputs["x"]), **start}, backend)
    want = where(mask, flow, prior)
    got = case({**inputs, "x": hidden(inputs["x"], mask), "mask": mask}, backend)
    assert torch.equal(got, want)
    for name, leaf in leaves.items():
        grads = [torch.autograd.grad(result.sum(), leaf)[0] for result in (got, want)]
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6, msg=name)


@MASKS
@calls(covering(LOSSES))
def test_a_loss_is_zero_where_a_mask_is_false(case, mask, backend):
    """So are its gradients by what belongs to the variable, whatever stands there."""
    inputs = case.inputs(SHAPE, torch.float32)
    want = evaluate(case, inputs, backend)
    of_variables = [name for name in {"x", *case.diff} & {*inputs} if inputs[name].shape[:2] == SHAPE]
    unread = {name: hidden(inputs[name], mask) for name in of_variables}
    got = evaluate(case, inputs | unread | {"mask": mask}, backend)
    for name, value in want.items():
        assert got[name].isfinite().all(), name
        if value.shape[:2] == SHAPE:
            assert error(got[name], where(mask, value, 0.0)) <= 4 * ulp(value.dtype, scale(value)), name


# The tensor whose type a result has, if it is not the state. A loss, a density and the numbers of a distribution are in
# float64 if the arithmetic is, else in float32.
LIKE = {
    "continuous.predict_data": "noise_pred",
    **dict.fromkeys(("vocabulary.flow_embedding", "vocabulary.noisy_embedding"), "weight"),
    **{f"{family}.{op}": "logits" for family in ("binary", "discrete") for op in ("bayesian_update", "theta")},
    **{f"{family}.theta_logits": "theta" for family in ("binary", "discrete")},
}
CLASSES = ("vocabulary.mode", "vocabulary.sample")  # ops that return classes
PRECISE = ("discretised.log_prob", "discretised.output_distribution")
TYPES = [(own, other) for own in DTYPES for other in DTYPES if torch.float32 in (own, other)]
if INTERPRETED:
    TYPES = [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)]


def floats_of(inputs: dict) -> list[str]:
    return [name for name, value in inputs.items() if torch.is_tensor(value) and value.is_floating_point()]


def counting(case: Case, inputs: dict) -> list[str]:
    """The names of the tensors whose types decide the type of the arithmetic: not numbers of rows, noise, known values,
    soft data, nor a mean that is not read."""
    no = {*ROWS, "known", "embedding", "flow_noise", *NOISES}
    no |= {"x"} if case.family in ("discrete", "vocabulary") else set()
    read_as_state = "out" in parameters(case.op)
    no |= {"mean"} if case.options.get("parametrisation") == "data" and not read_as_state else set()
    return [name for name in floats_of(inputs) if name not in no]


NO_CLASSES = [replace(case, into="") for case in TABLE if case.part == 0 and case.op not in CLASSES]


@calls(covering(NO_CLASSES))
def test_the_type_of_a_result(case, backend):
    """It is the type of the state, whatever types the other tensors have."""
    inputs = case.inputs(SHAPE, torch.float32)
    floats, names = floats_of(inputs), counting(case, inputs)
    like = "embedding" if "embedding" in inputs else LIKE.get(case.op) or state_of(inputs)
    for own, other in TYPES:
        given = inputs | {name: inputs[name].to(own if name == like else other) for name in {*names, like} & {*floats}}
        given |= {"dtype": own} if "dtype" in inputs else {}
        want = own
        if case.loss or case.op in PRECISE:
            want = torch.float64 if torch.float64 in {given[name].dtype for name in names} else torch.float32
        assert case(given, backend).dtype == want, f"{like} {own}, others {other}"


# Others are made from the state after it was rounded.
@calls(covering(case for case in TABLE if case.into != "theta_out" and "embedding" not in case.fields))
def test_one_argument_in_float64(case, backend):
    """The arithmetic is in float64 then, if the argument counts. Otherwise the results are the same. Only of a large
    vocabulary their last digits may differ, since other kernels of CUDA read two types."""
    inputs = case.inputs(SHAPE, torch.float32)
    want, same = evaluate(case, widened(inputs), "reference"), evaluate(case, inputs, backend)
    digits = 8 if case.family == "vocabulary" else 0
    for name in floats_of(inputs):
        for of, got in evaluate(case, inputs | {name: inputs[name].double()}, backend).items():
            exact, size = want[of], scale(want[of])
            if name not in counting(case, inputs):
                exact, most = same[of].to(got.dtype), digits * ulp(torch.float32, size)
            elif got.dtype == torch.float64:
                most = 1e-9 * size
            else:
                exact, most = exact.to(got.dtype), 2 * ulp(got.dtype, size) if of in case.diff else 0
            assert error(got, exact) <= most, f"{of} beside {name}"
