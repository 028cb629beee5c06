"""Code of the form of github.com/nnaisense/bayesian-flow-networks, whose methods say that they are the originals."""

from types import SimpleNamespace

import torch
from torch import nn

S1, BETA_1 = 0.001**0.5, 9.0


class Factory(SimpleNamespace):
    """The base of what stands for their factories of distributions."""


class DeltaFactory(Factory): ...


class DiscretizedNormalFactory(Factory): ...


class BernoulliFactory(Factory): ...


class CategoricalFactory(Factory): ...


FLOW = {"max_sqrt_beta": BETA_1**0.5, "min_sqrt_beta": 1e-10, "epsilon": 1e-6}
NORMAL = {"num_bins": 16, "clip": True, "min_std_dev": 1e-3, "max_std_dev": 10}


def theirs():
    """A module of their form, whose methods say that they are the originals."""

    class Flow(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.__dict__.update(settings)

        def forward(self, data, t):
            return "original flow"

    class Loss(nn.Module):
        def __init__(self, bayesian_flow, distribution_factory, **settings):
            super().__init__()
            self.bayesian_flow, self.distribution_factory = bayesian_flow, distribution_factory
            self.__dict__.update(settings)

        def cts_time_loss(self, data, output_params, input_params, t):
            return "original loss"

        def discrete_time_loss(self, data, output_params, input_params, t, n_steps, n_samples=10):
            return "original loss"

        def reconstruction_loss(self, data, output_params, input_params):
            return "original loss"

    class BFN(nn.Module):
        def __init__(self, net, bayesian_flow, loss):
            super().__init__()
            self.net, self.bayesian_flow, self.loss = net, bayesian_flow, loss

        def sample(self, data_shape, n_steps):
            return "original samples"

    names = ("CtsBayesianFlow", "DiscreteBayesianFlow"), ("CtsBayesianFlowLoss", "DiscreteBayesianFlowLoss")
    made = {name: type(name, (base,), {}) for base, names in zip((Flow, Loss), names, strict=True) for name in names}
    return SimpleNamespace(BFN=BFN, **made)


class Net(nn.Module):
    """Notes what it is given, and puts out a fixed function of it."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.seen, self.weight = outputs, [], nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        self.seen.append((x.clone(), t))
        x = x if self.outputs > 2 else x.reshape(t.shape)[..., None]
        return self.weight * torch.cat([x] * (1 if self.outputs > 2 else self.outputs), -1)


def make(module, kind, **changes):
    """A BFN of theirs, data and times of the data's size."""
    generator = torch.Generator().manual_seed(0)
    if kind in ("binary", "classes"):
        k = 2 if kind == "binary" else 5
        flow = module.DiscreteBayesianFlow(n_classes=k, discretize=False, **FLOW)
        factory = BernoulliFactory() if k == 2 else CategoricalFactory()
        loss = module.DiscreteBayesianFlowLoss(flow, factory, K=k)
        data, outputs = torch.randint(k, (4, 3, 2), generator=generator), 1 if k == 2 else k
        data = data.float() if k == 2 else data
    else:
        flow = module.CtsBayesianFlow(min_variance=0.001)
        inner = DeltaFactory(clip_range=1.0) if kind == "reals" else DiscretizedNormalFactory(**NORMAL)
        outer = SimpleNamespace(data_dist_factory=inner, min_t=1e-6)
        loss = module.CtsBayesianFlowLoss(flow, outer, noise_pred=True, min_loss_variance=-1)
        data = (torch.randint(16, (4, 3, 2), generator=generator) + 0.5) / 8 - 1
        outputs = 1 if kind == "reals" else 2
    t = torch.tensor([0.1, 0.3, 0.5, 0.9])[:, None, None].expand(data.shape).contiguous()
    for name, value in changes.items():
        owner, _, key = name.partition("__")
        outer = loss.distribution_factory
        inner = getattr(outer, "data_dist_factory", None)
        setattr({"flow": flow, "loss": loss, "outer": outer, "factory": inner}[owner], key, value)
    return module.BFN(Net(outputs), flow, loss), data, t


KINDS = ("reals", "bins", "binary", "classes")
