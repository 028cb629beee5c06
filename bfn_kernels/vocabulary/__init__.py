"""Ops for large vocabularies. K is the number of classes. `weight` `[K, d]` has a row of d numbers for each class. A
token is one position of x `[B, ...]`. The reference stores the logits of all tokens and classes. On other backends, the
memory of an op does not grow with the number of tokens times K, except for a sampler's state. Numbers in parentheses
are equations of Graves et al. 2023.

`flow_embedding` embeds a sample of the flow, and `noisy_embedding` embeds noisy one-hot vectors of any scale and
spread. `noisy_top_k` draws only the likeliest classes of such vectors. The losses, the steps of samplers, `mode` and
`sample` take hidden states `[B, ..., d]`. A linear head with `weight` and `bias` computes the logits of the K classes
from them. The logits y of the flow are K numbers for each token, of which the network sees only an embedding of d
numbers. This loses much of y, so the head can add y to its logits: logits = hidden·Wᵀ + bias + flow_scale·y. A loss
computes y again from `flow_seed`, the seed that was passed to `flow_embedding`. A sampler's step reads y from the
state.

Memory: an op allocates its results, a few numbers for each token, and one tile of logits (some tokens by some classes),
which takes 1 MiB on a CPU and 64 MiB on a GPU in float32. On a CPU, L∞ and the reconstruction loss may compute their
gradients in the forward pass, with a tile of the size of the weight. They do so if d ≥ 128, the loss is reduced to a
scalar, the weight is float32 (float64 in float64 arithmetic), and a single process has all classes. On a CPU, variables
where a loss's mask is False take no time.

torch computes the matrix products, in the type of the arithmetic. For vectors of 16 bits, Triton has kernels that
compute products (docs/gpu.md).

The classes can be split over several processes. `process_group` is the group of these processes, and `num_classes` is
K, the number of classes over the whole group. Each process passes only its own classes of `weight`, `bias`,
`embedding`, `state`, `previous_state` and `out`, as plain tensors. The classes are split as by `torch.chunk` or
DTensor's `Shard(0)`. All other arguments must be equal in each process. Always pass a seed, or explicit noise with all
K classes: the default generators of the processes may differ. The results (but not a new state) and the gradients of
`hidden` and `flow_scale` are then equal, too. The processes exchange a few numbers for each token and, if an op
computes embeddings or a gradient of `hidden`, sums `[B, ..., d]`.
"""

from typing import Any

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments import rows
from bfn_kernels.arguments.keywords import MAX_SAMPLES, Seed, noise_seed, step_time
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.autograd import needs
from bfn_kernels.formulas import MEAN, SUM, hide
from bfn_kernels.records import NO_FLOW, FlowLogits, LinearHead, LossTarget, Noise
from bfn_kernels.schedules import DiscreteSchedule, discrete_schedule
from bfn_kernels.vocabulary.chunks import loss_by_chunks as loss_by_chunks
from bfn_kernels.vocabulary.draws import check_head
from bfn_kernels.vocabulary.draws import mode as mode
from bfn_kernels.vocabulary.draws import sample as sample
from bfn_kernels.vocabulary.noisy import noise_factor as noise_factor
from bfn_kernels.vocabulary.noisy import noisy_embedding as noisy_embedding
from bfn_kernels.vocabulary.operators import OPERATORS, WIDE
from bfn_kernels.vocabulary.reference import Cost
from bfn_kernels.vocabulary.shards import Processes, ProcessGroup, shard_of
from bfn_kernels.vocabulary.steps import solver_step as solver_step
from bfn_kernels.vocabulary.steps import update_sample as update_sample
from bfn_kernels.vocabulary.top_k import noisy_top_k as noisy_top_k

backends.add_family("vocabulary", OPERATORS)


