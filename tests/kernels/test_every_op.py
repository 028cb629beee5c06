"""What holds of every op: a class or a number out of range is named, wherever it stands."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.kernels.case import Case
from tests.kernels.op_cases import CASES
from tests.kernels.support import INTERPRETED, NATIVE, evaluate, joins, serves

GIVEN = {"x", "known"}  # the arguments that are classes, if they are not distributions or bools
CLASSED = [case for case in CASES if case.family in ("binary", "discrete") and not case.huge and GIVEN & {*case.fields}]
ON_A_CPU = [name for name in ("cpu", "reference") if name == "reference" or name in NATIVE]
SHAPE = (2, 37)  # more rows than lanes


def classes_of(case: Case) -> int:
    return 2 if case.family == "binary" else case.num_classes


def spoilt(case: Case, inputs: dict) -> Iterator[tuple[str, int, int, dict]]:
    """Puts a class out of range where no mask hides it. Yields the argument, the place, the class and the inputs."""
    for name in GIVEN & {*inputs}:
        classes = inputs[name]
        if classes.dtype == torch.bool or classes.is_floating_point():
            continue
        limits = torch.iinfo(classes.dtype)
        mask = inputs.get("mask" if name == "x" else "known_mask")
        if name == "x" and "known_mask" in inputs:
            mask = ~inputs["known_mask"]  # a flow reads the known classes instead
        seen = torch.ones(classes.shape, dtype=torch.bool) if mask is None else mask.expand(classes.shape)
        places = seen.flatten().nonzero().flatten().tolist()
        wrong = [classes_of(case), limits.min or limits.max, limits.max, *[2**32] * (limits.bits == 64)]
        for place, number in zip((places[0], places[-1], places[len(places) // 2], places[1]), wrong, strict=False):
            bad = classes.clone().contiguous()
            bad.view(-1)[place] = number
            yield name, place, number, {**inputs, name: bad}


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("case", CLASSED, ids=repr)
def test_a_class_out_of_range_is_named(case, backend):
    """Wherever it stands, unless a mask says that nobody looks."""
    if not serves(case, backend):
        pytest.skip("the reference serves")
    for name, _, number, bad in spoilt(case, case.inputs(SHAPE, torch.float32)):
        message = rf"^{name} must hold classes in \[0, {classes_of(case)}\), got {number}$"
        with pytest.raises(IndexError, match=message):
            case(bad, backend)


# Rows of whole vectors, and others; the lower half of 2³² is a class.
SHAPES = [(2, 5)] if INTERPRETED else [SHAPE, (2, 40)]


@pytest.mark.parametrize("backend", [name for name in NATIVE if name not in ON_A_CPU])
@pytest.mark.parametrize("case", [c for c in CLASSED if not c.long and (joins(c) or "known" in c.fields)], ids=repr)
def test_a_class_out_of_range_gives_nan(case, backend):
    """It is no error on a GPU, since looking would cost a synchronisation. The other variables do not change."""
    case = replace(case, options=case.options | {"reduction": "none"}) if case.loss else case
    for shape in SHAPES:
        for name, place, number, bad in spoilt(case, case.inputs(shape, torch.float32)):
            found = evaluate(case, bad, backend, None if case.loss else ())
            for of, value in found.items():
                nan = value.reshape(math.prod(shape), -1).isnan().any(1)
                assert nan.nonzero().tolist() == [[place]], f"{of} of {name}={number}"


KINDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)  # the last for binary data alone


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("case", [case for case in CLASSED if not case.long], ids=repr)
def test_classes_of_any_type(case, backend):
    if not serves(case, backend):
        pytest.skip("the reference serves")
    inputs, want = case.inputs(SHAPE, torch.float32), None
    named = {name: inputs[name] for name in GIVEN & {*inputs} if not inputs[name].is_floating_point()}
    for kind in KINDS if case.family == "binary" else KINDS[:-1]:
        got = case(inputs | {name: x.clamp(0, classes_of(case) - 1).to(kind) for name, x in named.items()}, backend)
        want = got if want is None else want
        assert torch.equal(got, want), kind


REALS = [case for case in CASES if case.family in ("continuous", "discretised") and not case.huge]
# these ops compare x with a prediction
COMPARED = [case for case in REALS if "x" in case.fields and (case.loss or case.op == "discretised.log_prob")]
CLIPPED = [case for case in COMPARED if "clip" not in case.options or case.family == "discretised"]


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("case", CLIPPED, ids=repr)
def test_data_out_of_range_are_named(case, backend):
    """One number out of range is an error at any place, unless the mask excludes it. A NaN is no error: the result is
    NaN."""
    inputs = case.inputs(SHAPE, torch.float64)
    mask = inputs.get("mask")
    seen = torch.ones(SHAPE, dtype=torch.bool) if mask is None else mask.expand(SHAPE)
    places = seen.flatten().nonzero().flatten()

    def call(place, number):
        x = inputs["x"].clone().contiguous()
        x.view(-1)[place] = number
        return case({**inputs, "x": x}, backend)

    for place, wrong in ((places[0], 1.0001), (places[-1], -255.0), (places[len(places) // 2], torch.inf)):
        with pytest.raises(ValueError, match=rf"^x must lie in \[-1.*, 1.*\], got {wrong:g}"):
            call(place, wrong)
    assert call(places[0], torch.nan).isnan().any()
    if mask is not None:
        assert call((~seen).flatten().nonzero()[0], 40.0).isfinite().all()
