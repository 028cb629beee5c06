"""Strings and sequences of tokens: ChemBFN, torch_bfn, ProfileBFN and AbBFN2."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import networks
from benchmarks.clients import places
from benchmarks.clients.checkouts import definitions, given, unmade
from benchmarks.clients.client import Call, Client, Results, random_classes, with_gradient
from bfn_kernels import discrete
from bfn_kernels.schedules import LogarithmicAccuracy, QuadraticAccuracy

K, LENGTH = 246, 128  # of ChemBFN
BETA_1 = 20.4054 / K


def smiles(rows: int, dtype: torch.dtype) -> Client:
    """ChemBFN's training step: the flow and the loss of tokens of 246 classes. The input distribution is added to fixed
    logits in place of the network."""
    x, logits = random_classes((rows, LENGTH), K, dtype)
    t = torch.rand(rows)
    schedule = LogarithmicAccuracy(K, BETA_1)
    noise = torch.randn(rows, LENGTH, K, dtype=dtype)

    def theirs(noise: Tensor | None = None) -> Results:
        times = t.to(dtype)[:, None, None]
        left = 1 - times + times * math.exp(-K * BETA_1 / 4)
        beta, rate = -4 / K * left.log(), 4 / K * -math.expm1(-K * BETA_1 / 4) / left
        e_x = F.one_hot(x, K).to(dtype)
        eps = torch.randn(*x.shape, K, dtype=dtype) if noise is None else noise
        theta = (beta * (K * e_x - 1) + (K * beta).sqrt() * eps).softmax(-1)
        error = e_x - (logits + theta).softmax(-1)
        return with_gradient((K / 2 * rate * error.square()).sum(-1).mean(), logits)

    def ours(noise: Tensor | None = None) -> Results:
        theta = discrete.flow_sample(x, t, num_classes=K, schedule=schedule, noise=noise, dtype=dtype)
        return with_gradient(discrete.continuous_time_loss(x, logits + theta, t, schedule=schedule), logits)

    def own(folder: Path) -> Results:
        with given(noise):
            model = their_model(folder, places.SMILES.file, lambda seen, *_: logits + (seen + 1) / 2)
            loss = model.cts_loss(x, t[:, None, None].to(dtype), None)
        # Theirs is the mean over the classes, too. Since 2025, it is the first of two results.
        return with_gradient(K * (loss[0] if isinstance(loss, tuple) else loss), logits)

    def network(divisor: int) -> Call:
        return networks.trained(networks.transformer(K, divisor), torch.rand(rows, LENGTH, K))

    name = f"flow and loss of {rows} × {LENGTH} tokens of {K}"
    return Client(name, places.SMILES, theirs, {"ops": ours}, (noise,), network, own=own)


def their_model(folder: Path, file: str, network: Callable[..., Tensor]) -> Any:
    """ChemBFN's model with another network, a function of 2θ − 1, the time, a mask and the condition."""
    kind = definitions(folder / file, "ChemBFN").ChemBFN
    return unmade(kind, K=K, beta=torch.tensor(BETA_1), forward=network)


def guided_model(folder: Path, file: str, conditional: Tensor, unconditional: Tensor) -> tuple[Any, list[Tensor]]:
    """ChemBFN's model with these logits in place of a network, and a list that gets the probabilities of each call."""
    seen: list[Tensor] = []

    def network(inputs: Tensor, t: Tensor, mask: None, y: Tensor | None) -> Tensor:
        seen.append((inputs + 1) / 2)
        return unconditional if y is None else conditional

    return their_model(folder, file, network), seen


