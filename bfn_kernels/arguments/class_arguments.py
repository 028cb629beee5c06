"""Code that the public functions of discrete and binary data share: steps, and checks of the arguments of flows,
messages and losses.

A state of discrete data has a number for each class, in its last dimension. A state of binary data has one number for
each variable.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import keywords, rows, step_arguments
from bfn_kernels.arguments.keywords import (
    Generator,
    Seed,
    choice_noises,
    known_values,
    loss_target,
    noise_seed,
    step_seed,
)
from bfn_kernels.arguments.outputs import check_outputs, check_solver_step
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.autograd import needs
from bfn_kernels.records import (
    CHOICES,
    NO_GUIDANCE,
    NO_SCORE,
    ClassLogits,
    LossTarget,
    Noise,
    NoScore,
    OneLogit,
    Score,
    Sent,
    Solver,
)
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients

# The logit of a known class minus the logit of any other class, whose probability is then 0 in every type.
CERTAIN = 1000.0


class Family(NamedTuple):
    """One of the two families of ops whose data are classes: `discrete` or `binary`.

    binary: True if a state has one number for each variable, False if it has one number for each class.
    no_score: the record of a step without a score.
    """

    name: str
    binary: bool
    no_score: Score | NoScore

    def sizes(self, state: Tensor) -> tuple[torch.Size, int]:
        """The shape of the variables of a state, and the variance of a message divided by α. The variance is Kα for
        discrete data. It is 4α for binary data, whose message is the difference of two numbers with the variance 2α
        each."""
        return (state.shape, 4) if self.binary else (state.shape[:-1], state.shape[-1])

    def output(self, state: Tensor, logits: Tensor, class_mask: Tensor | None) -> OneLogit | ClassLogits:
        """Checks a state and the network's output, and returns the output as operators take it."""
        (checks.data if self.binary else checks.logits)("state", state)
        checks.like("output_logits", logits, "state", state)
        if self.binary:
            return OneLogit(logits)
        return ClassLogits(logits, class_mask if class_mask is None else checks.class_mask(class_mask, logits))

    def sent(
        self,
        choose: str,
        known: Tensor | None,
        known_mask: Tensor | None,
        draw_noise: Tensor | None,
        state: Tensor,
        lead: torch.Size,
    ) -> Sent:
        """Checks what a step sends, and returns it as operators take it. lead: the shape of the variables."""
        choice = checks.choice("choose", choose, CHOICES)
        if known is None is known_mask:
            return Sent(choice, draw_noise=draw_noise)
        shape = lead
        if known is not None:
            known = self.data("known", known, lead)
            shape = state.shape if known.is_floating_point() else lead
        return Sent(choice, known, known_values(known, known_mask, state, lead, shape), draw_noise)

    def data(self, name: str, x: Tensor, shape: torch.Size | None = None) -> Tensor:
        """Checks data, and returns them as operators take them: classes or, if there are more than two, distributions
        over them. shape: the shape of the variables, if it is known."""
        return checks.classes(name, x, booleans=True) if self.binary else checks.soft_classes(name, x, shape)

    def known_of_flow(
        self,
        x: Tensor,
        scalars: Sequence[Tensor],
        known: Tensor | None,
        known_mask: Tensor | None,
        mask: Tensor | None,
        lead: torch.Size,
        num_classes: int,
    ) -> tuple[Tensor, Sequence[Tensor], Tensor | None]:
        """The data and the row scalars β and √(Kβ) of a flow, and where data are known. There the flow has no noise,
        and Kβ is CERTAIN. lead: the shape of the variables."""
        if known is not None:
            known = self.data("known", known, lead)
        certain = CERTAIN / num_classes, 0.0
        return keywords.known_of_flow(x, scalars, certain, known, known_mask, mask, lead, classes=True)

    def blame_known(self, known: Tensor | None, on: Tensor | None, num_classes: int) -> None:
        """After a kernel has refused a class of a flow, raises the error that names `known` if the class stands
        there."""
        if known is not None and not known.is_floating_point():
            checks.valid_classes("known", self.data("known", known), num_classes, on)

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
            x = checks.classes("x", x, booleans=True)
            checks.like("logits", logits, "x", x)
            return x, backends.library(backend, x.device), loss_target(x, mask, reduction)
        checks.logits("logits", logits)
        lead = logits.shape[:-1]
        x = checks.soft_classes("x", x, lead)
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
        *,
        choose: str,
        known: Tensor | None,
        known_mask: Tensor | None,
        out: Tensor | None,
        theta_out: Tensor | None,
        seed: Seed,
        generator: Generator,
        noise: Tensor | None,
        draw_noise: Tensor | None,
        backend: str | None,
        class_mask: Tensor | None = None,
    ) -> Tensor:
        """A step of ancestral sampling, which sends a message of accuracy α."""
        output = self.output(state, output_logits, class_mask)
        lead, scale = self.sizes(state)
        sent = self.sent(choose, known, known_mask, draw_noise, state, lead)
        library = backends.library(backend, state.device)
        if out is not None or theta_out is not None:
            inputs = {"output_logits": output_logits, "state": state, "alpha": alpha, "class_mask": class_mask}
            inputs |= {"seed": seed, "noise": noise, **sent._asdict()}
            check_outputs({"out": out, "theta_out": theta_out}, "state", **inputs)
        if torch.is_grad_enabled():
            if choose != "mean":
                checks.no_gradient(f'only choose="mean" has a gradient, not a {choose}', output_logits=output_logits)
            elif any(needs(output_logits)):
                library = backends.REFERENCE  # only the reference has this gradient
        dtype = checks.compute_dtype(output_logits, state)
        accuracy, spread = rows.scalars(library, rows.MESSAGE, alpha, state, dtype, dims=len(lead), scale=scale)
        seed = noise_seed(
            state, seed, generator, ("noise", noise, state.shape), *choice_noises(choose, draw_noise, lead)
        )
        return getattr(library, self.name).step(
            output,
            state,
            solver=Solver(None, accuracy, spread),
            guidance=NO_GUIDANCE,
            score=self.no_score,
            sent=sent,
            noise=Noise(seed, noise),
            out=out,
            theta_out=theta_out,
        )

    def solver_step(
        self,
        output_logits: Tensor,
        state: Tensor,
        t: PerRow | None,
        t_next: PerRow | None,
        *,
        rule: str,
        t_previous: PerRow | None,
        previous: Tensor | None,
        coefficients: Coefficients | None,
        beta_1: float | None,
        schedule: DiscreteSchedule | None,
        choose: str | None,
        temperature: PerRow | None,
        unconditional: Tensor | None,
        guidance: PerRow | None,
        variance_scale: PerRow | None,
        known: Tensor | None,
        known_mask: Tensor | None,
        out: Tensor | None,
        theta_out: Tensor | None,
        predicted_out: Tensor | None,
        seed: Seed,
        generator: Generator,
        noise: Tensor | None,
        draw_noise: Tensor | None,
        backend: str | None,
        class_mask: Tensor | None = None,
        score: Tensor | None = None,
        score_clip: PerRow | None = None,
    ) -> Tensor:
        """A step of a solver, by a rule or by coefficients."""
        output, (lead, scale) = self.output(state, output_logits, class_mask), self.sizes(state)
        choose = step_arguments.taken(choose, rule, coefficients)
        sent = self.sent(choose, known, known_mask, draw_noise, state, lead)
        check_solver_step(
            {"out": out, "theta_out": theta_out, "predicted_out": predicted_out},
            "state",
            state=state,
            output_logits=output_logits,
            t=t,
            t_next=t_next,
            t_previous=t_previous,
            previous=previous,
            coefficients=coefficients,
            temperature=temperature,
            unconditional=unconditional,
            guidance=guidance,
            variance_scale=variance_scale,
            seed=seed,
            noise=noise,
            class_mask=class_mask,
            score=score,
            score_clip=score_clip,
            **sent._asdict(),
        )
        for name, value in (("unconditional", unconditional), ("score", score)):
            if value is not None:
                checks.like(name, value, "output_logits", output_logits)
        schedule = step_arguments.step_schedule(coefficients, beta_1, schedule)
        library, dims = backends.library(backend, state.device), len(lead)
        dtype = checks.compute_dtype(output_logits, state, previous, unconditional, score)
        times = t, t_next, t_previous
        solver = step_arguments.step_scalars(coefficients, rule, schedule, times, previous, state, dtype, dims, scale)
        solver = step_arguments.scaled_variance(solver, variance_scale, state, dims)
        guiding = step_arguments.guidance_scalars(temperature, unconditional, guidance, state, dtype, dims)
        added: Score | NoScore = self.no_score
        if not self.binary:
            added = step_arguments.checked_score(score, score_clip, output_logits, dtype)
        # after all checks, so that a call that is refused draws nothing
        seed = step_seed(state, solver.std, seed, generator, noise, *choice_noises(choose, draw_noise, lead))
        return getattr(library, self.name).step(
            output,
            state,
            solver=solver,
            guidance=guiding,
            score=added,
            sent=sent,
            noise=Noise(seed, noise),
            out=out,
            theta_out=theta_out,
            predicted_out=predicted_out,
        )


DISCRETE, BINARY = Family("discrete", binary=False, no_score=NO_SCORE), Family("binary", True, NoScore())
