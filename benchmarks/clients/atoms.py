"""Computations of MolCRAFT, MolPilot and GeoBFN on the atoms of molecules."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmarks import networks, published_formulas
from benchmarks.clients import places
from benchmarks.clients.checkouts import definitions, given, unmade
from benchmarks.clients.client import Call, Client, Results, random_classes, with_gradient
from bfn_kernels import Limits, continuous, discrete, discretised

N_STEPS, DRAWS = 1000, 200  # as in MolCRAFT and MolPilot


def loss_by_draws(x: Tensor, logits: Tensor, i: Tensor, beta_1: float, noise: Tensor | None = None) -> Tensor:
    """The n-step loss at the steps i, as the mean over 200 draws from the sender distribution. noise: normals of the
    draws."""
    k, dtype = logits.shape[-1], logits.dtype
    alpha = beta_1 * (2 * i.to(dtype) - 1)[:, None] / N_STEPS**2
    std = (k * alpha).sqrt()
    sender = Independent(Normal(alpha * (k * F.one_hot(x, k) - 1), std), 1)
    each = alpha[..., None] * (k * torch.eye(k, dtype=dtype) - 1)
    receiver = MixtureSameFamily(Categorical(probs=logits.softmax(-1)), Independent(Normal(each, std[..., None]), 1))
    y = sender.sample((DRAWS,)) if noise is None else sender.mean + std * noise
    return N_STEPS * (sender.log_prob(y) - receiver.log_prob(y)).mean()


def types_by_draws(rows: int, dtype: torch.dtype, k: int, beta_1: float) -> Client:
    """Returns the client of the n-step loss of classes in MolCRAFT and MolPilot. Their loss averages 200 draws from the
    sender distribution. For each draw, the published code evaluates a mixture of K normals in K dimensions."""
    x, logits = random_classes((rows,), k, dtype)
    i = torch.randint(1, N_STEPS + 1, (rows,))
    noise = torch.randn(DRAWS, rows, k, dtype=dtype)
    place = places.FLAGS if k == 2 else places.TYPES

    def theirs(noise: Tensor | None = None) -> Results:
        return with_gradient(loss_by_draws(x, logits, i, beta_1, noise), logits)

    def own(folder: Path) -> Results:
        loss = definitions(folder / place.file, "BFNBase").BFNBase.dtime4discrete_loss_prob
        with given(noise):
            value = loss(None, i, N_STEPS, beta_1, F.one_hot(x, k), logits.softmax(-1), k, n_samples=DRAWS)
        return with_gradient(value, logits)

    def ours(**options) -> Results:
        loss = discrete.discrete_time_loss(x, logits, step=i, n_steps=N_STEPS, beta_1=beta_1, **options)
        return with_gradient(loss, logits)

    def continuous_time() -> Results:
        t = ((i - 0.5) / N_STEPS).float()
        return with_gradient(discrete.continuous_time_loss(x, logits, t, beta_1=beta_1), logits)

    def draws(noise: Tensor | None = None) -> Results:
        return ours(n_samples=DRAWS, noise=noise)

    found: dict[str, Call] = {"200 draws": draws}
    if k == 2:
        found["8 nodes"] = lambda: ours(quadrature=8)
    found["continuous time"] = continuous_time
    name = f"n-step loss of {rows} variables of {k} classes"

    def network(divisor: int) -> Call:
        others = torch.randint(rows, (rows, 32))
        return networks.trained(networks.Messages(k, divisor), torch.rand(rows, k), others)

    return Client(name, place, theirs, found, (noise,), network, varies=True, own=own)


def charges(rows: int, dtype: torch.dtype) -> Client:
    """GeoBFN's losses of atoms: positions are reals without bounds, and a charge is one of 9 bins. All times are
    above t_min, and charge_clamp is False, so GeoBFN does not clamp a prediction."""
    bins, of_positions, of_charges = 9, 0.001, 0.15
    limits = Limits(std=(1e-6, 4.0), t_min=1e-4)
    position = torch.randn(rows, 3, dtype=dtype)
    charge = (2 * torch.randint(bins, (rows, 1)).to(dtype) + 1) / bins - 1
    output = torch.randn(rows, 3, dtype=dtype, requires_grad=True)
    mean_output = (0.3 * torch.randn(rows, 1, dtype=dtype)).requires_grad_()
    log_std_output = (0.1 * torch.randn(rows, 1, dtype=dtype)).requires_grad_()
    outputs = output, mean_output, log_std_output
    t = torch.rand(rows, dtype=dtype) * 0.9 + 0.1
    noise = torch.randn_like(charge), torch.randn_like(position)

    def predicted(mean: Tensor, output: Tensor, sigma_1: float) -> tuple[Tensor, Tensor]:
        """Returns the predicted data, and the factor by which the predicted noise is multiplied."""
        gamma = 1 - sigma_1 ** (2 * t[:, None])
        scale = ((1 - gamma) / gamma).sqrt()
        return mean / gamma - scale * output, scale

    def theirs(charge_noise: Tensor | None = None, noise: Tensor | None = None) -> Results:
        times = t[:, None]
        mean = published_formulas.continuous_flow_sample(charge, times, charge_noise, sigma_1=of_charges)
        predicted_charge, scale = predicted(mean, mean_output, of_charges)
        normal = predicted_charge, log_std_output + scale.log()
        of_bins = published_formulas.discretised_continuous_time_loss(
            charge, *normal, times, num_bins=bins, sigma_1=of_charges
        )
        mean = published_formulas.continuous_flow_sample(position, times, noise, sigma_1=of_positions)
        error = (predicted(mean, output, of_positions)[0] - position).square()
        of_reals = -torch.tensor(of_positions, dtype=dtype).log() * error * of_positions ** (-2 * times)
        return with_gradient(of_reals.sum(1).mean() + of_bins.mean(), *outputs)

    def ours(charge_noise: Tensor | None = None, noise: Tensor | None = None) -> Results:
        mean = continuous.flow_sample(charge, t, sigma_1=of_charges, noise=charge_noise)
        of_bins = discretised.continuous_time_loss(
            charge, mean_output, log_std_output, mean, t, sigma_1=of_charges, num_bins=bins, limits=limits
        )
        mean = continuous.flow_sample(position, t, sigma_1=of_positions, noise=noise)
        of_reals = continuous.continuous_time_loss(
            position, output, mean, t, sigma_1=of_positions, limits=limits, clip=None
        )
        return with_gradient(3 * of_reals + of_bins, *outputs)

    def own(folder: Path) -> Results:
        kind = definitions(folder / places.CHARGES.file, "bfnBase", "bfn4MolEGNN").bfn4MolEGNN
        _, left, right = kind.get_k_params(None, bins)
        replaced = {  # the network and two methods around it, which need packages
            "egnn": lambda *_: (torch.cat([mean_output, log_std_output], 1), output),
            "gaussian_basis": lambda mean: mean,
            "zero_center_of_mass": lambda mean, segment_ids: mean,
        }
        settings = {"t_min": 1e-4, "condition_time": False, "no_diff_coord": True, "charge_clamp": False}
        with given(*noise):
            model = unmade(
                kind,
                sigma1_coord=torch.tensor(of_positions),
                sigma1_charges=torch.tensor(of_charges),
                K_c=torch.arange(1 / bins - 1, 1, 2 / bins),
                k_l=left,
                k_r=right,
                device="cpu",
                charge_discretised_loss=True,
                **settings,
                **replaced,
            )
            of_reals, of_bins, _ = model.loss_one_step(t[:, None], charge, position, None)
        return with_gradient(of_reals.mean() + of_bins.mean(), *outputs)

    def network(divisor: int) -> Call:
        others = torch.randint(rows, (rows, 17))  # a molecule of the data set QM9 has 18 atoms on average
        return networks.trained(networks.Messages(4, divisor, width=256), torch.rand(rows, 4), others)

    return Client(f"flows and losses of {rows} atoms", places.CHARGES, theirs, {"ops": ours}, noise, network, own=own)
