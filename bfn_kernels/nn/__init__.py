"""Modules that combine your network with the ops. They compute the loss of a batch, and take the steps of samplers.

There is one module for each kind of data. It holds the network and a schedule. `model(x).backward()` is a training
step without the optimizer, and `samplers.sample(model, shape, n_steps)` draws samples.
"""

from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.circular import Circular
from bfn_kernels.nn.classes import Binary, Classes, Discrete
from bfn_kernels.nn.example_seeds import ExampleSeeds
from bfn_kernels.nn.joint import Joint
from bfn_kernels.nn.layers import LinearHead, NoisyEmbedding
from bfn_kernels.nn.normal import Continuous, Discretised, Normal
from bfn_kernels.nn.ragged import Ragged
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
    "ExampleSeeds",
    "Joint",
    "LinearHead",
    "Network",
    "NoisyEmbedding",
    "Normal",
    "Ragged",
    "Sampling",
    "State",
    "Vocabulary",
    "down_to_step",
    "part",
    "random_seed",
    "spread_times",
]
