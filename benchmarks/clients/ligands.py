"""MolCRAFT's whole model: the positions and the types of the atoms of ligands, in the pocket of a protein."""

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from benchmarks import networks
from benchmarks.clients import places
from benchmarks.clients.atoms import DRAWS, N_STEPS, loss_by_draws
from benchmarks.clients.checkouts import definitions, given, unmade
from benchmarks.clients.client import Call, Client, Results, with_gradient
from benchmarks.clients.joint import Fixed, Small, drawing, each
from bfn_kernels import continuous, discrete, nn, samplers

K, SIGMA_1, BETA_1 = 13, 0.03, 1.5  # MolCRAFT's published settings
POCKET = 350  # atoms of the protein in one example
REAL: dict[str, Any] = {"sigma_1": SIGMA_1, "clip": None, "parametrisation": "data"}


class Types(nn.Discrete):
    """Types of atoms, whose n-step loss is a mean over as many draws as MolCRAFT's."""

    def expectation(self, seed: int) -> dict[str, Any]:
        return super().expectation(seed) | {"n_samples": DRAWS}


class Ligands(torch.nn.Module):
    """The parts of theta in the order in which a small network takes them."""

    def __init__(self, small: Small):
        super().__init__()
        self.small = small

    def forward(self, theta: dict[str, Tensor], t: Tensor, batch: Tensor) -> dict[str, Tensor]:
        positions, types = self.small(t.index_select(0, batch), theta["positions"], theta["types"])
        return {"positions": positions, "types": types}


def model_of(network: torch.nn.Module) -> nn.Joint:
    positions = nn.Continuous(None, **REAL)
    return nn.Joint(network, positions=positions, types=Types(None, beta_1=BETA_1, num_classes=K))


def sizes(molecules: int) -> Tensor:
    """The numbers of the ligands' atoms: 23 on average, as in CrossDocked."""
    return torch.randint(13, 34, (molecules,))


