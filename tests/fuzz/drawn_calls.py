"""Calls of the public ops that hypothesis draws from the table of cases: any shape, layout, type, number of classes,
form of rows and masks, and extreme values."""

import dataclasses
import functools
import math
import os
import time
from pathlib import Path
from random import Random

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.case import ROWS, Case
from tests.kernels.declared import NOISES
from tests.kernels.op_cases import CASES
from tests.kernels.support import DTYPES, INTERPRETED, ON_CPU
from tests.kernels.vocabulary_cases import LARGE, STEPS

SEED = os.environ.get("FUZZ_SEED")  # set by `make fuzz`; without it every run has the same examples
SCALE = float(os.environ.get("FUZZ_SCALE", 1))
END = float(os.environ.get("FUZZ_END", "inf"))
BACKENDS = os.environ.get("FUZZ_BACKENDS", ",".join(ON_CPU)).split(",")
# The kernels that were built for this machine are called more often than those that stand in for a GPU's.
backends = st.sampled_from(["cpu"] * 3 + BACKENDS if "cpu" in BACKENDS else BACKENDS)

hypothesis.settings.register_profile(
    "ci", deadline=None, database=None, derandomize=True, print_blob=True, suppress_health_check=hypothesis.HealthCheck
)
hypothesis.settings.register_profile("fuzz", hypothesis.settings.get_profile("ci"), derandomize=False)
torch.use_deterministic_algorithms(True)  # torch fills new memory with NaN


def examples(count: int):
    """Sets the number of examples of a property. When the time is over, it is skipped, unless a failure is being
    shrunk."""
    settings = hypothesis.settings(
        hypothesis.settings.get_profile("fuzz" if SEED else "ci"), max_examples=round(count * SCALE)
    )

    def decorate(test):
        inner, failures = test.hypothesis.inner_test, []

        @functools.wraps(inner)
        def timed(*arguments, **keywords):
            if time.time() > END and not failures:
                pytest.skip("the time is over")
            try:
                return inner(*arguments, **keywords)
            except hypothesis.errors.UnsatisfiedAssumption:
                raise
            except Exception as failure:
                failures.append(failure)
                raise

        test.hypothesis.inner_test = timed
        return settings(hypothesis.seed(int(SEED))(test) if SEED else test)

    return decorate


def remember(call: object) -> None:
    """Writes down the call that is about to run, in case the process crashes."""
    if "FUZZ_LAST_CALL" in os.environ:
        Path(os.environ["FUZZ_LAST_CALL"]).write_text(repr(call))


TYPES = (torch.float16, torch.float32) if INTERPRETED else DTYPES  # it multiplies the bits of bfloat16
VOCABULARY = ("weight", "bias", "embedding")  # each of their numbers belongs to a class, not to a variable
HEADS = [case for case in (*LARGE, *STEPS) if not case.hard]
# −∞ is missing here, since as a logit it is valid and means a probability of 0.
EXTREMES = {"finite": (1e30, -1e30, 1e-30, 0.0, -0.0, "subnormal"), "not finite": (math.nan, math.inf)}
LOGITS = (1e4, -1e30, 0.0, -0.0, 1e-30)  # not 1e30, beside which the reference's joint receiver has no digits left
STDS = (1e-4, 1e4, 1e30)  # not smaller ones, which would be below the rounding error of other numbers
SIZES = (1, 2, 3, 5, 8, 17, 33, 64, 130)
MOST = 600  # the most numbers in a tensor whose size grows with the shape


