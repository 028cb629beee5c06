"""Pictures: samples, losses against steps, time and n, and how input distributions narrow as messages arrive."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from torch import Tensor

from bfn import figures, molecules_3d
from bfn.atom_rows import Atoms
from bfn.configs import SampleConfig
from bfn.data import Data
from bfn.data.splits import readable
from bfn.model import BFN
from bfn.results.tables import TOLD_APART, Drawn, Measured
from bfn.sample import sample, settings_of
from bfn.training.checkpoint import write_atomically
from bfn.training.derived_seeds import derive
from bfn_kernels import discrete, nn

MOST_CLASSES, WIDEST = 27, 12  # the most classes in a picture of probabilities, and the most letters of a symbol


def to_grey(images: Tensor, num_classes: int) -> Tensor:
    """Images of bin centres or of classes, rescaled to [0, 1]."""
    return (images + 1) / 2 if images.is_floating_point() else images / (num_classes - 1)


def to_text(classes: Tensor, symbols: Sequence[str | bytes]) -> list[str]:
    """One string per row of classes."""
    return [readable(symbols[c] for c in row) for row in classes.tolist()]


def plot_samples(samples: Tensor, data: Data, path: Path) -> Path:
    """A grid of images next to held-out images, a panel of text above held-out text, or what the data's judge draws."""
    if data.judge is not None:
        return data.judge.draw(samples, path)
    if data.symbols:
        return plot_text(samples, data, path)
    columns = max(1, round(len(samples) ** 0.5))
    figure, (left, right) = figures.panels((10, 5.2), 1, 2, gridspec_kw={"wspace": 0.06})
    for axes, images, title in ((left, samples, "Samples"), (right, data.test[: len(samples)], "Held-out data")):
        figures.draw_images(axes, to_grey(images, data.num_classes), columns)
        axes.set_title(title)
    return figures.write(figure, path)


def plot_text(samples: Tensor, data: Data, path: Path) -> Path:
    """Samples and held-out windows of text, one in a line."""
    lines = ["samples", *to_text(samples, data.symbols), "", "held-out text", *to_text(data.test[:4], data.symbols)]
    wrapped = (textwrap.wrap(figures.drawable(line), 100, drop_whitespace=False) or [""] for line in lines)
    lines = [part for parts in wrapped for part in parts]
    figure = figures.new((10, 0.4 + 0.22 * len(lines)), layout=None)
    for row, line in enumerate(lines):
        weight = "bold" if line in ("samples", "held-out text") else "normal"
        place = 0.02, 1 - (row + 1) / (len(lines) + 1)
        figure.text(*place, line, family="monospace", size=10, weight=weight, parse_math=False)
    return figures.write(figure, path)


