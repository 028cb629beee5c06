"""CrysBFN's whole model: fractional coordinates, types of atoms and the lattice of crystals."""

import contextlib
import functools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import VonMises

from benchmarks import networks
from benchmarks.clients import places
from benchmarks.clients.checkouts import definitions, given, unmade
from benchmarks.clients.client import Call, Client, Results, with_gradient
from benchmarks.clients.joint import Fixed, drawing, each
from bfn_kernels import circular, continuous, discrete, nn
from bfn_kernels.circular.reference import wrapped
from bfn_kernels.noise import angle_uniforms
from bfn_kernels.schedules import VonMisesAccuracy

K, BETA_1, SIGMA_1, LAST = 89, 0.5, 0.03162277660168379, 1000.0  # CrysBFN's published settings for MP-20
ATOMS = 10  # of a crystal of MP-20, on average
LEAST = 1e-7  # is added to a concentration before its logarithm
LATTICE: dict[str, Any] = {"sigma_1": SIGMA_1, "clip": None, "parametrisation": "data"}


def scaled(concentration: Tensor) -> Tensor:
    """The logarithm of a concentration as CrysBFN's networks see it: 0 for none, 1 for 1000."""
    return ((concentration + LEAST).log() - math.log(LEAST)) / (math.log(LAST) - math.log(LEAST))


class Coordinates(nn.Circular):
    """Fractional coordinates with the inputs and the loss of CrysBFN."""

    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        mean, concentration = circular.flow_sample(x, self.step_at(t), schedule=self.schedule, mask=mask, seed=seed)
        return torch.stack([mean, scaled(concentration).to(mean.dtype)], -1)

    def theta(self, state: nn.State) -> Tensor:
        return torch.stack([state[0], scaled(state[1])], -1)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, *_: Any, **options: Any
    ) -> Tensor:
        step = self.step_at(t)
        return circular.discrete_time_loss(x, output, step, schedule=self.schedule, squared=True, **options)


class Lattice(nn.Continuous):
    """A lattice, whose loss is L_n also where other parts have L∞."""

    n_steps = None  # type: ignore[assignment]

    def __init__(self, n_steps: int):
        super().__init__(None, **LATTICE)
        self.n_steps = n_steps


def model_of(network: torch.nn.Module, schedule: VonMisesAccuracy) -> nn.Joint:
    return nn.Joint(
        network,
        types=nn.Discrete(None, beta_1=BETA_1, num_classes=K),
        lattice=Lattice(schedule.n_steps),
        coordinates=Coordinates(None, schedule),
        of_examples=["lattice"],
    )