def scatter_mean(values: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    """The function of torch_scatter: the mean of the rows of each example."""
    counts = torch.bincount(index)
    sums = values.new_zeros(len(counts), *values.shape[1:]).index_add(0, index, values)
    return sums / counts.view(-1, *[1] * (values.dim() - 1))


def step(molecules: int, dtype: torch.dtype) -> Client:
    """A training step: the protein's centre becomes the origin; flows and n-step losses of positions and types. The
    input distributions are added to fixed predictions in place of the network."""
    ligands, pockets = nn.Ragged.of_counts(sizes(molecules)), nn.Ragged.of_counts([POCKET] * molecules)
    batch, rows = ligands.batch, len(ligands.batch)
    raw, protein = torch.randn(rows, 3, dtype=dtype) + 5, torch.randn(len(pockets.batch), 3, dtype=dtype) + 5
    kinds = torch.randint(K, (rows,))
    step_of = torch.randint(1, N_STEPS + 1, (molecules,))
    t = (step_of.to(dtype) - 1) / N_STEPS + 1e-6 / N_STEPS  # their code rounds t·n down
    network = Fixed(positions=torch.randn(rows, 3, dtype=dtype), types=torch.randn(rows, K, dtype=dtype))
    model, leaves = model_of(network), [network.positions, network.types]
    noise = (
        torch.randn(rows, K, dtype=dtype),
        torch.randn(rows, 3, dtype=dtype),
        torch.randn(DRAWS, rows, K, dtype=dtype),
    )

    def results(of_positions: Tensor, of_types: Tensor) -> Results:
        return of_positions.detach(), *with_gradient(of_positions + of_types, *leaves)

    def theirs(*noise: Tensor) -> Results:
        of_types, of_positions, of_draws = noise or (None, None, None)
        x = raw - scatter_mean(protein, pockets.batch)[batch]
        times, i = t[batch, None], step_of[batch].to(dtype)
        gamma = 1 - SIGMA_1 ** (2 * times)
        eps = torch.randn_like(x) if of_positions is None else of_positions
        mean = gamma * x + eps * (gamma * (1 - gamma)).sqrt()
        beta, e_x = BETA_1 * times**2, F.one_hot(kinds, K).to(dtype)
        eps = torch.randn_like(e_x) if of_types is None else of_types
        theta = (beta * (K * e_x - 1) + (beta * K).sqrt() * eps).softmax(-1)
        weight = N_STEPS * (1 - SIGMA_1 ** (2 / N_STEPS)) / (2 * SIGMA_1 ** (2 * i / N_STEPS))
        error = weight * (network.positions + mean - x).square().sum(-1)
        return results(
            scatter_mean(error, batch).mean(), loss_by_draws(kinds, network.types + theta, i, BETA_1, of_draws)
        )

    def ours(*noise: Tensor, n_steps: int | None = N_STEPS) -> Results:
        x = {"positions": raw - (pockets.sums(protein) / pockets.sizes.unsqueeze(-1))[batch], "types": kinds}
        losses = model.loss_by_part(x, t, n_steps=n_steps, batch=batch, num_examples=molecules, reduction="none")
        of_atoms = ligands.sums(losses["positions"].sum(-1)) / ligands.sizes
        return results(of_atoms.mean(), losses["types"].mean())

    def of_noise(*noise: Tensor) -> Results:
        with contextlib.ExitStack() as stack:
            if noise:
                flows = (discrete, each(noise=noise[:1])), (continuous, each(noise=noise[1:2]))
                calls = [(module, "flow_sample", drawn) for module, drawn in flows]
                loss = discrete, "discrete_time_loss", each(noise=noise[2:])
                stack.enter_context(drawing(*calls, loss))
            return ours()

    def own(folder: Path) -> Results:
        centre = definitions(folder / places.CENTRE, "center_pos", scatter_mean=scatter_mean).center_pos

        def output(theta_h_t: Tensor, mu_pos_t: Tensor, **_: Any) -> tuple[Tensor, Tensor, None]:
            return network.positions + mu_pos_t, (network.types + theta_h_t).softmax(-1), None

        of_types, of_positions, of_draws = noise
        with given(of_positions, of_types, of_draws):
            made = their_model(folder, dtype, output, use_discrete_t=True, discrete_steps=N_STEPS)
            _, x, _ = centre(protein, raw, pockets.batch, batch, mode="protein")
            of_positions, of_types, _ = made.loss_one_step(t[batch, None], None, None, None, x, kinds, batch)
        return results(of_positions.mean(), of_types)

    def about(divisor: int) -> Call:
        others = torch.randint(rows, (rows, 32))
        return networks.trained(networks.Messages(3 + K, divisor), torch.rand(rows, 3 + K), others)

    calls = {"nn.Joint": of_noise, "nn.Joint, continuous time": lambda: ours(n_steps=None)}
    return Client(f"joint step of {molecules} ligands", places.LIGANDS, theirs, calls, noise, about, own=own)


def their_model(folder: Path, dtype: torch.dtype, output: Any, **settings: Any) -> Any:
    """MolCRAFT's model with another network."""
    base = definitions(folder / places.TYPES.file, "BFNBase", scatter_mean=scatter_mean).BFNBase
    kind = definitions(folder / places.LIGANDS.file, "BFN4SBDDScoreModel", BFNBase=base).BFN4SBDDScoreModel
    numbers = {"sigma1_coord": torch.tensor(SIGMA_1, dtype=dtype), "beta1": torch.tensor(BETA_1, dtype=dtype)}
    return unmade(kind, device="cpu", num_classes=K, interdependency_modeling=output, **numbers, **settings)


def run(molecules: int, dtype: torch.dtype, strategy: str, n_steps: int = 16) -> Client:
    """A sampling run with a small network. The results are what the network sees in all its calls, and the positions.

    strategy: MolCRAFT's name of the sampler, "vanilla" or "end_back_pmf".
    """
    ligands = nn.Ragged.of_counts(sizes(molecules))
    batch, rows = ligands.batch, len(ligands.batch)
    small = Small(3 + K, (3, K), dtype)
    model = model_of(Ligands(small))
    of_types, of_positions = torch.randn(n_steps, rows, K, dtype=dtype), torch.randn(n_steps, rows, 3, dtype=dtype)
    noise = of_types, of_positions, torch.rand(n_steps, rows, dtype=dtype)
    vanilla = strategy == "vanilla"

    @torch.no_grad()
    def loop() -> Tensor:
        mean, theta, rho = torch.zeros(rows, 3, dtype=dtype), torch.full((rows, K), 1 / K, dtype=dtype), 1.0
        for i in range(1, n_steps + 1):
            t = torch.full((molecules, 1), (i - 1) / n_steps, dtype=dtype)[batch]
            positions, logits = small(t.squeeze(-1), mean, theta)
            p = logits.softmax(-1).clamp(min=1e-6)
            F.one_hot(Categorical(p).sample(), K)
            alpha = SIGMA_1 ** (-2 * i / n_steps) * (1 - SIGMA_1 ** (2 / n_steps))
            y = positions + torch.randn_like(positions) * (1 / alpha) ** 0.5
            accuracy = BETA_1 * (2 * i - 1) / n_steps**2
            e_k = F.one_hot(Categorical(p).sample(), K).to(dtype)
            message = accuracy * (K * e_k - 1) + (accuracy * K) ** 0.5 * torch.randn_like(e_k)
            if vanilla:
                mean, rho = (rho * mean + alpha * y) / (rho + alpha), rho + alpha
                theta = message.exp() * theta
                theta = theta / theta.sum(-1, keepdim=True)
            else:
                t = torch.full((molecules, 1), i / n_steps, dtype=dtype)[batch]
                beta, gamma = BETA_1 * t**2, 1 - SIGMA_1 ** (2 * t)
                theta = (beta * (K * p - 1) + (beta * K).sqrt() * torch.randn_like(p)).softmax(-1)
                mean = gamma * positions + torch.randn_like(positions) * (gamma * (1 - gamma)).sqrt()
        return small(torch.ones(rows, dtype=dtype), mean, theta)[0]

    def drawn() -> Any:
        """Where their loop draws, it gets the noise. Without "vanilla", it draws messages that it does not use."""
        pairs = zip(of_positions, of_types, strict=True)
        normals = [each for p, k in pairs for each in ((p, k) if vanilla else (p, k, k, p))]
        return given(*normals, classes=noise[2].repeat_interleave(2, 0).unbind())

    def theirs(*noise: Tensor) -> Results:
        with drawn() if noise else contextlib.nullcontext(), small.watched() as seen:
            return loop(), *seen

    def ours(*noise: Tensor) -> Results:
        options: Any = {"sampler": "ancestral"} if vanilla else {"sampler": "renoise", "choose": {"types": "mean"}}
        name = "update_sample" if vanilla else "solver_step"
        of_class = {"draw_noise": noise[2]} if noise and vanilla else {}
        calls = [(discrete, name, each(noise=of_types, **of_class)), (continuous, name, each(noise=of_positions))]
        shape: Any = {"positions": (rows, 3), "types": (rows,)}
        with drawing(*calls) if noise else contextlib.nullcontext(), small.watched() as seen:
            samples: Any = samplers.sample(model, shape, n_steps, counts=ligands.sizes.tolist(), **options)
        return samples["positions"], *seen

    def own(folder: Path) -> Results:
        def output(time: Tensor, theta_h_t: Tensor, mu_pos_t: Tensor, **_: Any) -> tuple[Tensor, Tensor, None]:
            positions, logits = small(time.squeeze(-1), mu_pos_t, theta_h_t)
            return positions, logits.softmax(-1), None

        settings = {"use_discrete_t": True, "destination_prediction": True, "pos_init_mode": "zero"}
        with drawn(), torch.no_grad(), small.watched() as seen:
            made = their_model(folder, dtype, output, sampling_strategy=strategy, **settings)
            _, trajectory, _ = made.sample(None, None, None, batch, molecules, n_steps)
        return trajectory[-1][0], *seen

    place = places.LIGANDS_VANILLA if vanilla else places.LIGANDS_RENOISED
    name = f"joint run of {n_steps} steps, {strategy}, {molecules} ligands"
    return Client(name, place, theirs, {"nn.Joint": ours}, noise, None, own=own)
