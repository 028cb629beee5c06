"""Accuracy schedules: the accuracy of the messages over time. Their numbers are computed in float64.

A schedule of continuous and discretised data has the methods `gamma`, `alpha` and `rate`; one of discrete data has
`beta`, `alpha` and `rate`. Any object with these methods can be passed as `schedule=`: a new schedule needs no new
kernel. The methods of the schedules in this file also take plain numbers, and then return plain numbers, or
a tensor if β₁ is a tensor.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.von_mises import VonMisesAccuracy as VonMisesAccuracy


def takes_numbers(method: Callable[..., Any]) -> Callable[..., Any]:
    """Extends a method that takes a float64 tensor, so that it also takes a number and then returns floats."""

    @functools.wraps(method)
    def either(self, value, *more):
        if isinstance(value, Tensor):
            return method(self, value, *more)
        answer = method(self, torch.tensor(value, dtype=torch.float64, device="cpu"), *more)
        return tuple(map(float, answer)) if isinstance(answer, tuple) else float(answer)

    return either


class ContinuousSchedule(Protocol):
    """The three methods that a schedule of continuous or discretised data must have.

    They work elementwise on float64 tensors, which they must not change.
    """

    def gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns γ(t) and 1 − γ(t), each float64 of t's shape.

        Both are returned, since 1 − γ computed from γ would lose its digits near t = 1, as γ would near t = 0.

        Args:
            t: Times in [0, 1]: a float64 tensor of any shape.
        """

    def alpha(self, i: Tensor, n: int) -> Tensor:
        """Returns α_i, the accuracy of the i-th of n messages, float64 of i's shape.

        In `samplers`, the precision is 1 before the first message, so α_i must be 1/(1 − γ(i/n)) − 1/(1 − γ((i−1)/n)).

        Args:
            i: Which of the messages, from 1 to n: a float64 tensor of any shape.
            n: The number of messages, an int.
        """

    def rate(self, t: Tensor) -> Tensor:
        """Returns the accuracy per unit of time, α(t) = dρ/dt, float64 of t's shape. The weight of L∞ is half of this
        rate.

        Args:
            t: Times in [0, 1]: a float64 tensor of any shape.
        """


class DiscreteSchedule(Protocol):
    """The three methods that a schedule of discrete data must have.

    They work elementwise on float64 tensors, which they must not change.
    """

    def beta(self, t: Tensor) -> Tensor:
        """Returns β(t), the accuracy that is received up to time t, float64 of t's shape.

        Args:
            t: Times in [0, 1]: a float64 tensor of any shape.
        """

    def alpha(self, i: Tensor, n: int) -> Tensor:
        """Returns the accuracy of the i-th of n messages, β(i/n) − β((i−1)/n), float64 of i's shape.

        Args:
            i: Which of the messages, from 1 to n: a float64 tensor of any shape.
            n: The number of messages, an int.
        """

    def rate(self, t: Tensor) -> Tensor:
        """Returns the accuracy per unit of time, β'(t), float64 of t's shape. The weight of L∞ is K/2 times this rate.

        Args:
            t: Times in [0, 1]: a float64 tensor of any shape.
        """


