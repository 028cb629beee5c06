"""Classes that a linear head draws or finds likeliest, one tile of logits at a time, and checks of a head."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments.keywords import noise_seed
from bfn_kernels.libraries import Library
from bfn_kernels.records import LinearHead
from bfn_kernels.vocabulary.shards import ProcessGroup, Shard, shard_of


def mode(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    flow_scale: Tensor | None = None,
    state: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """The likeliest class of softmax(hidden·Wᵀ + bias + flow_scale·state), which ends a sampling run.

    If several classes are equally likely, it returns the first of them.

    Args:
        hidden: Hidden states, `[B, ..., d]`, floating-point.
        weight: The weight of the head, `[K, d]`, floating-point.
        bias: The bias of the head, `[K]`, floating-point, or None.
        flow_scale: Factor of the state in the logits, `[B, ...]`, floating-point. None: the factor is 0.
        state: The state, logits `[B, ..., K]`, floating-point. Pass state and flow_scale, or neither.
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        Classes `[B, ...]`, int64.

    Example:
        >>> mode(torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
        tensor([1])
    """
    head, state, shard, library = _checked(hidden, weight, bias, flow_scale, state, process_group, num_classes, backend)
    return library.vocabulary.mode(head, state, shard)


def sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    flow_scale: Tensor | None = None,
    state: Tensor | None = None,
    top_p: float = 1.0,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    draw_noise: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draws a class from softmax(hidden·Wᵀ + bias + flow_scale·state), or from its likeliest classes (nucleus).

    Args:
        hidden: Hidden states, `[B, ..., d]`, floating-point.
        weight: The weight of the head, `[K, d]`, floating-point.
        bias: The bias of the head, `[K]`, floating-point, or None.
        flow_scale: Factor of the state in the logits, `[B, ...]`, floating-point. None: the factor is 0.
        state: The state, logits `[B, ..., K]`, floating-point. Pass state and flow_scale, or neither.
        top_p: In (0, 1]: a "sample" is drawn from the likeliest classes, whose probabilities together reach top_p.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        draw_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the class of a "sample".
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        Classes `[B, ...]`, int64. A class is −1 if the probabilities are not finite.

    Example:
        >>> sample(torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), top_p=0.5, seed=1)
        tensor([1])
    """
    head, state, shard, library = _checked(hidden, weight, bias, flow_scale, state, process_group, num_classes, backend)
    top_p = checked_top_p(top_p)
    seed = noise_seed(head.hidden, seed, generator, ("draw_noise", draw_noise, hidden.shape[:-1]))
    return library.vocabulary.sample(head, state, top_p, seed, draw_noise, shard)


def checked_top_p(top_p: float, choose: str = "sample") -> float:
    """Checks the keyword top_p of an op that sends what `choose` says."""
    checks.positive("top_p", top_p)
    if choose != "sample" and top_p != 1:
        raise ValueError(f'top_p must be 1 with choose="{choose}", which draws no class, got {top_p}')
    return checks.number("top_p", top_p, 0, 1)


def _checked(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    flow_scale: Tensor | None,
    state: Tensor | None,
    process_group: ProcessGroup | None,
    num_classes: int | None,
    backend: str | None,
) -> tuple[LinearHead, Tensor | None, Shard, Library]:
    """Checks the arguments of a function that returns a class for each token, and detaches the tensors."""
    checks.data("hidden", hidden)
    head, lead = LinearHead(hidden, weight, bias, flow_scale), hidden.shape[:-1]
    check_head("hidden", hidden, lead, head)
    shard = shard_of(weight, process_group, num_classes, backend)
    if state is not None:
        checks.data("state", state)
        checks.like("state", state, "weight", weight, (*state.shape[:-1], len(weight)))
    check_state_and_scale("hidden", hidden, (*lead, len(weight)), flow_scale=flow_scale, state=state)
    *detached, state = (value if value is None else value.detach() for value in (*head, state))
    return LinearHead(*detached), state, shard, backends.library(backend, hidden.device)


def check_head(name: str, like: Tensor, shape: torch.Size, head: LinearHead, num_classes: int | None = None) -> None:
    """Raises an error if a head does not fit the argument `like` of this name. shape: the shape of its tokens.
    num_classes: the number of classes of `like`, if it has a number for each class."""
    hidden, weight, bias, flow_scale = head
    checks.data("hidden", hidden)
    checks.like("hidden", hidden, name, like, (*shape, hidden.shape[-1]))
    checks.weight("weight", weight)
    checks.same_device("weight", weight, name, like)
    width, got = hidden.shape[-1], tuple(weight.shape)
    if got[1] != width:
        seen = tuple(hidden.shape)
        raise ValueError(f"weight must have shape [K, {width}], as hidden of shape {seen} requires, got {got}")
    if num_classes not in (None, got[0]):
        seen = tuple(like.shape)
        raise ValueError(f"weight must have shape {num_classes, width}, as {name} of shape {seen} requires, got {got}")
    if bias is not None:
        checks.like("bias", bias, "weight", weight, weight.shape[:1])
    if flow_scale is not None:
        checks.like("flow_scale", flow_scale, name, like, shape)


def check_state_and_scale(model_name: str, model: Tensor, shape: Sequence[int], **pair: Tensor | None) -> None:
    """Raises an error for a flow_scale without a state, a state without a flow_scale, or a wrong shape of either."""
    (scale_name, scale), (name, state) = pair.items()
    if (scale is None) != (state is None):
        raise ValueError(f"{scale_name} and {name} must be given together")
    if scale is not None:
        checks.like(scale_name, scale, model_name, model, shape[:-1])
        checks.like(name, state, model_name, model, shape)
