"""The story of a Bayesian flow network about one variable, told with the ops: python docs/pictures/story.py [PICTURE].

The data are -0.5 or 0.5. Here the best network is known: it puts out the probability of 0.5 given all messages so far.
The cost of all messages must then be the entropy of the data.
"""

import math
import sys
from pathlib import Path
from typing import cast

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from rich.console import Console
from torch import Tensor

from bfn import figures
from bfn_kernels import continuous
from bfn_kernels.schedules import ExponentialVariance

VALUE, HIGH = 0.5, 0.7  # the data are VALUE with probability HIGH, or else -VALUE
SCHEDULE = ExponentialVariance(sigma_1=0.1)
STEPS = 25
SHOWN = range(0, STEPS + 1, 5)  # after these numbers of messages the input distribution is printed and drawn
ENTROPY = -(HIGH * math.log(HIGH) + (1 - HIGH) * math.log(1 - HIGH))


def output_distribution(mean: Tensor, t: Tensor | float) -> Tensor:
    """The probability that x is VALUE given the mean of the input distribution. It follows by Bayes' rule from the
    flow, in which this mean is N(γx, γ(1 − γ)) (77)."""
    _, rest = SCHEDULE.gamma(torch.as_tensor(t, dtype=torch.float64))
    odds = 2 * VALUE * mean.double() / rest + math.log(HIGH / (1 - HIGH))
    return odds.sigmoid().to(mean.dtype)


def expected(mean: Tensor, t: Tensor | float) -> Tensor:
    """The value of x that the network expects."""
    return VALUE * (2 * output_distribution(mean, t) - 1)


def communicate(x: Tensor, seed: int) -> list[tuple[Tensor, float]]:
    """The input distributions, mean and precision, before and after each of STEPS messages about x."""
    states = [(torch.zeros_like(x), 1.0)]
    for i in range(1, STEPS + 1):
        alpha = float(SCHEDULE.alpha(i, STEPS))
        y = continuous.sender_sample(x, alpha, seed=seed + i)
        mean, precision = continuous.bayesian_update(*states[-1], y, alpha)
        states.append((mean, cast(float, precision)))
    return states


def cost(count: int, seed: int) -> Tensor:
    """L∞ in nats at `count` times spread over [0, 1], each averaged over many examples."""
    generator = torch.Generator().manual_seed(seed)
    t = (torch.arange(count) + 0.5) / count
    x = VALUE * (2 * torch.bernoulli(torch.full((count, 4000), HIGH), generator=generator) - 1)
    mean = continuous.flow_sample(x, t, schedule=SCHEDULE, seed=seed)
    x_hat = expected(mean, t[:, None])
    losses = continuous.continuous_time_loss(
        x, x_hat, None, t, schedule=SCHEDULE, parametrisation="data", reduction="none"
    )
    return losses.mean(1)


def density(values: Tensor, mean: float, std: float) -> Tensor:
    return torch.exp(-0.5 * ((values - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def draw_messages(axes: Axes, states: list[tuple[Tensor, float]]) -> None:
    values = torch.linspace(-1.5, 1.5, 600)
    for i in SHOWN:
        mean, precision = states[i][0][0].item(), states[i][1]
        axes.plot(values, density(values, mean, precision**-0.5), color=colormaps["viridis"](i / 27), label=str(i))
    axes.axvline(VALUE, color="C3", linestyle="--", linewidth=1)
    axes.set(title="1. Messages narrow the input distribution", xlabel="value (red: the data)", ylabel="density")
    axes.legend(title="messages")


def draw_sender_and_receiver(axes: Axes, states: list[tuple[Tensor, float]]) -> None:
    i = 6
    mean, alpha = states[i - 1][0][0], float(SCHEDULE.alpha(i, STEPS))
    high = output_distribution(mean, (i - 1) / STEPS).item()
    y, std = torch.linspace(-5, 5, 600), alpha**-0.5
    receiver = high * density(y, VALUE, std) + (1 - high) * density(y, -VALUE, std)
    axes.plot(y, density(y, VALUE, std), label="sender distribution: noise around the data")
    axes.plot(
        y,
        receiver,
        label=f"receiver distribution: noise around both values;\nthe network gives the right one {high:.0%}",
    )
    axes.set(title=f"2. Message {i} costs their divergence", xlabel="message y", ylabel="density")
    axes.set_ylim(0, 1.5 * density(torch.zeros(1), 0, std).item())
    axes.legend(loc="upper left")


def draw_flow(axes: Axes, states: list[tuple[Tensor, float]]) -> None:
    times, values = torch.linspace(0, 1, 200), torch.linspace(-1, 1, 200)
    gamma, rest = (part.float() for part in SCHEDULE.gamma(times.double()))
    std = (gamma * rest).sqrt().clamp(min=0.02)
    flow = torch.exp(-0.5 * ((values[:, None] - gamma * VALUE) / std) ** 2)
    axes.imshow(flow.numpy(), origin="lower", aspect="auto", extent=(0, 1, -1, 1), cmap="Blues", alpha=0.8)
    means = torch.stack([mean for mean, _ in states])
    axes.plot(torch.arange(STEPS + 1) / STEPS, means[:, :6], color="C1", linewidth=0.8)
    axes.set(title="3. The flow: where the mean is after many\nmessages, without sending them", xlabel="time t")
    axes.set_ylabel("mean (orange: six runs of messages)")


def draw_cost(axes: Axes, losses: Tensor) -> None:
    times = (torch.arange(len(losses)) + 0.5) / len(losses)
    axes.plot(times, losses)
    axes.fill_between(times, losses, alpha=0.2)
    axes.set(title="4. What they cost is the entropy of the data", xlabel="time t", ylabel="nats per unit of time")
    axes.text(0.08, 0.08, f"area {losses.mean():.3f}, entropy {ENTROPY:.3f} nats", transform=axes.transAxes)


def tell(path: Path, console: Console, seed: int = 3) -> Path:
    """Prints the story and writes its picture."""
    states, losses = communicate(torch.full((200,), VALUE), seed), cost(50, seed)
    console.print(f"Someone wants to send x = {VALUE}, which is {VALUE} in {HIGH:.0%} of all cases and else {-VALUE}.")
    for i in SHOWN:
        mean, precision = states[i][0][0], states[i][1]
        high = output_distribution(mean, i / STEPS).item()
        known = f"the input distribution is N({mean:+.2f}, {precision**-0.5:.2f}²)"
        console.print(f"After {i:2} of {STEPS} noisy messages {known}; the network thinks {high:.1%}.")
    console.print(f"All messages cost {losses.mean():.3f} nats on average; the entropy of the data is {ENTROPY:.3f}.")
    figure, axes = figures.panels((11, 8), 2, 2)
    draw_messages(axes[0, 0], states)
    draw_sender_and_receiver(axes[0, 1], states)
    draw_flow(axes[1, 0], states)
    draw_cost(axes[1, 1], losses)
    return figures.write(figure, path)


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/story.png")
    print(f"picture: {tell(out, Console(highlight=False, soft_wrap=True))}")
