"""Embeddings of noisy one-hot vectors y = scale·e_x + spread·ε, as language models with continuous noise use them."""

import torch
from torch import Tensor

from bfn_kernels import backends, checks
from bfn_kernels.arguments.keywords import noise_seed
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.formulas import hide
from bfn_kernels.libraries import Library
from bfn_kernels.records import Noise
from bfn_kernels.vocabulary.reference import linear
from bfn_kernels.vocabulary.shards import ProcessGroup, shard_of

OUTPUTS = ("softmax", "linear")


def noisy_embedding(
    x: Tensor,
    weight: Tensor,
    *,
    scale: PerRow,
    spread: PerRow,
    temperature: PerRow | None = None,
    output: str = "softmax",
    factor: Tensor | None = None,
    return_argmax: bool = False,
    mask: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    num_classes: int | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Embeds noisy one-hot vectors y = scale·e_x + spread·ε: returns softmax(y/temperature)·W, or y·W [derived].

    No tensor `[B, ..., K]` is made. `flow_embedding` is the case scale = Kβ and spread = √(Kβ).

    Args:
        x: Classes from 0 to K − 1, `[B, ...]`, int64, int32, int16, int8 or uint8.
        weight: W, the vectors of the classes, `[K, d]`, floating-point; differentiable.
        scale: The factor of the one-hot vector e_x, at least 0: a number, or a floating-point tensor `[B]` or of any
            leading part of `[B, ...]`.
        spread: The standard deviation of the noise, at least 0, in a shape that scale may have.
        temperature: The number that divides y before the softmax, from 1e-30 to 1e30, in a shape that scale may have.
            None: 1. Only with output="softmax".
        output: "softmax" for softmax(y/temperature)·W, or "linear" for y·W.
        factor: `noise_factor(weight)`, `[d, d]`, with which y·W is drawn without y; differentiable. Only with
            output="linear", without return_argmax, and in a single process.
        return_argmax: Whether the class with the largest y is returned, too.
        mask: Bool, False where x is not read, such as padding: scale and spread are 0 there. Broadcastable to
            `[B, ...]`, or shaped as its leading dimensions.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals ε, `[B, ..., K]`, or `[B, ..., d]` with a factor, floating-point, instead of a seed; not
            differentiable.
        process_group: The processes that share the classes; see `help(bfn_kernels.vocabulary)`. None for one process.
        num_classes: K, the number of classes of all processes together. Only with process_group.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The embedding `[B, ..., d]`, in the type of the weight. With return_argmax, a pair: the embedding, and the class
        with the largest y `[B, ...]`, int64, or the first one if there are several.

    Example:
        >>> weight = torch.tensor([[0.0, 4.0], [2.0, 0.0]])
        >>> noisy_embedding(torch.tensor([1]), weight, scale=3.0, spread=0.0, output="linear", return_argmax=True)
        (tensor([[6., 0.]]), tensor([1]))
    """
    x = checks.classes("x", x)
    checks.weight("weight", weight)
    checks.same_device("weight", weight, "x", x)
    softmax = checks.choice("output", output, OUTPUTS) == OUTPUTS.index("softmax")
    checks.boolean("return_argmax", return_argmax)
    shard = shard_of(weight, process_group, num_classes, backend)
    if temperature is not None and not softmax:
        raise ValueError(f'temperature must be None with output="linear", got {temperature}')
    if factor is not None:
        _check_factor(factor, weight, softmax, return_argmax, process_group)
    divisor = checks.rows("temperature", 1.0 if temperature is None else temperature, x.shape, x, 1e-30, 1e30)
    numbers = (checks.rows(name, of, x.shape, x, 0) for name, of in (("scale", scale), ("spread", spread)))
    scales, spreads = (number.div(divisor).to(checks.compute_dtype(weight)).to(x.device) for number in numbers)
    x, scales, spreads = hide(checks.mask("mask", mask, "x", x, x.shape), x, scales, spreads)
    width = shard.num_classes if factor is None else weight.shape[1]
    of = Noise(noise_seed(x, seed, generator, ("noise", noise, (*x.shape, width))), noise)
    library = backends.library(backend, x.device)
    if factor is not None:
        return _by_factor(library, x, weight, scales, spreads, factor, of)
    ops = library.vocabulary
    if softmax:  # of the logits of a flow, which differ from y/temperature by the same number in all classes
        embedding = ops.flow_embedding(x, weight, scales / shard.num_classes, spreads, of, shard)
    else:
        embedding = ops.noisy_sum(x, weight, scales, spreads, of, shard)
    if not return_argmax:
        return embedding
    return embedding, ops.noisy_mode(x, scales, spreads, of, len(weight), shard)


def noise_factor(weight: Tensor) -> Tensor:
    """The factor F with FᵀF = WᵀW, with which `noisy_embedding` draws y·W without y [derived].

    For normals ε of K numbers and ξ of d numbers, ε·W and ξ·F have the same distribution. F takes as long as the
    product y·W of about d tokens.

    Args:
        weight: W, the vectors of the classes, `[K, d]`, floating-point; differentiable.

    Returns:
        F, an upper triangular matrix `[d, d]`, float64 if the weight is float64, else float32.

    Raises:
        ValueError: If K < d, or if the columns of W are linearly dependent up to rounding (on the CPU; elsewhere F is
            NaN).

    Example:
        >>> noise_factor(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
        tensor([[5.0000, 0.8000],
                [0.0000, 0.6000]])
    """
    checks.weight("weight", weight)
    classes, width = weight.shape
    if classes < width:
        raise ValueError(f"weight must have at least as many rows as columns, got {tuple(weight.shape)}")
    wide = weight.to(checks.compute_dtype(weight))
    product = linear(wide.t(), wide.t())
    factor, failed = torch.linalg.cholesky_ex(product, upper=True)
    rounding = product.diagonal() * width * torch.finfo(wide.dtype).eps  # the error of a squared pivot, at most
    singular = (failed > 0) | (factor.diagonal().square() <= rounding).any()
    if checks.shows(singular) and singular:
        raise ValueError("weight must have linearly independent columns, but WᵀW is singular up to rounding")
    return torch.where(singular, torch.nan, factor)


def _check_factor(
    factor: Tensor, weight: Tensor, softmax: bool, return_argmax: bool, process_group: ProcessGroup | None
) -> None:
    others = {'output="softmax"': softmax, "return_argmax": return_argmax, "process_group": process_group is not None}
    for name, given in others.items():
        if given:
            raise ValueError(f"factor must be None with {name}")
    checks.like("factor", factor, "weight", weight, (weight.shape[1], weight.shape[1]))


def _by_factor(
    library: Library, x: Tensor, weight: Tensor, scale: Tensor, spread: Tensor, factor: Tensor, noise: Noise
) -> Tensor:
    """scale·W_x + spread·ξ·F, where ξ are d normals for each token."""
    index, valid = checks.valid_classes("x", x, len(weight))
    scale, spread = (number.unsqueeze(-1) for number in (scale, spread))
    empty = torch.zeros(*x.shape, weight.shape[1], dtype=scale.dtype, device=x.device)
    draws = library.continuous.gaussian_step(empty, noise_scale=spread, noise=noise)
    message = scale * torch.nn.functional.embedding(index, weight).to(scale.dtype)
    embedding = message + linear(draws, factor.t().to(scale.dtype))
    return torch.where(valid.unsqueeze(-1), embedding, torch.nan).to(weight.dtype)
