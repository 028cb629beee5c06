"""Steps of samplers for a large vocabulary. A step takes hidden states, and a linear head computes the logits from
them, one tile at a time. Only the state has K numbers for each token. Nothing is differentiable.

Logits are linear in hidden, bias and flow_scale. So for a temperature T, pass hidden/T, bias/T and flow_scale/T. For
guidance with weight w, pass (1 + w)·hidden − w·h, where h are the hidden states without the condition. Combine the two
flow_scales in the same way, and pass the bias as it is. Numbers in parentheses are equations of Graves et al. 2023, and
[derived] marks formulas that are not in the paper.
"""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import rows, step_arguments
from bfn_kernels.arguments.keywords import choice_noises, known_values, noise_seed, step_seed
from bfn_kernels.arguments.outputs import check_outputs
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.records import CHOICES, HeadBefore, LinearHead, Noise, Sent, Solver
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients
from bfn_kernels.vocabulary.draws import check_head, check_state_and_scale, checked_top_p
from bfn_kernels.vocabulary.shards import Processes, ProcessGroup, shard_of

FIRST = HeadBefore()  # for a step that does not use the previous step


def update_sample(
    state: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: PerRow,
    *,
    flow_scale: Tensor | None = None,
    choose: str = "sample",
    top_p: float = 1.0,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    embedding: Tensor | None = None,
    out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """One step of ancestral sampling: `discrete.update_sample` of the logits hidden·Wᵀ + bias + flow_scale·state (171).

    The result is the same as with `discrete.update_sample` for the same seed. The logits are not stored. No argument is
    differentiable.

    Args:
        state: The state, logits `[B, ..., K]`, floating-point.
        hidden: Hidden states, `[B, ..., d]`, floating-point.
        weight: The weight of the head, `[K, d]`, floating-point.
        bias: The bias of the head, `[K]`, floating-point, or None.
        alpha: Accuracy α, at least 0: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        flow_scale: Factor of the state in the logits, `[B, ...]`, floating-point. None: the factor is 0.
        choose: What is sent: a "sample" of the output distribution, its "mode" or its "mean".
        top_p: In (0, 1]: a "sample" is drawn from the likeliest classes, whose probabilities together reach top_p.
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        embedding: Weight of an embedding, `[K, d']`, floating-point. The new state's embedding is then returned, too.
        out: Receives the new state, in the state's shape and type. It may be the state itself. No argument may then
            require a gradient.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ..., K]`, floating-point, instead of a seed; not differentiable.
        draw_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the class of a "sample".
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The new state, logits `[B, ..., K]` in the state's type. With embedding, a pair: the new state z', and
        softmax(z')·embedding `[B, ..., d']` in the type of embedding, which the network sees next.

    Example:
        >>> z, hidden, weight = torch.zeros(1, 2), torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        >>> update_sample(z, hidden, weight, None, 0.5, choose="mode", noise=z)
        tensor([[-0.5000,  0.5000]])
    """
    sent = Sent(checks.choice("choose", choose, CHOICES), known, known_mask, draw_noise)
    head, processes = LinearHead(hidden, weight, bias, flow_scale), (process_group, num_classes)
    step = _Step(state, head, embedding, sent, processes, backend, out, alpha=alpha, seed=seed, noise=noise)
    top_p = checked_top_p(top_p, choose)
    dims, scale = len(step.lead), step.shard.num_classes
    message = rows.scalars(step.library, rows.MESSAGE, alpha, state, step.dtype, dims=dims, scale=scale)
    seed = noise_seed(state, seed, generator, ("noise", noise, (*step.lead, scale)), *step.draws)
    return step(Solver(None, *message), Noise(seed, noise), top_p)


def solver_step(
    state: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t: PerRow | None = None,
    t_next: PerRow | None = None,
    *,
    flow_scale: Tensor | None = None,
    rule: str = "ode1",
    t_previous: PerRow | None = None,
    previous: Tensor | None = None,
    previous_scale: Tensor | None = None,
    previous_state: Tensor | None = None,
    coefficients: Coefficients | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    choose: str | None = None,
    top_p: float = 1.0,
    variance_scale: PerRow | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    embedding: Tensor | None = None,
    out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A sampler's step from time t to t_next: `discrete.solver_step` of the logits hidden·Wᵀ + bias + flow_scale·state
    [derived].

    The result is the same as with `discrete.solver_step` for the same seed. The logits are not stored. No argument is
    differentiable. A step of second order uses the predictions of this step and of the step before. The logits of the
    step before are computed again, from `previous`, `previous_scale` and `previous_state`.

    Args:
        state: The state, logits `[B, ..., K]`, floating-point.
        hidden: Hidden states, `[B, ..., d]`, floating-point.
        weight: The weight of the head, `[K, d]`, floating-point.
        bias: The bias of the head, `[K]`, floating-point, or None.
        t: Times in [0, 1] at which the step starts, above 0 for "ode1", "ode2" and "ode_euler": a number, or a
            floating-point tensor `[B]` or of any leading part of `[B, ...]`. None only with coefficients.
        t_next: Times at which the step ends, in a shape that t may have, from t to 1. None only with coefficients.
        flow_scale: Factor of the state in the logits, `[B, ...]`, floating-point. None: the factor is 0.
        rule: A name of `solvers.RULES`.
        t_previous: Times at which the step before started, in a shape that t may have, before t, for a rule of second
            order. None: the step is of first order.
        previous: The hidden states of the step before, `[B, ..., d]`, floating-point. Only with choose="mean". Pass it
            exactly if t_previous is passed, or if the coefficients have an extrapolation r.
        previous_scale: The flow_scale of the step before; None if that step had none.
        previous_state: The state of the step before, `[B, ..., K]`. Only with previous_scale.
        coefficients: `solvers.Coefficients`, instead of t, t_next, t_previous, rule, beta_1 and schedule. Each is a
            number, or a floating-point tensor in a shape that t may have.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        choose: What a step uses of the output distribution: a "sample", its "mode" or its "mean". None: a "sample" in
            an "ancestral" step, else the "mean".
        top_p: In (0, 1]: a "sample" is drawn from the likeliest classes, whose probabilities together reach top_p.
        variance_scale: The factor by which the variance E² of the step's noise is multiplied, at least 0: a number, or
            a floating-point tensor in a shape that t may have. None: 1, and the only value of a step without noise.
        known: Known data, `[B, ...]`, which the step uses where known_mask is True. Pass both or neither.
        known_mask: Bool, True where data are known. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        embedding: Weight of an embedding, `[K, d']`, floating-point. The new state's embedding is then returned, too.
        out: Receives the new state, in the state's shape and type. It may be the state itself. No argument may then
            require a gradient.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call. A step that
            draws nothing does not read it.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ..., K]`, floating-point, instead of a seed; not differentiable.
        draw_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the class of a "sample".
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The new state, logits `[B, ..., K]` in the state's type. With embedding, a pair: the new state z', and
        softmax(z')·embedding `[B, ..., d']` in the type of embedding, which the network sees next.

    Raises:
        ValueError: If the times are not in order (on the CPU). If previous is passed and choose is not "mean", since
            steps of second order combine two means.

    Example:
        >>> z, hidden, weight = torch.tensor([[1.0, 1.0]]), torch.ones(1, 3), torch.zeros(2, 3)
        >>> solver_step(z, hidden, weight, None, 0.5, 1.0, beta_1=3.0, embedding=torch.tensor([[2.0], [4.0]]))
        (tensor([[2., 2.]]), tensor([[3.]]))
    """
    choose = step_arguments.taken(choose, rule, coefficients)
    choice = checks.choice("choose", choose, CHOICES)
    if previous is not None and choose != "mean":
        raise ValueError(f'previous must be None with choose="{choose}": steps of second order combine two means')
    schedule = step_arguments.step_schedule(coefficients, beta_1, schedule)
    sent, before = Sent(choice, known, known_mask, draw_noise), HeadBefore(previous_scale, previous_state)
    head, processes = LinearHead(hidden, weight, bias, flow_scale), (process_group, num_classes)
    times = t, t_next, t_previous
    inputs: dict[str, Any] = {"t": t, "t_next": t_next, "t_previous": t_previous, "coefficients": coefficients}
    inputs |= {"variance_scale": variance_scale, "seed": seed, "noise": noise}
    step = _Step(state, head, embedding, sent, processes, backend, out, previous, before, **inputs)
    dims, scale = len(step.lead), step.shard.num_classes
    solver = step_arguments.step_scalars(coefficients, rule, schedule, times, previous, state, step.dtype, dims, scale)
    solver = step_arguments.scaled_variance(solver, variance_scale, state, dims)
    seed = step_seed(state, solver.std, seed, generator, noise, *step.draws, shape=(*step.lead, scale))
    return step(solver, Noise(seed, noise), checked_top_p(top_p, choose))


class _Step:
    """A call of a step. It checks the arguments and calls the operator. inputs: further arguments that must not require
    a gradient."""

    def __init__(
        self,
        state: Tensor,
        head: LinearHead,
        embedding: Tensor | None,
        sent: Sent,
        processes: Processes,
        backend: str | None,
        out: Tensor | None,
        previous: Tensor | None = None,
        before: HeadBefore = FIRST,
        **inputs: Any,
    ):
        weight = head.weight
        checks.weight("weight", weight)
        self.shard = shard_of(weight, *processes, backend)
        checks.data("state", state)
        if state.dim() < 2:
            raise ValueError(f"state must have shape [B, ..., K], got {tuple(state.shape)}")
        self.state, self.head, self.before, self.embedding, self.out = state, head, before, embedding, out
        self.lead, self.library = state.shape[:-1], backends.library(backend, state.device)
        check_head("state", state, self.lead, head, state.shape[-1])
        if previous is not None:
            checks.like("previous", previous, "hidden", head.hidden)
        elif before.previous_scale is not None:
            raise ValueError("previous_scale must be None without previous")
        check_state_and_scale("state", state, state.shape, **before._asdict())
        if embedding is not None:
            checks.weight("embedding", embedding)
            checks.same_device("embedding", embedding, "state", state)
            if len(embedding) != len(weight):
                got = tuple(embedding.shape)
                raise ValueError(f"embedding must have shape [K, d] with K = {len(weight)}, got {got}")
        known = sent.known if sent.known is None else checks.classes("known", sent.known)
        self.sent = sent._replace(known=known, known_mask=known_values(known, sent.known_mask, state, self.lead))
        self.draws = choice_noises(CHOICES[sent.choice], sent.draw_noise, self.lead)
        inputs |= {"state": state, "previous": previous, "embedding": embedding}
        inputs |= head._asdict() | before._asdict() | self.sent._asdict()
        check_outputs({"out": out}, "state", **inputs)
        checks.no_gradient("a step by a linear head has no gradient", **inputs)
        self.dtype = checks.compute_dtype(state, *head, previous, *before, embedding)

    def __call__(self, solver: Solver, noise: Noise, top_p: float) -> Tensor | tuple[Tensor, Tensor]:
        """Returns the new state or, with an embedding, a pair of the new state and its embedding."""
        embedding, embedded = self.embedding, None
        if embedding is not None:
            embedded = embedding.new_empty((*self.lead, embedding.shape[1]))
        inputs = self.state, self.head, solver, self.before, embedding, self.sent, top_p, noise, self.shard
        updated = self.library.vocabulary.step(*inputs, out=self.out, embedded_out=embedded)
        return updated if embedded is None else (updated, embedded)
