"""The steps of samplers: a step from time s to time t computes a new state from the state and the network's prediction.

The prediction p is x̂ for continuous and discretised data, and probabilities for classes and binary data. The formula
of a step also has the prediction p_prev of the previous step, and a standard normal ξ:

- Continuous and discretised data, state z: z' = A·z + take·(p + r·(p − p_prev)) + E·ξ.
- Classes, state z: z' = A·z + take·(K(p + r·(p − p_prev)) − 1) + E·ξ.
- Binary data, state d: d' = A·d + 2·take·(2(p + r·(p − p_prev)) − 1) + E·ξ. This d is the difference of the z of the
  two classes.

`Coefficients` holds A, take, r and the variance that determines E. A state that is not finite stays not finite, even
if A = 0.

`RULES` has the rules by name:

- "ode1", "ode2", "sde1" and "sde2" are the rules of BFN-Solver (Xue et al. 2024, arXiv 2404.15766), written for any
  schedule. Graves et al. 2023 does not have these formulas. "ode1" and "sde1" are exact if the prediction is constant
  during the step. "ode2" and "sde2" use the line through the last two predictions, in λ = ½ ln(γ/(1 − γ)) for
  continuous data and in u = √β for classes. Their prediction is the average of this line over the step. "sde2" for
  classes weights this average by the accuracy that arrives.
- "ode_euler" and "sde_euler" use the slope at s for the whole step, in −ln(1 − γ) for continuous data and in u for
  classes. In the paper's schedules, these two variables are proportional to t.
- "renoise" draws the new state from the flow of the prediction.
- "ancestral" is "sde1" where the prediction is a sample of the output distribution, unless `choose=` of
  `solver_step` says otherwise.

A sampling run starts at time 0 with the state 0 if the rule is stochastic. Otherwise it starts at a later time t₀. Its
state is then drawn from a normal with mean 0 and the variance that `start_variance` describes. For each step from s to
t, the run calls the network at time s, and then `solver_step` with t=s and t_next=t. A last call of the network at time
1 gives the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import checks


class Coefficients(NamedTuple):
    """The numbers of a step: floats, or tensors with a number for each row. They have no gradient.

    Attributes:
        keep: A, the factor of the state. None: 1.
        take: The factor `take` of the formulas above. For classes and binary data, "ancestral", "sde1", "sde2" and
            "sde_euler" send the prediction with this accuracy.
        variance: E² for continuous data, E²/K for classes, E²/4 for binary data; at least 0. None: the step has no
            noise.
        extrapolation: r of a step of second order. None: the step is of first order.

    Example:
        >>> Coefficients(keep=0.0, take=0.9)
        Coefficients(keep=0.0, take=0.9, variance=None, extrapolation=None)
    """

    keep: float | Tensor | None
    take: float | Tensor
    variance: float | Tensor | None = None
    extrapolation: float | Tensor | None = None

    def each(self, of: Callable[[Any], Any]) -> "Coefficients":
        """Applies a function to each number.

        Args:
            of: A function of a float or a tensor. It is not called for None.

        Returns:
            The coefficients with the function's results; None stays None.
        """
        made: list[Any] = [number if number is None else of(number) for number in self]
        return Coefficients(*made)


class Mean(NamedTuple):
    """The flow of continuous data at a time: γ and 1 − γ, float64."""

    gamma: Tensor
    rest: Tensor

    @property
    def std(self) -> Tensor:
        """σ = √(γ(1 − γ)) (77)."""
        return (self.gamma * self.rest).sqrt()

    @property
    def place(self) -> Tensor:
        """λ = ln(γ/σ)."""
        return (self.gamma / self.rest).log() / 2


class Accuracy(NamedTuple):
    """The flow of classes at a time: β, float64."""

    beta: Tensor

    @property
    def place(self) -> Tensor:
        """u = √β."""
        return self.beta.sqrt()


@dataclass(frozen=True)
class Rule:
    """A kind of step from time s to time t.

    Its functions take flows. A flow is the state of a schedule at one time: γ and 1 − γ, or β.

    Attributes:
        continuous: Takes the flows at s and t. Makes the coefficients for continuous data.
        classes: Takes the flows at s and t. Makes the coefficients for classes.
        ahead: Takes the flows at the start of the previous step, at s and at t. Makes r for continuous data. None: the
            rule is of first order.
        classes_ahead: Takes the same three flows. Makes r for classes. None: the rule is of first order.
        from_prior: Whether a step may start at time s = 0.

    Example:
        >>> RULES["ode2"].order, RULES["ode2"].from_prior
        (2, False)
    """

    continuous: Callable[[Mean, Mean], Coefficients]
    classes: Callable[[Accuracy, Accuracy], Coefficients]
    ahead: Callable[[Mean, Mean, Mean], Tensor] | None = None
    classes_ahead: Callable[[Accuracy, Accuracy, Accuracy], Tensor] | None = None
    from_prior: bool = True

    @property
    def order(self) -> int:
        """1 or 2: how many predictions a step uses."""
        return 1 if self.ahead is None else 2


# For each rule, two functions that make the coefficients of a step: for continuous data, and for classes. Their
# arguments are the flows at the start s and the end t of the step.
_FORMULAS: dict[str, tuple[Callable[[Any, Any], Coefficients], Callable[[Any, Any], Coefficients]]] = {
    # μ_t = (σ_t/σ_s)μ_s + γ_t(1 − e^(λ_s − λ_t))x̂ and z_t = (u_t/u_s)z_s + u_t(u_t − u_s)(Kp − 1)
    "ode": (
        lambda s, t: Coefficients(t.std / s.std, -t.gamma * (s.place - t.place).expm1()),
        lambda s, t: Coefficients(t.place / s.place, t.place * (t.place - s.place)),
    ),
    # The update by a message: μ_t = k·μ_s + (1 − k)x̂ + √((1 − γ_t)(1 − k))·ξ, k = (1 − γ_t)/(1 − γ_s) (49, 50), and
    # z_t = z_s + (β_t − β_s)(Kp − 1) + √(K(β_t − β_s))·ξ (171, 185)
    "sde": (
        lambda s, t: Coefficients(k := t.rest / s.rest, 1 - k, t.rest * (1 - k)),
        lambda s, t: Coefficients(None, t.beta - s.beta, t.beta - s.beta),
    ),
    # A new draw of the flow: μ_t ~ N(γ_t·x̂, σ_t²) (77) and z_t ~ N(β_t(Kp − 1), Kβ_t) (185)
    "renoise": (
        lambda s, t: Coefficients(torch.zeros_like(t.gamma), t.gamma, t.gamma * t.rest),
        lambda s, t: Coefficients(torch.zeros_like(t.beta), t.beta, t.beta),
    ),
    # μ_t = μ_s + h(x̂/2 + μ_s/(2γ_s) − μ_s), h = ln((1 − γ_s)/(1 − γ_t)), and
    # z_t = z_s + (u_t − u_s)(z_s/u_s + u_s(Kp − 1))
    "ode_euler": (
        lambda s, t: Coefficients(1 - (h := (s.rest / t.rest).log()) + h / (2 * s.gamma), h / 2),
        lambda s, t: Coefficients(t.place / s.place, s.place * (t.place - s.place)),
    ),
    # μ_t = μ_s + h(x̂ − μ_s) + √(h(1 − γ_s))·ξ, with the same h, and
    # z_t = z_s + α(Kp − 1) + √(Kα)·ξ, α = 2u_s(u_t − u_s)
    "sde_euler": (
        lambda s, t: Coefficients(1 - (h := (s.rest / t.rest).log()), h, h * s.rest),
        lambda s, t: Coefficients(None, alpha := 2 * s.place * (t.place - s.place), alpha),
    ),
}


def _half_a_step(r: Any, s: Any, t: Any) -> Tensor:
    """The extrapolation: half the length of the step divided by the length of the step before, in λ or u. The argument
    r is the flow at the start of the step before."""
    return (t.place - s.place) / (2 * (s.place - r.place))


def _by_messages(r: Accuracy, s: Accuracy, t: Accuracy) -> Tensor:
    """`_half_a_step` with the mean of u − u_s over the step instead of half the step's length. The mean is weighted by
    the accuracy dβ = 2u·du of the messages: ∫2u(u − u_s)du/((β_t − β_s)(u_s − u_r)), for u from u_s to u_t."""
    u_r, u_s, u_t = r.place, s.place, t.place
    return (u_t - u_s) * (2 * u_t + u_s) / (3 * (u_t + u_s) * (u_s - u_r))


RULES: dict[str, Rule] = {
    "ancestral": Rule(*_FORMULAS["sde"]),
    "ode1": Rule(*_FORMULAS["ode"], from_prior=False),
    "ode2": Rule(*_FORMULAS["ode"], _half_a_step, _half_a_step, from_prior=False),
    "sde1": Rule(*_FORMULAS["sde"]),
    "sde2": Rule(*_FORMULAS["sde"], _half_a_step, _by_messages),
    "renoise": Rule(*_FORMULAS["renoise"]),
    "ode_euler": Rule(*_FORMULAS["ode_euler"], from_prior=False),
    "sde_euler": Rule(*_FORMULAS["sde_euler"]),
}


def rule_of(name: str) -> Rule:
    """The rule of a name in RULES."""
    checks.choice("rule", name, list(RULES))
    return RULES[name]


def flow_at(schedule: Any, t: float | Tensor) -> Mean | Accuracy:
    """The flow at times in [0, 1], in float64: a `Mean` for a schedule with the method `gamma`, and an `Accuracy` for a
    schedule with `beta`."""
    if not isinstance(t, Tensor):
        t = torch.tensor(t, dtype=torch.float64, device="cpu")
    t = t.to(checks.wide_device(t.device)).double()
    has_gamma, has_beta = (callable(getattr(schedule, name, None)) for name in ("gamma", "beta"))
    if has_gamma == has_beta:
        raise ValueError(f"schedule must have one of the methods gamma and beta, and {schedule!r} has both or none")
    return Mean(*schedule.gamma(t)) if has_gamma else Accuracy(schedule.beta(t))


def coefficients(
    rule: str, schedule: Any, t: float | Tensor, t_next: float | Tensor, t_previous: float | Tensor | None = None
) -> Coefficients:
    """The numbers of a step from t to t_next.

    "ode1" and "ode2" follow the flow's ordinary differential equation and start above t = 0. "sde1" and "sde2" send a
    message at each step, as "ancestral" does. "renoise" draws a new state from the flow of the prediction. "ode_euler"
    and "sde_euler" are Euler's forms of "ode1" and "sde1".

    Args:
        rule: A name of `solvers.RULES`.
        schedule: An object with the methods of `schedules.ContinuousSchedule` or of `schedules.DiscreteSchedule`. With
            the rule "renoise", it may be a `schedules.VonMisesAccuracy`, too.
        t: Times in [0, 1]: a number, or a floating-point tensor of any shape.
        t_next: Times at which the step ends, in a shape that t may have, from t to 1.
        t_previous: Times at which the step before started, in a shape that t may have, before t, for a rule of second
            order. None: the step is of first order.

    Returns:
        The coefficients, each None or a float64 tensor of the times' shape.

    Raises:
        ValueError: If there is no such rule, or t_previous is passed for a rule of first order. If t is 0, on the CPU,
            and the rule cannot start there.

    Example:
        >>> from bfn_kernels.schedules import ExponentialVariance
        >>> [round(float(number), 4) for number in coefficients("sde1", ExponentialVariance(0.1), 0.0, 0.5)[:3]]
        [0.1, 0.9, 0.09]
    """
    step = rule_of(rule)
    if step.order == 1 and t_previous is not None:
        raise ValueError(f"t_previous must be None with rule={rule!r}, which is of first order, got {t_previous}")
    own, has_flow = getattr(schedule, "coefficients", None), hasattr(schedule, "gamma") or hasattr(schedule, "beta")
    if callable(own) and not has_flow:  # a schedule of angles
        return own(rule, t_next)
    if not step.from_prior and _any_is_zero(t):  # the coefficients would be infinite, and the states NaN
        raise ValueError(f"t must be above 0 with rule={rule!r}, which cannot start at the prior, got {t}")
    start, end = flow_at(schedule, t), flow_at(schedule, t_next)
    continuous = isinstance(start, Mean)
    first_order: Coefficients = (step.continuous if continuous else step.classes)(start, end)  # type: ignore[arg-type]
    if t_previous is None:
        return first_order
    ahead: Any = step.ahead if continuous else step.classes_ahead
    return first_order._replace(extrapolation=ahead(flow_at(schedule, t_previous), start, end))


def run_table(rule: str, schedule: Any, times: Tensor, variance_scale: float | None = None) -> Coefficients:
    """The coefficients of the steps between these times. variance_scale: the factor of the variances."""
    table = coefficients(rule, schedule, times[:-1], times[1:])
    if variance_scale is not None:
        if table.variance is None:
            kind = type(schedule).__name__
            raise ValueError(
                f"variance_scale must be None for steps without a variance, as {rule!r} has with {kind}, "
                f"got {variance_scale}"
            )
        table = table._replace(variance=variance_scale * torch.as_tensor(table.variance, device="cpu"))
    if RULES[rule].order == 1:
        return table
    after_first = coefficients(rule, schedule, times[1:-1], times[2:], times[:-2]).extrapolation
    return table._replace(extrapolation=torch.cat([times.new_zeros(1), torch.as_tensor(after_first, device="cpu")]))


def _any_is_zero(t: float | Tensor) -> bool:
    """Whether any time is 0. Returns False for times that cannot be read at no cost."""
    times = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device="cpu")
    return checks.shows(times) and bool((times == 0).any())


def start_variance(schedule: Any, t: float | Tensor) -> Tensor:
    """The variance of the state that a run starts from at time t: γ(1 − γ), or β.

    Args:
        schedule: An object with the methods of `schedules.ContinuousSchedule` or of `schedules.DiscreteSchedule`.
        t: Times in [0, 1]: a number, or a floating-point tensor of any shape.

    Returns:
        The variance, a float64 tensor of t's shape. For a schedule of classes it is β: multiply it by K, or by 4 for
        binary data.

    Example:
        >>> from bfn_kernels.schedules import QuadraticAccuracy
        >>> start_variance(QuadraticAccuracy(3.0), 0.1)
        tensor(0.0300, dtype=torch.float64)
    """
    flow = flow_at(schedule, t)
    return flow.gamma * flow.rest if isinstance(flow, Mean) else flow.beta
