"""Checks the extension `_cuda` that setup.py links against the installed torch: what it needs from other libraries, and
whether it has a kernel for every operator."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The symbols of torch's stable ABI, of Python's limited API, and the versioned ones of the C and C++ runtimes.
ALLOWED = re.compile(r"(aoti_torch_|torch_|Py)\w+|\w+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+")
# libtorch.so of a CUDA build of torch loads the library that has the function of BESIDE_CUDA.
NEEDED = {"libtorch.so", "libtorch_cpu.so"}
BESIDE_CUDA = "int aoti_torch_get_current_cuda_stream(int device, void** stream) { return *stream = 0, 0; }"

LOAD = """
import ctypes, sys
import torch, bfn_kernels
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
torch.ops.load_library(sys.argv[2])
has = torch._C._dispatch_has_kernel_for_dispatch_key
families = bfn_kernels.backends.FAMILIES.items()
of_cpu_alone = {f"bfn_kernels::{family}_{op.name}" for family, operators in families for op in operators if op.library}
names = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("bfn_kernels::") and has(n, "CPU")}
names -= of_cpu_alone
print(*(f"{name} {has(name, 'CUDA')}" for name in names), sep="\\n")
"""


def library(folder: Path) -> Path:
    """The path where setup.py has put the extension."""
    return next((folder / "bfn_kernels").glob("_cuda*"))


def foreign_symbols(library: Path) -> list[str]:
    """The symbols that the extension imports but must not: other versions of their libraries may not have them."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    symbols = [line.split() for line in listed.stdout.splitlines()]
    return [name for kind, name in symbols if kind == "U" and not ALLOWED.fullmatch(name)]


def needed(library: Path) -> set[str]:
    """The libraries that the extension is linked with."""
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))


def operators(library: Path) -> dict[str, bool]:
    """The operators that a CUDA kernel must exist for, and whether the library has one. These are all operators with a
    CPU kernel, except for the ones that only some libraries declare. A new process loads the library. Before that, it
    loads a stub with the one function that the library needs and a torch without CUDA lacks."""
    with tempfile.TemporaryDirectory() as folder:
        source, stub = Path(folder, "stub.c"), Path(folder, "stub.so")
        source.write_text(BESIDE_CUDA)
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", stub], check=True)
        load = [sys.executable, "-c", LOAD, str(stub), str(library)]
        done = subprocess.run(load, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{library} does not load: {done.stderr}")
    return {name: has == "True" for name, has in (line.split() for line in done.stdout.splitlines())}


def wrong(library: Path) -> list[str]:
    """The errors of the extension, in one line each."""
    found = [f"{library.name} needs {name}, which is not of torch's stable ABI" for name in foreign_symbols(library)]
    linked = needed(library)
    found += [f"{library.name} is not linked with {name}" for name in sorted(NEEDED - linked)]
    found += [f"{library.name} is linked with {n}, so it needs this CUDA" for n in sorted(linked) if "cuda" in n]
    known = operators(library)
    if not known:
        found.append("there are no operators on the CPU to compare with")
    return found + [f"{library.name} has no CUDA kernel of {name}" for name, has in known.items() if not has]