def guided_step(rows: int, dtype: torch.dtype) -> Client:
    """The only step of a sampling run of ChemBFN. It guides the logits, sends the likeliest token and updates the
    state, which was uniform."""
    w, schedule = 4.0, LogarithmicAccuracy(K, BETA_1)
    alpha = float(schedule.beta(1.0))
    conditional, unconditional = (torch.randn(rows, LENGTH, K, dtype=dtype) for _ in range(2))
    state = torch.zeros(rows, LENGTH, K, dtype=dtype)
    theta, out = state.softmax(-1), torch.empty_like(state)
    noise = torch.randn(rows, LENGTH, K, dtype=dtype)

    def theirs(noise: Tensor | None = None) -> Results:
        p = ((1 + w) * conditional - w * unconditional).softmax(-1)
        e = F.one_hot(p.argmax(-1), K).to(dtype)
        eps = torch.randn_like(p) if noise is None else noise
        weighted = (alpha * (K * e - 1) + (K * alpha) ** 0.5 * eps).exp() * theta
        return (weighted / weighted.sum(-1, keepdim=True),)

    def ours(noise: Tensor | None = None) -> Results:
        next_theta = torch.empty_like(state)
        discrete.solver_step(
            conditional, state, 0.0, 1.0, rule="sde1", choose="mode", unconditional=unconditional, guidance=w,
            schedule=schedule, out=out, theta_out=next_theta, noise=noise,
        )  # fmt: skip
        return (next_theta,)

    def own(folder: Path) -> Results:
        with given(noise):
            model, seen = guided_model(folder, places.GUIDED.file, conditional, unconditional)
            model.sample(rows, LENGTH, torch.zeros(rows, 1, 1), 1, w)
        return (seen[-1],)

    def network(divisor: int) -> Call:
        return networks.called(networks.transformer(K, divisor), torch.rand(rows, LENGTH, K), times=2)

    name = f"guided step of {rows} × {LENGTH} tokens of {K}"
    return Client(name, places.GUIDED, theirs, {"ops": ours}, (noise,), network, own=own)


def renoised_step(rows: int, dtype: torch.dtype) -> Client:
    """The only step of a run of ChemBFN's "ODE" sampler, which draws a new state from the flow of the guided
    prediction. Its temperature is the factor of the variance."""
    w, temperature, schedule = 4.0, 0.5, LogarithmicAccuracy(K, BETA_1)
    beta = float(schedule.beta(1.0))
    conditional, unconditional = (torch.randn(rows, LENGTH, K, dtype=dtype) for _ in range(2))
    state, noise = torch.zeros(rows, LENGTH, K, dtype=dtype), torch.randn(rows, LENGTH, K, dtype=dtype)

    def theirs(noise: Tensor | None = None) -> Results:
        p = ((1 + w) * conditional - w * unconditional).softmax(-1)
        eps = torch.randn_like(p) if noise is None else noise
        return (((K * p - 1) * beta + (K * beta * temperature) ** 0.5 * eps).softmax(-1),)

    def ours(noise: Tensor | None = None) -> Results:
        theta = torch.empty_like(state)
        discrete.solver_step(
            conditional, state, 0.0, 1.0, rule="renoise", choose="mean", unconditional=unconditional, guidance=w,
            variance_scale=temperature, schedule=schedule, out=state, theta_out=theta, noise=noise,
        )  # fmt: skip
        return (theta,)

    def own(folder: Path) -> Results:
        with given(noise):
            model, seen = guided_model(folder, places.ODE.file, conditional, unconditional)
            if not hasattr(model, "ode_sample"):
                raise FileNotFoundError(f"{folder / places.ODE.file} does not define ode_sample")
            model.ode_sample(rows, LENGTH, torch.zeros(rows, 1, 1), 1, w, None, temperature)
        return (seen[-1],)

    def network(divisor: int) -> Call:
        return networks.called(networks.transformer(K, divisor), torch.rand(rows, LENGTH, K), times=2)

    name = f"renoised step of {rows} × {LENGTH} tokens of {K}"
    return Client(name, places.ODE, theirs, {"ops": ours}, (noise,), network, own=own)


def letters(rows: int, dtype: torch.dtype) -> Client:
    """The flow and the loss of letters in torch_bfn. The input distribution is added to fixed logits in place of the
    network."""
    k, length, beta_1 = 27, 256, 0.2  # 0.2 is its default
    x, logits = random_classes((rows, length), k, dtype)
    t, noise = torch.rand(rows, dtype=dtype), torch.randn(rows, length, k, dtype=dtype)

    def theirs(noise: Tensor | None = None) -> Results:
        times, e_x = t[:, None, None], F.one_hot(x, k).to(dtype)
        beta = beta_1 * times**2
        eps = torch.randn_like(e_x) if noise is None else noise
        theta = (beta * (k * e_x - 1) + (beta * k).sqrt() * eps).softmax(-1)
        error = e_x - (logits + theta).softmax(-1)
        return with_gradient((k * beta_1 * times * error.square()).sum(-1).mean(), logits)

    def ours(noise: Tensor | None = None) -> Results:
        theta = discrete.flow_sample(x, t, num_classes=k, beta_1=beta_1, noise=noise, dtype=dtype)
        return with_gradient(discrete.continuous_time_loss(x, logits + theta, t, beta_1=beta_1), logits)

    def own(folder: Path) -> Results:
        names = {"default": lambda value, other: other if value is None else value}
        kind = definitions(folder / places.LETTERS.file, "DiscreteBFN", **names).DiscreteBFN
        network = {"net": lambda theta, t: logits + theta, "K": k, "beta_1": beta_1, "dtype": dtype}
        with given(noise, uniforms=t):
            loss = unmade(kind, **network).loss(x)
        return with_gradient(loss.sum(-1).mean(), logits)  # theirs has a number for each class

    def network(divisor: int) -> Call:
        return networks.trained(networks.transformer(k, divisor), torch.rand(rows, length, k))

    name = f"flow and loss of {rows} × {length} letters of {k}"
    return Client(name, places.LETTERS, theirs, {"ops": ours}, (noise,), network, own=own)


