"""Every number that an op takes has its bounds: an op accepts the bound itself, or what is next to an open bound, and
refuses the next number beyond it, by name. So are tensors on another device."""

import math
from dataclasses import replace

import pytest
import torch

from bfn_kernels import Limits, discrete, discretised
from bfn_kernels.adaptive import Steps
from bfn_kernels.arguments.keywords import LOG_STD_MAX, MAX_NODES, MAX_SAMPLES, STD_RANGE, T_MIN_LEAST
from bfn_kernels.circular.losses import PERIODS
from bfn_kernels.schedules import (
    ExponentialVariance,
    LogarithmicAccuracy,
    QuadraticAccuracy,
    VonMisesAccuracy,
    final_accuracy,
)
from tests.kernels.case import ROWS, Case, covering, giving
from tests.kernels.declared import annotations, parameters, public
from tests.kernels.op_cases import CASES
from tests.kernels.support import SHARED
from tests.kernels.vocabulary_cases import LARGE, MODES, STEPS

SHAPE = (3, 4)
TABLE = covering(replace(case, into="") for case in [*CASES, *LARGE, *STEPS, *MODES] if not case.long)
LEAST = 5e-324  # the smallest number above 0


def above(x: float) -> float:
    return math.nextafter(x, math.inf)


def below(x: float) -> float:
    return math.nextafter(x, -math.inf)


def closed(low: float, high: float) -> tuple[list, list]:
    return [low, high], [below(low), above(high), math.nan]


BOUNDS: dict[str, tuple[list, list]] = {  # what is accepted, and what is refused
    "alpha": ([0.0, math.inf], [-LEAST, math.nan]),
    "precision": ([0.0, math.inf], [-LEAST, math.nan]),
    "t": closed(0.0, 1.0),
    "t_next": ([1.0], [above(1.0), math.nan]),
    "t_previous": ([0.0], [-LEAST, math.nan]),
    "temperature": closed(1e-30, 1e30),
    "guidance": ([-1e300, 1e300], [math.nan]),
    "score_clip": ([0.0, math.inf], [-LEAST, math.nan]),
    "scale": ([0.0, math.inf], [-LEAST, math.nan]),
    "spread": ([0.0, math.inf], [-LEAST, math.nan]),
    "top_p": ([LEAST, 1.0], [0.0, above(1.0), math.nan]),
    "variance_scale": ([0.0, math.inf], [-LEAST, math.nan]),
    "sigma_1": ([LEAST, below(1.0)], [0.0, 1.0, math.nan]),
    "beta_1": ([LEAST, 1e300], [0.0, -LEAST, math.inf, math.nan]),
    "num_bins": ([2], [1]),
    "num_classes": ([2], [1]),
    "n_steps": ([1], [0]),
    "n_samples": ([1], [0, MAX_SAMPLES + 1]),
    "quadrature": ([1, MAX_NODES], [0, MAX_NODES + 1]),
    "std": closed(*STD_RANGE),
    "period": closed(*PERIODS),
    "clip": ([(-1, 1)], [(1, 1), (1, -1)]),
    "limits": (
        [Limits(STD_RANGE), Limits((1, 1)), *(Limits(log_std=x) for x in (0, LOG_STD_MAX)), Limits(t_min=T_MIN_LEAST)],
        [Limits((below(STD_RANGE[0]), 1)), Limits((1, above(STD_RANGE[1]))), Limits((above(1), 1))]
        + [Limits(log_std=x) for x in (-LEAST, above(LOG_STD_MAX))]
        + [Limits(t_min=x) for x in (below(T_MIN_LEAST), above(1))],
    ),
}


def bounds(case: Case, name: str) -> tuple[list, list]:
    if name == "step":
        last = case.options.get("n_steps") or 5 + (not case.loss)  # the schedule of circular data has five messages
        return [1, last], [0, last + 1]
    if name == "t" and "t_next" in case.fields:
        return [0.25], [0.75]  # the step ends at 0.5
    if name == "t" and "n_steps" in case.options:
        last = (case.options["n_steps"] - 1) / case.options["n_steps"]
        return [0.0, last], [-LEAST, 1.0, math.nan]
    return BOUNDS[name]


