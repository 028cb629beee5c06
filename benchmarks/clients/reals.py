"""Reals: the actions of condBFNPol, and the images of bsi (Bayesian sample inference)."""

import functools
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import networks, published_formulas
from benchmarks.clients import places
from benchmarks.clients.checkouts import EINOPS, definitions, given, unmade
from benchmarks.clients.client import Call, Client, Results, with_gradient
from bfn_kernels import binary, continuous
from bfn_kernels.schedules import ExponentialVariance

PIXELS = (3, 32, 32)


class GammaWeighted(ExponentialVariance):
    """Weighs the loss by γ(t), as condBFNPol does: the weight is half the rate."""

    def rate(self, t: Tensor) -> Tensor:
        return 2 * self.gamma(t)[0]


def policy(rows: int, dtype: torch.dtype) -> Client:
    """The losses of condBFNPol's hybrid actions: 16 steps of 6 numbers and a gripper that is open or closed. The input
    distribution is added to fixed predictions in place of the network."""
    horizon, numbers, sigma_1, beta_1 = 16, 6, 0.001, 0.2
    schedule = GammaWeighted(sigma_1)
    arm = torch.rand(rows, horizon, numbers, dtype=dtype) * 2 - 1
    gripper = torch.randint(2, (rows, horizon))
    prediction = torch.randn(rows, horizon, numbers, dtype=dtype).requires_grad_()
    logit = torch.randn(rows, horizon, dtype=dtype, requires_grad=True)
    t = torch.rand(rows) * 0.98 + 0.01
    noise = torch.randn_like(arm), torch.randn(rows, horizon, 2, dtype=dtype)

    def theirs(arm_noise: Tensor | None = None, gripper_noise: Tensor | None = None, least: float = 0.0) -> Results:
        """least: what is added to variances."""
        times = t.to(dtype)[:, None, None]
        gamma = 1 - sigma_1 ** (2 * times)
        eps = torch.randn_like(arm) if arm_noise is None else arm_noise
        mean = gamma * arm + (gamma * (1 - gamma) + least).sqrt() * eps
        e_x = F.one_hot(gripper, 2).to(dtype)
        eps = torch.randn_like(e_x) if gripper_noise is None else gripper_noise
        beta = beta_1 * times**2
        theta = (beta * (2 * e_x - 1) + (2 * beta + least).sqrt() * eps).softmax(-1)
        error = gamma * (arm - (prediction + mean)).square()
        both = torch.stack([torch.zeros_like(logit), logit + theta[..., 1]], -1)
        loss = error.mean() + F.cross_entropy(both.flatten(0, 1), gripper.flatten())
        return with_gradient(loss, prediction, logit)

    def ours(arm_noise: Tensor | None = None, gripper_noise: Tensor | None = None) -> Results:
        mean = continuous.flow_sample(arm, t, sigma_1=sigma_1, noise=arm_noise)
        logit_noise = None if gripper_noise is None else (gripper_noise[..., 1] - gripper_noise[..., 0]) / math.sqrt(2)
        theta = binary.flow_sample(gripper, t, beta_1=beta_1, noise=logit_noise, dtype=dtype)
        loss = continuous.continuous_time_loss(
            arm, prediction + mean, None, t, schedule=schedule, parametrisation="data", clip=None
        )
        return with_gradient(loss + binary.reconstruction_loss(gripper, logit + theta), prediction, logit)

    def own(folder: Path) -> Results:
        given_names = {"BasePolicy": object, "dict_apply": lambda seen, _: seen, "LinearNormalizer": None}
        kind = definitions(folder / places.POLICY.file, "BFNHybridActionPolicy", **given_names).BFNHybridActionPolicy

        def network(inputs: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            mean, theta = inputs.view(rows, horizon, -1).split([numbers, 2], -1)
            return torch.cat([prediction + mean, 0 * theta[..., :1], (logit + theta[..., 1])[..., None]], -1)

        policy = unmade(
            kind,
            normalizer=Unchanged(),
            obs_encoder=lambda seen: seen["seen"],
            horizon=horizon,
            n_obs_steps=1,
            continuous_dim=numbers,
            discrete_configs=[(numbers, 2)],
            discrete_action_indices={numbers},
            sigma_1=sigma_1,
            beta_1=beta_1,
            unet_wrapper=network,
        )
        action = torch.cat([arm, 2 * gripper[..., None].to(dtype) - 1], -1)
        with given(*noise, uniforms=t.to(dtype)):
            loss = policy.compute_loss({"obs": {"seen": torch.zeros(rows, 1)}, "action": action})
        return with_gradient(loss, prediction, logit)

    def network(divisor: int) -> Call:
        return networks.trained(networks.convolutions(numbers + 1, divisor), torch.rand(rows, numbers + 1, horizon))

    literal = functools.partial(theirs, least=1e-8)
    name = f"flows and losses of {rows} plans"
    return Client(name, places.POLICY, theirs, {"ops": ours}, noise, network, own=own, literal=literal)


class Unchanged:
    """A normaliser that changes nothing."""

    def __getitem__(self, name: str) -> "Unchanged":
        return self

    def normalize(self, data):
        return data


def images(rows: int, dtype: torch.dtype) -> Client:
    """The flow and the loss of images in bsi's Bayesian flow network, which predicts the noise."""
    sigma_1, t_min = 1e-3, 1e-6
    x = torch.rand(rows, *PIXELS, dtype=dtype) * 2 - 1
    output = torch.randn(rows, *PIXELS, dtype=dtype, requires_grad=True)
    noise = torch.randn_like(x)
    t = torch.rand(rows, dtype=dtype) * 0.98 + 0.01

    def theirs(noise: Tensor | None = None) -> Results:
        times = t[:, None, None, None]
        mean = published_formulas.continuous_flow_sample(x, times, noise, sigma_1=sigma_1)
        gamma = 1 - sigma_1 ** (2 * times)
        x_hat = mean / gamma - ((1 - gamma) / gamma).sqrt() * output
        loss = published_formulas.continuous_continuous_time_loss(x, x_hat, times, sigma_1=sigma_1)
        return with_gradient(loss.mean(), output)

    def ours(noise: Tensor | None = None) -> Results:
        mean = continuous.flow_sample(x, t, sigma_1=sigma_1, noise=noise)
        return with_gradient(continuous.continuous_time_loss(x, output, mean, t, sigma_1=sigma_1), output)

    def own(folder: Path) -> Results:
        shared = definitions(folder / places.INFERENCE.file, "broadcast_right")
        names = {"eo": EINOPS, "broadcast_right": shared.broadcast_right}
        kind = definitions(folder / places.IMAGES.file, "BFN", **names).BFN
        model = unmade(
            kind,
            _model=[lambda mean, t: output],
            data_shape=PIXELS,
            sigma_1=torch.tensor(sigma_1, dtype=dtype),
            t_min=t_min,
            x_min=-1,
            x_max=1,
            _sample_t=lambda *_: t[None],
        )
        with given(noise[None]):
            loss = model.continuous_time_loss(x, 1)
        return with_gradient(loss.mean() / math.prod(PIXELS), output)  # theirs is the sum over the pixels

    def network(divisor: int) -> Call:
        return networks.trained(networks.images(divisor), torch.rand(rows, *PIXELS))

    name = f"flow and loss of {rows} images"
    return Client(name, places.IMAGES, theirs, {"ops": ours}, (noise,), network, own=own)


def inference_step(rows: int, dtype: torch.dtype) -> Client:
    """The first step of sampling in Bayesian sample inference. Its state has a mean and a precision λ, as ours, but λ
    starts at 0.01, and the mean is random at the start."""
    least, most, n_steps = 1e-2, 1e6, 50
    x_hat = torch.rand(rows, *PIXELS, dtype=dtype) * 2 - 1
    first, noise = torch.randn_like(x_hat), torch.randn_like(x_hat)
    mean = first / least**0.5
    after = least * ((least + most) / least) ** (1 / n_steps)
    alpha = after - least
    out = torch.empty_like(mean)

    def theirs(noise: Tensor | None = None) -> Results:
        eps = torch.randn_like(mean) if noise is None else noise
        y = x_hat + alpha**-0.5 * eps
        return ((alpha * y + least * mean) / after,)

    def ours(noise: Tensor | None = None) -> Results:
        return (continuous.update_sample(x_hat, mean, least, alpha, noise=noise, out=out)[0],)

    def own(folder: Path) -> Results:
        code = definitions(folder / places.INFERENCE.file, "BSI", "LogUniform", "broadcast_right", eo=EINOPS)
        model = unmade(
            code.BSI,
            data_shape=PIXELS,
            lambda_0=torch.tensor(least, dtype=dtype),
            p_lambda=code.LogUniform(least, least + most),
            _predict_x=lambda mean, t: x_hat if t[0] == 0 else mean,  # the last prediction is the result
        )
        with given(first, noise):
            drawn = model.sample(rows, t=torch.tensor([0, 1 / n_steps]))
        return (drawn,)

    def network(divisor: int) -> Call:
        return networks.called(networks.images(divisor), torch.rand(rows, *PIXELS))

    name = f"step of {rows} images"
    return Client(name, places.INFERENCE, theirs, {"ops": ours}, (noise,), network, own=own)
