"""Modules that join a network of your own and the ops: the loss of a batch, and the steps of samplers.

There is one for each kind of data. They hold the network and a schedule, so that training is `model(x).backward()`, and
sampling is `samplers.sample(model, shape, n_steps)`.
"""

from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.circular import Circular
from bfn_kernels.nn.classes import Binary, Classes, Discrete
from bfn_kernels.nn.layers import LinearHead, NoisyEmbedding
from bfn_kernels.nn.normal import Continuous, Discretised, Normal
from bfn_kernels.nn.sampling import Sampling
from bfn_kernels.nn.seeds import down_to_step, part, random_seed, spread_times
from bfn_kernels.nn.vocabulary import Vocabulary

__all__ = [
    "BFN",
    "Binary",
    "Circular",
    "Classes",
    "Continuous",
    "Discrete",
    "Discretised",
    "LinearHead",
    "Network",
    "NoisyEmbedding",
    "Normal",
    "Sampling",
    "State",
    "Vocabulary",
    "down_to_step",
    "part",
    "random_seed",
    "spread_times",
]
