"""`python -m bfn_kernels.env`: prints the available backends, and what the others need."""

import os
import platform
import shutil
from pathlib import Path

import torch

from bfn_kernels import __version__, backends


def state(backend: backends.Backend) -> str:
    """Says that a backend is available, or why it or some of its operators cannot be called."""
    if backend.missing is not None:
        return f"not available: {backend.missing}"
    if backend.device == "cuda" and not torch.cuda.is_available():
        return "installed, but torch finds no GPU"
    if backend.name == "cuda":
        try:
            backends._load_cuda()
        except RuntimeError as error:
            return f"not available: {error}"
    if backend.name == "cpu":
        refused = backends.LIBRARIES[backend.library].refused
        return f"incomplete: {refused[0]}" if refused else f"available ({backends.CPU_BUILD})"
    return "available"


def serving(device: str) -> str:
    """The backend that serves a call on a device that names none, with a remark if it is the reference."""
    backend = backends.choose(None, torch.device(device))
    return backend.name if backend.library is not None else "reference, which is slow: no compiled backend is available"


def tool(name: str, *commands: str) -> str:
    """The name of a tool, and the path of the first of its commands that is in PATH."""
    found = next(filter(None, map(shutil.which, commands)), None)
    return f"{name} {found or 'not found'}"


def main() -> None:
    """Prints the versions, the processor, the state of each backend, and the tools that build the extensions."""
    print(f"bfn_kernels {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"folder      {Path(__file__).parent}")
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    print(f"processor   {platform.machine()}, {capability}, {threads} threads")
    for backend in backends.BACKENDS.values():
        print(f"{backend.name:<11} {state(backend)}")
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        print(f"calls       on {device} tensors are served by {serving(device)}")
    compiler = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
    print("to build    " + ", ".join([tool("C++", *compiler), tool("CUDA", "nvcc"), tool("ninja", "ninja")]))


if __name__ == "__main__":
    main()
