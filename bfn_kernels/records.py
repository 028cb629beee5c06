"""Records: groups of arguments of operators. The records of csrc/bindings have the same fields.

Callers pass records by name, as to the function in `reference.py`: `library.discrete.step(output=…, solver=…)`. An
operator of torch takes tensors and numbers, but no records. So the function that `calling` makes passes the fields of
each record instead, and `grouping` makes records of the fields again. `arguments` lists them for the operator's schema.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from bfn_kernels import noise as random

# CHOICES: which value of the output distribution a step sends. RECEIVERS: the receiver distributions of classes.
# Operators take indices into these tuples; csrc/ops/noise.h has the same indices.
CHOICES = ("sample", "mode", "mean")
SAMPLE, MODE, MEAN = range(3)
RECEIVERS = ("joint", "factorised")
JOINT, FACTORISED = range(2)


class Noise(NamedTuple):
    """The source of normals: explicit values, or a seed, which is an int64 tensor of one element."""

    seed: Tensor | None = None
    noise: Tensor | None = None


NO_NOISE = Noise()


class Draws(NamedTuple):
    """The normals of an expectation: the nodes and weights of a quadrature, or `n_samples` draws from a seed or from
    explicit noise `[n_samples, ...]`."""

    nodes: Sequence[float] | None = None
    node_weights: Sequence[float] | None = None
    n_samples: int = 0
    seed: Tensor | None = None
    noise: Tensor | None = None

    def each(self, like: Tensor, normal: Callable[..., Tensor]) -> Iterator[tuple[Tensor, float]]:
        """Yields the normals and the weight of each node or draw. A node is a scalar; a draw has the shape of
        `like`."""
        for node, weight in zip(self.nodes or (), self.node_weights or (), strict=True):
            yield torch.full((), node, dtype=like.dtype, device=like.device), weight
        for draw in range(self.n_samples):
            if self.noise is None:
                yield normal(like.shape, self.seed, random.MONTE_CARLO, draw, like.dtype), 1 / self.n_samples
            else:
                yield self.noise[draw].to(like.dtype), 1 / self.n_samples


NO_DRAWS = Draws()  # for a loss without an expectation


class Solver(NamedTuple):
    """The row scalars of a step, and the prediction of the step before.

    keep: the factor of the state; None stands for 1. take: the factor of the prediction q = p + extrapolation·(p −
    previous) or, if p are probabilities of K classes, of K·q − 1. For binary data, 2·take is the factor of 2q − 1. std:
    the factor of the noise; None for a step without noise. previous: the prediction of the step before; None for a step
    of first order, in which q = p.
    """

    keep: Tensor | None
    take: Tensor
    std: Tensor | None = None
    previous: Tensor | None = None
    extrapolation: Tensor | None = None


class Guidance(NamedTuple):
    """The guidance of a step, which uses the logits logit_scale·logits + unconditional_scale·unconditional. The scales
    are row scalars."""

    logit_scale: Tensor | None = None
    unconditional: Tensor | None = None
    unconditional_scale: Tensor | None = None


NO_GUIDANCE = Guidance()


class OneLogit(NamedTuple):
    """The logits `[B, ...]` of class 1 that a network of binary data puts out."""

    output_logits: Tensor


class ClassLogits(NamedTuple):
    """The logits `[B, ..., K]` that a network puts out. class_mask: bool, broadcastable to them, False for a class that
    counts as if its logit were −∞; None if all classes count."""

    logits: Tensor
    class_mask: Tensor | None = None


class Score(NamedTuple):
    """The score `[B, ..., K]`, clipped to [−score_clip, score_clip]. A step adds it to its prediction p, except where
    the class is known. score_clip is a row scalar; None if nothing is clipped."""

    score: Tensor | None = None
    score_clip: Tensor | None = None


NO_SCORE = Score()


class NoScore(NamedTuple):
    """The score of a step of binary data, which takes none."""


class Sent(NamedTuple):
    """What a step sends.

    choice: the value of the output distribution that is sent, an index into CHOICES. known: values that are sent
    instead where known_mask is True. draw_noise: explicit noise that draws a sample.
    """

    choice: int
    known: Tensor | None = None
    known_mask: Tensor | None = None
    draw_noise: Tensor | None = None


class LossTarget(NamedTuple):
    """How a loss is reduced. mask: True for the variables that count; None if all count. reduction: an index into
    `checks.REDUCTIONS`."""

    mask: Tensor | None
    reduction: int


class Prediction(NamedTuple):
    """The output of a network of continuous data.

    mean: the mean that the network saw. mean_scale, noise_scale: the row scalars in x̂ = mean_scale·mean −
    noise_scale·prediction (84); without them x̂ is the prediction. low, high: the range that x̂ is clipped to.
    """

    prediction: Tensor
    mean: Tensor | None
    mean_scale: Tensor | None = None
    noise_scale: Tensor | None = None
    low: float = -math.inf
    high: float = math.inf


class Network(NamedTuple):
    """The output of a network of discretised data, and `mean`, the input distribution's mean that the network saw.

    With the scales, which are row scalars, equations (105) and (106) give the mean and std of a normal. Without them,
    the network predicts the data: pred_mean and exp(pred_log_std) are the mean and std. If pred_log_std is None, the
    last dimension of pred_mean has both predictions. mixture_logits has a logit for each component of a mixture.
    """

    pred_mean: Tensor
    pred_log_std: Tensor | None = None
    mixture_logits: Tensor | None = None
    mean: Tensor | None = None
    mean_scale: Tensor | None = None
    noise_scale: Tensor | None = None


class OutputLimits(NamedTuple):
    """The limits of a predicted std. First its logarithm is clamped to [−log_std_max, log_std_max], then the std to
    [std_min, std_max]."""

    std_min: float
    std_max: float
    log_std_max: float


class Bins(NamedTuple):
    """The bins, and the `OutputLimits`. clip: whether the first and the last bin get the mass beyond [−1, 1]."""

    num_bins: int
    clip: bool
    std_min: float
    std_max: float
    log_std_max: float


class MeanAngle(NamedTuple):
    """The state of circular data: a mean and its concentration. If neither is given, it is the state before the first
    message."""

    mean: Tensor | None = None
    concentration: Tensor | None = None


class Message(NamedTuple):
    """A von Mises message. alpha: its accuracy or, with a table of quantiles, the row from which the accuracy is drawn.
    known: angles that are sent instead where known_mask is True. seed: None if explicit noise draws all, or if the
    angle that is sent is the message. noise: explicit uniforms `[n, 2, B, ...]` that draw the angle.
    concentration_noise: explicit normals that draw the accuracy from the table.
    """

    alpha: Tensor
    table: Tensor | None = None
    known: Tensor | None = None
    known_mask: Tensor | None = None
    seed: Tensor | None = None
    noise: Tensor | None = None
    concentration_noise: Tensor | None = None


class Circle(NamedTuple):
    """The units of circular data: the period of angles, and the scale of log_out, (ln c − log_least)·log_factor − 1.
    certain: the accuracy of known angles, which are then sent without noise; 0 if they are sent as other angles."""

    period: float
    log_least: float = 0.0
    log_factor: float = 0.0
    certain: float = 0.0


class BinCost(NamedTuple):
    """The loss of discretised data. If weight is given, the loss is L∞; if alpha is given, L_n; if neither, −ln p of
    the bin of x. Both are row scalars. direct: whether the network's predictions are the mean and std of the output
    distribution."""

    weight: Tensor | None = None
    alpha: Tensor | None = None
    direct: bool = False
    n_steps: int = 0


class LinearHead(NamedTuple):
    """The head of a network of many classes. Its logits are hidden·Wᵀ + bias + flow_scale·y.

    hidden: `[B, ..., d]`. weight: `[K, d]`. bias: `[K]`. flow_scale: `[B, ...]`. y: the logits `[B, ..., K]` of the
    input distribution. Without flow_scale, the sum has no term with y.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    flow_scale: Tensor | None


