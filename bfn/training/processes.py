"""How the processes of a run start, communicate and stop. In a run of one process, nothing is communicated."""

import contextlib
import ctypes
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, utils
from torch import Tensor

from bfn.training.run_lock import RunError
from bfn_kernels.checks import wide_device

# The environment variables in which torchrun and MPI say how many processes they started.
COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# The environment variables that tell processes how to find each other. torchrun sets them; accelerate starts torchrun.
GROUP = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
Value = TypeVar("Value")


def several() -> str:
    """A text such as WORLD_SIZE=2 if the environment says that this is one of several processes, else ""."""
    counts = {name: os.environ.get(name, "") for name in COUNTS}
    return next((f"{name}={n}" for name, n in counts.items() if n.isdigit() and int(n) > 1), "")


def refuse_several() -> None:
    """Raises a RunError if this process is one of several, which would all write the same files."""
    if found := several():
        raise RunError(f"this command runs in one process, and {found}: start it without torchrun or MPI")


def refuse_lost() -> None:
    """Raises a RunError if this process is one of several that were not told how to find each other: each of them would
    do the work of all."""
    missing = [name for name in GROUP if name not in os.environ]
    if missing and (found := several()):
        raise RunError(
            f"{found}, and without {', '.join(missing)} several processes cannot find each other; start them by "
            "torchrun or accelerate"
        )


def keep_freed_memory() -> None:
    """Tells glibc to keep memory that is freed. Otherwise it may give the memory of activations back to the system, and
    get it page by page in the next step, which took up to half of a step's time on a CPU."""
    with contextlib.suppress(OSError, AttributeError):  # where there is no glibc
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            mallopt(option, 2**30) or mallopt(option, 2**25)  # older versions of glibc allow no more


def set_up_torch() -> None:
    """Sets how torch computes and keeps memory in a run. Matrix products and convolutions of float32 use a GPU's tensor
    cores (TF32), as in the published code."""
    keep_freed_memory()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def start(cpu: bool = False, mixed_precision: str = "no") -> Accelerator:
    """Joins the other processes that torchrun or accelerate has started, if any.

    accelerate is told of fp16, for which it scales the losses. It is not told of bf16, which `Choice.autocast` turns
    on.

    Raises a RunError if the processes cannot find each other, if accelerate does not join all of them, if a launcher
    has set up anything but DistributedDataParallel, or for fp16 on a CPU.
    """
    refuse_lost()
    # without a GPU, accelerate joins the processes only if it is told to use the CPU
    cpu = cpu or not torch.accelerator.is_available()
    steps = utils.GradientAccumulationPlugin(num_steps=1)  # else accelerate reads the number from the environment
    # The warning is about strides of dimensions of size 1, which cost nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    views = utils.DistributedDataParallelKwargs(gradient_as_bucket_view=True)  # gradients are views of the buckets
    set_up_torch()
    precision = "fp16" if mixed_precision == "fp16" else "no"
    accelerator = Accelerator(
        mixed_precision=precision, cpu=cpu, gradient_accumulation_plugin=steps, kwargs_handlers=[views]
    )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise RunError(f"there are {started} processes, of which accelerate joins {accelerator.num_processes}")
    kind = accelerator.distributed_type
    if kind != utils.DistributedType.NO and not kind.startswith("MULTI_"):
        raise RunError(
            f"bfn does not train by accelerate's {kind.value}; launch it with --multi_gpu, and set "
            "train.fully_shard=true to share the weights among the GPUs"
        )
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise RunError("train.mixed_precision=fp16 needs a GPU; bf16 does not")
    return accelerator


def leave() -> None:
    """Destroys the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that reads and writes the files of a run, and prints."""
    return rank() == 0


def add_up(tensor: Tensor) -> Tensor:
    """Replaces a tensor, in place, by the sum of the tensors of all processes, with the same bits in each."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def means(numbers: Sequence[float], device: torch.device) -> list[float]:
    """The mean of each of these numbers over the processes, with the same bits in each process."""
    return (add_up(torch.tensor(numbers, dtype=torch.float64, device=wide_device(device))) / count()).tolist()


def from_main(value: Value) -> Value:
    """The value that the main process has."""
    return utils.broadcast_object_list([value])[0]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Waits until all processes have left the body. If the body has failed in one of them, all raise an error, so that
    no process goes on and waits for the others. The failed process of the lowest rank raises its own error. Every other
    process raises a RunError that repeats it."""
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    reasons = utils.gather_object([None if own is None else str(own)])
    failed = [index for index, reason in enumerate(reasons) if reason is not None]
    if failed and failed[0] == rank() and own is not None:
        raise own
    if failed:
        raise RunError(f"process {failed[0]} of the run failed: {reasons[failed[0]]}")


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM add a number to, so that no step is cut in half. A second Ctrl-C interrupts at
    once. A second SIGTERM does not, since a scheduler and torchrun may each send one."""
    asked: list[int] = []
    old: dict[int, Any] = {}

    def handler(number: int, frame: Any) -> None:
        asked.append(number)
        if number == signal.SIGINT:
            signal.signal(number, old[number])

    if threading.current_thread() is threading.main_thread():
        # signal.signal returns None for a handler that Python did not install. Python cannot install it again.
        old = {number: signal.signal(number, handler) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
