"""Functions that replace methods of github.com/ML-GSAI/BFN-Solver. `patch.solver` installs them.

Each replaced method takes a state and the number of a step, calls the network, and returns the next state and the
prediction. Times in BFN-Solver's code run backwards, from 1 - eta to 0. "Their" stands for this code.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import continuous, discrete
from bfn_kernels.arguments.keywords import T_MIN_LEAST, Limits
from bfn_kernels.solvers import RULES

ANY_TIME = Limits(t_min=T_MIN_LEAST)  # their methods have no time before which x̂ is 0


def method(advance: Callable[..., tuple[Tensor, Tensor]], rule: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The function that replaces one of their methods. It takes a step of this rule by `advance`."""

    def update(original: Any, self: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        call = signature(original).bind(self, *args, **kwargs)
        call.apply_defaults()
        arguments = call.arguments
        _, state, step, *_ = arguments.values()
        if step == self.num_steps - 1 and (arguments["last_drop"] or arguments.get("addi_step")):
            return original(self, *args, **kwargs)  # which returns the last prediction, and takes no step
        t, t_next = (1 - float(self.times[i]) for i in (step, step + 1))
        options: dict[str, Any] = {"rule": rule}
        if RULES[rule].order == 2 and step > 0:
            options["t_previous"] = 1 - float(self.times[step - 1])
            options["previous"] = arguments.get("x0_pred_last", arguments.get("data_pred_last"))
        if arguments.get("cate_samp"):
            options["choose"] = "sample"
        with torch.no_grad():
            return advance(self, state, t, t_next, **options)

    return update


def image_step(self: Any, mean: Tensor, t: float, t_next: float, **options: Any) -> tuple[Tensor, Tensor]:
    noise_pred = self.unet(mean, torch.full_like(mean, t)).reshape(mean.shape)
    predicted = torch.empty_like(mean)
    options |= {"sigma_1": self.sigma_1, "predicted_out": predicted, "limits": ANY_TIME}
    return continuous.solver_step(noise_pred, mean, t, t_next, **options), predicted


def text_step(self: Any, state: Tensor, t: float, t_next: float, **options: Any) -> tuple[Tensor, Tensor]:
    return step_by_theta(self, state, (t, t_next), t, discrete.theta(state), **options)


def midpoint_text_step(self: Any, state: Tensor, t: float, t_next: float, **options: Any) -> tuple[Tensor, Tensor]:
    """A step that uses the network's prediction at the middle of the step. A first step of the same rule leads to the
    middle."""
    middle, theta = (t + t_next) / 2, torch.empty_like(state)
    step_by_theta(self, state, (t, middle), t, discrete.theta(state), theta_out=theta, **options)
    return step_by_theta(self, state, (t, t_next), middle, theta, **options)


def step_by_theta(
    self: Any, state: Tensor, times: tuple[float, float], theta_time: float, theta: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """A step between these two times that uses the network's prediction for theta at theta_time."""
    logits = self.unet(theta, torch.full(theta.shape[:-1], theta_time, device=theta.device))
    predicted = torch.empty_like(state)
    options |= {"beta_1": self.max_sqrt_beta**2, "predicted_out": predicted}
    return discrete.solver_step(logits, state, *times, **options), predicted


REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("ImageBFNSolver", "sde_euler_update"): method(image_step, "sde_euler"),
    ("ImageBFNSolver", "ode_bfnsolver1_update"): method(image_step, "ode1"),
    ("ImageBFNSolver", "ode_bfnsolver2_multi_step_update"): method(image_step, "ode2"),
    ("ImageBFNSolver", "sde_bfnsolver2_multi_step_update"): method(image_step, "sde2"),
    ("TextBFNSolver", "ode_euler_update"): method(text_step, "ode_euler"),
    ("TextBFNSolver", "ode_bfnsolver1_update"): method(text_step, "ode1"),
    ("TextBFNSolver", "ode_bfnsolver2_multi_step_update"): method(text_step, "ode2"),
    ("TextBFNSolver", "ode_bfnsolver2_single_step_upate"): method(midpoint_text_step, "ode1"),
    ("TextBFNSolver", "sde_bfnsolver1_update"): method(text_step, "sde1"),
    ("TextBFNSolver", "sde_bfnsolver2_multi_step_update"): method(text_step, "sde2"),
}
