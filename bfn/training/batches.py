"""The batches of a run: which examples a step learns from, at which times and with which noise, and who takes them.

All of it follows from (seed, step). A batch is divided into micro-batches of one size, each with a seed of its own for
what is drawn, so that the result does not depend on how many processes there are, but for rounding: a process takes
every n-th micro-batch of n processes, and adds up the gradients of those that it takes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bfn.configs import ConfigError, TrainConfig
from bfn.data import Data
from bfn.training.seeds import DRAWS, ORDER, STEPS, derive
from bfn_kernels.nn import spread_times


class MicroBatch(NamedTuple):
    x: Tensor
    t: Tensor
    seed: int  # of noise and dropout


def size_of_micro_batch(train: TrainConfig, examples: int, processes: int) -> int:
    """train.micro_batch, or else the share of a process; a ConfigError if the processes' shares are not equal."""
    size = min(train.batch_size, examples)
    if train.micro_batch is None and size % processes:
        raise ConfigError(f"{processes} processes cannot share a batch of {size} examples: set train.batch_size")
    micro = train.micro_batch or size // processes
    if size % micro:
        raise ConfigError(f"train.micro_batch={micro} does not divide a batch of {size} examples")
    if size // micro % processes:
        raise ConfigError(
            f"{processes} processes cannot share {size // micro} micro-batches evenly: set train.micro_batch to a "
            f"divisor of {size / processes:g}, a process's share of a batch"
        )
    return micro


class Batches:
    """The micro-batches that process `rank` of `processes` takes."""

    def __init__(self, data: Data, train: TrainConfig, rank: int, processes: int):
        self.data, self.train = data, train
        self.size = min(train.batch_size, len(data.train))
        self.micro = size_of_micro_batch(train, len(data.train), processes)
        self.mine = range(rank, self.size // self.micro, processes)
        self.order = (-1, torch.empty(0))  # an epoch, and the order of its examples

    def of(self, step: int) -> Iterator[MicroBatch]:
        train, chosen = self.train, self.chosen(step)
        spread = torch.Generator().manual_seed(derive(train.seed, STEPS, step))
        times = spread_times(self.size, spread, train.n_steps)
        for index in self.mine:
            rows = slice(index * self.micro, (index + 1) * self.micro)
            x = self.data.train[chosen[rows]]
            if self.data.draw is not None:
                x = self.data.draw(x, torch.Generator().manual_seed(derive(train.seed, DRAWS, step, index)))
            yield MicroBatch(x, times[rows], derive(train.seed, STEPS, step, index))

    def chosen(self, step: int) -> Tensor:
        """The indices of the examples of a step: every epoch shuffles anew and drops what does not fill a batch."""
        examples = len(self.data.train)
        epoch, index = divmod(step, examples // self.size)
        if self.order[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.train.seed, ORDER, epoch))
            self.order = epoch, torch.randperm(examples, generator=generator)
        return self.order[1][index * self.size : (index + 1) * self.size]
