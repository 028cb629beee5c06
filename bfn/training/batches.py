"""The batches of a run: which examples a step learns from, at which times, with which noise, and in which process.

All of this follows from the seed of the run and the number of the step. A batch is divided into micro-batches of one
size. Process r of n processes takes the micro-batches r, r + n, r + 2n and so on, and adds up their gradients. Each
micro-batch has its own seeds, for noise and dropout and for `Data.draw`. If train.micro_batch is set, the result
therefore does not depend on the number of processes, except for rounding.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from bfn.configs import ConfigError, TrainConfig
from bfn.data import Data
from bfn.training.derived_seeds import DRAWS, ORDER, STEPS, derive
from bfn_kernels.nn import spread_times


class MicroBatch(NamedTuple):
    x: Tensor
    t: Tensor
    seed: int  # of noise and dropout


def size_of_micro_batch(train: TrainConfig, examples: int, processes: int) -> int:
    """The size of a micro-batch: train.micro_batch or, if it is None, a process's share of the batch.

    Raises a ConfigError unless the batch has a whole number of micro-batches, the same number for each process.
    """
    size = min(train.batch_size, examples)
    if size % processes:
        raise ConfigError(
            f"{processes} processes cannot share a batch of {size} examples: set train.batch_size to a multiple of "
            f"{processes} up to {examples}"
        )
    micro = train.micro_batch or size // processes
    if size % micro:
        raise ConfigError(f"train.micro_batch={micro} does not divide a batch of {size} examples")
    if size // micro % processes:
        raise ConfigError(
            f"{processes} processes cannot share {size // micro} micro-batches evenly: set train.micro_batch to a "
            f"divisor of {size // processes}, a process's share of a batch"
        )
    return micro


class Batches:
    """The micro-batches that process `rank` of `processes` takes, on `device`.

    All training data are copied to a CUDA GPU if they take at most a quarter of its free memory. The GPU then picks the
    examples of a batch and runs `Data.draw`. Otherwise the data stay on the CPU, and a thread makes the next step's
    batch in pinned memory while the GPU is busy. Training on the CPU needs no thread.
    """

    def __init__(self, data: Data, train: TrainConfig, rank: int, processes: int, device: torch.device | str = "cpu"):
        self.data, self.train, self.device = data, train, torch.device(device)
        self.size = min(train.batch_size, len(data.train))
        self.micro = size_of_micro_batch(train, len(data.train), processes)
        self.mine = range(rank, self.size // self.micro, processes)
        self.order = (-1, torch.empty(0))  # the number of an epoch, and the order of its examples
        self.resident = fits(data.train, self.device)
        self.examples = moved(data.train, self.device) if self.resident else data.train
        self.ahead: dict[int, Future[list[MicroBatch]]] = {}
        self.thread = ThreadPoolExecutor(1)  # This starts no thread before the first job.

    def of(self, step: int) -> Iterable[MicroBatch]:
        """The micro-batches of a step, on `device`."""
        if self.resident:
            return self.made(step)
        now = self.ahead.pop(step, None) or self.thread.submit(list, self.made(step))
        self.ahead = {step + 1: self.thread.submit(list, self.made(step + 1))}
        return (MicroBatch(to(one.x, self.device), one.t, one.seed) for one in now.result())

    def made(self, step: int) -> Iterator[MicroBatch]:
        """The micro-batches of a step. Each x is where the training data are, and each t is on `device`."""
        train, chosen = self.train, self.chosen(step)
        spread = torch.Generator().manual_seed(derive(train.seed, STEPS, step))
        times = spread_times(self.size, spread, train.n_steps)
        for index in self.mine:
            rows = slice(index * self.micro, (index + 1) * self.micro)
            x = self.examples[to(chosen[rows], self.examples.device)]
            if self.data.draw is not None:
                generator = torch.Generator(x.device).manual_seed(derive(train.seed, DRAWS, step, index))
                x = self.data.draw(x, generator)
            seed = derive(train.seed, STEPS, step, index)
            yield MicroBatch(pinned(x, self.device), to(times[rows], self.device), seed)

    def chosen(self, step: int) -> Tensor:
        """The indices of a step's examples. Each epoch is shuffled anew. Examples that fill no batch are left out."""
        examples = len(self.data.train)
        epoch, index = divmod(step, examples // self.size)
        if self.order[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.train.seed, ORDER, epoch))
            self.order = epoch, torch.randperm(examples, generator=generator)
        return self.order[1][index * self.size : (index + 1) * self.size]


def fits(tensor: Tensor, device: torch.device) -> bool:
    """Whether a device has room for a tensor. On a GPU, it may take a quarter of the free memory, since training needs
    the rest."""
    if device.type != "cuda":  # Only CUDA reports free memory. Another device fits only tensors that it already has.
        return device == tensor.device
    return tensor.untyped_storage().nbytes() <= torch.cuda.mem_get_info(device)[0] // 4


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device, with the same strides, so that overlapping windows of a text still share memory."""
    if tensor.device == device:
        return tensor
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).to(device)
    return whole.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in pinned memory if it is on the CPU and the device is a GPU, else the tensor itself. The CPU need not
    wait while pinned memory is copied to a GPU."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def to(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The CPU does not wait while the tensor is copied to a GPU."""
    return pinned(tensor, device).to(device, non_blocking=True)
