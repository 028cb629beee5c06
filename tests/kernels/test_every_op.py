"""What holds of every op: a class or a number out of range is named, wherever it stands."""

import pytest
import torch

from tests.kernels.case import Case
from tests.kernels.op_cases import CASES
from tests.kernels.support import NATIVE, serves

GIVEN = {"x", "known"}  # the arguments that are classes, if they are not distributions or bools
CLASSED = [case for case in CASES if case.family in ("binary", "discrete") and not case.huge and GIVEN & {*case.fields}]
ON_A_CPU = [name for name in ("cpu", "reference") if name == "reference" or name in NATIVE]
SHAPE = (2, 37)  # more rows than lanes


def classes_of(case: Case) -> int:
    return 2 if case.family == "binary" else case.num_classes


@pytest.mark.parametrize("backend", ON_A_CPU)
@pytest.mark.parametrize("case", CLASSED, ids=repr)
def test_a_class_out_of_range_is_named(case, backend):
    """Wherever it stands, unless a mask says that nobody looks."""
    if not serves(case, backend):
        pytest.skip("the reference serves")
    inputs = case.inputs(SHAPE, torch.float32)
    for name in GIVEN & {*inputs}:
        classes = inputs[name]
        if classes.dtype == torch.bool or classes.is_floating_point():
            continue
        limits = torch.iinfo(classes.dtype)
        mask = inputs.get("mask" if name == "x" else "known_mask")
        seen = torch.ones(classes.shape, dtype=torch.bool) if mask is None else mask.expand(classes.shape)
        places = seen.flatten().nonzero().flatten()
        last, middle = places[-1], places[len(places) // 2]
        for place, wrong in ((places[0], classes_of(case)), (last, limits.min or limits.max), (middle, limits.max)):
            bad = classes.clone().contiguous()
            bad.view(-1)[place] = wrong
            message = rf"^{name} must hold classes in \[0, {classes_of(case)}\), got {wrong}$"
            with pytest.raises(IndexError, match=message):
                case({**inputs, name: bad}, backend)


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
COMPARED = [case for case in REALS if case.loss or case.op == "discretised.log_prob"]
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