@dataclasses.dataclass(frozen=True)
class Call:
    """A public op and its arguments. `touched`, a mask of the data's shape, says where extreme values are."""

    plan: "Plan"
    case: Case
    inputs: dict
    touched: Tensor

    def __repr__(self) -> str:
        return repr(self.plan)

    def contiguous(self, dtype: torch.dtype | None = None) -> dict:
        """The inputs in new contiguous tensors, and those of floating point in `dtype` if it is not None."""
        return {k: self._plain(v, dtype) for k, v in self.inputs.items()}

    @staticmethod
    def _plain(value, dtype):
        if isinstance(value, torch.dtype):
            return dtype or value
        if not isinstance(value, Tensor):
            return value
        value = value.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
        return value.to(dtype) if dtype and value.is_floating_point() else value


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """What hypothesis chose. `layout` is the seed of shapes and strides, `numbers` that of the numbers."""

    case: Case
    shape: tuple[int, ...]
    dtype: torch.dtype
    mixed: bool
    count: int | None  # the number of classes or components
    options: dict
    arranged: bool
    extreme: str | None  # a key of EXTREMES
    seeded: bool
    masked: bool
    layout: int
    numbers: int = 0

    def __repr__(self) -> str:
        flags = [f for f in ("mixed", "arranged", "seeded", "masked") if getattr(self, f)]
        chosen = (
            f"extreme={self.extreme}, count={self.count}, {self.options}, layout={self.layout}, numbers={self.numbers}"
        )
        return f"{self.case.name} {self.shape} {self.dtype} {' '.join(flags)} {chosen}"

    def _repr_pretty_(self, printer, cycle) -> None:  # hypothesis would print the functions of the table of cases
        printer.text(repr(self))

    @property
    def _ordinary(self) -> tuple[str, ...]:
        """The inputs that get no extreme values, since they would be refused or meaningless."""
        soft = ("x", "known") if self.case.family == "discrete" else ()
        return (*NOISES, *soft, "t", "t_next", "t_previous", *(ROWS if self.extreme == "not finite" else ()))

    def again(self, numbers: int) -> "Plan":
        """The same call with other numbers."""
        return dataclasses.replace(self, numbers=numbers)

    def make(self) -> Call:
        # hypothesis prefers a few numbers; mixing in the case and shape keeps it from preferring a few layouts
        form = Random(repr((self.layout, self.case.name, self.shape)))
        options = {**self.case.options, **self.options}
        inputs = self.case.inputs(self.shape, self.dtype, self.numbers)
        if self.count is not None:
            inputs = _recount(inputs, self.shape, _count_of(self.case), self.count)
            if "num_classes" in options:
                options["num_classes"] = self.count
        generator = torch.Generator().manual_seed(self.numbers)
        for name in ROWS:
            if name in inputs:
                inputs[name] = _rows(form, self.case.fields[name], self.shape, generator)
        if self.seeded and any(name in inputs for name in NOISES):
            inputs = {k: v for k, v in inputs.items() if k not in NOISES} | {"seed": form.randrange(-(2**63), 2**64)}
        if self.masked and "mask" not in inputs:
            part = [n if form.random() < 0.7 else 1 for n in self.shape]
            inputs["mask"] = torch.rand(part, generator=generator) < 0.6
        touched = torch.zeros(self.shape, dtype=torch.bool)
        alike = ROWS + ("hidden", "weight") * (form.random() < 0.7)  # one narrow type has kernels of its own
        for name, value in inputs.items():
            if not isinstance(value, Tensor):
                continue
            if self.mixed and value.is_floating_point() and name not in alike:
                value = value.to(form.choice(TYPES))
            # masked places hold values that must not be read, so numbers may not be moved to other places
            alone = not any(k in inputs for k in ("mask", "known_mask"))
            if self.arranged:  # if all classes shared one vector, gradients would be 0 but for rounding errors
                value = arrange(value, form, expand=alone and name != "weight")
            floating = value.is_floating_point() and value.numel() > 0
            if self.extreme and floating and name not in self._ordinary:
                extremes = EXTREMES[self.extreme]
                if self.extreme == "finite":
                    has_logits = self.case.family in ("discrete", "binary")
                    extremes = STDS if name == "std" else LOGITS if has_logits else extremes
                value = _touch(name, value, form, extremes, touched)
            inputs[name] = value
        return Call(self, dataclasses.replace(self.case, options=options), inputs, touched)


