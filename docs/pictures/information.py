"""A picture of what each message tells about a class, in small and in large vocabularies.

    python docs/pictures/information.py [PICTURE]

All classes are equally likely and nothing else is known. So the best output distribution is the input distribution θ,
and all messages together tell ln K nats.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from rich.progress import track
from torch import Tensor

from bfn import figures
from bfn_kernels import discrete
from bfn_kernels.noise import fold_in
from bfn_kernels.schedules import final_accuracy

CLASSES = (27, 8000, 32_000, 128_000)
STEPS, PARTS = 100, 8
TEXT8 = 0.75  # the paper's β₁ for K = 27


def information(num_classes: int, beta_1: float, n_steps: int, draws: int = 256, seed: int = 1) -> Tensor:
    """The nats that each of n messages tells on average, [n]: the integral of L∞ over the message's time (205). It is
    computed at PARTS times, with the mean of `draws` samples at each."""
    x, count = torch.zeros(draws, dtype=torch.int64), n_steps * PARTS
    rates = []
    for i in range(count):
        t = (i + 0.5) / count
        logits = discrete.flow_sample(
            x, t, num_classes=num_classes, beta_1=beta_1, seed=fold_in(seed, i), output="logits", dtype=torch.float32
        )
        rates.append(discrete.continuous_time_loss(x, logits, t, beta_1=beta_1))
    return torch.stack(rates).view(n_steps, PARTS).mean(1) / n_steps


def draw(axes: Axes, accuracy: Callable[[int], float], title: str) -> None:
    for num_classes in track(CLASSES, title):
        beta_1 = accuracy(num_classes)
        bits = information(num_classes, beta_1, STEPS) / math.log(2)
        label = f"K = {num_classes}: β₁ = {beta_1:.2g}"
        axes.stairs(bits, torch.linspace(0, 1, STEPS + 1), label=label)
    axes.set(title=title, xlabel="time t", ylabel=f"bits told by each of {STEPS} messages", xlim=(0, 1), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def picture(path: Path) -> Path:
    figure, (left, right) = figures.panels((11, 4.2), 1, 2)
    draw(left, final_accuracy, "β₁ = final_accuracy(K)")
    draw(right, lambda num_classes: TEXT8, "β₁ of text8 for all K")
    return figures.write(figure, path)


if __name__ == "__main__":
    print(f"picture: {picture(Path(sys.argv[1] if len(sys.argv) > 1 else 'runs/information.png'))}")