@dataclass(frozen=True)
class ExponentialVariance:
    """The paper's schedule of continuous data: the input distribution's variance falls as σ₁^{2t}.

    Attributes:
        sigma_1: Standard deviation at t = 1, in (0, 1): a number, or a floating-point tensor of one number.

    Raises:
        ValueError: If sigma_1 is not in (0, 1).

    Example:
        >>> [round(g, 4) for g in ExponentialVariance(0.1).gamma(0.5)]
        [0.9, 0.1]
    """

    sigma_1: float

    def __post_init__(self):
        if type(self.sigma_1) is not float:
            object.__setattr__(self, "sigma_1", _number("sigma_1", self.sigma_1))
        if not 0 < self.sigma_1 < 1:
            raise ValueError(f"sigma_1 must lie in (0, 1), got {self.sigma_1}")

    @takes_numbers
    def gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns γ = 1 − σ₁^{2t} (80) and 1 − γ.

        Args:
            t: Times in [0, 1]: a number, or a float64 tensor of any shape.
        """
        log_variance = 2 * math.log(self.sigma_1) * t
        return -log_variance.expm1(), log_variance.exp()

    @takes_numbers
    def alpha(self, i: Tensor, n: int) -> Tensor:
        """Returns α_i = σ₁^{−2i/n}(1 − σ₁^{2/n}) (95).

        Args:
            i: Which of the messages, from 1 to n: a number, or a float64 tensor of any shape.
            n: The number of messages, an int.
        """
        step = 2 * math.log(self.sigma_1) / n
        return -math.expm1(step) * (-step * i).exp()

    @takes_numbers
    def rate(self, t: Tensor) -> Tensor:
        """Returns −2 ln σ₁·σ₁^{−2t}, twice the weight of (101).

        Args:
            t: Times in [0, 1]: a number, or a float64 tensor of any shape.
        """
        log_variance = 2 * math.log(self.sigma_1)
        return -log_variance * (-log_variance * t).exp()


@dataclass(frozen=True)
class QuadraticAccuracy:
    """The paper's schedule of discrete data: β(t) = β₁t² (182).

    Attributes:
        beta_1: Accuracy at t = 1, positive and finite: a number, or a floating-point tensor of one number.

    Raises:
        ValueError: If beta_1 is not positive and finite.

    Example:
        >>> QuadraticAccuracy(3.0).beta(0.5)
        0.75
    """

    beta_1: float

    def __post_init__(self):
        _check_positive(self)

    def beta(self, t: Tensor) -> Tensor:
        """Returns β(t) = β₁t² (182).

        Args:
            t: Times in [0, 1]: a number, or a float64 tensor of any shape.
        """
        return self.beta_1 * t * t

    def alpha(self, i: Tensor, n: int) -> Tensor:
        """Returns α_i = β₁(2i − 1)/n² (193).

        Args:
            i: Which of the messages, from 1 to n: a number, or a float64 tensor of any shape.
            n: The number of messages, an int.
        """
        return self.beta_1 * (2 * i - 1) / n**2

    def rate(self, t: Tensor) -> Tensor:
        """Returns β'(t) = 2β₁t.

        Args:
            t: Times in [0, 1]: a number, or a float64 tensor of any shape.
        """
        return 2 * self.beta_1 * t


@dataclass(frozen=True)
class LogarithmicAccuracy:
    """ChemBFN's schedule of discrete data: β(t) = −(4/K)·ln(1 − t + t·e^{−Kβ₁/4}), which ends at β₁.

    Attributes:
        num_classes: K, at least 2.
        beta_1: Accuracy at t = 1, positive and finite: a number, or a floating-point tensor of one number. ChemBFN
            takes 20.4054/K.

    Raises:
        ValueError: If beta_1 is not positive and finite, or num_classes is below 2.

    Example:
        >>> round(LogarithmicAccuracy(10, 2.04054).beta(1.0), 5)
        2.04054
    """

    num_classes: int
    beta_1: float

    def __post_init__(self):
        checks.integer("num_classes", self.num_classes, 2)
        _check_positive(self)

    @property
    def _end(self) -> float:
        """e^{−Kβ₁/4}, the logarithm's argument at t = 1."""
        return math.exp(-self.num_classes * self.beta_1 / 4)

    @property
    def _slope(self) -> float:
        """1 − e^{−Kβ₁/4}. The logarithm's argument falls by this much per unit of time."""
        return -math.expm1(-self.num_classes * self.beta_1 / 4)

    @takes_numbers
    def beta(self, t: Tensor) -> Tensor:
        """Returns β(t) = −(4/K)·ln(1 − slope·t), slope = 1 − e^{−Kβ₁/4}.

        Where the logarithm's argument may be near 0, it is computed as (1 − t) + t·e^{−Kβ₁/4}.

        Args:
            t: Times in [0, 1]: a number, or a float64 tensor of any shape.
        """
        passed = self._slope * t
        logarithm = torch.where(passed < 0.5, (-passed).log1p(), (1 - t + t * self._end).log())
        return (-4 / self.num_classes * logarithm).clamp(max=float(self.beta_1))

    def alpha(self, i: Tensor, n: int) -> Tensor:
        """Returns α_i = β(i/n) − β((i−1)/n).

        Args:
            i: Which of the messages, from 1 to n: a number, or a float64 tensor of any shape.
            n: The number of messages, an int.
        """
        return self.beta(i / n) - self.beta((i - 1) / n)

    def rate(self, t: Tensor) -> Tensor:
        """Returns β'(t) = (4/K)·slope/(1 − t + t·e^{−Kβ₁/4}), slope = 1 − e^{−Kβ₁/4}.

        Args:
            t: Times in [0, 1]: a number, or a float64 tensor of any shape.
        """
        return 4 / self.num_classes * self._slope / (1 - t + t * self._end)