def _count_of(case: Case) -> int | None:
    """The number of components or classes that the case has in the table."""
    sizes = {
        name: make((2,), torch.float32, torch.Generator()).shape
        for name, make in case.fields.items()
        if name in ("mixture_logits", "logits", "state", "theta")
    }
    for size in sizes.values():
        if len(size) == 2:
            return size[-1]
    return case.options.get("num_classes")


def _recount(inputs: dict, shape: tuple, old: int, new: int) -> dict:
    """The inputs with another number of classes or components: those of the table are repeated, each with a change."""
    index = torch.arange(new) % old
    found = {}
    for name, value in inputs.items():
        if name == "class_mask" and value.dim() == 1:
            value = value[index]
        elif name == "pred_mean" and tuple(value.shape) == (*shape, old, 2):  # a stacked pair for each component
            value = value[..., index, :] * (1 + 0.01 * (torch.arange(new) // old)).unsqueeze(-1)
            value = value.to(inputs[name].dtype)
        elif isinstance(value, Tensor) and tuple(value.shape[-1 - len(shape) :]) == (*shape, old):
            factor = (1 + 0.01 * (torch.arange(new) // old)) if name != "noise" else 1
            value = (value[..., index] * factor).to(value.dtype)
        elif name in ("x", "known") and isinstance(value, Tensor) and not value.is_floating_point():
            value = torch.where((value >= 0) & (value < old), value % new, value)
        found[name] = value
    return found


def _rows(form: Random, make, shape: tuple, generator: torch.Generator) -> float | Tensor:
    """Numbers of a leading part of the shape, with or without trailing ones, or a single one."""
    num_leading = form.randrange(len(shape) + 1)
    lead = [n if form.random() < 0.8 else 1 for n in shape[:num_leading]]
    numbers = make((math.prod(lead),), form.choice((torch.float32, torch.float64)), generator).reshape(lead)
    if num_leading == 0 and form.random() < 0.5:
        return numbers.item()
    return numbers.reshape([*lead, *(1,) * form.randrange(len(shape) - num_leading + 1)])


def _touch(name: str, value: Tensor, form: Random, extremes: tuple, touched: Tensor) -> Tensor:
    """Extreme values at a few places, or none."""
    if form.random() < 0.4:
        return value
    info = torch.finfo(value.dtype)
    value = value.detach().clone()
    for _ in range(form.randrange(1, 4)):
        number = form.choice(extremes)
        number = info.smallest_normal / 4 if number == "subnormal" else number
        if math.isfinite(number):
            number = max(-info.max, min(number, info.max))
        if name in ("alpha", "precision", "concentration"):
            number = abs(number)
        place = tuple(form.randrange(n) for n in value.shape)
        value[place] = number
        if name in ROWS + VOCABULARY:
            touched.fill_(True)
        else:
            touched[place[: touched.dim()]] = True
    return value


def arrange(x: Tensor, form: Random, expand: bool = True, plain: bool = False) -> Tensor:
    """The same numbers in another layout; with `expand`, of some places those of another, expanded; with `plain`, in
    memory of which each number has its own."""
    for _ in range(form.randrange(4)):
        x = form.choice(LAYOUTS[: 3 if plain else 5 if expand else 4])(x, form)
    return x


def _junk(x: Tensor) -> float:
    return math.nan if x.is_floating_point() else 1 if x.dtype == torch.bool else 77


def _permuted(x: Tensor, form: Random) -> Tensor:
    order = form.sample(range(x.dim()), x.dim())
    return x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])


def _sliced(x: Tensor, form: Random) -> Tensor:
    """The tensor as a slice of a larger one with the same order of dimensions, whose other numbers the call must not
    read."""
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    steps = [form.choice((1, 1, 2, 3)) for _ in x.shape]
    before, after = ([form.randrange(3) for _ in x.shape] for _ in range(2))
    sizes = [b + n * s + a for b, n, s, a in zip(before, x.shape, steps, after, strict=True)]
    place = tuple(slice(b, b + n * s, s) for b, n, s in zip(before, x.shape, steps, strict=True))
    large = torch.full([sizes[d] for d in order], _junk(x), dtype=x.dtype)
    large = large.permute([order.index(d) for d in range(x.dim())])
    large[place] = x
    return large[place]


def _offset(x: Tensor, form: Random) -> Tensor:
    start = form.randrange(1, 6)
    flat = torch.cat([torch.full((start,), _junk(x), dtype=x.dtype), x.reshape(-1)])
    return flat[start:].view(x.shape)


def _negative(x: Tensor, form: Random) -> Tensor:
    """The tensor as `.conj().imag` returns it: a view that negates the numbers in its memory."""
    return torch._neg_view(-x) if x.is_floating_point() else x


def _expanded(x: Tensor, form: Random) -> Tensor:
    if x.dim() == 0 or x.numel() == 0:
        return x
    for d in form.sample(range(x.dim()), form.randrange(1, x.dim() + 1)):
        x = x.narrow(d, 0, 1).expand(*x.shape[:d], x.shape[d], *x.shape[d + 1 :])
    return x


LAYOUTS = (_permuted, _sliced, _offset, _negative, _expanded)


@st.composite
def plans(draw, keep=lambda case: True, extremes: bool = True, masks: bool = True, layouts: bool = False) -> Plan:
    """`layouts`: whether the tensors of every call, not of every second, are laid out anew, in more dimensions."""
    case = draw(st.sampled_from([c for c in CASES if keep(c)]))
    options, count = {}, _count_of(case)
    if count is not None and not case.hard:
        least = 1 if "mixture_logits" in case.fields else 2
        some = st.integers(least, 9) | st.sampled_from([count, 15, 16, 17, 33, 64, 65, 130])
        count = draw(st.just(least) | some)  # a single one is like nothing else
    elif count is not None:
        count = None
    if count is not None and "quadrature" in case.options and case.options.get("receiver") == "joint":
        count = 2  # the joint receiver's quadrature has no other
    most = max(1, MOST // (count or _count_of(case) or 1))
    shape: list[int] = []
    dims, sizes = (st.integers(3, 5), (1, 2, 3, 4)) if layouts else (st.integers(1, 4), SIZES)
    for _ in range(draw(dims)):
        size = 0 if draw(st.integers(0, 19)) == 19 else draw(st.sampled_from(sizes))
        shape.append(min(size, most))
        most = max(1, most // max(1, size))
    if "num_bins" in case.options and not case.hard:
        options["num_bins"] = draw(st.integers(2, 40) | st.sampled_from([case.options["num_bins"], 255, 256, 300]))
    if case.loss:
        options["reduction"] = draw(st.sampled_from(["none", "batch", "sum", "mean"]))
    if case.family == "continuous" and (case.loss or case.op.endswith("predict_data")):
        options["clip"] = draw(st.sampled_from([(-1, 1), None, (-0.5, 0.75)]))
    flag, extreme = st.booleans(), st.sampled_from([None, None, None, *EXTREMES])
    return Plan(
        case,
        tuple(shape),
        draw(st.sampled_from(DTYPES)),
        draw(st.integers(0, 3)) == 3,
        count,
        options,
        layouts or draw(flag),
        draw(extreme) if extremes else None,
        draw(flag),
        masks and case.loss and draw(flag),
        draw(st.integers(0, 2**32)),
    )


@st.composite
def heads(draw, keep=lambda case: True, extremes: tuple[str | None, ...] = (None,)) -> Plan:
    """Calls with a large vocabulary, every tensor of which is laid out anew."""
    shape = draw(st.lists(st.sampled_from((1, 2, 3, 4)), min_size=1, max_size=3))
    return Plan(
        draw(st.sampled_from([case for case in HEADS if keep(case)])),
        tuple(shape),
        torch.float16 if INTERPRETED else draw(st.sampled_from(DTYPES)),  # for which Triton alone has kernels
        mixed=INTERPRETED or draw(st.booleans()),
        count=None,
        options={},
        arranged=True,
        extreme=draw(st.sampled_from(extremes)),
        seeded=False,
        masked=False,
        layout=draw(st.integers(0, 2**32)),
    )
