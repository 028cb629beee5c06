"""Networks that are optimal for data of a known distribution, what the flow that they make leads to, and whole runs."""

import math
from itertools import pairwise

import torch

from bfn_kernels import binary, continuous, discrete
from bfn_kernels.schedules import ExponentialVariance, QuadraticAccuracy

SIGMA_1, BETA_1 = 0.1, 3.0
S, B = {"sigma_1": SIGMA_1}, {"beta_1": BETA_1}
NORMAL, CLASSES = ExponentialVariance(SIGMA_1), QuadraticAccuracy(BETA_1)
M, STD, PRIOR_LOGIT = 0.3, 0.4, 0.6  # data are N(M, STD²), or of two classes with this prior
START = 0.25  # steps from near 0 are long in λ, and show their order only once there are many of them
STARTS = torch.tensor([0.02, 0.2, 0.5, 0.8, 0.97], dtype=torch.float64)


def predict_normal(mean, t):
    """E[x | μ] for x ~ N(M, STD²)."""
    gamma, rest = NORMAL.gamma(t)
    return M + STD**2 / (gamma * STD**2 + rest) * (mean - gamma * M)


def spread_of_normal(t: float) -> float:
    gamma, rest = NORMAL.gamma(t)
    return math.sqrt(gamma**2 * STD**2 + gamma * rest)


def carried_normal(mean, s: float, t: float):
    """Where the flow's differential equation carries a mean: it keeps the quantile."""
    from_centre = mean - NORMAL.gamma(s)[0] * M
    return NORMAL.gamma(t)[0] * M + spread_of_normal(t) / spread_of_normal(s) * from_centre


def cdf_of_state(d, t: float):
    """Of d = y₁ − y₀, a mixture of N(±2β, 4β)."""
    beta, p = CLASSES.beta(t), 1 / (1 + math.exp(-PRIOR_LOGIT))
    cdf = lambda z: torch.special.ndtr(z / (2 * math.sqrt(beta)))  # noqa: E731
    return p * cdf(d - 2 * beta) + (1 - p) * cdf(d + 2 * beta)


def quantiles_of_state(q, t: float):
    low, high = torch.full_like(q, -60.0), torch.full_like(q, 60.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = cdf_of_state(middle, t) < q
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def run(step, state, times, rule, second_order):
    """Steps through the times; the memory of the predictions and of the state is written over, as samplers do."""
    predicted, before = torch.empty_like(state), {}
    state = state.clone()
    for t, t_next in pairwise(times):
        new = step(state, t, t_next, rule=rule, out=state, predicted_out=predicted, **before)
        assert new is state
        before = {"previous": predicted, "t_previous": t} if second_order else {}
    return state


def step_of_normal(mean, t, t_next, backend, **k):
    x_hat = predict_normal(mean, t)
    return continuous.solver_step(x_hat, mean, t, t_next, parametrisation="data", clip=None, backend=backend, **S, **k)


def step_of_bits(d, t, t_next, backend, **k):
    return binary.solver_step(d + PRIOR_LOGIT, d, t, t_next, backend=backend, **B, **k)


def step_of_two_classes(z, t, t_next, backend, **k):
    return discrete.solver_step(z + torch.tensor([0, PRIOR_LOGIT]), z, t, t_next, backend=backend, **B, **k)


def grid(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * i / steps for i in range(steps)] + [end]
