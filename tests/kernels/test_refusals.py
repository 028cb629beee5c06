"""Every tensor that a public op takes is refused by its name, if it is of another type, of another shape, on another
device, or no tensor at all. An op also refuses a word that an argument does not allow."""

from dataclasses import replace

import pytest
import torch

from tests.kernels.case import ROWS, covering
from tests.kernels.declared import OUTPUTS, annotations, parameters, public
from tests.kernels.op_cases import CASES
from tests.kernels.vocabulary_cases import LARGE, MODES, STEPS

TABLE = covering(replace(case, into="") for case in [*CASES, *LARGE, *STEPS, *MODES] if not case.long)
TYPES = {
    "no tensor": lambda x: "a word",
    "complex": lambda x: x.to(torch.complex64),
    "quantised": lambda x: x.to(torch.int16) if x.is_floating_point() else x.to(torch.float32),
    "truth values": lambda x: x.bool(),
    "sparse": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.as_nested_tensor([x, x], layout=torch.jagged),
    "nested, without a shape": lambda x: torch.nested.as_nested_tensor([x, x], layout=torch.strided),
}
BOOLEANS = [("binary", "x")] + [(family, "known") for family in ("binary", "circular", "continuous", "discretised")]
PLACES = {
    "another device": lambda x: x.to("meta"),
    "more dimensions": lambda x: x.expand(7, *x.shape),
    "more rows": lambda x: torch.cat([x, x]),
    "turned": lambda x: x.mT,
}


def tensors(case):
    """The names of the tensors with dimensions that it takes."""
    inputs = case.inputs((2, 3), torch.float32)
    return [name for name, value in inputs.items() if torch.is_tensor(value) and value.dim() > 0]


NAMES = [(case, tensors(case)) for case in TABLE]
TENSORS = [(case, name) for case, names in NAMES for name in names]
# The vectors of a flow's classes say how many classes there are.
ALONE = [("vocabulary.flow_embedding", "weight"), ("vocabulary.noisy_embedding", "weight")]
# A mask fits data with more dimensions, too.
FITTING = [
    (case, name)
    for case, names in NAMES
    for name in names
    if (case.op, name) not in ALONE and any(not other.endswith("mask") for other in names if other != name)
]


@pytest.mark.parametrize(("case", "name"), TENSORS, ids=str)
def test_a_tensor_of_another_type_is_refused_by_name(case, name):
    inputs = case.inputs((2, 3), torch.float32)
    allowed = {"truth values"} if inputs[name].dtype == torch.bool or (case.family, name) in BOOLEANS else set()
    if "soft" in case.name and name in ("x", "known"):
        allowed |= {"quantised"}  # these are classes
    for wrong, make in ((wrong, make) for wrong, make in TYPES.items() if wrong not in allowed):
        with pytest.raises(TypeError, match=rf"^{name} must be .*, got "):
            case(inputs | {name: make(inputs[name])})
            pytest.fail(f"{wrong}: it was taken")


@pytest.mark.parametrize(("case", "name"), FITTING, ids=str)
def test_tensors_that_do_not_fit_each_other_are_refused(case, name):
    """One of them is named. For a turned tensor, the message mentions it, unless times or steps do not fit it."""
    inputs = case.inputs((2, 3), torch.float32)
    for wrong, make in PLACES.items():
        value = inputs[name]
        if wrong == "turned" and (value.dim() < 2 or value.shape[-1] == value.shape[-2]):
            continue
        if wrong == "more rows" and (case.family, name) == ("circular", "noise"):
            continue  # these are more proposals
        with pytest.raises((TypeError, ValueError)) as caught:
            case(inputs | {name: make(value)})
            pytest.fail(f"{wrong}: it was taken")
        words = str(caught.value).split(" ")
        assert words[0] in inputs and "got" in words, wrong
        called = {name, "state"} if name in ("state", "mean") else {name}
        assert wrong != "turned" or called & {*words} or words[0] in (*ROWS, "step"), caught.value


SEEDS = {"seed": ("noise", "seed"), "flow_seed": ("flow_noise", "flow_seed")}  # of which noises a seed makes
ANY = ("mask", *OUTPUTS)  # the tensors that any call of an op with this argument may be given


def reads(case, name):
    return name in case.fields or name in ANY or {*SEEDS.get(name, ())} & {*case.fields, *case.options}