def profiles(rows: int, dtype: torch.dtype) -> Client:
    """A step of ProfileBFN's sampling: the flow of a prediction. Of its 33 tokens, 20 are amino acids, and the network
    predicts no other here. Theirs computes all 33 classes, and ours has 20."""
    tokens, length, acids, beta_1, t_next = 33, 256, slice(4, 24), 2.0, 0.4
    k = acids.stop - acids.start
    logits = torch.full((rows, length, tokens), -math.inf, dtype=dtype)
    logits[..., acids] = torch.randn(rows, length, k, dtype=dtype)
    valid = logits[0, 0].isfinite()
    noise = torch.randn(rows, length, tokens, dtype=dtype)
    state, of_acids = torch.zeros(rows, length, k, dtype=dtype), logits[..., acids].contiguous()

    def theirs(noise: Tensor | None = None) -> Results:
        beta = beta_1 * t_next**2
        mean = torch.where(valid, beta * (k * logits.softmax(-1) - 1), -math.inf)
        eps = torch.randn_like(mean) if noise is None else noise
        return ((mean + (beta * k) ** 0.5 * eps).softmax(-1)[..., acids],)

    def ours(noise: Tensor | None = None) -> Results:
        theta = torch.empty_like(state)
        noise = None if noise is None else noise[..., acids].contiguous()
        discrete.solver_step(
            of_acids, state, 0.398, t_next, rule="renoise", choose="mean", beta_1=beta_1, noise=noise,
            out=state, theta_out=theta,
        )  # fmt: skip
        return (theta,)

    def own(folder: Path) -> Results:
        flow = definitions(folder / places.PROTEINS.file, places.PROTEINS.function)
        times = torch.full((rows, length), t_next, dtype=dtype)
        with given(noise):
            theta = getattr(flow, places.PROTEINS.function)(
                times, logits.softmax(-1), torch.full_like(times, beta_1), tokens, 2.0
            )
        return (theta[..., acids],)

    def network(divisor: int) -> Call:
        made = networks.transformer(tokens, divisor, layers=30, width=640)
        return networks.called(made, torch.rand(rows, length, tokens))

    name = f"step of {rows} × {length} amino acids"
    return Client(name, places.PROTEINS, theirs, {"ops": ours}, (noise,), network, own=own)


def antibodies(rows: int, dtype: torch.dtype) -> Client:
    """A step of AbBFN2's sampling: a message of the mean prediction, or of the data where they are known. Its tokens
    are 20 amino acids and 6 special ones."""
    k, length, i, n_steps = 26, 256, 50, 100
    alpha = QuadraticAccuracy(3.0).alpha(torch.tensor(i), n_steps).item()
    logits, state, noise = (torch.randn(rows, length, k, dtype=dtype) for _ in range(3))
    x, known = torch.randint(k, (rows, length)), torch.rand(rows, length) < 0.5
    out = torch.empty_like(state)

    def theirs(noise: Tensor | None = None) -> Results:
        eps = torch.randn_like(state) if noise is None else noise
        std = (alpha * k) ** 0.5
        received = alpha * (k * logits.softmax(-1) - 1) + std * eps
        sent = alpha * (k * F.one_hot(x, k).to(dtype) - 1) + std * eps
        return ((state + torch.where(known[..., None], sent, received)).softmax(-1),)

    def ours(noise: Tensor | None = None) -> Results:
        theta = torch.empty_like(state)
        discrete.update_sample(
            logits, state, alpha, choose="mean", known=x, known_mask=known, noise=noise, out=out, theta_out=theta
        )
        return (theta,)

    def network(divisor: int) -> Call:
        return networks.called(networks.transformer(k, divisor), torch.rand(rows, length, k))

    name = f"step of {rows} × {length} residues"
    return Client(name, places.ANTIBODIES, theirs, {"ops": ours}, (noise,), network)