def arguments(case: Case, name: str) -> dict:
    """A call's arguments, without those that exclude the argument of this name."""
    given = case.inputs(SHAPE, torch.float32) | case.options
    if name in ("n_samples", "quadrature"):
        given = {k: v for k, v in given.items() if k not in ("noise", "n_samples", "quadrature")}
    if name in ("step", "n_steps") and "t" in given:
        given = {k: v for k, v in given.items() if k != "t"} | {"step": 1}
    if name == "top_p" and "choose" in parameters(case.op):  # a step of first order that draws
        given = {k: v for k, v in given.items() if "previous" not in k} | {"choose": "sample"}
    if "t_next" in given:
        given |= {"t_next": 0.5} | ({"t": 0.25} if name != "t_next" else {})
    return given


def numbers(op: str) -> list[str]:
    """The names of the arguments that are numbers, or may be numbers for each row."""
    kinds = {name: str(kind) for name, kind in annotations(op).items()}
    # num_classes of a large vocabulary is for shards, which tests/kernels/test_sharded.py makes
    left_out = {"seed", "flow_seed", *(["num_classes"] if "process_group" in kinds else [])}
    return [k for k, v in kinds.items() if k not in left_out and any(word in v for word in ("int", "float", "Limits"))]


EACH = [(op, name) for op in dict.fromkeys(case.op for case in TABLE) for name in numbers(op)]


@pytest.mark.parametrize("backend", ["reference", *SHARED])
@pytest.mark.parametrize(("op", "name"), EACH)
def test_a_number_next_to_its_bound(op, name, backend):
    """Each number is passed as a Python number and, if rows may have numbers of their own, as the last row's number."""
    case = giving(TABLE, op, name)
    accepted, refused = bounds(case, name)
    for value in [*accepted, *refused]:
        forms = [value]
        if name in ROWS or name == "step":
            kind = torch.int64 if name == "step" else torch.float64
            forms.append(torch.tensor([accepted[0], accepted[0], value], dtype=kind))
        for form in forms:
            given = arguments(case, name) | {name: form, "backend": backend}
            if value in accepted:
                public(op)(**given)
                continue
            with pytest.raises(ValueError, match=rf"^{name}(\.\w+|_next)? must .*, got "):
                public(op)(**given)
                pytest.fail(f"{form} was taken")


TINY = torch.finfo().tiny  # the table of a schedule is in float32
OTHERS = {  # other public functions: a function of a number, the name of the number, and its bounds
    "beta_1 of a schedule": (QuadraticAccuracy, "beta_1", *BOUNDS["beta_1"]),
    "beta_1 of classes": (lambda x: LogarithmicAccuracy(5, x), "beta_1", *BOUNDS["beta_1"]),
    "classes of a schedule": (lambda x: LogarithmicAccuracy(x, 1.0), "num_classes", *BOUNDS["num_classes"]),
    "sigma_1 of a schedule": (ExponentialVariance, "sigma_1", *BOUNDS["sigma_1"]),
    "accuracies": (lambda x: VonMisesAccuracy([1.0, x]), "alphas", [TINY, 1e6], [0.0, below(TINY), math.inf, math.nan]),
    "classes": (final_accuracy, "num_classes", [2], [1]),
    "certainty": (
        lambda x: final_accuracy(2, certainty=x), "certainty", [above(0.5), below(1.0)], [0.5, 1.0, math.nan]
    ),
    "entropy": (
        lambda x: final_accuracy(2, entropy=x, certainty=0.999), "entropy", [1e-2, math.log(2)], [0.0, 0.7, math.nan]
    ),
    "start": (lambda x: Steps(x, 0.1, end=0.5), "start", [0.0, below(0.5)], [0.5, math.nan]),
    "tolerance": (lambda x: Steps(0.0, x), "tolerance", [LEAST], [0.0, math.nan]),
    "first": (lambda x: Steps(0.0, 0.1, first=x), "first", [LEAST], [0.0, math.nan]),
    "calls": (lambda x: Steps(0.0, 0.1, max_calls=x), "max_calls", [1], [0]),
    "classes of logits": (lambda x: discrete.theta(torch.zeros(3, x)), "logits", [2], [1, 0]),
    "classes of probabilities": (lambda x: discrete.theta_logits(torch.ones(3, x)), "theta", [2], [1, 0]),
    "components": (
        lambda x: discretised.mode(*torch.ones(2, 3, x), mixture_logits=torch.zeros(3, x), num_bins=2),
        "mixture_logits", [1, 1024], [0, 1025],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_another_number_next_to_its_bound(what):
    function, name, accepted, refused = OTHERS[what]
    for value in accepted:
        function(value)
    for value in refused:
        with pytest.raises(ValueError, match=f"^{name} .*must"):
            function(value)
            pytest.fail(f"{value} was taken")
