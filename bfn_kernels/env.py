"""`python -m bfn_kernels.env`: which backends are there, what is missing, and how to get it."""

import platform

import torch

from bfn_kernels import __version__, backends


def main() -> None:
    print(f"bfn_kernels {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    print(f"processor   {platform.machine()}, {capability}, {threads} threads")
    for backend in backends.BACKENDS.values():
        build = f" ({backends.CPU_BUILD})" if backend.name == "cpu" and backends.CPU_BUILD else ""
        state = f"available{build}" if backend.missing is None else f"not available: {backend.missing}"
        if backend.missing is None and backend.device == "cuda" and not torch.cuda.is_available():
            state = "there, but torch finds no GPU"
        print(f"{backend.name:<11} {state}")


if __name__ == "__main__":
    main()
