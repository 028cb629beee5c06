"""Times computations of other projects and the ops that can replace them, and prints a table. If draws estimate a loss,
the table also says how much the loss and its gradient vary from call to call.

    python -m benchmarks.clients             # --quick: an eighth of the rows, small networks, a few repetitions

A client is a published project whose computation the ops can replace. Each computation is written here from the
client's formulas. In float64 and with the same noise, the computation and the first of our calls must agree; otherwise
nothing is timed. Our other calls compute the loss in another way, so they are timed without a comparison. A network
about as large as the client's network takes turns with them all. The share of a step is the time of a call, divided by
the time of this call and the network's passes.
"""

import argparse
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmarks import files, measure, networks
from benchmarks.devices import Cpu
from bfn_kernels import binary, continuous, discrete
from bfn_kernels.schedules import ExponentialVariance, LogarithmicAccuracy

Call = Callable[..., tuple[Tensor, ...]]  # may take explicit noise; called without arguments, it draws all its noise
N_STEPS, DRAWS = 1000, 200  # as in MolCRAFT and MolPilot
TOLERANCE = 1e-9  # the largest relative difference between their results and ours, in float64
WIDTH = 144
REPEATS = 40  # the calls whose results show how much the result of one call varies


@dataclass(frozen=True)
class Client:
    """A client's computation, and our calls that can replace it."""

    name: str
    theirs: Call
    ours: dict[str, Call]  # with the same noise, the first one returns the same numbers as `theirs`
    noise: tuple[Tensor, ...]  # the arguments of `theirs` and of our first call, when they are compared
    # Makes a network whose depth or widths are divided by the argument. Returns a function that runs the network's
    # passes of a step.
    network: Callable[[int], Call]
    varies: bool = True  # whether the result is a loss that is estimated by draws


def with_gradient(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(loss, leaves))


