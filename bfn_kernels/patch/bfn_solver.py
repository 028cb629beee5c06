"""Methods of github.com/ML-GSAI/BFN-Solver on the ops: `REPLACED`, which `patch.solver` puts in.

A method of theirs takes a state and the number of a step, calls the network, and returns the next state and the
prediction. Their times run back, from 1 - eta to 0.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import continuous, discrete
from bfn_kernels.call.keywords import T_MIN_LEAST, Limits
from bfn_kernels.solvers import RULES

ANY_TIME = Limits(t_min=T_MIN_LEAST)  # theirs look at what the network says whenever it is


def method(advance: Callable[..., tuple[Tensor, Tensor]], rule: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A method of theirs, whose step is `advance` by this rule."""

    def update(original: Any, self: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        given = signature(original).bind(self, *args, **kwargs)
        given.apply_defaults()
        options = given.arguments
        _, state, step, *_ = options.values()
        if step == self.num_steps - 1 and (options["last_drop"] or options.get("addi_step")):
            return original(self, *args, **kwargs)  # what the network says last is their result, without a step
        t, t_next = (1 - float(self.times[i]) for i in (step, step + 1))
        how: dict[str, Any] = {"rule": rule}
        if RULES[rule].order == 2 and step > 0:
            how["t_previous"] = 1 - float(self.times[step - 1])
            how["previous"] = options.get("x0_pred_last", options.get("data_pred_last"))
        if options.get("cate_samp"):
            how["choose"] = "sample"
        with torch.no_grad():
            return advance(self, state, t, t_next, **how)

    return update


def of_images(self: Any, mean: Tensor, t: float, t_next: float, **how: Any) -> tuple[Tensor, Tensor]:
    noise_pred = self.unet(mean, torch.full_like(mean, t)).reshape(mean.shape)
    predicted = torch.empty_like(mean)
    how |= {"sigma_1": self.sigma_1, "predicted_out": predicted, "limits": ANY_TIME}
    return continuous.solver_step(noise_pred, mean, t, t_next, **how), predicted


def of_text(self: Any, state: Tensor, t: float, t_next: float, **how: Any) -> tuple[Tensor, Tensor]:
    return classes_step(self, state, (t, t_next), t, discrete.theta(state), **how)


def of_text_by_the_middle(self: Any, state: Tensor, t: float, t_next: float, **how: Any) -> tuple[Tensor, Tensor]:
    """A step by what the network says half-way, where a step of the same rule leads."""
    middle, theta = (t + t_next) / 2, torch.empty_like(state)
    classes_step(self, state, (t, middle), t, discrete.theta(state), theta_out=theta, **how)
    return classes_step(self, state, (t, t_next), middle, theta, **how)


def classes_step(
    self: Any, state: Tensor, times: tuple[float, float], seen_at: float, theta: Tensor, **how: Any
) -> tuple[Tensor, Tensor]:
    """A step between these times by what the network says of theta, at a time that may be another."""
    logits = self.unet(theta, torch.full(theta.shape[:-1], seen_at, device=theta.device))
    predicted = torch.empty_like(state)
    how |= {"beta_1": self.max_sqrt_beta**2, "predicted_out": predicted}
    return discrete.solver_step(logits, state, *times, **how), predicted


REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("ImageBFNSolver", "sde_euler_update"): method(of_images, "sde_euler"),
    ("ImageBFNSolver", "ode_bfnsolver1_update"): method(of_images, "ode1"),
    ("ImageBFNSolver", "ode_bfnsolver2_multi_step_update"): method(of_images, "ode2"),
    ("ImageBFNSolver", "sde_bfnsolver2_multi_step_update"): method(of_images, "sde2"),
    ("TextBFNSolver", "ode_euler_update"): method(of_text, "ode_euler"),
    ("TextBFNSolver", "ode_bfnsolver1_update"): method(of_text, "ode1"),
    ("TextBFNSolver", "ode_bfnsolver2_multi_step_update"): method(of_text, "ode2"),
    ("TextBFNSolver", "ode_bfnsolver2_single_step_upate"): method(of_text_by_the_middle, "ode1"),
    ("TextBFNSolver", "sde_bfnsolver1_update"): method(of_text, "sde1"),
    ("TextBFNSolver", "sde_bfnsolver2_multi_step_update"): method(of_text, "sde2"),
}
