"""Runs the code of docs/tutorial.md and draws its pictures from what the code computed.

python docs/pictures/tutorial.py [FOLDER]    # writes tutorial_1.png, tutorial_2.png, …
"""

import functools
import math
import re
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bfn import figures
from bfn_kernels import binary

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "tutorial.md"
SHOWN = (1, 10, 20, 30, 40, 50)  # after these numbers of messages, pictures show states
Names = dict[str, Any]  # the variables of the page's code


def code_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@functools.cache
def run() -> list[Names]:
    """Runs the blocks one after the other, once in a process. Returns the variables after each block."""
    names: Names = {}
    after = []
    for block in code_blocks():
        exec(compile(block, str(PAGE), "exec"), names)
        after.append(dict(names))
    return after


def repeated(block: int, names: Names, **changed: Any) -> Names:
    """The variables after a block, numbered from 1, that ran once more with some variables changed."""
    changed_names = {**names, **changed}
    exec(compile(code_blocks()[block - 1], str(PAGE), "exec"), changed_names)
    return changed_names


def tiles(axes: Any, values: Tensor, title: str, columns: int = 1) -> None:
    """Draws pictures [N, 64] of numbers from 0 (paper) to 1 (ink)."""
    figures.draw_images(axes, values.view(-1, 8, 8).float(), columns)
    axes.set_title(title, fontsize=9)


def signed(numbers: Tensor) -> Tensor:
    """Scales numbers of both signs to [0, 1], such that 0 becomes 1/2."""
    return numbers / (2 * numbers.abs().max()) + 0.5


def beside(axes: Any, text: str) -> None:
    """Writes a text to the left of a row of pictures."""
    axes.text(-0.08, 0.5, text, rotation=90, ha="right", va="center", fontsize=9, transform=axes.transAxes)


def draw_messages(names: Names) -> Figure:
    figure, (first, *others) = figures.panels((10, 2.5), 1, 5)
    tiles(first, names["x"], "Alice's picture")
    for axes, alpha, message in zip(others, (0.01, 0.1, 1.0, 10.0), names["messages"], strict=True):
        tiles(axes, signed(message), f"message of accuracy {alpha:g}\nmean ±{2 * alpha:g}, noise {2 * alpha**0.5:.2g}")
    return figure


def draw_states(names: Names) -> Figure:
    figure, rows = figures.panels((10, 3.9), 2, len(SHOWN))
    for above, below, i in zip(*rows, SHOWN, strict=True):
        state, theta = names["states"][i], binary.theta(names["states"][i])
        tiles(above, signed(state), f"after {i} message{'s' * (i > 1)}:\n{state.min():.1f} to {state.max():.1f}")
        tiles(below, theta, f"{theta.min():.0%} to {theta.max():.0%} ink")
    beside(rows[0][0], "state")
    beside(rows[1][0], "input distribution")
    return figure