def random_classes(shape: tuple[int, ...], k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Classes, and logits that lean towards them."""
    x = torch.randint(k, shape)
    return x, (torch.randn(*shape, k, dtype=dtype) + 3 * F.one_hot(x, k)).requires_grad_()


def types_by_draws(rows: int, dtype: torch.dtype, k: int, beta_1: float) -> Client:
    """The n-step loss of classes in MolCRAFT and MolPilot, with 200 draws of the sender. For each draw the client
    evaluates a mixture of K normals of K dimensions."""
    x, logits = random_classes((rows,), k, dtype)
    i = torch.randint(1, N_STEPS + 1, (rows,))
    alpha = beta_1 * (2 * i.to(dtype) - 1)[:, None] / N_STEPS**2
    std = (k * alpha).sqrt()

    def theirs(noise: Tensor | None = None) -> tuple[Tensor, ...]:
        sender = Independent(Normal(alpha * (k * F.one_hot(x, k) - 1), std), 1)
        each = alpha[..., None] * (k * torch.eye(k, dtype=dtype) - 1)
        receiver = MixtureSameFamily(
            Categorical(probs=logits.softmax(-1)), Independent(Normal(each, std[..., None]), 1)
        )
        y = sender.sample((DRAWS,)) if noise is None else sender.mean + std * noise
        return with_gradient(N_STEPS * (sender.log_prob(y) - receiver.log_prob(y)).mean(), logits)

    def ours(**options) -> tuple[Tensor, ...]:
        loss = discrete.discrete_time_loss(x, logits, step=i, n_steps=N_STEPS, beta_1=beta_1, **options)
        return with_gradient(loss, logits)

    def continuous_time() -> tuple[Tensor, ...]:
        t = ((i - 0.5) / N_STEPS).float()
        return with_gradient(discrete.continuous_time_loss(x, logits, t, beta_1=beta_1), logits)

    def draws(noise: Tensor | None = None) -> tuple[Tensor, ...]:
        return ours(n_samples=DRAWS, noise=noise)

    found: dict[str, Call] = {"200 draws": draws}
    if k == 2:
        found["8 nodes"] = lambda: ours(quadrature=8)
    found["continuous time"] = continuous_time
    name = f"n-step loss of {rows} variables of {k} classes"

    def network(divisor: int) -> Call:
        others = torch.randint(rows, (rows, 32))
        return networks.trained(networks.Messages(k, divisor), torch.rand(rows, k), others)

    return Client(name, theirs, found, (torch.randn(DRAWS, rows, k, dtype=dtype),), network)


def smiles(rows: int, dtype: torch.dtype) -> Client:
    """ChemBFN's training step without its network: the flow and the loss of tokens of 246 classes."""
    k, length = 246, 128
    beta_1 = 20.4054 / k
    x, logits = random_classes((rows, length), k, dtype)
    t = torch.rand(rows)
    schedule = LogarithmicAccuracy(k, beta_1)

    def theirs(noise: Tensor | None = None) -> tuple[Tensor, ...]:
        times = t.to(dtype)[:, None, None]
        left = 1 - times + times * math.exp(-k * beta_1 / 4)
        beta, rate = -4 / k * left.log(), 4 / k * -math.expm1(-k * beta_1 / 4) / left
        e_x = F.one_hot(x, k).to(dtype)
        eps = torch.randn(*x.shape, k, dtype=dtype) if noise is None else noise
        theta = (beta * (k * e_x - 1) + (k * beta).sqrt() * eps).softmax(-1)
        error = e_x - (logits + theta).softmax(-1)
        return with_gradient((k / 2 * rate * error.square()).sum(-1).mean(), logits)

    def ours(noise: Tensor | None = None) -> tuple[Tensor, ...]:
        theta = discrete.flow_sample(x, t, num_classes=k, schedule=schedule, noise=noise, dtype=dtype)
        return with_gradient(discrete.continuous_time_loss(x, logits + theta, t, schedule=schedule), logits)

    def network(divisor: int) -> Call:
        return networks.trained(networks.transformer(k, divisor), torch.rand(rows, length, k))

    name = f"flow and loss of {rows} × {length} tokens of {k}"
    noise = torch.randn(rows, length, k, dtype=dtype)
    return Client(name, theirs, {"ops": ours}, (noise,), network, varies=False)


def guided_step(rows: int, dtype: torch.dtype) -> Client:
    """A step of ChemBFN's sampling. It guides the logits, sends the likeliest token and updates the state."""
    k, length, w, t, t_next = 246, 128, 4.0, 0.5, 0.51
    schedule = LogarithmicAccuracy(k, 20.4054 / k)
    alpha = float(schedule.beta(t_next)) - float(schedule.beta(t))
    state, conditional, unconditional = (torch.randn(rows, length, k, dtype=dtype) for _ in range(3))
    theta, out = state.softmax(-1), torch.empty_like(state)

    def theirs(noise: Tensor | None = None) -> tuple[Tensor, ...]:
        p = ((1 + w) * conditional - w * unconditional).softmax(-1)
        e = F.one_hot(p.argmax(-1), k).to(dtype)
        eps = torch.randn_like(p) if noise is None else noise
        weighted = (alpha * (k * e - 1) + (k * alpha) ** 0.5 * eps).exp() * theta
        return (weighted / weighted.sum(-1, keepdim=True),)

    def ours(noise: Tensor | None = None) -> tuple[Tensor, ...]:
        next_theta = torch.empty_like(state)
        discrete.solver_step(
            conditional, state, t, t_next, rule="sde1", choose="mode", unconditional=unconditional, guidance=w,
            schedule=schedule, out=out, theta_out=next_theta, noise=noise,
        )  # fmt: skip
        return (next_theta,)

    def network(divisor: int) -> Call:
        return functools.partial(networks.called_twice, networks.transformer(k, divisor), torch.rand(rows, length, k))

    name = f"guided step of {rows} × {length} tokens of {k}"
    noise = torch.randn(rows, length, k, dtype=dtype)
    return Client(name, theirs, {"ops": ours}, (noise,), network, varies=False)


class GammaWeighted(ExponentialVariance):
    """Weighs the loss by γ(t), as condBFNPol does: the weight is half the rate."""

    def rate(self, t: Tensor) -> Tensor:
        return 2 * self.gamma(t)[0]


def policy(rows: int, dtype: torch.dtype) -> Client:
    """The losses of condBFNPol's hybrid actions: 16 steps of 6 numbers and a gripper that is open or closed."""
    horizon, numbers, sigma_1, beta_1 = 16, 6, 0.001, 0.2
    schedule = GammaWeighted(sigma_1)
    arm = torch.rand(rows, horizon, numbers, dtype=dtype) * 2 - 1
    gripper = torch.randint(2, (rows, horizon))
    prediction = torch.randn(rows, horizon, numbers, dtype=dtype).clamp(-1, 1).requires_grad_()
    logit = torch.randn(rows, horizon, dtype=dtype, requires_grad=True)
    t = torch.rand(rows) * 0.98 + 0.01

    def theirs(arm_noise: Tensor | None = None, gripper_noise: Tensor | None = None) -> tuple[Tensor, ...]:
        times = t.to(dtype)[:, None, None]
        gamma = 1 - sigma_1 ** (2 * times)
        eps = torch.randn_like(arm) if arm_noise is None else arm_noise
        mean = gamma * arm + (gamma * (1 - gamma)).sqrt() * eps
        e_x = F.one_hot(gripper, 2).to(dtype)
        eps = torch.randn_like(e_x) if gripper_noise is None else gripper_noise
        beta = beta_1 * times**2
        theta = (beta * (2 * e_x - 1) + (2 * beta).sqrt() * eps).softmax(-1)
        error = gamma * (arm - (prediction + 0 * mean)).square()
        both = torch.stack([torch.zeros_like(logit), logit + 0 * theta[..., 1]], -1)
        loss = error.mean() + F.cross_entropy(both.flatten(0, 1), gripper.flatten())
        return with_gradient(loss, prediction, logit)

    def ours(arm_noise: Tensor | None = None, gripper_noise: Tensor | None = None) -> tuple[Tensor, ...]:
        mean = continuous.flow_sample(arm, t, sigma_1=sigma_1, noise=arm_noise)
        logit_noise = None if gripper_noise is None else (gripper_noise[..., 1] - gripper_noise[..., 0]) / math.sqrt(2)
        theta = binary.flow_sample(gripper, t, beta_1=beta_1, noise=logit_noise, dtype=dtype)
        loss = continuous.continuous_time_loss(
            arm, prediction + 0 * mean, None, t, schedule=schedule, parametrisation="data", clip=None
        )
        return with_gradient(loss + binary.reconstruction_loss(gripper, logit + 0 * theta), prediction, logit)

    def network(divisor: int) -> Call:
        return networks.trained(networks.convolutions(numbers + 1, divisor), torch.rand(rows, numbers + 1, horizon))

    noise = torch.randn_like(arm), torch.randn(rows, horizon, 2, dtype=dtype)
    return Client(f"flows and losses of {rows} plans", theirs, {"ops": ours}, noise, network, varies=False)


def clients(divisor: int, dtype: torch.dtype) -> list[Client]:
    """All clients. `divisor` divides the number of rows of each."""
    return [
        types_by_draws(400 // divisor, dtype, 13, 1.5),
        types_by_draws(400 // divisor, dtype, 2, 3.0),
        smiles(64 // divisor, dtype),
        guided_step(64 // divisor, dtype),
        policy(256 // divisor, dtype),
    ]


def disagreement(client: Client) -> float:
    """The largest difference between the client's results and the results of our first call with the same noise. Each
    difference is divided by the largest absolute number of the client's tensor."""
    pairs = zip(client.theirs(*client.noise), next(iter(client.ours.values()))(*client.noise), strict=True)
    return torch.stack([(a - b).abs().max() / a.abs().max() for a, b in pairs]).max().item()  # NaN, if one is NaN


@dataclass(frozen=True)
class Row:
    client: str
    competitor: str
    median_ms: float
    ratio: float  # the median of the client's computation, divided by this median
    loss: float = field(default=math.nan)  # the mean of many calls
    spread: float = field(default=math.nan)  # the standard deviation of one call's loss
    # the standard deviation of one call's gradient, in the 2-norm, divided by the norm of the mean gradient
    gradient_spread: float = field(default=math.nan)
    network_ms: float = field(default=math.nan)  # of the network's passes in one step


def variation(call: Call, repeats: int) -> tuple[float, float, float]:
    losses, gradients = zip(*((loss, grad) for loss, grad in (call() for _ in range(repeats))), strict=True)
    values, grads = torch.stack(losses).double(), torch.stack(gradients).double()
    spread = (grads.var(0).sum() / grads.mean(0).square().sum()).sqrt()
    return float(values.mean()), float(values.std()), float(spread)


def measured(client: Client, seconds: float, repeats: int, divisor: int) -> list[Row]:
    calls: dict[str, Call] = {"theirs": client.theirs, **client.ours}
    times = measure.timings({"network": client.network(divisor), **calls}, seconds, Cpu())
    network_ms = 1e3 * times["network"].median
    rows = []
    for name, call in calls.items():
        varies = variation(call, repeats) if client.varies else 3 * (math.nan,)
        ratio = times["theirs"].median / times[name].median
        rows.append(Row(client.name, name, 1e3 * times[name].median, ratio, *varies, network_ms))
    return rows


COLUMNS = ("", "ms", "theirs / this", "share of a step", "loss", "± by chance", "gradient ±")


def cells(row: Row) -> list[str]:
    """The cells of a competitor under COLUMNS."""
    numbers = [f"{row.loss:.4f}", f"{row.spread:.2g}", f"{row.gradient_spread:.0%}"]
    varies = numbers if math.isfinite(row.loss) else ["", "", ""]
    share = row.median_ms / (row.network_ms + row.median_ms)
    of_step = "" if math.isnan(share) else f"{share:.2%}"
    return [row.competitor, f"{row.median_ms:.3g}", f"{row.ratio:.3g}", of_step, *varies]


def table(rows: Sequence[Row]) -> Table:
    found = Table(box=box.MARKDOWN)
    for place, title in enumerate(("", *COLUMNS)):
        found.add_column(title, justify="left" if place < 2 else "right")
    for row in rows:
        found.add_row(row.client, *cells(row))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="an eighth of the rows, small networks, a few repetitions")
    parser.add_argument("--out", type=Path, help="directory of the CSV (runs/benchmarks/<date>)")
    options = parser.parse_args(arguments)
    divisor, seconds, repeats = (8, 0.05, 5) if options.quick else (1, 1.0, REPEATS)
    machine = measure.begun(Cpu()) | {"quick": str(options.quick)}
    torch.manual_seed(0)
    for client in clients(8, torch.float64):
        if not (difference := disagreement(client)) <= TOLERANCE:
            raise AssertionError(
                f"{client.name}: ours differs from theirs by {difference:.1g}, allowed {TOLERANCE:.1g}"
            )
    rows = [row for client in clients(divisor, torch.float32) for row in measured(client, seconds, repeats, divisor)]
    console = Console(width=WIDTH, highlight=False)
    console.print(measure.lines_of(machine))
    console.print(table(rows))
    out = options.out or files.new_folder("benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    files.write(Row, rows, machine, out / "clients.csv")
    print(out / "clients.csv")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
