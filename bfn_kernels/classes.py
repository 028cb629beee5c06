"""Code that the public functions of discrete and binary data share: steps, and checks of the arguments of flows,
messages and losses.

A state of discrete data has a number for each class, in its last dimension. A state of binary data has one number for
each variable.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import backends
from bfn_kernels.autograd import needs
from bfn_kernels.call import checks, rows, steps
from bfn_kernels.call.keywords import choice_noises, known_values, loss_target, noise_seed, step_seed
from bfn_kernels.call.rows import PerRow
from bfn_kernels.records import (
    CHOICES,
    NO_GUIDANCE,
    NO_SCORE,
    ClassLogits,
    LossTarget,
    Noise,
    NoScore,
    OneLogit,
    Sent,
    Solver,
)

# Keywords of a step, grouped.
Plan = tuple[Any, ...]  # times, previous, rule, coefficients, beta_1, schedule, temperature, unconditional, guidance
Sending = tuple[Any, ...]  # choose, known, known_mask, seed, generator, noise, draw_noise
Outs = tuple[Tensor | None, ...]  # out, theta_out, and predicted_out of a solver's step


class Family(NamedTuple):
    """One of the two families of ops whose data are classes: `discrete` or `binary`.

    binary: True if a state has one number for each variable, False if it has one number for each class.
    """

    name: str
    binary: bool

    def lead(self, state: Tensor) -> torch.Size:
        """The shape of the variables of a state."""
        return state.shape if self.binary else state.shape[:-1]

    def scale(self, state: Tensor) -> int:
        """The variance of a message divided by α. It is K for discrete data. It is 4 for binary data, whose message is
        the difference of two numbers with the variance 2α each."""
        return 4 if self.binary else state.shape[-1]

    def check_state(self, state: Tensor, output_logits: Tensor) -> None:
        (checks.data if self.binary else checks.logits)("state", state)
        checks.like("output_logits", output_logits, "state", state)

    def output(self, logits: Tensor, class_mask: Tensor | None) -> OneLogit | ClassLogits:
        """The network's output as operators take it."""
        return OneLogit(logits) if self.binary else ClassLogits(logits, checks.class_mask(class_mask, logits))

    def sent(
        self,
        choose: str,
        known: Tensor | None,
        known_mask: Tensor | None,
        draw_noise: Tensor | None,
        state: Tensor,
    ) -> Sent:
        choice, lead = checks.choice("choose", choose, CHOICES), self.lead(state)
        shape = lead
        if known is not None:
            known = self.data("known", known, lead)
            shape = state.shape if known.is_floating_point() else lead
        return Sent(choice, known, known_values(known, known_mask, state, lead, shape), draw_noise)

    def data(self, name: str, x: Tensor, shape: torch.Size | None = None) -> Tensor:
        """Checks data, and returns them as operators take them: classes or, if there are more than two, distributions
        over them. shape: the shape of the variables, if it is known."""
        return checks.classes(name, x, booleans=True) if self.binary else checks.soft_classes(name, x, shape)

    def variables(self, x: Tensor, num_classes: int) -> torch.Size:
        """The shape of the variables of data with K classes."""
        if x.is_floating_point() and x.shape[-1] != num_classes:
            raise TypeError(
                f"x must be classes of an integer type or soft data of shape [B, ..., {num_classes}], got {x.dtype} of "
                f"shape {tuple(x.shape)}"
            )
        return checks.variables(x)

    def check_message(self, x: Tensor, dtype: torch.dtype | None, backend: str | None) -> tuple:
        """Checks the arguments that flows and messages share. Returns the data as operators take them; the library that
        serves the call; the type of the message, which is torch's default type if dtype is None; and the type of the
        arithmetic."""
        x = self.data("x", x)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in checks.FLOATS:
            raise TypeError(f"dtype must be one of {list(checks.FLOATS)}, got {dtype}")
        return x, backends.library(backend, x.device), dtype, torch.float64 if dtype == torch.float64 else torch.float32

    def check_loss(
        self, x: Tensor, logits: Tensor, mask: Tensor | None, reduction: str, backend: str | None
    ) -> tuple[Tensor, Any, LossTarget]:
        """Checks the arguments that the losses share. Returns the data as operators take them, the library that serves
        the call, and how the loss is reduced."""
        if self.binary:
            x = self.data("x", x)
            checks.like("logits", logits, "x", x)
            return x, backends.library(backend, x.device), loss_target(x, mask, reduction)
        checks.logits("logits", logits)
        lead = logits.shape[:-1]
        x = self.data("x", x, lead)
        if x.is_floating_point():
            checks.like("x", x, "logits", logits)
        elif x.shape != lead:
            raise ValueError(f"x must have shape {tuple(lead)}, as logits have without K, got {tuple(x.shape)}")
        checks.same_device("x", x, "logits", logits)
        return x, backends.library(backend, x.device), loss_target(x, mask, reduction, lead)

    def update_sample(
        self,
        output_logits: Tensor,
        state: Tensor,
        alpha: PerRow,
        sending: Sending,
        outputs: Outs,
        backend: str | None,
        class_mask: Tensor | None = None,
    ) -> Tensor:
        """A step of ancestral sampling, which sends a message of accuracy α."""
        self.check_state(state, output_logits)
        output, score = self.output(output_logits, class_mask), NoScore() if self.binary else NO_SCORE
        choose, known, known_mask, seed, generator, noise, draw_noise = sending
        sent, lead = self.sent(choose, known, known_mask, draw_noise, state), self.lead(state)
        library = backends.library(backend, state.device)
        if choose != "mean":
            checks.no_gradient(f'only choose="mean" has a gradient, not a {choose}', output_logits=output_logits)
        elif any(needs(output_logits)):
            library = backends.REFERENCE  # only the reference has this gradient
        dtype = checks.compute_dtype(output_logits, state)
        scalars = rows.scalars(library, rows.MESSAGE, alpha, state, dtype, dims=len(lead), scale=self.scale(state))
        draws = choice_noises(choose, draw_noise, lead)
        seed = noise_seed(state, seed, generator, ("noise", noise, state.shape), *draws)
        solver, noises = Solver(None, *scalars), Noise(seed, noise)
        return getattr(library, self.name).step(output, state, solver, NO_GUIDANCE, score, sent, noises, *outputs)

    def solver_step(
        self,
        output_logits: Tensor,
        state: Tensor,
        plan: Plan,
        sending: Sending,
        outputs: Outs,
        backend: str | None,
        class_mask: Tensor | None = None,
        score: Tensor | None = None,
        score_clip: PerRow | None = None,
    ) -> Tensor:
        """A step of a solver, by a rule or by coefficients."""
        self.check_state(state, output_logits)
        output = self.output(output_logits, class_mask)
        times, previous, rule, coefficients, beta_1, schedule, temperature, unconditional, guidance = plan
        choose, known, known_mask, seed, generator, noise, draw_noise = sending
        sent, lead = self.sent(choose, known, known_mask, draw_noise, state), self.lead(state)
        for name, value in (("unconditional", unconditional), ("score", score)):
            if value is not None:
                checks.like(name, value, "output_logits", output_logits)
        schedule = steps.step_schedule(coefficients, beta_1, schedule)
        library = backends.library(backend, state.device)
        dtype, dims = checks.compute_dtype(output_logits, state, previous, unconditional, score), len(lead)
        solver = steps.step_scalars(
            coefficients, rule, schedule, times, previous, state, dtype, dims, self.scale(state)
        )
        guidance = steps.guidance_scalars(temperature, unconditional, guidance, state, dtype, dims)
        added = NoScore() if self.binary else steps.checked_score(score, score_clip, output_logits, dtype)
        draws = choice_noises(choose, draw_noise, lead)
        seed = step_seed(state, solver.std, seed, generator, noise, *draws)
        noises = Noise(seed, noise)
        return getattr(library, self.name).step(output, state, solver, guidance, added, sent, noises, *outputs)


DISCRETE, BINARY = Family("discrete", binary=False), Family("binary", binary=True)
