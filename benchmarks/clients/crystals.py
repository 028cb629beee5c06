"""Fractional coordinates of crystals: CrysBFN."""

import math
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks import networks, published_formulas
from benchmarks.clients import places
from benchmarks.clients.checkouts import definitions, given, unmade
from benchmarks.clients.client import Call, Client, Results, with_gradient
from bfn_kernels import circular
from bfn_kernels.schedules import VonMisesAccuracy

MESSAGES = 1000


def fractions(rows: int, dtype: torch.dtype, n_steps: int) -> Client:
    """The flow and the loss of the coordinates of a crystal's atoms, as angles in [−π, π). Theirs draws all messages
    about every angle; `circular.flow_sample` draws the state at once. So given messages belong to theirs alone, and
    only the loss and its gradient are compared with ours."""
    schedule = VonMisesAccuracy(torch.logspace(-1, 0.9, n_steps, dtype=torch.float64))
    x, pred = (math.pi * (2 * torch.rand(rows, 3, dtype=dtype) - 1) for _ in range(2))
    pred.requires_grad_()
    step = torch.randint(2, n_steps + 1, (rows,))  # before step 1 no message has arrived
    messages = math.pi * (2 * torch.rand(n_steps, rows, 3, dtype=dtype) - 1)

    def flow(y: Tensor | None) -> Tensor:
        return published_formulas.circular_flow_sample(x, step, y, schedule=schedule)

    def loss() -> Tensor:
        alpha = schedule.alphas[step - 1, None].to(dtype)
        weight = alpha * torch.special.i1e(alpha) / torch.special.i0e(alpha)
        periods = 2 * math.pi * torch.arange(-10, 11, dtype=dtype)
        apart = (x[..., None] + periods - pred[..., None]).square().amin(-1)
        return (n_steps * weight * apart).mean()

    def theirs(y: Tensor | None = None) -> Results:
        flow(y)
        return with_gradient(loss(), pred)

    def ours(y: Tensor | None = None) -> Results:
        circular.flow_sample(x, step, schedule=schedule, output="log")
        return with_gradient(circular.discrete_time_loss(x, pred, step, schedule=schedule, squared=True), pred)

    def literal(y: Tensor) -> Results:
        return (*theirs(y), flow(y).cos(), flow(y).sin())

    def own(folder: Path) -> Results:
        base = definitions(folder / places.CRYSTALS_BASE, "bfnBase").bfnBase
        kind = definitions(folder / places.CRYSTALS.file, "CrysBFN_CSP", bfnBase=base).CrysBFN_CSP
        model = unmade(
            kind,
            device="cpu",
            dtime_loss_steps=n_steps,
            norm_beta=False,
            alpha_wrt_index=lambda index, *_: schedule.alphas[index - 1],
            vm_helper=SimpleNamespace(sample=lambda **_: messages[..., None]),
        )
        with given(uniforms=torch.zeros(1, rows, 3, dtype=dtype)):  # the state of step 1
            mean, _ = model.circular_var_bayesian_flow_sim(x, step, None)
            value = model.dtime4circular_loss(step, n_steps, schedule.alphas[step - 1, None], pred, x)
        return (*with_gradient(value, pred), mean.cos(), mean.sin())

    def network(divisor: int) -> Call:
        others = torch.randint(rows, (rows, 10))  # a crystal of MP-20 has 10 atoms on average
        return networks.trained(networks.Messages(6, divisor, width=512, layers=6), torch.rand(rows, 6), others)

    name = f"flow and loss of {rows} atoms of {n_steps} messages"
    return Client(name, places.CRYSTALS, theirs, {"ops": ours}, (messages,), network, own=own, literal=literal)
