"""`python -m bfn_kernels.env`: prints the available backends, and what the others need."""

import os
import platform
import shutil
from pathlib import Path

import torch

from bfn_kernels import __version__, backends


def state(backend: backends.Backend) -> str:
    """Says whether a backend can be called.

    Args:
        backend: One of `backends.BACKENDS`.

    Returns:
        "available", or the reason why the backend or some of its operators cannot be called.
    """
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
    """Says which backend serves a call that names none.

    Args:
        device: The device of the call's tensors, "cpu" or "cuda".

    Returns:
        The backend's name, with a remark if it is the reference.
    """
    backend = backends.choose(None, torch.device(device))
    return backend.name if backend.library is not None else "reference, which is slow: no compiled backend is available"


def tool(name: str, *commands: str) -> str:
    """Finds a tool that builds the extensions, and says where it is.

    Args:
        name: The name to print.
        *commands: The commands to look for. The first one found in PATH counts.

    Returns:
        The name, and the path or "not found".
    """
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