class FlowLogits(NamedTuple):
    """What determines y of a `LinearHead` in a loss: the row scalars β and √(Kβ), and the seed or the explicit noise of
    the flow."""

    beta: Tensor | None = None
    spread: Tensor | None = None
    flow_seed: Tensor | None = None
    flow_noise: Tensor | None = None


NO_FLOW = FlowLogits()  # for a head without flow_scale


class TileMessages(NamedTuple):
    """Messages about the tokens of a tile (`vocabulary.tiles`), as kernels take them. The tile has the classes from
    `first` on, of K = num_classes.

    x: the class of each token. rows: the number of each token, which determines its noise. alpha, spread: α and √(Kα)
    of each token; without spread, the messages have no noise. seed: None for messages with explicit noise or without
    noise.
    """

    x: Tensor
    rows: Tensor
    alpha: Tensor
    spread: Tensor | None
    seed: Tensor | None
    first: int
    num_classes: int


class HeadBefore(NamedTuple):
    """The flow_scale and the state of the step before. With the hidden states of the step before, `Solver.previous`,
    they give the logits of that step."""

    previous_scale: Tensor | None = None
    previous_state: Tensor | None = None


_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "int",
    float: "float",
    bool: "bool",
    str | None: "str?",
    Sequence[float] | None: "float[]?",
    torch.dtype: "ScalarType",
}


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _parameters(function: Callable) -> dict[str, Any]:
    """The types of the parameters that are no outputs; None for a parameter without an annotation."""
    kinds, parameters = get_type_hints(function), inspect.signature(function).parameters.values()
    named = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]
    return {name: kinds.get(name) for name in named if not _is_output(name)}


