"""Sampling runs of CrysBFN with a small network: "end_back", its default, and "vanilla"."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributions import Categorical, VonMises

from benchmarks.clients import places
from benchmarks.clients.checkouts import given
from benchmarks.clients.client import Call, Client, Results
from benchmarks.clients.joint import Drawn, Small, drawing, each
from benchmarks.clients.whole_crystals import (
    ATOMS,
    BETA_1,
    LEAST,
    SIGMA_1,
    Coordinates,
    K,
    Lattice,
    accuracies,
    angles,
    drawn_mean,
    model_of,
    scaled,
    their_model,
)
from bfn_kernels import circular, continuous, discrete, nn, samplers
from bfn_kernels.noise import angle_uniforms


class Crystals(torch.nn.Module):
    """A small network of atoms. The lattice is the mean over a crystal's atoms.

    classes: the number of types, or 0 if types are known.
    """

    def __init__(self, crystals: int, classes: int, dtype: torch.dtype):
        super().__init__()
        self.atoms = nn.Ragged.of_counts(torch.randint(ATOMS - 5, ATOMS + 6, (crystals,)))
        self.shape: Any = {"lattice": (crystals, 9), "coordinates": (len(self.atoms.batch), 3)}
        self.shape |= {"types": (len(self.atoms.batch),)} if classes else {}
        self.sizes, self.dtype = self.atoms.sizes.unsqueeze(-1), dtype
        self.small = Small(3 + 3 + 3 + 9 + classes, [3, 9, classes][: len(self.shape)], dtype)

    def of(self, t: Tensor, mean: Tensor, log: Tensor, lattice: Tensor, *types: Tensor) -> tuple[Tensor, ...]:
        """t: the time of each crystal. types: probabilities, or nothing if types are known."""
        batch = self.atoms.batch
        coordinates, of_atoms, *logits = self.small(t[batch], mean.sin(), mean.cos(), log, lattice[batch], *types)
        return math.pi * coordinates.tanh(), self.atoms.sums(of_atoms) / self.sizes, *logits

    def forward(self, theta: dict[str, Tensor], t: Tensor, batch: Tensor) -> dict[str, Tensor]:
        types = [theta[name] for name in self.shape if name == "types"]
        outputs = self.of(t, *theta["coordinates"].unbind(-1), theta["lattice"], *types)
        return dict(zip(("coordinates", "lattice", "types"), outputs, strict=False))

    def time(self, step: int, n_steps: int) -> Tensor:
        return torch.full(self.shape["lattice"][:1], (step - 1) / n_steps, dtype=self.dtype)

    def start(self, uniforms: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The mean and the scaled concentration of the coordinates, and the lattice, before the first message."""
        zeros = torch.zeros(self.shape["coordinates"], dtype=self.dtype)
        return drawn_mean(zeros, uniforms), scaled(zeros), torch.zeros(self.shape["lattice"], dtype=self.dtype)


def run_of(
    network: Crystals, model: nn.Joint, sampler: str, n_steps: int, calls: Sequence[Drawn], uniforms: Tensor
) -> Call:
    """Our run. With arguments, it draws the noise of `calls`, and starts from the mean that the uniforms make. It
    returns what the network sees in each step."""

    def prior(*_: Any) -> nn.State:
        mean = drawn_mean(uniforms, uniforms)
        return mean, torch.zeros_like(mean), torch.full_like(mean, -1)

    def ours(*noise: Tensor) -> Results:
        with contextlib.ExitStack() as stack:
            if noise:
                stack.enter_context(drawing(*calls))
                stack.enter_context(mock.patch.object(Coordinates, "prior", prior))
            seen = stack.enter_context(network.small.watched())
            samplers.sample(model, network.shape, n_steps, sampler=sampler, counts=network.atoms.sizes.tolist())
        return (*seen[:n_steps],)  # theirs has no call at t = 1

    return ours