MOVED = {
    (case.op, name): case
    for case in TABLE
    for name in parameters(case.op)
    if name in (*ROWS, *SEEDS, *ANY, "known_mask", "class_mask") and reads(case, name)
}


@pytest.mark.parametrize(("op", "name"), MOVED)
def test_a_tensor_on_another_device_is_refused_by_name(op, name):
    """So is a tensor of one number."""
    case = MOVED[op, name]
    given = case.inputs((2, 3), torch.float32) | case.options
    if name in OUTPUTS:
        value = torch.empty_like(given[case.state], device="meta")
    elif name.endswith("mask"):
        value = torch.ones(given[name].shape if name in given else (2, 3), dtype=torch.bool, device="meta")
    else:
        value = torch.tensor(1 if name in SEEDS else 0.5, device="meta")
    if name in SEEDS:
        given = {k: v for k, v in given.items() if not k.endswith("noise")}
    with pytest.raises(ValueError, match=rf"^{name} must .*on cpu.*, got meta"):
        public(op)(**given | {name: value})


WORDS = ("choose", "output", "parametrisation", "receiver", "reduction", "rule")
SWITCHES = [(case, name) for case in TABLE for name, kind in annotations(case.op).items() if kind in (bool, "bool")]
WITH_WORDS = [(case, word) for case in TABLE for word in WORDS if word in parameters(case.op)]
UNMIXED = [c for c in TABLE if "component_noise" in parameters(c.op) and "mixture_logits" not in c.fields]


@pytest.mark.parametrize(("case", "name"), WITH_WORDS, ids=str)
def test_a_word_that_an_argument_may_not_be_is_refused(case, name):
    with pytest.raises(ValueError, match=rf"\b{name}\b.*, got ('another'|None)"):
        replace(case, options=case.options | {name: "another"})(case.inputs((2, 3), torch.float32))


@pytest.mark.parametrize(("case", "name"), SWITCHES, ids=str)
def test_a_switch_that_is_no_bool_is_refused(case, name):
    for wrong in (None, 1, torch.zeros(0)):
        with pytest.raises(TypeError, match=rf"^{name} must be a bool, got {type(wrong).__name__}"):
            replace(case, options=case.options | {name: wrong})(case.inputs((2, 3), torch.float32))


@pytest.mark.parametrize("case", UNMIXED, ids=str)
def test_noise_that_draws_nothing_is_refused(case):
    """Only a mixture has components to draw."""
    inputs = case.inputs((2, 3), torch.float32) | {"component_noise": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"^component_noise must be None without mixture_logits"):
        case(inputs)


HEADS = [case for case in TABLE if {"hidden", "weight"} <= set(case.fields)]


@pytest.mark.parametrize("case", HEADS, ids=str)
def test_a_weight_that_does_not_fit_is_the_wrong_one(case):
    """Also a weight that is turned or on another device, and where the hidden states come first."""
    inputs = case.inputs((2, 3), torch.float32)
    weight, width = inputs["weight"], inputs["hidden"].shape[-1]
    seen = rf"as hidden of shape \(2, 3, {width}\) requires, got "
    for wrong in (weight.mT, weight[:, :-1]):
        with pytest.raises(ValueError, match=rf"^weight must have shape \[K, {width}\], {seen}\({len(wrong)}, "):
            case(inputs | {"weight": wrong})
    class_alone = case.op in ("vocabulary.mode", "vocabulary.sample")
    if "state" in inputs and not class_alone:  # both have a number for each class
        with pytest.raises(ValueError, match=rf"^weight must have shape \({len(weight)}, {width}\), as state of shape"):
            case(inputs | {"weight": torch.cat([weight, weight])})
    if class_alone:
        with pytest.raises(ValueError, match=r"^state must have shape .*, as weight of shape"):
            case(inputs | {"state": inputs["state"][..., :-1]})
    with pytest.raises(ValueError, match=r"^weight must be on cpu, where .* is, got meta"):
        case(inputs | {"weight": weight.to("meta")})


@pytest.mark.parametrize(
    "case", [c for c in TABLE if "mixture_logits" in c.fields and "pred_mean" in c.fields], ids=str
)
def test_the_mixture_logits_say_how_many_components_there_are(case):
    inputs = case.inputs((2, 3), torch.float32)
    with pytest.raises(
        ValueError, match=r"^pred_mean must have shape \(2, 3, 6\), as mixture_logits of shape \(2, 3, 6"
    ):
        case(inputs | {"mixture_logits": inputs["mixture_logits"].repeat(1, 1, 2)})