def plot_losses(rows: Sequence[dict[str, float]], data: Data, path: Path, *, dropout: bool) -> Path:
    """Training and validation loss of a run against its steps, in the unit of the data's judge, if there is one. rows:
    the log of the run. dropout: whether the run trains with dropout."""
    judge = data.judge
    rival, baseline = ("factorised baseline", data.baseline) if judge is None else judge.rival(data.validation)
    unit = "bits per dimension" if judge is None else judge.unit
    worth = (lambda bits: bits) if judge is None else judge.worth
    steps = [row["step"] for row in rows]
    spans = [step - before for step, before in zip(steps, [0, *steps], strict=False)]
    # A mean over few steps is noisy.
    means = [row for row, span in zip(rows, spans, strict=True) if 2 * span >= max(spans)]
    training = [row["step"] for row in means], [worth(row["train_bits"]) for row in means]
    validation = [worth(row["validation_bits"]) for row in rows]
    best = min(range(len(rows)), key=validation.__getitem__)
    low, high = min(baseline, *validation, *training[1]), max(baseline, *validation[len(validation) // 4 :])
    labels = {"xlabel": "step", "ylabel": unit, "title": "Loss during training"}
    with figures.chart(path, (8, 4.5), ylim=(low - 0.25 * (high - low), high + 0.25 * (high - low)), **labels) as axes:
        if min(training[1]) < high:  # else, as for some densities, the curve lies above the picture
            label = f"training, messages only{', with dropout' if dropout else ''}"
            axes.plot(*training, color="0.6", label=label)
        axes.plot(steps, validation, color="C0", label="validation bound, averaged weights")
        label = f"best: {validation[best]:.3f} at step {steps[best]:.0f}"
        axes.plot(steps[best], validation[best], "o", color="C0", label=label)
        axes.axhline(baseline, color="C3", linestyle="--", label=f"{rival}: {baseline:.3f}")
    return path


def plot_bounds(rows: Sequence[Measured], data: Data, path: Path) -> Path:
    """The bound against the number of steps, and the bound of continuous time, which is its limit."""
    limit = next(row.bound for row in rows if row.n_steps is None)
    steps, bounds = zip(*((row.n_steps, row.bound) for row in rows if row.n_steps is not None), strict=True)
    labels = {"xlabel": "steps n", "ylabel": "bits per dimension", "title": "Bound on held-out data"}
    with figures.chart(path, (7, 4.2), **labels) as axes:
        axes.errorbar(steps, [b.bits for b in bounds], [b.error for b in bounds], fmt="o-", capsize=3, label="n steps")
        axes.axhline(limit.bits, color="C0", linestyle="--", label=f"continuous time: {limit.bits:.3f}")
        axes.axhline(data.baseline, color="C3", linestyle=":", label=f"factorised baseline: {data.baseline:.3f}")
        figures.at_numbers(axes, steps)
    return path


def plot_samplers(rows: Sequence[Drawn], path: Path) -> Path:
    """The quality of samples against the calls of the network: how well a test tells them from held-out data, or the
    score of the data's judge."""
    quality = rows[0].quality
    labels, told_apart = {"xlabel": "calls of the network", "ylabel": quality}, quality == TOLD_APART
    title = (
        "Samples against held-out data (lower is better)" if told_apart else f"Samples: {quality} (higher is better)"
    )
    with figures.chart(path, (7, 4.2), title=title, **labels) as axes:
        for name in dict.fromkeys(row.sampler for row in rows):
            points = [(row.calls, row.share, row.error) for row in rows if row.sampler == name]
            calls, shares, errors = zip(*points, strict=True)
            axes.errorbar(calls, shares, errors, fmt="o-", capsize=3, label=name)
        if told_apart:
            axes.axhline(0.5, color="0.4", linestyle="--", label="same distribution")
        figures.at_numbers(axes, sorted({row.calls for row in rows}))
    return path


def plot_narrowing(model: BFN, data: Data, path: Path, options: SampleConfig) -> Path:
    """A run of ancestral sampling: the input distribution of one variable after each message, and below it the input
    distributions of all variables after some messages."""
    if isinstance(model, Atoms):
        return plot_growth(model, data, path, options)
    place, n_steps, history, precisions, thetas = most_varied(data), options.n_steps, [], [], []
    shown = sorted({round(i * n_steps / 8) for i in range(9)})

    def watch(i: int, state: nn.State) -> None:
        theta = parameters(model, state, 1)[0]
        history.append(theta[place].cpu())
        if not isinstance(model, nn.Classes):
            precisions.append(torch.as_tensor(state[1]).expand(1, *data.shape)[0][place].item())
        if i in shown:  # The whole example is stored for these messages only, since it is large with many classes.
            thetas.append(theta.cpu())

    drawn = sample(model, 1, n_steps, watch=watch, **settings_of(model, options))[0][place].item()
    figure, (top, bottom) = figures.panels((10, 7), 2, height_ratios=[2.2, 1])
    inputs, angle = torch.stack(history), isinstance(model, nn.Circular)
    if isinstance(model, nn.Classes):
        draw_probabilities(top, probabilities(model, inputs), int(drawn), data.symbols)
    else:
        draw_density(top, inputs[:, 0] if angle else inputs, torch.tensor(precisions).rsqrt(), drawn, angle=angle)
    kind = "character" if data.tokenizer is None else "token"
    variable = "angle" if angle else "pixel"
    where = f"row {place[0]}, column {place[1]}" if len(place) > 1 else f"place {place[0]}"
    name = f"{kind} {place[0]}" if data.symbols else f"the {variable} in {where}"
    top.set(title=f"Input distribution of {name} as {n_steps} messages arrive", xlabel="messages received")
    draw_inputs(bottom, model, data, torch.stack(thetas), shown, columns=len(shown))
    if data.symbols:
        title = f"Likeliest {kind}s of the window (the fainter, the less probable)"
        bottom.set(title=title, ylabel="messages received")
    else:
        what = "Likeliest class" if isinstance(model, nn.Classes) and not isinstance(model, nn.Binary) else "Mean"
        bottom.set_title(f"{what} of every {variable} after {', '.join(map(str, shown))} messages")
    return figures.write(figure, path)


def plot_growth(model: BFN, data: Data, path: Path, options: SampleConfig, *, count: int = 4) -> Path:
    """Runs of ancestral sampling: a row for each molecule, with the means of the input distributions of its atoms and
    their likeliest elements after some messages."""
    n_steps, shown = options.n_steps, sorted({round(i * options.n_steps / 7) for i in range(8)})
    thetas: list[Tensor] = []

    def watch(i: int, state: nn.State) -> None:
        if i in shown:
            thetas.append(parameters(model, state, count).cpu())

    sample(model, count, n_steps, watch=watch, **settings_of(model, options))
    figure, axes = figures.panels((1.5 * len(shown), 1.5 * count + 0.5))
    draw_inputs(axes, model, data, torch.stack(thetas, 1).flatten(0, 1), shown, columns=len(shown))
    axes.set_title(f"{count} molecules after {', '.join(map(str, shown))} messages")
    return figures.write(figure, path)


def plot_times(model: BFN, data: Data, path: Path, *, seed: int, count: int = 40) -> Path:
    """The loss L∞ at times in [0, 1]. The area under the curve is the cost of the messages."""
    x = data.test[:128].to(model.device)
    times, losses = (torch.arange(count) + 0.5) / count, []
    if isinstance(model, nn.Circular):
        times = nn.down_to_step(times, model.schedule.n_steps)
    model.eval()
    with torch.no_grad():
        for i, t in enumerate(times.to(model.device)):
            losses.append(model(x, t.expand(len(x)), seed=derive(seed, i), reduction="batch").cpu())
    bits = torch.stack(losses) / (math.prod(data.shape) * math.log(2))
    means, errors = bits.mean(1), bits.std(1) / len(x) ** 0.5
    title = f"Loss at time t of {len(x)} held-out examples: {means.mean():.3f} bits in all"
    labels = {"xlabel": "time t", "ylabel": "bits per dimension and unit of time", "title": title}
    with figures.chart(path, (7, 4.2), xlim=(0, 1), ylim=(0, None), **labels) as axes:
        axes.plot(times, means)
        axes.fill_between(times, means - errors, means + errors, alpha=0.3, label="standard error")
    return path


def animate_flow(model: BFN, data: Data, path: Path, options: SampleConfig, *, count: int = 16) -> Path:
    """A film of the input distributions of some samples as messages arrive, by ancestral sampling. It shows at most 51
    different pictures."""
    n_steps = options.n_steps
    frames = {round(i * n_steps / 50) for i in range(51)}
    figure, axes = figures.panels((10, 4.5) if data.symbols else (5, 5.4))
    film = PillowWriter(fps=10)

    def watch(i: int, state: nn.State) -> None:
        if i not in frames:
            return
        axes.clear()
        inputs = parameters(model, state, count).cpu()
        draw_inputs(axes, model, data, inputs, range(count), columns=round(count**0.5))
        axes.set(title=f"Input distributions after {i} of {n_steps} messages", ylabel="sample")
        if i == 0:  # all frames keep the layout of the first one
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        for _ in range(11 if i == n_steps else 1):  # the film stops at the end for a second
            film.grab_frame()

    with NamedTemporaryFile(suffix=path.suffix) as file:
        with film.saving(figure, file.name, dpi=80):
            sample(model, count, n_steps, watch=watch, **settings_of(model, options))
        write_atomically(path, Path(file.name).read_bytes())
    return path


def parameters(model: BFN, state: nn.State, count: int) -> Tensor:
    """The parameters of the input distributions of `count` examples. For a large vocabulary, model.theta would return
    vectors instead."""
    return discrete.theta(state[0]) if isinstance(model, nn.Vocabulary) else model.inputs(state, model.asked(count))


def probabilities(model: BFN, theta: Tensor) -> Tensor:
    """The probabilities [..., K] of classes. For two classes, theta holds only the probability of class 1."""
    return torch.stack([1 - theta, theta], -1) if isinstance(model, nn.Binary) else theta


def most_varied(data: Data) -> tuple[int, ...]:
    """The variable that differs most between examples. A variable that is the same in all of them would show little."""
    rows = data.train if data.train.shape[1:] == data.shape else data.validation
    spread = rows[:2000].double().flatten(1).std(0)
    return tuple(int(i) for i in torch.unravel_index(spread.argmax(), data.shape))


def draw_density(axes: Axes, means: Tensor, stds: Tensor, drawn: float, *, angle: bool = False) -> None:
    """The density of N(mean_i, std_i²) after i messages, for each i, as darkness relative to its peak. With `angle`, it
    is the density of vM(mean_i, 1/std_i²)."""
    end = math.pi if angle else 1.6
    distance = torch.linspace(-end, end, 400)[:, None] - means
    density = torch.exp(-0.5 * ((2 * (distance / 2).sin() if angle else distance) / stds) ** 2)
    last = len(means) - 1
    extent = (-0.5, last + 0.5, -end, end)
    axes.imshow(density.numpy(), origin="lower", aspect="auto", extent=extent, cmap="Blues", alpha=0.8)
    if angle:  # no line across the picture where the mean passes π
        means = means.masked_fill(torch.cat([means[:1], means]).diff().abs() > math.pi, math.nan)
    axes.plot(means, color="C0", linewidth=1.5, label="mean")
    axes.plot(means - stds, color="C0", linewidth=0.8, linestyle=":", label="mean ± standard deviation")
    axes.plot(means + stds, color="C0", linewidth=0.8, linestyle=":")
    axes.axhline(drawn, color="C3", linestyle="--", linewidth=1, label=f"value at the end of the run: {drawn:.2f}")
    axes.set(ylabel="radians" if angle else "value (-1 white, 1 black)", xlim=(-0.5, last + 0.5), ylim=(-end, end))
    axes.legend(loc="upper right")


def draw_probabilities(axes: Axes, theta: Tensor, drawn: int, symbols: Sequence[str | bytes]) -> None:
    """The probabilities [n + 1, K] of classes after 0 to n messages, for the classes with the largest probabilities."""
    likely = theta.amax(0)
    likely[drawn] = 2
    classes = likely.topk(min(len(likely), MOST_CLASSES)).indices.sort().values.tolist()
    plain = ["white", "black"] if theta.shape[1] == 2 else list(map(str, range(theta.shape[1])))
    names = [visible((symbols or plain)[c]) for c in classes]
    names = ["space" if name == " " else name for name in names]
    shown = theta[:, classes].T.numpy()
    image = axes.imshow(shown, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label="probability", pad=0.01)
    axes.set_yticks(range(len(names)), names, fontsize=8 if symbols else 10, parse_math=False)
    axes.get_yticklabels()[classes.index(drawn)].set(color="C3", weight="bold")
    axes.set_ylabel("class (red: at the end of the run)")


def visible(symbol: str | bytes) -> str:
    """A symbol as text without line breaks, cut to WIDEST letters."""
    text = figures.drawable(readable([symbol]).replace("\n", "↵").replace("\t", "⇥"))
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def draw_inputs(axes: Axes, model: BFN, data: Data, theta: Tensor, labels: Sequence[int], *, columns: int) -> None:
    """Draws input distributions [N, ...]: a line of text with its label, a line of the means of angles, or an image of
    means or of likeliest classes for each. columns: the number of images in a row."""
    if isinstance(model, Atoms):
        molecules_3d.draw_grid(axes, molecules_3d.Structures.of_rows(theta), columns)
    elif data.symbols:
        draw_lines(axes, *probabilities(model, theta).max(-1), labels, data.symbols)
    elif isinstance(model, nn.Circular):
        axes.imshow(theta[..., 0].flatten(1), cmap="twilight", vmin=-math.pi, vmax=math.pi, aspect="auto")
    else:
        likeliest = isinstance(model, nn.Classes) and not isinstance(model, nn.Binary)
        shown = theta.argmax(-1) if likeliest else theta.clamp(-1, 1)
        figures.draw_images(axes, theta if isinstance(model, nn.Binary) else to_grey(shown, data.num_classes), columns)


def draw_lines(
    axes: Axes, likeliest: Tensor, classes: Tensor, labels: Sequence[int], symbols: Sequence[str | bytes]
) -> None:
    """Draws lines of the likeliest characters or tokens, [lines, L]. The less probable a character is, the fainter it
    is. Tokens that do not fit are left out. likeliest: the probabilities of `classes`."""
    texts = [[visible(symbols[c]) for c in line] for line in classes.tolist()]
    wide = max(len(text) for line in texts for text in line)
    count = min(classes.shape[1], max(1, 64 // wide)) if wide > 1 else classes.shape[1]
    font: dict[str, Any] = {"family": "monospace", "size": 9, "ha": "center", "va": "center", "parse_math": False}
    for row, (line, weights) in enumerate(zip(texts, likeliest.tolist(), strict=True)):
        for column, (text, p) in enumerate(zip(line[:count], weights, strict=False)):
            axes.text(column, row, text, alpha=max(0.1, p), **font)
    axes.set(xlim=(-1, count), ylim=(len(labels) - 0.5, -0.5))
    axes.set_yticks(range(len(labels)), map(str, labels))
    axes.set_xticks([])