def draw_flow(names: Names) -> Figure:
    """The blocks 2 and 3 run again, for 2000 copies of Alice's picture."""
    many = repeated(2, names, x=names["x"].expand(2000, -1))
    flow = repeated(3, many)["state"]
    states, n, beta_1 = torch.stack(many["states"]), names["n"], names["beta_1"]
    times = torch.arange(n + 1) / n
    beta = beta_1 * times**2
    figure, (left, right) = figures.panels((10, 3.6), 1, 2)
    for value, name, colour in ((True, "ink", "C0"), (False, "paper", "C1")):
        pixel = int((names["x"][0] == value).nonzero()[0])
        mean, std = (2 if value else -2) * beta, 2 * beta.sqrt()
        left.plot(times, states[:, :8, pixel], color=colour, linewidth=0.7)
        left.fill_between(times, mean - 2 * std, mean + 2 * std, color=colour, alpha=0.2, label=f"flow of {name}")
        bins = torch.linspace(-8, 8, 41).tolist()
        right.hist(states[n // 2, :, pixel], bins, color=colour, alpha=0.4, label=f"{n // 2} messages about {name}")
        right.hist(flow[:, pixel], bins, color=colour, histtype="step", label=f"flow of {name}")
    left.set(title="States of two pixels (flow: mean ± 2 standard deviations)", xlabel="time t", ylabel="state")
    right.set(title="2000 states of each at t = 1/2", xlabel="state", ylabel="how many", ylim=(0, 320))
    left.legend(fontsize=8, loc="upper left")
    right.legend(fontsize=8, ncols=2, loc="upper center")
    return figure


def draw_guesses(names: Names) -> Figure:
    """For the states of block 2."""
    figure, rows = figures.panels((10, 3.6), 2, len(SHOWN))
    for above, below, i in zip(*rows, SHOWN, strict=True):
        state, t = names["states"][i], i / names["n"]
        with torch.no_grad():
            guess = names["output"](state, torch.tensor([t])).sigmoid()
        tiles(above, binary.theta(state), f"t = {t}")
        tiles(below, guess, "the network's guess")
    beside(rows[0][0], "input distribution")
    beside(rows[1][0], "output distribution")
    return figure


def density(y: Tensor, mean: float, std: float) -> Tensor:
    return torch.exp(-0.5 * ((y - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def draw_costs(names: Names, evaluated: Names) -> Figure:
    """The first two panels are about two pixels of ink of Alice's picture after 20 messages."""
    figure, (*pair, last) = figures.panels((12, 3.6), 1, 3)
    i, alpha, ink = 20, 1.0, names["x"][0]
    with torch.no_grad():
        p_ink = names["output"](names["states"][i], torch.tensor([i / names["n"]])).sigmoid()[0]
    unsure, sure = (p_ink[ink] - 0.5).abs().argmin(), p_ink[ink].argmax()
    y = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    sender, other = density(y, 2 * alpha, 2 * alpha**0.5), density(y, -2 * alpha, 2 * alpha**0.5)
    for axes, pixel in zip(pair, (unsure, sure), strict=True):
        p = p_ink[ink][pixel].item()
        receiver = p * sender + (1 - p) * other
        nats = torch.trapezoid(sender * (sender / receiver).log(), y)
        axes.plot(y, sender, label="sender distribution (of ink)")
        axes.plot(y, receiver, "--", label="receiver distribution")
        title = f"The network says: ink with {p:.1%}.\nA message of accuracy {alpha:g} costs {nats:.3f} nats."
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="number in the message", ylabel="density", ylim=(0, 0.28))
        axes.legend(fontsize=8)
    x, counts, beta_1 = evaluated["x"], (1, 2, 3, 5, 10, 20, 50, 100), names["beta_1"]
    costs = []
    for n in counts:
        step = torch.randint(1, n + 1, (len(x),), generator=torch.Generator().manual_seed(n))
        state = binary.flow_sample(x, (step - 1) / n, beta_1=beta_1, output="logits", seed=n)
        with torch.no_grad():
            logits = names["output"](state, (step - 1) / n)
            costs.append(binary.discrete_time_loss(x, logits, step=step, n_steps=n, beta_1=beta_1).item())
    last.plot(counts, costs, "o-", label="L_n")
    figures.at_numbers(last, counts)
    last.axhline(evaluated["sent"].mean().item(), color="C3", linestyle="--", label="L∞")
    last.set_title("All messages about held-out pictures", fontsize=10)
    last.set(xlabel="number of messages n", ylabel="nats per pixel")
    last.set(ylim=(0, 1.1 * max(costs)))
    last.legend(fontsize=8)
    return figure


def draw_price(names: Names) -> Figure:
    parts, unit = 25, math.log(2)
    part = (names["t"] * parts).long()
    bits = [names["sent"][part == i].mean().item() / unit for i in range(parts)]
    figure, axes = figures.panels((7, 3.6))
    axes.stairs(bits, torch.linspace(0, 1, parts + 1), fill=True, alpha=0.4)
    sent, rest = names["sent"].mean().item() / unit, names["rest"].item() / unit
    axes.set_title(f"messages {sent:.3f} (the area) + reconstruction {rest:.3f} = {sent + rest:.3f} bits per pixel")
    axes.set(xlabel="time t", ylabel="bits per pixel and unit of time", xlim=(0, 1), ylim=(0, None))
    return figure


def draw_samples(names: Names) -> Figure:
    figure, (left, middle, right) = figures.panels((11, 4.3), 1, 3, gridspec_kw={"wspace": 0.08})
    forming = torch.stack([binary.theta(names["states"][i][:6]) for i in SHOWN], 1)
    title = f"Input distributions of six new pictures\nafter {', '.join(map(str, SHOWN))} messages"
    tiles(left, forming, title, columns=len(SHOWN))
    tiles(middle, names["samples"][:36], "New pictures", columns=6)
    tiles(right, names["test"][:36], "Held-out pictures", columns=6)
    return figure


def draw(folder: Path) -> list[Path]:
    """Runs the page's code and draws a picture of each block."""
    first, second, third, fourth, _, sixth, seventh = run()
    drawn = (
        draw_messages(first),
        draw_states(second),
        draw_flow(third),
        draw_guesses(fourth),
        draw_costs(fourth, sixth),
        draw_price(sixth),
        draw_samples(seventh),
    )
    return [figures.write(figure, folder / f"tutorial_{i}.png") for i, figure in enumerate(drawn, 1)]


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(f"picture: {path}")
