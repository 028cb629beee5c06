"""Calls of the operators. gpu_build compiles or executes the kernels of these calls to find their costs.

In the functions below, `ops` has the operators, as `ops.<family>.<operator>`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bfn_kernels import gauss
from bfn_kernels.arguments.keywords import PUBLISHED, checked_bins
from bfn_kernels.arguments.rows import BITS, T_MIN
from bfn_kernels.coding import ONE, PRECISION, UNIT, normal_table
from bfn_kernels.concentrations import QUANTILES
from bfn_kernels.discrete.operators import ROW_STATS
from bfn_kernels.formulas import MEAN as OF_VARIABLES
from bfn_kernels.records import (
    MEAN,
    NO_DRAWS,
    NO_SCORE,
    RECEIVERS,
    SAMPLE,
    ClassLogits,
    Draws,
    Guidance,
    LossTarget,
    Network,
    Noise,
    Prediction,
    Score,
    Sent,
    Solver,
)
from bfn_kernels.vocabulary.sums import SUMS
from bfn_kernels.vocabulary.tiles import FUSED_WIDTH

ALL, NO_NOISE = LossTarget(None, OF_VARIABLES), Noise(None, None)
DRAW, WHOLE = Sent(SAMPLE, None, None, None), Sent(MEAN, None, None, None)
NODES = Draws(*gauss.hermite(8), 0, None, None)


class Row(NamedTuple):
    """A call, the number of its variables, and the bytes that it must move for each variable. For discrete data, a
    token is one element of the data, and each class of a token counts as a variable."""

    name: str
    variables: int
    bytes: float
    call: Callable[[], object]


def of_data(ops: Any, x: torch.Tensor, noise_scale: float = 1.0) -> list[Row]:
    """Calls of the operators of continuous and discretised data, and of the common operators. The network predicts
    noise. The n-step losses of mixtures are left out: they take long to compile, and in Triton they spill up to 150
    bytes a thread.

    noise_scale: the factor of the predicted noise and of its std, for discretised data."""
    row, seed, width = torch.ones(x.shape[0], 1), torch.tensor(1), x.element_size()
    many, scale = torch.zeros(*x.shape, 10, dtype=x.dtype), row * noise_scale
    one, mixture = Network(x, x, None, x, row, scale), Network(many, many, many, x, row, scale)
    prediction, noise, bins = Prediction(x, x, row, row, -1.0, 1.0), Noise(seed, None), checked_bins(256, PUBLISHED)
    gradients, outs = (True, True, False), (torch.empty_like(x), torch.empty_like(x))
    update, second = Solver(row, row, row), Solver(row, row, None, x, row)
    of_rows = x.float().abs(), None, BITS["gamma"] | BITS["rate"], 1, 0.02, 0, 0, 1.0, T_MIN, list(x.shape), False

    def draw(network):
        return lambda: ops.discretised.step(*network, *update, *bins, *DRAW, None, *noise)

    def loss(network, weight=None, alpha=None, draws=NO_DRAWS, need=gradients):
        return lambda: ops.discretised.loss(x, *network, weight, alpha, False, 7, *draws, *bins, *ALL, *need)

    def squared(*need):
        return lambda: ops.continuous.squared_loss(x, *prediction, row, None, *ALL, *need)

    draws, every = Draws(None, None, 10, seed, None), (True, True, True)
    calls = [
        ("gaussian_step, with noise", 3, lambda: ops.continuous.gaussian_step(x, row, x, row, row, *noise)),
        ("gaussian_step", 3, lambda: ops.continuous.gaussian_step(x, row, x, row, None, *NO_NOISE)),
        (
            "continuous update on a prediction", 3,
            lambda: ops.continuous.step(*prediction, *update, None, None, *noise),
        ),
        (
            "continuous solver step, ode2", 5,
            lambda: ops.continuous.step_out(*prediction, *second, None, None, *NO_NOISE, *outs),
        ),
        (
            "discretised solver step, ode2", 6,
            lambda: ops.discretised.step_out(*one, *second, *bins, *WHOLE, None, *NO_NOISE, *outs),
        ),
        ("predict_data", 3, lambda: ops.continuous.predict_data(*prediction)),
        ("predict_data_backward", 5, lambda: ops.continuous.predict_data_backward(x, *prediction, True, True)),
        ("scaled_gradient", 2, lambda: ops.common.scaled_gradient(x, row.sum(), None, x.dtype)),
        ("row_scalars", 12 / width, lambda: ops.common.row_scalars(*of_rows)),
        ("squared_loss", 3, squared(False, False, False)),
        ("squared_loss, with gradients", 3 + 8 / width, squared(False, True, True)),
        ("output_std", 2 + 4 / width, lambda: ops.discretised.output_std(x, row, row, *bins[2:], True)),
        *(
            (
                f"expected_value{'' if clip else ', unclipped'}", 3 + 8 / width,
                lambda clip=clip: ops.discretised.expected_value(x, x.exp(), None, 256, clip, *gradients),
            )
            for clip in (True, False)
        ),
        ("discretised sample", 3, lambda: ops.discretised.choose(x, x.exp(), None, 256, SAMPLE, *noise, None)),
        ("discretised update, a draw", 4, draw(one)),
        ("discretised L_inf", 4 + 8 / width, loss(one, row)),
        ("discretised reconstruction", 4 + 8 / width, loss(one)),
        ("discretised L_n, 8 nodes", 4 + 8 / width, loss(one, alpha=row, draws=NODES)),
        ("discretised L_inf, 10 components", 32 + 120 / width, loss(mixture, row, need=every)),
        ("discretised reconstruction, 10 components", 32 + 120 / width, loss(mixture, need=every)),
        ("discretised update, a draw, 10 components", 32, draw(mixture)),
        ("discretised L_n, 10 draws", 4 + 8 / width, loss(one, alpha=row, draws=draws)),
    ]  # fmt: skip
    return [Row(name, x.numel(), size * width, call) for name, size, call in calls]


class Outputs(NamedTuple):
    """Variables of discretised data, normals that a network puts out for them, and the accuracies of their messages."""

    x: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    alpha: torch.Tensor
    num_bins: int


def output_sets(size: int = 4096) -> dict[str, Outputs]:
    """Sets of outputs on which an n-step loss of 20 steps takes different times: outputs of a trained model, outputs
    with a std from 0.001 to 1, and outputs with a std near the width of a bin. The outputs of the trained model are in
    digits.pt, which digits.md describes."""
    generator = torch.Generator().manual_seed(1)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    x = (2 * torch.randint(256, (size,), generator=generator) + 1) / 256 - 1
    steps, normals = torch.randint(1, 21, (size,), generator=generator), torch.randn(size, generator=generator)
    alpha = 0.02 ** (-2 * steps / 20) * (1 - 0.02 ** (2 / 20))
    digits = torch.load(Path(__file__).with_name("digits.pt"), weights_only=True)
    found = {"digits": Outputs(*(digits[name][:size].float() for name in Outputs._fields[:4]), 17)}
    stds = {"any std": 10 ** uniform(-3, 0), "std of a bin": uniform(0.7, 1.4) / 128}
    return found | {name: Outputs(x, x + std * normals, std, alpha, 256) for name, std in stds.items()}


def of_outputs(ops: Any, name: str, outputs: Outputs) -> list[Row]:
    """Calls of the n-step loss of discretised data, with its gradients."""
    one = Network(outputs.mean, outputs.std, None, None, None, None)
    bins = checked_bins(outputs.num_bins, PUBLISHED)

    def loss(draws):
        inputs = outputs.x, *one, None, outputs.alpha, True
        return lambda: ops.discretised.loss(*inputs, 20, *draws, *bins, *ALL, True, True, False)

    draws = {"8 nodes": NODES, "10 draws": Draws(None, None, 10, torch.tensor(1), None)}
    return [Row(f"discretised L_n, {n}, {name}", outputs.x.numel(), 24, loss(d)) for n, d in draws.items()]


def of_bits(ops: Any, z: torch.Tensor) -> list[Row]:
    """Calls of the operators of binary data, with all gradients."""
    x, row, noise = torch.zeros(z.shape, dtype=torch.long), torch.ones(z.shape[0], 1), Noise(torch.tensor(1), None)
    width, update, second = z.element_size(), Solver(None, row, row), Solver(row, row, None, z, row)
    outs = torch.empty_like(z), torch.empty_like(z), torch.empty_like(z)

    def nstep(draws):
        return lambda: ops.binary.discrete_time_loss(x, z, row, 7, 0, *draws, *ALL, True)

    calls = [
        ("sender", 1 + 8 / width, lambda: ops.binary.sender_sample(x, row, row, True, *noise, z.dtype)),
        ("update, a draw", 3, lambda: ops.binary.step(z, z, *update, *Guidance(), *DRAW, *noise)),
        (
            "solver step, ode2", 6,
            lambda: ops.binary.step_out(z, z, *second, *Guidance(), *WHOLE, *NO_NOISE, *outs),
        ),
        ("L_inf", 1 + 12 / width, lambda: ops.binary.loss(x, z, row, *ALL, True)),
        ("reconstruction", 1 + 12 / width, lambda: ops.binary.loss(x, z, None, *ALL, True)),
        ("entropy", 1 + 4 / width, lambda: ops.binary.entropy(z, *ALL, True)),
        ("L_n, 8 nodes", 1 + 12 / width, nstep(NODES)),
        ("L_n, 10 draws", 1 + 12 / width, nstep(Draws(None, None, 10, *noise))),
    ]  # fmt: skip
    return [Row(f"binary {name}", z.numel(), size * width, call) for name, size, call in calls]


def of_angles(ops: Any, x: torch.Tensor) -> list[Row]:
    """Calls of the operators of circular data. The loss "density" has the gradient of the weight, too."""
    row, seed, width, table = torch.ones(x.shape[0], 1), torch.tensor(1), x.element_size(), torch.ones(2, QUANTILES)
    circle, outs = (1.0, 0.0, 0.5, 0.0), (torch.empty_like(x), torch.empty(x.shape), torch.empty(x.shape))
    drawn = None, None, seed, None, None, *circle  # no known angles, and no explicit noise
    message, law = (row, None, *drawn), (row, table, *drawn)
    state, new = (x, x, x), torch.empty_like(x)
    calls = [
        ("flow", 2 + 4 / width, lambda: ops.circular.step_out(x, None, None, *law, *outs[:2], None)),
        ("sender", 2, lambda: ops.circular.step_out(x, None, None, *message, outs[0], None, None)),
        ("update", 5 + 4 / width, lambda: ops.circular.step_out(*state, *message, outs[0], new, outs[2])),
        ("new update", 5, lambda: ops.circular.step(*state, *message)),
        ("L_n", 2 + 4 / width, lambda: ops.circular.loss(x, x, row.expand(x.shape), 0, 1.0, *ALL, True, False)),
        ("density", 3 + 8 / width, lambda: ops.circular.loss(x, x, x, 2, 1.0, *ALL, True, True)),
    ]  # fmt: skip
    return [Row(f"circular {name}", x.numel(), size * width, call) for name, size, call in calls]


def of_classes(ops: Any, z: torch.Tensor) -> list[Row]:
    """Calls of the operators of discrete data with K classes. The n-step losses have the accuracy of step 10 of 20,
    with β₁ = 15.2/K as in the benchmarks."""
    x, row, noise = torch.zeros(z.shape[:-1], dtype=torch.long), torch.ones(z.shape[0], 1), Noise(torch.tensor(1), None)
    scale, stats, draws = torch.tensor(1.0), torch.ones(*x.shape, ROW_STATS), Draws(None, None, 10, *noise)
    classes, width, outs = z.shape[-1], z.element_size(), (torch.empty_like(z), torch.empty_like(z))
    alpha = row * (15.2 / classes * 19 / 20**2)
    update, second, guidance = Solver(None, row, row), Solver(row, row, None, z, row), Guidance(row, z, row)
    of, masked = ClassLogits(z), ClassLogits(z, torch.arange(classes) % 3 != 1)
    # For each class of a token, in elements: the token's class x, and the numbers that a loss saves for its gradient.
    given, saved = (each / classes / width for each in (x.element_size(), 4 * ROW_STATS))
    plain, all_of = (*update, *Guidance(), *NO_SCORE, *DRAW), (*second, *guidance, *Score(z, row), *WHOLE)
    calls = [
        ("theta", 2, lambda: ops.discrete.theta(z)),
        ("sender", 1 + given, lambda: ops.discrete.sender_sample(x, row, row, classes, True, *noise, z.dtype)),
        ("update, a draw", 3, lambda: ops.discrete.step(*of, z, *plain, *noise)),
        ("update with theta, a draw", 4, lambda: ops.discrete.step_out(*of, z, *plain, *noise, *outs, None)),
        (
            "solver step, guided ode2", 7,
            lambda: ops.discrete.step_out(
                *of, z, *second, *guidance, *NO_SCORE, *WHOLE, *NO_NOISE, *outs, torch.empty_like(z)
            ),
        ),
        (
            "solver step, class mask and score", 8,
            lambda: ops.discrete.step_out(*masked, z, *all_of, *NO_NOISE, *outs, torch.empty_like(z)),
        ),
        ("loss", 1 + given + saved, lambda: ops.discrete.loss(x, *of, row, *ALL, False, True)),
        ("loss, class mask", 1 + given + saved, lambda: ops.discrete.loss(x, *masked, row, *ALL, False, True)),
        (
            "loss_backward", 2 + given + saved,
            lambda: ops.discrete.loss_backward(row, scale, x, *of, row, None, stats),
        ),
        ("entropy", 1 + 4 / width, lambda: ops.discrete.entropy(z, *ALL, True)),
        *(
            (
                f"L_n, {receiver}, 10 draws", 1 + 4 / width + given,
                lambda place=place: ops.discrete.discrete_time_loss(x, *of, alpha, 7, place, *draws, *ALL, True),
            )
            for place, receiver in enumerate(RECEIVERS)
        ),
    ]  # fmt: skip
    return [Row(f"discrete {name}, {classes} classes", z.numel(), size * width, call) for name, size, call in calls]


def of_intervals(ops: Any, count: int) -> list[Row]:
    """Calls of the operators of an entropy coder, for so many variables: a normal, a receiver of bins, and classes."""
    given, unit = torch.arange(count) * ((1 << PRECISION) // count), torch.tensor(1 << UNIT)
    offset, weights = torch.full_like(given, -32 << UNIT), given.new_full((count, 27), (1 << ONE) // 27)
    # A copy, because the interpreter of PTX knows only memory that is allocated while it runs.
    table = normal_table(given.device).clone()
    wide, alone, bins = (given, True, offset, unit, 64), (1, 0, None, None, None), (256, 1 << 22, None, offset, unit)
    calls = [
        ("intervals of a normal", 48, lambda: ops.common.lattice_intervals(*wide, *alone, table)),
        ("intervals of 256 bins", 64, lambda: ops.common.lattice_intervals(*wide, *bins, table)),
        ("intervals of 27 classes", 248, lambda: ops.common.class_intervals(given, True, weights)),
    ]
    return [Row(name, count, size, call) for name, size, call in calls]


def of_tiles(ops: Any, tile: torch.Tensor) -> list[Row]:
    """Calls of Triton's kernels for a tile: the numbers of some tokens and some classes, `[tokens, classes]`. The rows
    "of 10 draws" are the kernels of the n-step loss L_n."""
    tokens, classes = tile.shape
    x, each, seed, width = torch.arange(tokens), torch.ones(tokens), torch.tensor(1), tile.element_size()
    sent = x, x, each, each, seed, 0, classes
    sums = torch.zeros(10, tokens, SUMS, dtype=torch.float64)
    slopes, less, shift = torch.ones(tokens, 5), torch.ones(tokens, 4), torch.zeros(10, tokens)
    calls = [
        ("messages", 1, lambda: ops.vocabulary.flow_tile(*sent, False, tile, None, None, None)),
        ("flow", 1, lambda: ops.vocabulary.flow_tile(*sent, False, tile, each, each, each)),
        ("flow again", 1, lambda: ops.vocabulary.flow_tile(*sent, True, tile, each, each, each)),
        ("sums", 1, lambda: ops.vocabulary.sums_tile(tile, x, 0, sums[0])),
        ("slopes", 2, lambda: ops.vocabulary.slopes_tile(x, slopes, 0, tile)),
        ("sums of 10 draws", 1, lambda: ops.vocabulary.draws_tile(*sent, sums, tile)),
        ("slopes of 10 draws", 2, lambda: ops.vocabulary.draw_slopes_tile(*sent, less, shift, tile)),
    ]  # fmt: skip
    return [Row(f"tile, {name}, {classes} classes", tile.numel(), size * width, call) for name, size, call in calls]


def of_products(ops: Any, hidden: torch.Tensor, weight: torch.Tensor) -> list[Row]:
    """Calls of Triton's products on tensor cores for large vocabularies, `[tokens, d]` by `[classes, d]`. The two
    "flow" products draw the noise of the flow. They take FUSED_WIDTH columns, the most that the kernels support."""
    (tokens, width), classes = hidden.shape, len(weight)
    x, each, seed, logits = torch.arange(tokens), torch.ones(tokens), torch.tensor(1), torch.zeros(tokens, classes)
    sent, wide = (x, x, each, each, seed, 0, classes), torch.zeros(tokens, width)
    narrow, grad = weight[:, :FUSED_WIDTH], hidden[:, :FUSED_WIDTH]
    sums, out, by_weight = torch.zeros(tokens, SUMS, dtype=torch.float64), wide[:, :FUSED_WIDTH], narrow.clone()
    calls = [
        (
            f"flow, d = {FUSED_WIDTH}",
            lambda: ops.vocabulary.flow_products(*sent, narrow, each.clone(), each.clone(), out),
        ),
        (
            f"flow backward, d = {FUSED_WIDTH}",
            lambda: ops.vocabulary.flow_products_backward(*sent, grad, each, each, by_weight),
        ),
        (f"head sums, d = {width}", lambda: ops.vocabulary.head_sums(hidden, weight, None, x, 0, sums)),
        (f"logits, d = {width}", lambda: ops.vocabulary.product(hidden, weight.t(), False, logits)),
        (f"by hidden, d = {width}", lambda: ops.vocabulary.product(logits, weight, True, wide)),
    ]
    # Only "logits" and "by hidden" count bytes: the float32 logits that they write or read. The vectors are left out,
    # since they have few bytes compared with the logits of many tokens and classes.
    return [Row(f"product, {name}", logits.numel(), 4 * (place > 2), call) for place, (name, call) in enumerate(calls)]