def flow_embedding(
    x: Tensor,
    t: PerRow,
    weight: Tensor,
    *,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Embeds a sample of the flow (185): returns θ·W, where θ is the input distribution after messages up to time t.

    The result equals `discrete.flow_sample(...) @ weight` for the same seed, but no tensor `[B, ..., K]` is made.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        weight: W, the vectors of the classes, `[K, d]`, floating-point; differentiable.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        mask: Bool, False where x is not read, such as padding: the result there is as before the first message.
            Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ..., K]`, floating-point, instead of a seed; not differentiable.
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The embedding `[B, ..., d]`, in the type of the weight.

    Example:
        >>> flow_embedding(torch.tensor([1]), 0.0, torch.tensor([[0.0, 4.0], [2.0, 0.0]]), beta_1=3.0)
        tensor([[1., 2.]])
    """
    x = checks.classes("x", x)
    checks.weight("weight", weight)
    checks.same_device("weight", weight, "x", x)
    shard = shard_of(weight, process_group, num_classes, backend)
    schedule = discrete_schedule(beta_1, schedule)
    num_classes, dtype = shard.num_classes, checks.compute_dtype(weight)
    library = backends.library(backend, x.device)
    scalars = rows.scalars(library, ("beta", "beta_spread"), t, x, dtype, schedule, scale=num_classes)
    x, beta, spread = hide(checks.mask("mask", mask, "x", x, x.shape), x, *scalars)
    seed = noise_seed(x, seed, generator, ("noise", noise, (*x.shape, num_classes)))
    return library.vocabulary.flow_embedding(x, weight, beta, spread, Noise(seed, noise), shard)


def continuous_time_loss(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t: PerRow,
    *,
    flow_scale: Tensor | None = None,
    flow_seed: Seed = None,
    flow_noise: Tensor | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """L∞ in nats, Kβ₁t·‖e_x − p‖² per variable, with p = softmax(hidden·Wᵀ + bias + flow_scale·y) (205).

    It is `discrete.continuous_time_loss` of these logits, which are not stored.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
        hidden: Hidden states, `[B, ..., d]`, floating-point; differentiable.
        weight: The weight of the head, `[K, d]`, floating-point; differentiable.
        bias: The bias of the head, `[K]`, floating-point, or None; differentiable.
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        flow_scale: Factor of y in the logits, `[B, ...]`, floating-point; differentiable. None: the factor is 0.
        flow_seed: The seed that was passed to `flow_embedding` with x and t. y is computed again from it. With
            flow_scale, pass either flow_seed or flow_noise.
        flow_noise: The explicit noise, `[B, ..., K]`, floating-point, that was passed to `flow_embedding`.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if hidden, weight, bias or flow_scale is float64.

    Example:
        >>> head = torch.ones(1, 3), torch.zeros(2, 3), None
        >>> continuous_time_loss(torch.tensor([1]), *head, 0.5, beta_1=3.0)
        tensor(1.5000)
        >>> scale, noise = torch.ones(1), torch.zeros(1, 2)
        >>> continuous_time_loss(torch.tensor([1]), *head, 0.5, beta_1=3.0, flow_scale=scale, flow_noise=noise)
        tensor(0.1997)
    """
    head = LinearHead(hidden, weight, bias, flow_scale)
    loss = _Loss(x, head, mask, reduction, (process_group, num_classes), backend)
    schedule = discrete_schedule(beta_1, schedule)
    flow = loss.flow(t, schedule, flow_seed, flow_noise)
    (rate,) = loss.scalars(("rate",), t, schedule, scale=loss.shard.num_classes / 2)
    return loss(flow, Cost(rate))


def discrete_time_loss(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t: PerRow | None = None,
    *,
    n_steps: int,
    step: int | Tensor | None = None,
    flow_scale: Tensor | None = None,
    flow_seed: Seed = None,
    flow_noise: Tensor | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    n_samples: int = 10,
    mask: Tensor | None = None,
    reduction: str = "mean",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """L_n in nats with the paper's joint receiver and p = softmax(hidden·Wᵀ + bias + flow_scale·y) (189, 190, 193).

    It is `discrete.discrete_time_loss` of these logits for the same seed. The logits are not stored.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
        hidden: Hidden states, `[B, ..., d]`, floating-point; differentiable.
        weight: The weight of the head, `[K, d]`, floating-point; differentiable.
        bias: The bias of the head, `[K]`, floating-point, or None; differentiable.
        t: Times (i − 1)/n: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`. Any other
            time is an error on the CPU, and its loss is NaN elsewhere. Pass either t or step.
        n_steps: n, the number of steps, at least 1.
        step: The step i from 1 to n, instead of t: an int, or an integer tensor in a shape that t may have.
        flow_scale: Factor of y in the logits, `[B, ...]`, floating-point; differentiable. None: the factor is 0.
        flow_seed: The seed that was passed to `flow_embedding` with x and t. y is computed again from it. With
            flow_scale, pass either flow_seed or flow_noise.
        flow_noise: The explicit noise, `[B, ..., K]`, floating-point, that was passed to `flow_embedding`.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. Pass either beta_1 or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        n_samples: The number of draws, at least 1, whose mean estimates the expectation.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[n_samples, B, ..., K]`, floating-point, instead of a seed; not differentiable.
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if hidden, weight, bias or flow_scale is float64.

    Example:
        >>> head = torch.ones(1, 3), torch.zeros(2, 3), None
        >>> noise = torch.zeros(1, 1, 2)
        >>> discrete_time_loss(torch.tensor([1]), *head, 0.0, n_steps=9, beta_1=3.0, n_samples=1, noise=noise)
        tensor(0.3272)
    """
    n_samples = checks.integer("n_samples", n_samples, 1, MAX_SAMPLES)
    head = LinearHead(hidden, weight, bias, flow_scale)
    loss = _Loss(x, head, mask, reduction, (process_group, num_classes), backend)
    t, n_steps = step_time(t, step, n_steps, loss.x)
    schedule = discrete_schedule(beta_1, schedule)
    flow = loss.flow(t, schedule, flow_seed, flow_noise)
    (alpha,) = loss.scalars(("alpha",), t, schedule, n_steps=n_steps)
    seed = noise_seed(loss.x, seed, generator, ("noise", noise, (n_samples, *loss.noise_shape)))
    return loss(flow, Cost(None, alpha, seed, noise, n_steps, n_samples))


def reconstruction_loss(
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    flow_scale: Tensor | None = None,
    flow_seed: Seed = None,
    flow_noise: Tensor | None = None,
    t: PerRow = 1.0,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The cost in nats of x after the last message: −ln p_x, with p = softmax(hidden·Wᵀ + bias + flow_scale·y).

    Without flow_scale it is the cross-entropy of a linear head.

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
        hidden: Hidden states, `[B, ..., d]`, floating-point; differentiable.
        weight: The weight of the head, `[K, d]`, floating-point; differentiable.
        bias: The bias of the head, `[K]`, floating-point, or None; differentiable.
        flow_scale: Factor of y in the logits, `[B, ...]`, floating-point; differentiable. None: the factor is 0.
        flow_seed: The seed that was passed to `flow_embedding` with x and t. y is computed again from it. With
            flow_scale, pass either flow_seed or flow_noise.
        flow_noise: The explicit noise, `[B, ..., K]`, floating-point, that was passed to `flow_embedding`.
        t: Times in [0, 1] of the flow that y belongs to: a number, or a floating-point tensor `[B]` or of any leading
            part of `[B, ...]`. Read only with flow_scale.
        beta_1: β₁ of the paper's schedule (182), the accuracy at t = 1, positive. With flow_scale, pass either beta_1
            or schedule.
        schedule: An object with the methods of `schedules.DiscreteSchedule`, instead of beta_1.
        mask: Bool, False where a variable costs nothing and its x is not read. Broadcastable to `[B, ...]`, or shaped
            as its leading dimensions.
        reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none" (`[B, ...]`).
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The loss in nats, float32, or float64 if hidden, weight, bias or flow_scale is float64.

    Example:
        >>> reconstruction_loss(torch.tensor([1]), torch.ones(1, 3), torch.zeros(2, 3))
        tensor(0.6931)
    """
    head = LinearHead(hidden, weight, bias, flow_scale)
    loss = _Loss(x, head, mask, reduction, (process_group, num_classes), backend)
    if not beta_1 is schedule is flow_scale is None:
        schedule = discrete_schedule(beta_1, schedule)
    return loss(loss.flow(t, schedule, flow_seed, flow_noise), Cost())


class _Loss:
    """A call of a loss. It checks the arguments and chooses the operator. processes: process_group and num_classes."""

    def __init__(
        self,
        x: Tensor,
        head: LinearHead,
        mask: Tensor | None,
        reduction: str,
        processes: Processes,
        backend: str | None,
    ):
        self.x, self.head = checks.classes("x", x), head
        check_head("x", self.x, self.x.shape, head)
        index = checks.choice("reduction", reduction, checks.REDUCTIONS)
        self.to = LossTarget(checks.mask("mask", mask, "x", self.x, self.x.shape), index)
        self.shard = shard_of(head.weight, *processes, backend)
        self.library, self.dtype = backends.library(backend, self.x.device), checks.compute_dtype(*head)
        self.noise_shape = *self.x.shape, self.shard.num_classes

    def scalars(self, wanted: tuple[str, ...], t: PerRow, schedule: DiscreteSchedule | None, **numbers: Any) -> Any:
        return rows.scalars(self.library, wanted, t, self.x, self.dtype, schedule, **numbers)

    def flow(self, t: PerRow, schedule: DiscreteSchedule | None, seed: Seed, noise: Tensor | None) -> FlowLogits:
        """The numbers from which the operator computes the flow's logits again. For a head without `flow_scale` all are
        None."""
        arguments = {"flow_seed": seed, "flow_noise": noise}
        if self.head.flow_scale is None:
            for name, value in arguments.items():
                if value is not None:
                    raise ValueError(f"{name} must be None without flow_scale, got {value!r}")
            return NO_FLOW
        if (seed is None) == (noise is None):
            raise ValueError(f"exactly one of flow_seed and flow_noise must be given with flow_scale, got {arguments}")
        beta, spread = self.scalars(("beta", "beta_spread"), t, schedule, scale=self.shard.num_classes)
        seed = noise_seed(self.x, seed, None, ("flow_noise", noise, self.noise_shape), name="flow_seed")
        return FlowLogits(beta, spread, seed, noise)

    def __call__(self, flow: FlowLogits, cost: Cost) -> Tensor:
        """By default, the forward pass and the backward pass each compute the logits. The CPU library can compute the
        gradients of L∞ and of the reconstruction loss in the forward pass, so that it computes the logits once. A call
        does so under four conditions. A single process has all classes. The loss is a scalar, so that the backward pass
        can multiply the stored gradients by the gradient of the loss. d is at least `WIDE`, since the tile has all
        classes of d tokens, and products with few tokens are slow. The weight has the type of the arithmetic, since the
        sums would otherwise take more memory than the weight.
        """
        ops, weight = self.library.vocabulary, self.head.weight
        with_gradients = getattr(ops, "loss_with_gradients", None)
        single = self.shard.group is None and self.to.reduction in (SUM, MEAN)
        wide = weight.shape[1] >= WIDE and weight.dtype == self.dtype
        if with_gradients and cost.alpha is None and weight.is_cpu and single and wide and any(needs(*self.head)):
            return with_gradients(self.x, *self.head, *flow, cost.rate, *self.to)
        return ops.loss(self.x, self.head, flow, cost, self.to, self.shard)
