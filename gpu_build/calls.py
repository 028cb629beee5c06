"""Calls of the operators whose kernels are compiled or executed to see what these cost."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bfn_kernels.arguments import PUBLISHED
from bfn_kernels.discrete.operators import RECEIVERS, ROW_STATS, SUMS
from bfn_kernels.discrete.tiles import FUSED_WIDTH


class Row(NamedTuple):
    """A call, how many variables it works on, and the bytes that it must move for each. `ops` has the operators, as
    `ops.<family>.<operator>`. For discrete data a class counts as a variable."""

    name: str
    variables: int
    bytes: float
    call: Callable[[], object]


def of_data(ops: Any, x: torch.Tensor, noise_scale: float = 1.0) -> list[Row]:
    """Calls of the operators of continuous and discretised data, with noise predictions and all gradients. The n-step
    losses of mixtures are left out, which take long to compile and spill up to 150 bytes a thread.

    noise_scale: what the std of discretised data is multiplied by."""
    row, seed, width = torch.ones(x.shape[0], 1), torch.tensor(1), x.element_size()
    many, scale = torch.zeros(*x.shape, 10, dtype=x.dtype), row * noise_scale
    prediction, one, mixture = (x, x, row, row), (x, x, None, x, row, scale), (many, many, many, x, row, scale)
    gradients, with_mixture = (True, True, False), (True, True, True)
    clip, losses = (-1.0, 1.0), (None, 3)  # no mask, and the reduction
    outs = torch.empty_like(x), torch.empty_like(x)
    bins = 256, *PUBLISHED.std, PUBLISHED.log_std

    def nstep(nodes=(), n_samples=0):
        draws = nodes, nodes, n_samples, seed, None
        return lambda: ops.discretised.discrete_time_loss(x, *one, row, 7, *draws, *bins, True, *losses, *gradients)

    def draw(output):
        drawn = None, None, seed, None, None, None
        return lambda: ops.discretised.update_sample(*output, row, row, row, *bins, 0, *drawn)

    calls = [
        ("gaussian_step, with noise", 3, lambda: ops.continuous.gaussian_step(x, row, x, row, row, seed, None)),
        ("gaussian_step", 3, lambda: ops.continuous.gaussian_step(x, row, x, row, None, None, None)),
        (
            "continuous update on a prediction", 3,
            lambda: ops.continuous.update_sample(*prediction, row, row, row, *clip, None, None, seed, None),
        ),
        (
            "continuous solver step, ode2", 5,
            lambda: ops.continuous.solver_step_out(
                *prediction, row, row, None, x, row, *clip, None, None, None, None, *outs
            ),
        ),
        (
            "discretised solver step, ode2", 6,
            lambda: ops.discretised.solver_step_out(
                *one, row, row, None, x, row, *bins, 2, None, None, None, None, None, None, *outs
            ),
        ),
        (
            "squared_loss", 3,
            lambda: ops.continuous.squared_loss(x, *prediction, row, None, *clip, *losses, False, False, False),
        ),
        (
            "squared_loss, with gradients", 3 + 8 / width,
            lambda: ops.continuous.squared_loss(x, *prediction, row, None, *clip, *losses, False, True, True),
        ),
        ("output_std", 2 + 4 / width, lambda: ops.discretised.output_std(x, row, row, *bins[1:], True)),
        (
            "expected_value, unclipped", 4 + 8 / width,
            lambda: ops.discretised.expected_value(x, x, None, 256, False, *gradients),
        ),
        ("discretised update, a draw", 4, draw(one)),
        (
            "discretised L_inf", 4 + 8 / width,
            lambda: ops.discretised.continuous_time_loss(x, *one, row, *bins, True, *losses, *gradients),
        ),
        (
            "discretised reconstruction", 4 + 8 / width,
            lambda: ops.discretised.reconstruction_loss(x, *one, *bins, *losses, *gradients),
        ),
        ("discretised L_n, 8 nodes", 4 + 8 / width, nstep((0.0,) * 8)),
        (
            "discretised L_inf, 10 components", 32 + 120 / width,
            lambda: ops.discretised.continuous_time_loss(x, *mixture, row, *bins, True, *losses, *with_mixture),
        ),
        (
            "discretised reconstruction, 10 components", 32 + 120 / width,
            lambda: ops.discretised.reconstruction_loss(x, *mixture, *bins, *losses, *with_mixture),
        ),
        ("discretised update, a draw, 10 components", 32, draw(mixture)),
        ("discretised L_n, 10 draws", 4 + 8 / width, nstep(n_samples=10)),
    ]  # fmt: skip
    return [Row(name, x.numel(), size * width, call) for name, size, call in calls]


def of_bits(ops: Any, z: torch.Tensor) -> list[Row]:
    """Calls of the operators of binary data, with all gradients."""
    x, row, seed = torch.zeros(z.shape, dtype=torch.long), torch.ones(z.shape[0], 1), torch.tensor(1)
    width, losses = z.element_size(), (None, 3, True)  # no mask, the reduction, and the gradient
    outs = torch.empty_like(z), torch.empty_like(z), torch.empty_like(z)

    def nstep(nodes=(), n_samples=0):
        draws = nodes, nodes, n_samples, seed, None
        return lambda: ops.binary.discrete_time_loss(x, z, row, 7, 0, *draws, *losses)

    calls = [
        ("sender", 1 + 8 / width, lambda: ops.binary.sender_sample(x, row, row, True, seed, None, z.dtype)),
        ("update, a draw", 3, lambda: ops.binary.update_sample(z, z, row, row, 0, None, None, seed, None, None)),
        (
            "solver step, ode2", 6,
            lambda: ops.binary.solver_step_out(
                z, z, row, None, row, z, row, None, None, None, 2, None, None, None, None, None, *outs
            ),
        ),
        ("L_inf", 1 + 12 / width, lambda: ops.binary.continuous_time_loss(x, z, row, *losses)),
        ("reconstruction", 1 + 12 / width, lambda: ops.binary.reconstruction_loss(x, z, *losses)),
        ("L_n, 8 nodes", 1 + 12 / width, nstep((0.0,) * 8)),
        ("L_n, 10 draws", 1 + 12 / width, nstep(n_samples=10)),
    ]  # fmt: skip
    return [Row(f"binary {name}", z.numel(), size * width, call) for name, size, call in calls]


def of_classes(ops: Any, z: torch.Tensor) -> list[Row]:
    """Calls of the operators of discrete data, for which a class counts as a variable."""
    x, row, seed = torch.zeros(z.shape[:-1], dtype=torch.long), torch.ones(z.shape[0], 1), torch.tensor(1)
    scale, stats = torch.tensor(1.0), torch.ones(*x.shape, ROW_STATS)
    classes, width, outs = z.shape[-1], z.element_size(), (torch.empty_like(z), torch.empty_like(z))
    calls = [
        ("sender", 1, lambda: ops.discrete.sender_sample(x, row, row, classes, True, seed, None, z.dtype)),
        ("update, a draw", 3, lambda: ops.discrete.update_sample(z, z, row, row, 0, None, None, seed, None, None)),
        (
            "update with theta, a draw", 4,
            lambda: ops.discrete.update_sample_out(z, z, row, row, 0, None, None, seed, None, None, *outs),
        ),
        (
            "solver step, guided ode2", 7,
            lambda: ops.discrete.solver_step_out(
                z, z, row, None, row, z, row, row, z, row, 2, None, None, None, None, None, *outs, torch.empty_like(z)
            ),
        ),
        ("loss", 1, lambda: ops.discrete.continuous_time_loss(x, z, row, None, 3, True)),
        ("loss_backward", 2, lambda: ops.discrete.loss_backward(row, scale, x, z, row, None, stats)),
        *(
            (
                f"L_n, {receiver}, 10 draws", 1 + 4 / width,
                lambda place=place: ops.discrete.discrete_time_loss(
                    x, z, row, 7, place, (), (), 10, seed, None, None, 3, True
                ),
            )
            for place, receiver in enumerate(RECEIVERS)
        ),
    ]  # fmt: skip
    return [Row(f"discrete {name}, {classes} classes", z.numel(), size * width, call) for name, size, call in calls]


def of_tiles(ops: Any, tile: torch.Tensor) -> list[Row]:
    """Calls of what Triton has for the tiles of large vocabularies, `[tokens, classes]`, with 10 draws in those of
    L_n."""
    tokens, classes = tile.shape
    x, each, seed, width = torch.arange(tokens), torch.ones(tokens), torch.tensor(1), tile.element_size()
    sent = x, x, each, each, seed, 0, classes
    sums = torch.zeros(10, tokens, SUMS, dtype=torch.float64)
    slopes, less, shift = torch.ones(tokens, 5), torch.ones(tokens, 4), torch.zeros(10, tokens)
    calls = [
        ("flow", 1, lambda: ops.discrete.flow_tile(*sent, False, each, each, each, tile)),
        ("flow again", 1, lambda: ops.discrete.flow_tile(*sent, True, each, each, each, tile)),
        ("sums", 1, lambda: ops.discrete.sums_tile(tile, x, 0, sums[0])),
        ("slopes", 2, lambda: ops.discrete.slopes_tile(x, slopes, 0, tile)),
        ("sums of 10 draws", 1, lambda: ops.discrete.draws_tile(tile, *sent, sums)),
        ("slopes of 10 draws", 2, lambda: ops.discrete.draw_slopes_tile(*sent, less, shift, tile)),
    ]  # fmt: skip
    return [Row(f"tile, {name}, {classes} classes", tile.numel(), size * width, call) for name, size, call in calls]


def of_products(ops: Any, hidden: torch.Tensor, weight: torch.Tensor) -> list[Row]:
    """Calls of what Triton multiplies on tensor cores for large vocabularies, `[tokens, d]` by `[classes, d]`; a class
    of a token counts as a variable. Those that make noise take the first FUSED_WIDTH columns."""
    (tokens, width), classes = hidden.shape, len(weight)
    x, each, seed, logits = torch.arange(tokens), torch.ones(tokens), torch.tensor(1), torch.zeros(tokens, classes)
    sent, wide = (x, x, each, each, seed, 0, classes), torch.zeros(tokens, width)
    narrow, grad = weight[:, :FUSED_WIDTH], hidden[:, :FUSED_WIDTH]
    sums, out, by_weight = torch.zeros(tokens, SUMS, dtype=torch.float64), wide[:, :FUSED_WIDTH], narrow.clone()
    calls = [
        (
            f"flow, d = {FUSED_WIDTH}",
            lambda: ops.discrete.flow_products(*sent, narrow, each.clone(), each.clone(), out),
        ),
        (
            f"flow backward, d = {FUSED_WIDTH}",
            lambda: ops.discrete.flow_products_backward(*sent, grad, each, each, by_weight),
        ),
        (f"head sums, d = {width}", lambda: ops.discrete.head_sums(hidden, weight, None, x, 0, sums)),
        (f"logits, d = {width}", lambda: ops.discrete.product(hidden, weight.t(), False, logits)),
        (f"by hidden, d = {width}", lambda: ops.discrete.product(logits, weight, True, wide)),
    ]
    # bytes of what is stored; what is read once is few beside it
    return [Row(f"product, {name}", logits.numel(), 4 * (place > 2), call) for place, (name, call) in enumerate(calls)]