def _is_output(name: str) -> bool:
    return name == "out" or name.endswith("_out")


def written(function: Callable) -> list[str]:
    """The names of the tensors that a function may write its results into."""
    return [name for name in inspect.signature(function).parameters if _is_output(name)]


def arguments(function: Callable) -> list[str]:
    """The type and name of each argument, as a schema writes them. Each record is replaced by its fields."""
    found: list[str] = []
    for name, kind in _parameters(function).items():
        found += [f"{_TYPES[kind]} {name}"] if kind in _TYPES else fields(kind)
    return found


def fields(record: type) -> list[str]:
    """The type and name of each field of a record, as a schema writes them."""
    return [f"{_TYPES[kind]} {name}" for name, kind in get_type_hints(record).items()]


def grouping(function: Callable) -> Callable[[Sequence], Sequence]:
    """Returns a function that groups an operator's arguments into the records that annotate the parameters of
    `function`. Further arguments do not change."""
    slices, start = [], 0  # for each parameter: its record or None, and the range of its fields
    for kind in _parameters(function).values():
        stop = start + (len(kind._fields) if _is_record(kind) else 1)
        slices.append((kind if _is_record(kind) else None, start, stop))
        start = stop
    if all(kind is None for kind, _, _ in slices):
        return lambda fields: fields

    def group(fields: Sequence) -> Sequence:
        values = [fields[first] if kind is None else kind(*fields[first:stop]) for kind, first, stop in slices]
        return *values, *fields[start:]

    return group


def calling(function: Callable, call: Callable, write: Callable | None) -> Callable:
    """Returns a function with the parameters of `function`, which calls an operator. Nothing else knows the order of an
    operator's arguments. The code is made once, so that a call spends no time on it.

    call: a function that takes the operator's arguments; a record is passed as its fields. write: a function that takes
    a tuple of these arguments, and a tuple of the tensors that `function` may write into. If one of these tensors is
    not None, `write` is called instead of `call`.
    """
    kinds, outputs, name = _parameters(function), written(function), function.__name__
    values: dict[str, Any] = {"call": call, "write": write}
    parameters = []
    for each in inspect.signature(function).parameters.values():
        values[f"default_{each.name}"] = each.default
        parameters.append(each.name if each.default is each.empty else f"{each.name}=default_{each.name}")
    passed = ", ".join(f"*{each}" if _is_record(kind) else each for each, kind in kinds.items())
    lines = [f"def {name}({', '.join(parameters)}):"]
    if outputs:
        lines.append(f"    if {' or '.join(f'{each} is not None' for each in outputs)}:")
        lines.append(f"        return write(({passed},), ({', '.join(outputs)},))")
    lines.append(f"    return call({passed})")
    exec(compile("\n".join(lines), f"<operator {function.__module__}.{name}>", "exec"), values)
    return values[name]


def grouped(function: Callable) -> Callable:
    """Returns a function that takes the fields of records and calls `function` with the records."""
    group = grouping(function)

    @functools.wraps(function)
    def call(*fields):
        return function(*group(fields))

    return call
