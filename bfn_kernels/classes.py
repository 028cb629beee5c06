"""The code that the public functions of discrete and binary data share: the steps, and the checks of the losses.

A state of discrete data has a last dimension for the classes, and a state of binary data has one number per variable.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.autograd import needs
from bfn_kernels.call import checks, rows
from bfn_kernels.call.keywords import choice_noises, drawn_seed, known_values, step_seed
from bfn_kernels.call.outputs import check_step_tensors
from bfn_kernels.call.rows import Rows
from bfn_kernels.records import CHOICES, MEAN, NO_GUIDANCE, LossTarget, Sent
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients

# The keywords of a step that say where its random numbers come from: seed, generator, noise and draw_noise; and what it
# sends: choose, known and known_mask. They are plain tuples, which are made faster than records.
Random = tuple[int | Tensor | None, torch.Generator | None, Tensor | None, Tensor | None]
Message = tuple[str, Tensor | None, Tensor | None]


class Plan(NamedTuple):
    """The keywords of a solver's step that say from when to when it goes, and how."""

    t: Rows | None
    t_next: Rows | None
    t_previous: Rows | None
    previous: Tensor | None
    rule: str
    coefficients: Coefficients | None
    beta_1: float | None
    schedule: DiscreteSchedule | None

    def times(self) -> dict[str, Rows | None]:
        return {"t": self.t, "t_next": self.t_next, "t_previous": self.t_previous}


class Guided(NamedTuple):
    """The keywords of a solver's step that change the logits."""

    temperature: Rows | None
    unconditional: Tensor | None
    guidance: Rows | None


class Family(NamedTuple):
    """One of the two families of ops whose data are classes: `discrete` or `binary`.

    binary: True if a state has one number for each variable, False if it has one number for each class.
    """

    name: str
    binary: bool

    def lead(self, state: Tensor) -> torch.Size:
        """The shape of the variables."""
        return state.shape if self.binary else state.shape[:-1]

    def scale(self, state: Tensor) -> int:
        """The variance of a message divided by α: K for discrete data, 4 for binary data.

        The state of binary data is the difference of two numbers.
        """
        return 4 if self.binary else state.shape[-1]

    def check_state(self, state: Tensor, output_logits: Tensor) -> None:
        (checks.data if self.binary else checks.logits)("state", state)
        checks.like("output_logits", output_logits, "state", state)

    def sent(self, state: Tensor, message: Message, draw_noise: Tensor | None) -> Sent:
        choose, known, known_mask = message
        choice = checks.choice("choose", choose, CHOICES)
        if known is not None:
            known = checks.classes("known", known, booleans=self.binary)
        return Sent(choice, known, known_values(known, known_mask, state, self.lead(state)), draw_noise)

    def check_loss(self, x: Tensor, logits: Tensor, mask: Tensor | None, reduction: str) -> tuple[Tensor, LossTarget]:
        """The checks that the losses share; returns classes as operators take them, and the target of the loss."""
        x = checks.classes("x", x, booleans=self.binary)
        if self.binary:
            checks.like("logits", logits, "x", x)
        else:
            checks.logits("logits", logits)
            if x.shape != logits.shape[:-1]:
                want = tuple(logits.shape[:-1])
                raise ValueError(f"x must have shape {want}, that of logits without K, got {tuple(x.shape)}")
            checks.same_device("x", x, "logits", logits)
        how = checks.choice("reduction", reduction, checks.REDUCTIONS)
        return x, LossTarget(checks.mask("mask", mask, "x", x, x.shape), how)

    def update_sample(
        self,
        output_logits: Tensor,
        state: Tensor,
        alpha: Rows,
        message: Message,
        random: Random,
        outputs: Sequence[Tensor | None],
        backend: str | None,
    ) -> Tensor:
        """The step of a message of accuracy α."""
        self.check_state(state, output_logits)
        seed, generator, noise, draw_noise = random
        sent, lead = self.sent(state, message, draw_noise), self.lead(state)
        if sent.choice != MEAN:
            checks.no_gradient(f'a {message[0]} has none, only choose="mean" has one', output_logits=output_logits)
        library = backends.library(backend, state.device)
        if sent.choice == MEAN and any(needs(output_logits)):
            library = backends.REFERENCE  # the only one that has this gradient
        dtype = checks.compute_dtype(output_logits, state)
        scalars = rows.scalars(library, rows.MESSAGE, alpha, state, dtype, dims=len(lead), scale=self.scale(state))
        draws = choice_noises(message[0], draw_noise, lead)
        seed = drawn_seed(state, seed, generator, ("noise", noise, state.shape), *draws)
        step = getattr(library, self.name).step
        solver = None, *scalars, None, None  # as a tuple, which is made faster than a record
        return step(output_logits, state, *solver, *NO_GUIDANCE, *sent, seed, noise, *outputs, None)

    def solver_step(
        self,
        output_logits: Tensor,
        state: Tensor,
        plan: Plan,
        guided: Guided,
        message: Message,
        random: Random,
        outputs: Sequence[Tensor | None],
        backend: str | None,
    ) -> Tensor:
        """The step of a rule or of coefficients."""
        self.check_state(state, output_logits)
        seed, generator, noise, draw_noise = random
        sent, lead = self.sent(state, message, draw_noise), self.lead(state)
        if guided.unconditional is not None:
            checks.like("unconditional", guided.unconditional, "output_logits", output_logits)
        schedule = solvers.step_schedule(plan.coefficients, plan.beta_1, plan.schedule)
        inputs = {"output_logits": output_logits, "known": sent.known, "known_mask": sent.known_mask}
        noises = {"noise": noise, "draw_noise": draw_noise}
        check_step_tensors(state, "state", plan.previous, **inputs, **plan.times(), **guided._asdict(), **noises)
        library = backends.library(backend, state.device)
        dtype = checks.compute_dtype(output_logits, state, plan.previous, guided.unconditional)
        times = plan.t, plan.t_next, plan.t_previous
        solver = solvers.step_scalars(
            plan.coefficients, plan.rule, schedule, times, plan.previous, state, dtype, len(lead), self.scale(state)
        )
        guidance = solvers.guidance_scalars(*guided, state, dtype, len(lead))
        draws = choice_noises(message[0], draw_noise, lead)
        seed = step_seed(state, solver.std, seed, generator, noise, *draws)
        step = getattr(library, self.name).step
        return step(output_logits, state, *solver, *guidance, *sent, seed, noise, *outputs)