def final_accuracy(num_classes: int, *, certainty: float = 0.9865, entropy: float | None = None) -> float:
    """Computes β₁ for K classes such that, with a given probability, x is the likeliest class after all messages
    (derived here, not in the paper).

    The flow's logits at t = 1 are β₁(Ke_x − 1) + √(Kβ₁)·ε (185). The logit of x is the largest if ε_x + √s exceeds all
    other ε_k, s = Kβ₁. The probability of this event is E[Φ(ε + √s)^{K−1}]. It depends on K through s and, slowly,
    through the exponent K − 1, so that β₁ falls a little slower than 1/K. For large K, x is likely to be the likeliest
    class if s is above 2 ln K.

    Args:
        num_classes: K, the number of classes, at least 2.
        certainty: The probability, in (1/K, 1). The default is its value for the paper's text8, where β₁ is 0.75 and K
            is 27.
        entropy: Entropy of the classes' frequencies in nats, in (0, ln K]. If it is given, e^entropy replaces K in the
            exponent K − 1 above and in the range (1/K, 1) of certainty.

    Returns:
        β₁, a float.

    Raises:
        ValueError: If an argument is outside of its range.

    Example:
        >>> [round(final_accuracy(k), 5) for k in (27, 8000, 128000)]
        [0.74963, 0.00469, 0.00035]
    """
    num_classes = checks.integer("num_classes", num_classes, 2)
    certainty, others = float(_number("certainty", certainty)), num_classes - 1.0
    if entropy is not None:
        if not 0 < (nats := float(_number("entropy", entropy))) <= math.log(num_classes) * (1 + 1e-9):
            raise ValueError(f"entropy must lie in (0, ln {num_classes}], got {entropy}")
        others = math.expm1(nats)
    if not 1 / (1 + others) < certainty < 1:
        raise ValueError(f"certainty must lie in ({1 / (1 + others):.3g}, 1), got {certainty}")
    own = torch.linspace(-9, 9, 2001, dtype=torch.float64, device="cpu")  # ε_x
    weights = (-0.5 * own**2).softmax(0)
    low, high = 0.0, 30.0  # bounds of √s; at √s = 30 the probability rounds to 1
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        doubt = -torch.expm1(others * torch.special.log_ndtr(own + middle)) @ weights
        low, high = (middle, high) if doubt > 1 - certainty else (low, middle)
    return high**2 / num_classes


def _number(name: str, value: Any) -> float | Tensor:
    """The value as a float. A floating-point tensor of one number stays a tensor, so that an op can refuse one that
    requires a gradient."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point():
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # an int beyond the largest float
        return math.inf


def _check_positive(schedule: Any) -> None:
    """Converts β₁ of a schedule by `_number`, and refuses a β₁ that is not positive and finite."""
    beta_1 = schedule.beta_1
    if type(beta_1) is not float:
        object.__setattr__(schedule, "beta_1", _number("beta_1", beta_1))
    if not 0 < schedule.beta_1 < math.inf:
        raise ValueError(f"beta_1 must be positive and finite, got {beta_1}")


def continuous_schedule(sigma_1: float | None, schedule: ContinuousSchedule | None) -> ContinuousSchedule:
    """The schedule that the keywords `sigma_1=` and `schedule=` of an op describe."""
    if (sigma_1 is None) == (schedule is None):
        raise ValueError(f"exactly one of sigma_1 and schedule must be given, got {sigma_1=} and {schedule=}")
    return _with_methods(("gamma", "alpha", "rate"), schedule) if sigma_1 is None else ExponentialVariance(sigma_1)


def discrete_schedule(beta_1: float | None, schedule: DiscreteSchedule | None) -> DiscreteSchedule:
    """The schedule that the keywords `beta_1=` and `schedule=` of an op describe."""
    if (beta_1 is None) == (schedule is None):
        raise ValueError(f"exactly one of beta_1 and schedule must be given, got {beta_1=} and {schedule=}")
    return _with_methods(("beta", "alpha", "rate"), schedule) if beta_1 is None else QuadraticAccuracy(beta_1)


def _with_methods(methods: tuple[str, ...], schedule: Any) -> Any:
    """Returns the schedule. Raises TypeError if it is not an object with these methods."""
    if isinstance(schedule, type):
        raise TypeError(f"schedule must be an object, got the class {schedule.__name__}")
    missing = [method for method in methods if not callable(getattr(schedule, method, None))]
    if missing:
        raise TypeError(
            f"schedule must have the methods {', '.join(methods)}, got {type(schedule).__name__} without "
            f"{', '.join(missing)}"
        )
    return schedule