class Predictions(Fixed):
    """Fixed predictions in place of a network. The input distributions are added to them, and the sums of coordinates
    become angles."""

    lattice: Tensor
    coordinates: Tensor

    def __init__(self, atoms: int, crystals: int, dtype: torch.dtype):
        shapes = {"types": (atoms, K), "lattice": (crystals, 9), "coordinates": (atoms, 3)}
        super().__init__(**{name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()})

    def of(self, types: Tensor, lattice: Tensor, mean: Tensor, log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.types + types, self.lattice + lattice, math.pi * (self.coordinates + mean + log).sin()

    def forward(self, theta: dict[str, Tensor], t: Tensor, batch: Tensor) -> dict[str, Tensor]:
        return named(*self.of(theta["types"], theta["lattice"], *theta["coordinates"].unbind(-1)))


def named(types: Tensor, lattice: Tensor, coordinates: Tensor) -> dict[str, Tensor]:
    return {"types": types, "lattice": lattice, "coordinates": coordinates}


@functools.cache
def accuracies(n_steps: int) -> VonMisesAccuracy:
    return VonMisesAccuracy(torch.logspace(-1, 0.9, n_steps).double())  # float32, as the table of concentrations


def angles(step: int | Tensor, shape: tuple[int, ...], schedule: VonMisesAccuracy) -> tuple[dict[str, Tensor], Tensor]:
    """Noise of the flow of angles at the step of each row. Returns the keywords of our op, and the messages about 0,
    `[n, *shape]`, that add up to the same state. At step 1, the first message is the mean of the prior."""
    noise: dict[str, Any] = {"noise": angle_uniforms(torch.Size(shape), torch.randint(2**62, (1,)), 8).double()}
    noise["concentration_noise"] = torch.randn(shape, dtype=torch.float64)
    zeros = torch.zeros(shape, dtype=torch.float64)
    state = circular.flow_sample(zeros, step, schedule=schedule, **noise)
    count = (torch.as_tensor(step) - 1).expand(shape[0]).view(-1, *[1] * (len(shape) - 1))
    return noise, adding_up(*state, count, schedule.alphas)


def adding_up(mean: Tensor, concentration: Tensor, count: Tensor, alphas: Tensor) -> Tensor:
    """Messages of these accuracies, `[n, *mean.shape]`. The first `count` messages add up to a state. They are found
    from the last message back to the first: each message leaves a vector that is as long as the messages before it can
    make it."""
    x, y = concentration * mean.cos(), concentration * mean.sin()
    messages = mean.expand(len(alphas), *mean.shape).clone()
    sums, largest = alphas.cumsum(0), alphas.cummax(0).values
    for i in range(len(alphas) - 1, 0, -1):
        alpha, most = alphas[i], sums[i - 1]
        length = torch.hypot(x, y)
        least = torch.maximum((length - alpha).abs(), 2 * largest[i - 1] - most)
        left = (least + torch.minimum(length + alpha, most)) / 2
        turn = ((length**2 + alpha**2 - left**2) / (2 * length * alpha)).clamp(-1, 1).acos()
        messages[i] = torch.where(i < count, torch.atan2(y, x) + turn, 0)
        x, y = (torch.where(i < count, v - alpha * of(messages[i]), v) for v, of in ((x, torch.cos), (y, torch.sin)))
    messages[0] = torch.where(count > 0, torch.atan2(y, x), mean)
    return messages


def state_of(x: Tensor, step: Tensor, alphas: Tensor, offsets: Tensor | None, prior: Tensor) -> tuple[Tensor, Tensor]:
    """CrysBFN's flow. It draws all messages about each angle, in float64, and adds up the messages before the step."""
    alpha, wide = alphas.view(-1, *[1] * x.dim()), (len(alphas), *x.shape)
    y = VonMises(x.double().expand(wide), alpha.expand(wide)).sample() if offsets is None else x + offsets
    at = (step - 1).view(1, -1, 1).expand(1, *x.shape)
    cosine, sine = (
        torch.cat([first(prior)[None], (alpha * first(y)).cumsum(0)]).gather(0, at)[0]
        for first in (torch.cos, torch.sin)
    )
    concentration = torch.where(step[:, None] == 1, 0, (cosine.square() + sine.square()).sqrt())
    return torch.atan2(sine, cosine).to(x.dtype), scaled(concentration).to(x.dtype)


def drawn_mean(x: Tensor, u: Tensor | None) -> Tensor:
    """The prior's mean, uniform on the circle."""
    return math.pi * (2 * (torch.rand_like(x) if u is None else u) - 1)


def step(crystals: int, dtype: torch.dtype, n_steps: int) -> Client:
    """A training step: the flows of the three parts; L∞ of types, L_n of lattice and coordinates. The input
    distributions are added to fixed predictions in place of the network."""
    schedule, sizes = accuracies(n_steps), torch.randint(ATOMS - 5, ATOMS + 6, (crystals,))
    atoms = nn.Ragged.of_counts(sizes)
    batch, rows = atoms.batch, len(atoms.batch)
    x = named(
        torch.randint(K, (rows,)),
        torch.randn(crystals, 9, dtype=dtype),
        math.pi * (2 * torch.rand(rows, 3, dtype=dtype) - 1),
    )
    step_of = torch.randint(1, n_steps + 1, (crystals,))
    t, alphas = (step_of.to(dtype) - 1) / n_steps, schedule.alphas
    network = Predictions(rows, crystals, dtype)
    model, leaves = model_of(network, schedule), [*network.parameters()]
    of_angles, offsets = angles(step_of[batch], (rows, 3), schedule)
    of_types, of_lattice = torch.randn(rows, K, dtype=dtype), torch.randn(crystals, 9, dtype=dtype)
    uniforms = wrapped((x["coordinates"] + offsets[0]) / (2 * math.pi)) + 0.5

    def results(types: Tensor, lattice: Tensor, coordinates: Tensor) -> Results:
        each = types.detach(), lattice.detach()
        return *each, *with_gradient(types + lattice + coordinates, *leaves)

    def theirs(*noise: Tensor) -> Results:
        of_types, of_lattice, offsets, uniforms = noise or (None, None, None, None)
        times, i = t[:, None], step_of[:, None].to(dtype)
        beta, e_x = BETA_1 * times[batch] ** 2, F.one_hot(x["types"], K).to(dtype)
        eps = torch.randn_like(e_x) if of_types is None else of_types
        theta = (beta * (K * e_x - 1) + (beta * K).sqrt() * eps).softmax(-1)
        prior = drawn_mean(x["coordinates"], uniforms)
        mean, log = state_of(x["coordinates"], step_of[batch], alphas, offsets, prior)
        gamma = 1 - SIGMA_1 ** (2 * times)
        eps = torch.randn_like(x["lattice"]) if of_lattice is None else of_lattice
        seen = gamma * x["lattice"] + eps * (gamma * (1 - gamma)).sqrt()
        logits, lattice, coordinates = network.of(theta, seen, mean, log)
        error = (e_x - logits.softmax(-1)).square().sum(-1)
        of_types = (K * BETA_1 * times[batch].squeeze(-1) * error).mean()
        weight = n_steps * (1 - SIGMA_1 ** (2 / n_steps)) / (2 * SIGMA_1 ** (2 * i / n_steps))
        of_lattice = (weight * (lattice - x["lattice"]).square()).mean()
        alpha = alphas[step_of - 1].to(dtype)[batch, None]
        periods = 2 * math.pi * torch.arange(-10, 11, dtype=dtype)
        apart = (x["coordinates"][..., None] + periods - coordinates[..., None]).square().amin(-1)
        ratio = torch.special.i1e(alpha) / torch.special.i0e(alpha)
        return results(of_types, of_lattice, (n_steps * ratio * alpha * apart).mean())

    def ours(*noise: Tensor) -> Results:
        flows: Any = contextlib.nullcontext()
        if noise:
            drawn = (discrete, each(noise=noise[:1])), (continuous, each(noise=noise[1:2])), (circular, [of_angles])
            flows = drawing(*((module, "flow_sample", given) for module, given in drawn))
        with flows:
            return results(*model.loss_by_part(x, t, batch=batch, num_examples=crystals).values())

    def own(folder: Path) -> Results:
        def output(
            theta_type: Tensor, mu_pos_t: Tensor, mu_lattices_t_33: Tensor, log_acc: Tensor, **_: Any
        ) -> Results:
            logits, lattice, coordinates = network.of(theta_type, mu_lattices_t_33.reshape(-1, 9), mu_pos_t, log_acc)
            return logits.softmax(-1), coordinates, lattice

        e_x = F.one_hot(x["types"], K).to(dtype)
        fractions = x["coordinates"] / (2 * math.pi) + 0.5
        with given(of_types, of_lattice, uniforms=uniforms[None], integers=step_of - 1):
            made = their_model(folder, "CrysBFN", output, schedule, [offsets], x["lattice"])
            losses = made.loss_one_step(None, e_x, fractions, None, None, sizes, batch, None)
        return results(*losses)

    def about(divisor: int) -> Call:
        inputs = torch.rand(rows, K + 6), torch.randint(rows, (rows, ATOMS))
        return networks.trained(networks.Messages(K + 6, divisor, width=512, layers=6), *inputs)

    name = f"joint step of {crystals} crystals"
    noise = of_types, of_lattice, offsets, uniforms
    return Client(name, places.WHOLE_CRYSTALS, theirs, {"nn.Joint": ours}, noise, about, own=own)


def their_model(
    folder: Path,
    name: str,
    output: Any,
    schedule: VonMisesAccuracy,
    offsets: list[Tensor],
    lattice: Tensor | None = None,
) -> Any:
    """A model of CrysBFN with another network. Each message is the angle that it is about, plus one of the `offsets`.

    name: "CrysBFN", or "CrysBFN_CSP", for which the types of atoms are known.
    """
    place = places.CRYSTALS_VANILLA if name == "CrysBFN_CSP" else places.WHOLE_CRYSTALS
    base = definitions(folder / places.CRYSTALS_BASE, "bfnBase").bfnBase
    periods = definitions(folder / places.CRYSTALS_DATA, "PeriodHelper", "back2interval")
    names = {"p_helper": periods.PeriodHelper, "lattice_params_to_matrix_torch": lambda *_: lattice}
    kind = getattr(definitions(folder / place.file, name, bfnBase=base, **names), name)
    left = iter(offsets)
    settings = {
        "data": SimpleNamespace(lattice_mean=0.0, lattice_std=1.0),
        "logging": {},
        "n_samples": 1,
        "norm_weight": False,
        "keys": lambda: ("n_samples",),
    }
    wide: dict[str, Any] = {"dtype": torch.float64}
    return unmade(
        kind,
        hparams=SimpleNamespace(**settings),
        device="cpu",
        dtime_loss=True,
        dtime_loss_steps=torch.tensor(schedule.n_steps),
        K=K,
        beta1_type=torch.tensor(BETA_1, **wide),
        beta1_coord=torch.tensor(LAST, **wide),
        sigma1_lattice=torch.tensor(SIGMA_1, **wide),
        T_min=-math.pi,
        T_max=math.pi,
        alphas=torch.cat([torch.zeros(1, **wide), schedule.alphas]),
        alpha_wrt_index=lambda index, *_: schedule.alphas[index.long() - 1],
        vm_helper=SimpleNamespace(sample=lambda loc, **_: loc + next(left).view(loc.shape)),
        epsilon=torch.tensor(LEAST, **wide),
        norm_beta=True,
        cir_weight_norm=1.0,
        mult_constant=True,
        pred_mean=True,
        end_back=True,
        interdependency_modeling=output,
    )
