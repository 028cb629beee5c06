"""Adapts the lengths of steps to their error. This is for "ode2", whose error can be estimated without a call of the
network."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.solvers import Coefficients

SHORTEST = 1e-7
MAX_CALLS = 1000


class TooManyCalls(RuntimeError):
    """A run needs more than max_calls calls of the network.

    Example:
        >>> try:
        ...     Steps(start=0.1, tolerance=0.01, max_calls=2).judge(0.0)
        ... except TooManyCalls:
        ...     print("the end needs more calls")
        the end needs more calls
    """


@dataclass
class Steps:
    """Chooses the times of a sampling run such that the error of each step is about the tolerance.

    The results of a step of second order and of a step of first order differ by scale·take·r·(p − p_prev), where the
    scale is K for classes, 4 for binary data and 1 otherwise. This difference estimates the error of the step of first
    order. It needs only predictions that the run already has. So neither the estimate nor another try of a step calls
    the network. A run calls the network once for each accepted step, and once at its end.

    Attributes:
        start: The first time.
        tolerance: The allowed error of a step, in units of the state, positive. The error is the root of its mean
            square in the example where this root is largest.
        end: The last time, after start.
        first: The length of the first step, positive. No error is known for it, since it has no previous prediction.
        max_calls: The largest number of calls of the network, at least 1.
        t: The time at which the next step to try starts.
        t_next: The time at which it ends.
        t_previous: The time at which the step before started, or None for the first step.
        accepted: The number of steps that were accepted.
        tried: The number of steps that were tried.

    Raises:
        ValueError: If end is not after start, or if tolerance or first is not positive.

    Example:
        >>> steps = Steps(start=0.1, tolerance=0.01)
        >>> while steps.t < steps.end:
        ...     _ = steps.judge(2 * (steps.t_next - steps.t) ** 2)
        >>> steps.accepted
        16
    """

    start: float
    tolerance: float
    end: float = 1.0
    first: float = 0.01
    max_calls: int = MAX_CALLS
    t: float = field(init=False)
    t_next: float = field(init=False)
    t_previous: float | None = field(init=False, default=None)
    accepted: int = field(init=False, default=0)
    tried: int = field(init=False, default=0)

    def __post_init__(self):
        if not self.start < self.end:
            raise ValueError(f"start must lie before end, got {self.start} and {self.end}")
        checks.positive("tolerance", self.tolerance)
        checks.positive("first", self.first)
        checks.integer("max_calls", self.max_calls, 1)
        self.t, self.t_next = self.start, min(self.end, self.start + self.first)

    def judge(self, error: float | None) -> bool:
        """Decides whether the step from t to t_next is accepted, and chooses the next step to try.

        If the step is accepted, the next step starts at its end. If not, the next step is a shorter one from the same
        t. Its length follows from the estimated error, which is proportional to the square of the length.

        Args:
            error: The error of the step, as `error_of_step` estimates it. None if it is not known: the step is then
                accepted.

        Returns:
            Whether the step is accepted.

        Raises:
            FloatingPointError: If no step is short enough for the tolerance.
            TooManyCalls: If max_calls calls do not reach the end.
        """
        length = self.t_next - self.t
        accepted = error is None or error <= self.tolerance
        if not accepted and not (math.isfinite(error) and length > SHORTEST):
            raise FloatingPointError(f"at t = {self.t} a step of {length} has the error {error}, and none is shorter")
        self.tried += 1
        fit = 2.0 if error is None or error == 0 else 0.9 * (self.tolerance / error) ** 0.5
        length *= min(2.0, max(0.2, fit))
        if accepted:
            self.t_previous, self.t = self.t, self.t_next
            self.accepted += 1
            if self.accepted + 1 + (self.t < self.end) > self.max_calls:
                raise TooManyCalls(
                    f"max_calls={self.max_calls} calls of the network reach t = {self.t:.6g} of {self.end}; give a "
                    f"larger max_calls, or a tolerance larger than tolerance={self.tolerance}"
                )
        self.t_next = self.end if self.end - self.t < 1.1 * length else self.t + length
        return accepted


def error_of_step(
    of: Coefficients, p: Tensor, previous: Tensor, scale: float = 1, batch: Tensor | None = None
) -> float | None:
    """The difference between a step of second order and the step of first order: scale·take·r·(p − p_prev).

    Args:
        of: The coefficients of the step, floats.
        p: The prediction of the step, `[B, ...]`.
        previous: The prediction of the step before, in p's shape.
        scale: K for classes, 4 for binary data, 1 for others.
        batch: The example of each row of p, int64 `[N]`, in any order. None: each row is an example.

    Returns:
        The root of the mean square of the difference, in the example where this root is largest. None for a step of
        first order.

    Example:
        >>> error_of_step(Coefficients(1.0, 0.5, extrapolation=2.0), torch.ones(2, 3), torch.zeros(2, 3))
        1.0
    """
    if of.extrapolation is None:
        return None
    if p.numel() == 0:
        return 0.0
    square = (p - previous).to(checks.widest(p.device)).square().reshape(len(p), -1).mean(1)
    if batch is not None:
        _, example, sizes = batch.unique(return_inverse=True, return_counts=True)
        square = square.new_zeros(len(sizes)).index_add(0, example, square) / sizes
    return abs(scale * float(of.take) * float(of.extrapolation)) * float(square.max()) ** 0.5
