"""Checks keyword arguments that the families share, and converts them to arguments of operators."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import checks, gauss
from bfn_kernels import noise as random
from bfn_kernels.arguments import rows
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.libraries import Library
from bfn_kernels.records import NO_DRAWS, BinCost, Bins, Draws, LossTarget, Network
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule

MAX_NODES = 128
MAX_SAMPLES = 2**31 - 1  # the CUDA kernels count draws in 32-bit integers
ExplicitNoise = tuple[str, Tensor | None, Sequence[int]]  # a keyword, its value, and the shape that it must have

PARAMETRISATIONS = ("noise", "data")

Seed = int | Tensor | None
Generator = torch.Generator | None
Clip = tuple[float, float] | None  # the range of continuous data, None for the whole real line


class Limits(NamedTuple):
    """The limits of a network's output. The defaults are the limits of the published code.

    A prediction has a gradient where it lies within the limits, ends included. An op raises ValueError if a limit is
    not in its range below.

    Attributes:
        std: The smallest and the largest standard deviation of an output distribution. Each must lie in [1e-6, 1e6].
        log_std: The predicted ln std is clamped to [-log_std, log_std]. Then the standard deviation is clamped to
            `std`. log_std must lie in [0, 80].
        t_min: At times before t_min, a noise prediction is ignored: x̂ is 0, and the output distribution of discretised
            data is N(0, 1). t_min must lie in [1e-30, 1].

    Example:
        >>> Limits(std=(1e-5, 10.0), log_std=12.0)
        Limits(std=(1e-05, 10.0), log_std=12.0, t_min=1e-06)
    """

    std: tuple[float, float] = (1e-3, 10.0)
    log_std: float = 10.0
    t_min: float = rows.T_MIN


Limits.__module__ = __package__.partition(".")[0]  # where it is public, so that pickles name a public module
PUBLISHED = Limits()
# The ranges of the limits. Beyond them float32 overflows or has no digits left.
STD_RANGE, LOG_STD_MAX, T_MIN_LEAST = (1e-6, 1e6), 80.0, 1e-30


def checked_limits(limits: Limits) -> Limits:
    """Checks the limits, and returns them as Python floats."""
    if limits == PUBLISHED:
        return PUBLISHED
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be bfn_kernels.Limits, got {type(limits).__name__}")
    if not isinstance(limits.std, (tuple, list)) or len(limits.std) != 2:
        raise ValueError(f"limits.std must be a pair (low, high), got {limits.std!r}")
    low, high = (checks.number("limits.std", value, *STD_RANGE) for value in limits.std)
    if low > high:
        raise ValueError(f"limits.std must be a pair (low, high) with low <= high, got {limits.std!r}")
    log_std = checks.number("limits.log_std", limits.log_std, 0.0, LOG_STD_MAX)
    return Limits((low, high), log_std, checks.number("limits.t_min", limits.t_min, T_MIN_LEAST, 1.0))


def checked_bins(num_bins: int, limits: Limits, clip: bool = True) -> Bins:
    """Checks the keywords, and returns them as operators take them."""
    (low, high), log_std, _ = checked_limits(limits)
    return Bins(checks.integer("num_bins", num_bins, 2), checks.boolean("clip", clip), low, high, log_std)


def bin_loss(
    library: Library,
    x: Tensor,
    normal: tuple[Tensor, Tensor, Tensor | None],
    num_bins: int,
    clip: bool,
    target: LossTarget,
) -> Tensor:
    """−ln p of the bin that x lies in. normal: the mean, the std and the mixture logits of the output distribution."""
    bins = Bins(num_bins, clip, *STD_RANGE, LOG_STD_MAX)
    return library.discretised.loss(x, Network(*normal), BinCost(direct=True), NO_DRAWS, bins, target)


def loss_target(
    x: Tensor, mask: Tensor | None, reduction: str, shape: Sequence[int] | None = None, name: str = "x"
) -> LossTarget:
    """Checks the keywords of a loss of x. shape: the shape of the variables, by default the shape of x. name: the name
    of x in errors."""
    if mask is not None:
        mask = checks.mask("mask", mask, name, x, x.shape if shape is None else shape)
    return LossTarget(mask, checks.choice("reduction", reduction, checks.REDUCTIONS))


def noise_seed(
    like: Tensor, seed: Seed, generator: Generator, *noises: ExplicitNoise, name: str = "seed"
) -> Tensor | None:
    """The seed as a tensor, from `seed=`, `generator=` or torch's default generator. None if the call draws no noise.

    noises: what the call may draw. If the explicit noise of each is a tensor, the call draws no noise. name: the name
    of the seed in errors.
    """
    explicit = []
    for given, noise, shape in noises:
        if noise is not None:
            checks.like(given, noise, "the data", like, shape)
            checks.no_gradient("none is defined for noise", **{given: noise})
            explicit.append(given)
    if len(explicit) < len(noises):
        return random.as_seed(seed, like, generator, name)
    for given, value in ((name, seed), ("generator", generator)):
        if value is not None:
            raise ValueError(f"{given} must be None where {' and '.join(explicit)} is given, got {value!r}")
    return None


def choice_noises(
    choose: str, draw_noise: Tensor | None, shape: Sequence[int], *others: ExplicitNoise
) -> list[ExplicitNoise]:
    """The noises that draw the sample that a step sends: draw_noise and `others`. An empty list if it sends no sample;
    explicit noise is then an error."""
    noises: list[ExplicitNoise] = [("draw_noise", draw_noise, shape), *others]
    if choose == "sample":
        return noises
    for name, noise, _ in noises:
        if noise is not None:
            raise ValueError(f'{name} must be None with choose="{choose}", which draws nothing')
    return []


def step_seed(
    state: Tensor,
    std: Tensor | None,
    seed: Seed,
    generator: Generator,
    noise: Tensor | None,
    *draws: ExplicitNoise,
    shape: Sequence[int] | None = None,
) -> Tensor | None:
    """The seed of a solver's step, as `noise_seed` returns it. None if the step has no noise and draws no sample; the
    arguments seed and generator are then ignored. shape: the shape of the noise, if it is not the shape of the
    state."""
    if std is None and noise is not None:
        raise ValueError("noise must be None for a step without noise")
    noises = [*([] if std is None else [("noise", noise, state.shape if shape is None else shape)]), *draws]
    return noise_seed(state, seed, generator, *noises) if noises else None


def expectation(
    like: Tensor, quadrature: int | None, n_samples: int | None, seed: Seed, generator: Generator, noise: Tensor | None
) -> Draws:
    """Checks the keywords of an expectation, and returns them as operators take them. Exactly one of `quadrature` and
    `n_samples` must be a number. Explicit noise has the shape `[n_samples, *like.shape]`."""
    if (quadrature is None) == (n_samples is None):
        raise ValueError(f"exactly one of quadrature and n_samples must be given, got {quadrature=} and {n_samples=}")
    if quadrature is not None:
        quadrature = checks.integer("quadrature", quadrature, 1)
        if quadrature > MAX_NODES:
            raise ValueError(f"quadrature must be at most {MAX_NODES}, got {quadrature}")
        if not (noise is seed is generator is None):
            raise ValueError("generator, seed and noise must be None with quadrature, which draws nothing")
        nodes, weights = gauss.hermite(quadrature)
        return NO_DRAWS._replace(nodes=nodes, node_weights=weights)
    n_samples = checks.integer("n_samples", n_samples, 1, MAX_SAMPLES)
    seed = noise_seed(like, seed, generator, ("noise", noise, (n_samples, *like.shape)))
    return NO_DRAWS._replace(n_samples=n_samples, seed=seed, noise=noise)


def known_values(
    known: Tensor | None,
    known_mask: Tensor | None,
    like: Tensor,
    shape: Sequence[int],
    known_shape: Sequence[int] | None = None,
) -> Tensor | None:
    """Checks `known=` and `known_mask=`, which must be passed together. Returns the mask with as many dimensions as
    `shape`, the shape of the variables, or None. known_shape: the shape of `known`, by default `shape`."""
    if (known is None) != (known_mask is None):
        raise ValueError("known and known_mask must be given together")
    if known is None:
        return None
    checks.data("known", known, checks.KNOWN)
    known_shape = tuple(shape if known_shape is None else known_shape)
    if tuple(known.shape) != known_shape:
        raise ValueError(f"known must have shape {known_shape}, got {tuple(known.shape)}")
    checks.same_device("known", known, "the data", like)
    checks.no_gradient("none is defined for it", known=known)
    return checks.mask("known_mask", known_mask, "the data", like, shape)


def known_of_flow(
    x: Tensor,
    scalars: Sequence[Tensor],
    certain: Sequence[float],
    known: Tensor | None,
    known_mask: Tensor | None,
    mask: Tensor | None,
    shape: Sequence[int],
    classes: bool = False,
) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
    """The data and the row scalars of a flow, and where data are known. They are known where known_mask is True, unless
    the checked `mask` is False. There the data are `known`, and the row scalars are the numbers `certain`. shape: the
    shape of the variables. classes: whether the data are classes or distributions over them."""
    on = known_values(known, known_mask, x, shape, x.shape)
    on = on if mask is None else on & mask
    if classes and known.is_floating_point() != x.is_floating_point():
        raise TypeError(f"known must be soft data or classes, as x of {x.dtype} is, got {known.dtype}")
    x = torch.where(on if x.dim() == len(shape) else on.unsqueeze(-1), known.to(x.dtype), x)
    return x, [torch.where(on, value, scalar) for value, scalar in zip(certain, scalars, strict=True)], on


def read_mean(
    x: Tensor, mean: Tensor | None, parametrisation: str, name: str = "x", shape: Sequence[int] | None = None
) -> Tensor | None:
    """The mean that an op of continuous or discretised data reads, or None if the network predicts the data itself.

    shape: the shape that the mean must have, by default the shape of x. name: the name of x in errors.
    """
    checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
    if mean is not None:
        checks.like("mean", mean, name, x, shape)
    elif parametrisation == "noise":
        raise ValueError('mean must be given with parametrisation="noise", got None')
    return None if parametrisation == "data" else mean


def guided_prediction(
    prediction: Tensor,
    unconditional: Tensor | None,
    guidance: PerRow | None,
    name: str,
    mean: Tensor,
    *others: Tensor | None,
) -> Tensor:
    """(1 + w)·prediction − w·unconditional, in the type of the arithmetic; the prediction itself without guidance.

    name: the name of the prediction in errors. mean: the mean that the network saw, which says the shape of rows.
    others: the other arguments whose types decide the type of the arithmetic.
    """
    if (unconditional is None) != (guidance is None):
        raise ValueError("unconditional and guidance must be given together")
    if unconditional is None or guidance is None:
        return prediction
    checks.like("unconditional", unconditional, name, prediction)
    dtype = checks.compute_dtype(prediction, unconditional, mean, *others)
    weight = checks.rows("guidance", guidance, mean.shape, mean).to(dtype).to(mean.device)
    weight = weight.view(*weight.shape, *(1,) * (prediction.dim() - mean.dim()))
    value = prediction.to(dtype)
    return value + weight * (value - unconditional.to(dtype))


def prediction_scalars(
    library: Library,
    parametrisation: str,
    t: PerRow,
    x: Tensor,
    dtype: torch.dtype,
    sigma_1: float | None,
    schedule: ContinuousSchedule | None,
    limits: Limits,
    wanted: tuple[str, ...] = (),
    **numbers,
) -> Any:
    """mean_scale and noise_scale, both None if the network predicts the data itself, then the wanted row scalars."""
    t_min, schedule = checked_limits(limits).t_min, continuous_schedule(sigma_1, schedule)
    if parametrisation == "data":
        return None, None, *rows.scalars(library, wanted, t, x, dtype, schedule, **numbers)
    return rows.scalars(library, (*rows.FLOW, *wanted), t, x, dtype, schedule, t_min=t_min, **numbers)


def step_time(
    t: PerRow | None, step: int | Tensor | None, n_steps: int, x: Tensor, most: float = 2**63 - 1
) -> tuple[PerRow, int]:
    """Returns the time and n. The time is t or, if step i is passed instead, (i − 1)/n in float64, at which step i
    starts. x: the data, `[B, ...]`. most: the largest n that the loss takes."""
    n_steps = checks.integer("n_steps", n_steps, 1, most)
    if (t is None) == (step is None):
        raise ValueError(f"exactly one of t and step must be given, got {t=} and {step=}")
    if t is not None:
        return t, n_steps
    step = checked_step(step, n_steps, x)
    return ((step.to(checks.widest(step.device)) if isinstance(step, Tensor) else step) - 1) / n_steps, n_steps


def checked_step(step: Any, last: int, x: Tensor) -> int | Tensor:
    """An int in [1, last], or a tensor of such integers for the rows of x, whose range is checked where they can be
    read at no cost."""
    if not isinstance(step, Tensor):
        step = checks.integer("step", step, 1)
        if step > last:
            raise ValueError(f"step must lie in [1, {last}], got {step}")
        return step
    checks.dense("step", step)
    if step.dtype not in checks.INTEGERS:
        raise TypeError(f"step must be an int or an integer tensor, got {step.dtype}")
    checks.same_device("step", step, "the data", x)
    checks.leading("step", step, x.shape)
    if step.numel() and checks.shows(step):
        least, most = (v.item() for v in step.aminmax())
        if least < 1 or most > last:
            raise ValueError(f"step must lie in [1, {last}], got values from {least} to {most}")
    return step


def updated_precision(precision: PerRow, alpha: PerRow, model: Tensor) -> PerRow:
    """ρ + α. It is a number if both are numbers. Otherwise it is a tensor with a number for each row: float64 if ρ is a
    float64 tensor, else float32."""
    terms: dict[str, Any] = {"precision": precision, "alpha": alpha}
    tensors = [value for value in terms.values() if isinstance(value, Tensor)]
    if not tensors:
        return float(checks.finite(precision)) + float(checks.finite(alpha))
    rho, sent = (checks.once(name, v, model.shape) if isinstance(v, Tensor) else v for name, v in terms.items())
    alike = len(tensors) == 2 and (rho.shape, rho.dtype) == (sent.shape, sent.dtype) and rho.dtype in checks.ROW_TYPES
    if alike or (type(sent) is float and 0 <= sent < math.inf and rho.dtype == torch.float64):
        total = rho + sent
    else:
        total = checks.rows("precision", rho, model.shape, model, 0) + checks.rows("alpha", sent, model.shape, model, 0)
        dtype = torch.promote_types(precision.dtype, torch.float32) if isinstance(precision, Tensor) else torch.float32
        total = total.reshape(total.shape[: max(v.dim() for v in tensors)]).to(dtype).to(model.device)
    if rho is precision and sent is alpha:
        return total
    leads = (checks.leading("rows", v, model.shape) for v in tensors)
    shape = torch.broadcast_shapes(*leads)[: total.dim()]
    return total.expand(*shape, *(1,) * (total.dim() - len(shape)))
