"""The solver step of discretised data, a public function of `bfn_kernels.discretised`."""

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.call import checks
from bfn_kernels.call.keywords import (
    PUBLISHED,
    Limits,
    checked_bins,
    choice_noises,
    known_values,
    prediction_scalars,
    step_seed,
)
from bfn_kernels.call.outputs import check_step_tensors, writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.discretised.arguments import check_output, component_noises
from bfn_kernels.records import CHOICES, Network, Noise, Sent
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients


@writes("mean")
def solver_step(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor,
    t: Rows,
    t_next: Rows | None = None,
    *,
    num_bins: int,
    rule: str = "ode1",
    t_previous: Rows | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    mixture_logits: Tensor | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    choose: str = "mean",
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    component_noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A sampler's step from time t to t_next: μ' = A·μ + take·(x̂ + r·(x̂ − x̂_prev)) + E·ξ, by the coefficients of a
    rule of `bfn_kernels.solvers` [derived], where x̂ is chosen of the output distribution at time t: its "mean", as
    solvers take it, a "sample" or its "mode".

    pred_mean, pred_log_std, mixture_logits and mean: as in `update_sample`. draw_noise and component_noise: of a
    sample. Everything else, and the result, as in `continuous.solver_step`.

    >>> m = torch.zeros(1, 1)
    >>> solver_step(m + 0.4, m - 9, m, 0.5, 1.0, rule="sde1", sigma_1=0.1, num_bins=2, noise=m, parametrisation="data")
    tensor([[0.4500]])
    """
    checks.data("mean", mean)
    choice = checks.choice("choose", choose, CHOICES)
    schedule = continuous_schedule(sigma_1, schedule)
    bins = checked_bins(num_bins, limits)
    check_output(mean, "mean", (pred_mean, pred_log_std, mixture_logits, mean), parametrisation)
    known_mask = known_values(known, known_mask, mean, mean.shape)
    output = {"pred_mean": pred_mean, "pred_log_std": pred_log_std, "mixture_logits": mixture_logits}
    inputs = {"known": known, "known_mask": known_mask, "noise": noise, "draw_noise": draw_noise}
    times = {"t": t, "t_next": t_next, "t_previous": t_previous, "component_noise": component_noise}
    check_step_tensors(mean, "mean", previous, **output, **inputs, **times)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(*output.values(), mean, previous)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, schedule, limits)
    solver = solvers.step_scalars(coefficients, rule, schedule, (t, t_next, t_previous), previous, mean, dtype)
    draws = component_noises(mixture_logits, component_noise, mean.shape)
    draws = choice_noises(choose, draw_noise, mean.shape, *draws)
    drawn = Noise(step_seed(mean, solver.std, seed, generator, noise, *draws), noise)
    network = Network(pred_mean, pred_log_std, mixture_logits, mean, *scales)
    sent = Sent(choice, known, known_mask, draw_noise)
    return library.discretised.step(*network, *solver, *bins, *sent, component_noise, *drawn, out, predicted_out)
