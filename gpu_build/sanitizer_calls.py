"""The calls of gpu_build/calls.py on small data, for compute-sanitizer, without the calls of large vocabularies. Other
tests look at the results."""

import torch

from bfn_kernels import backends
from bfn_kernels.backends import BACKENDS
from gpu_build.calls import of_angles, of_bits, of_classes, of_data, of_intervals
from gpu_build.executed import Operators


def main(device: str = "cuda") -> None:
    """Calls every backend of the device by name, since only the best one would be used otherwise."""
    for backend in BACKENDS.values():
        if backend.missing is None and backend.device == device:
            _call(device, backend.name)
    if device == "cuda":
        torch.cuda.synchronize()


def _call(device: str, backend: str) -> None:
    backends.library(backend, torch.device(device))  # loads the kernels
    ops = Operators(str(BACKENDS[backend].library))
    with torch.device(device):
        rows = of_data(ops, torch.linspace(-1, 1, 5 * 333).view(5, 333))
        rows += of_bits(ops, torch.linspace(-3, 3, 5 * 333).view(5, 333))
        rows += of_angles(ops, torch.linspace(0, 3, 5 * 333).view(5, 333))
        rows += of_intervals(ops, 333)
        for classes in (4, 27, 257, 1000, 5000):  # rows for a lane, for several lanes, for a block, and longer ones
            rows += of_classes(ops, torch.linspace(-3, 3, 14 * classes).view(2, 7, classes))
        for row in rows:
            row.call()


if __name__ == "__main__":
    main()