def end_back(crystals: int, dtype: torch.dtype, n_steps: int = 16) -> Client:
    """A run of the sampler "end_back". Each step draws new states from the flows of the predictions: of angles, by all
    messages before the next step."""
    network, schedule = Crystals(crystals, K, dtype), accuracies(n_steps)
    rows, lattices = network.shape["coordinates"], network.shape["lattice"]
    of_types, of_lattice = (torch.randn(n_steps, *shape, dtype=dtype) for shape in ((rows[0], K), lattices))
    uniforms = torch.rand(rows, dtype=dtype)
    of_angles, offsets = zip(*(angles(i + 1, rows, schedule) for i in range(1, n_steps + 1)), strict=True)

    def drawn() -> Any:
        """Where their code draws, it gets the noise."""
        pairs = zip(of_types[:-1], of_lattice[:-1], strict=True)
        normals = (normal for pair in pairs for normal in pair)
        return given(*normals, uniforms=uniforms, classes=[uniforms[:, 0]])

    @torch.no_grad()
    def theirs(*noise: Tensor) -> Results:
        with drawn() if noise else contextlib.nullcontext(), network.small.watched() as seen:
            mean, log, lattice = network.start(uniforms if noise else None)
            theta = torch.full((rows[0], K), 1 / K, dtype=dtype)
            for i in range(1, n_steps + 1):
                coordinates, lattice, logits = network.of(network.time(i, n_steps), mean, log, lattice, theta)
                p = logits.softmax(-1).clamp(min=1e-6)
                if i == n_steps:
                    break
                alpha, x = schedule.alphas[:i, None, None], coordinates.double().expand(i, *rows)
                y = x + offsets[i - 1][:i] if noise else VonMises(x, alpha.expand(x.shape)).sample()
                cosine, sine = (alpha * y.cos()).cumsum(0)[-1], (alpha * y.sin()).cumsum(0)[-1]
                mean = torch.atan2(sine, cosine).to(dtype)
                log = scaled((cosine.square() + sine.square()).sqrt()).to(dtype)
                beta, gamma = BETA_1 * (i / n_steps) ** 2, 1 - SIGMA_1 ** (2 * i / n_steps)
                theta = (beta * (K * p - 1) + (beta * K) ** 0.5 * torch.randn_like(p)).softmax(-1)
                lattice = gamma * lattice + torch.randn_like(lattice) * (gamma * (1 - gamma)) ** 0.5
            Categorical(p).sample()
        return (*seen,)

    def own(folder: Path) -> Results:
        def output(
            t_index: Tensor, theta_type: Tensor, mu_pos_t: Tensor, mu_lattices_t_33: Tensor, log_acc: Tensor, **_: Any
        ) -> Results:
            seen = mu_pos_t, log_acc, mu_lattices_t_33, theta_type
            coordinates, lattice, logits = network.of((t_index - 1) / n_steps, *seen)
            return logits.softmax(-1), coordinates, lattice

        messages = [offset[:i] for i, offset in enumerate(offsets, 1)]
        with drawn(), network.small.watched() as seen:
            made = their_model(folder, "CrysBFN", output, schedule, messages)
            made.sample(network.atoms.sizes, None, sample_steps=n_steps, segment_ids=network.atoms.batch)
        return (*seen,)

    calls = [
        (circular, "renoise", of_angles),
        (continuous, "solver_step", each(noise=of_lattice)),
        (discrete, "solver_step", each(noise=of_types)),
    ]
    ours = run_of(network, model_of(network, schedule), "renoise", n_steps, calls, uniforms)
    name = f"joint run of {n_steps} steps, end_back, {crystals} crystals"
    return Client(name, places.CRYSTALS_RENOISED, theirs, {"nn.Joint": ours}, (uniforms,), None, own=own)


def vanilla(crystals: int, dtype: torch.dtype, n_steps: int = 16) -> Client:
    """A run of the sampler "vanilla", in which the types of atoms are known. Each step sends a message."""
    network, schedule = Crystals(crystals, 0, dtype), accuracies(n_steps)
    rows, lattices = network.shape["coordinates"], network.shape["lattice"]
    of_lattice, uniforms = torch.randn(n_steps, *lattices, dtype=dtype), torch.rand(rows, dtype=dtype)
    seeds = torch.randint(2**62, (n_steps, 1)).unbind()
    of_angles: list[dict[str, Any]] = [{"noise": angle_uniforms(torch.Size(rows), seed, 8).to(dtype)} for seed in seeds]
    zeros = torch.zeros(rows, dtype=dtype)
    pairs = zip(schedule.alphas.tolist(), of_angles, strict=True)
    offsets = [circular.sender_sample(zeros, alpha, **noise) for alpha, noise in pairs]

    def drawn() -> Any:
        """Where their code draws, it gets the noise."""
        return given(*of_lattice, uniforms=uniforms)

    @torch.no_grad()
    def theirs(*noise: Tensor, least: float = 0.0, added: float = 0.0) -> Results:
        """least: is added to both arguments of atan2. added: is added to the concentration before each step."""
        with drawn() if noise else contextlib.nullcontext(), network.small.watched() as seen:
            (mean, log, lattice), rho = network.start(uniforms if noise else None), 1.0
            concentration = torch.zeros_like(mean)
            for i, accuracy in enumerate(schedule.alphas, 1):
                coordinates, predicted = network.of(network.time(i, n_steps), mean, log, lattice)
                alpha = SIGMA_1 ** (-2 * i / n_steps) * (1 - SIGMA_1 ** (2 / n_steps))
                y = predicted + torch.randn_like(predicted) * (1 / alpha) ** 0.5
                lattice, rho = (rho * lattice + alpha * y) / (rho + alpha), rho + alpha
                wide = coordinates.double()
                y = wide + offsets[i - 1] if noise else VonMises(wide, accuracy.expand(rows)).sample()
                y, before, c = y.to(dtype), mean, concentration + added
                mean = torch.atan2(
                    accuracy * y.sin() + c * before.sin() + least, accuracy * y.cos() + c * before.cos() + least
                )
                cosine = (y - before).cos()
                concentration = (accuracy**2 + c.square() + 2 * accuracy * c * cosine).sqrt()
                log = scaled(concentration)
        return (*seen,)

    def own(folder: Path) -> Results:
        def output(
            t_index: Tensor, mu_pos_t: Tensor, mu_lattices_t: Tensor, log_acc: Tensor, **_: Any
        ) -> tuple[Tensor, ...]:
            return network.of((t_index - 1) / n_steps, mu_pos_t, log_acc, mu_lattices_t)

        with drawn(), network.small.watched() as seen:
            made = their_model(folder, "CrysBFN_CSP", output, schedule, offsets)
            atoms = network.atoms
            made.sample(None, atoms.sizes, None, n_steps, segment_ids=atoms.batch, strategy="vanilla")
        return (*seen,)

    parts: dict[str, Any] = {"lattice": Lattice(n_steps), "coordinates": Coordinates(None, schedule)}
    calls = [(circular, "update_sample", of_angles), (continuous, "update_sample", each(noise=of_lattice))]
    model = nn.Joint(network, of_examples=["lattice"], **parts)
    ours = run_of(network, model, "ancestral", n_steps, calls, uniforms)
    return Client(
        f"joint run of {n_steps} steps, vanilla, {crystals} crystals",
        places.CRYSTALS_VANILLA,
        theirs,
        {"nn.Joint": ours},
        (uniforms,),
        None,
        own=own,
        literal=lambda *noise: theirs(*noise, least=1e-6, added=LEAST),
    )
