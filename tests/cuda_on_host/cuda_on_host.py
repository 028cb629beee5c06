"""Builds csrc/cuda with the host compiler and the shim: as operators for the tests of the kernels, and as a program
that runs under sanitizers."""

import fcntl
import functools
import hashlib
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "cuda_on_host"
BUILT = ROOT / "build" / "cuda_on_host"
NAMESPACE = "bfn_kernels_cuda_on_host"
FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", f"-I{HERE}", "-DBFN_CUDA_ON_HOST", "-Wall", "-Wextra", "-Werror"]
FLAGS += [
    f"-Wno-{warning}"
    for warning in ("unknown-pragmas", "unused-parameter", "maybe-uninitialized", "missing-field-initializers")
]
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
SHIM = HERE / "host_shim.cpp"


def missing() -> str | None:
    """The reason why the kernels cannot be built here, or None."""
    if platform.machine() != "x86_64":
        return "the shim switches fibers on x86-64 alone"
    return None if shutil.which("g++") else "there is no g++"


def _sources() -> list[Path]:
    folders = (ROOT / "csrc", HERE)
    return sorted(p for f in folders for p in f.rglob("*") if p.suffix in (".cu", ".cpp", ".h", ".py"))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


@functools.cache
def _folder(kind: str) -> Path:
    """A folder for the builds of the present sources; the builds of earlier sources are removed."""
    digest = _digest(*(p.read_bytes() for p in _sources()))
    BUILT.mkdir(parents=True, exist_ok=True)
    for old in BUILT.glob("*-*"):
        if not old.name.endswith(digest):
            shutil.rmtree(old, ignore_errors=True)
    folder = BUILT / f"{kind}-{digest}"
    folder.mkdir(exist_ok=True)
    return folder


def _object(kind: str, source: Path, flags: list[str]) -> Path:
    """The object file of a source, which is kept until the source or a header changes. Earlier ones are removed."""
    digest = _digest(*(p.read_bytes() for p in _sources() if p.suffix in (".h", ".py")), source.read_bytes())
    name = f"{kind}.{source.parent.name}_{source.stem}"
    result = BUILT / "objects" / f"{name}.{_digest(digest.encode(), repr(flags).encode())}.o"
    result.parent.mkdir(exist_ok=True)
    for old in result.parent.glob(f"{name}.*"):
        if old != result:
            old.unlink()
    return result


def _run(command: list) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(part) for part in command)}\n{done.stderr}")


def _fused() -> list[str]:
    """The flags that fuse a multiplication and an addition as a GPU does, if the processor can."""
    import torch

    return [] if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else ["-mfma", "-ffp-contract=fast"]


def build(kind: str, sources: dict[Path, list[str]], link: list[str]) -> Path:
    """Compiles each source with its flags, two at a time, and links them; one process does this for all."""
    folder = _folder(kind)
    result = folder / "result"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if result.exists():
            return result
        objects = {source: _object(kind, source, flags) for source, flags in sources.items()}

        def compile(source: Path) -> None:
            part = objects[source].with_suffix(
                ".part"
            )  # an interrupted compilation must not leave a file of the final name
            _run(["g++", *FLAGS, *sources[source], "-x", "c++", "-c", source, "-o", part])
            part.rename(objects[source])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(compile, (source for source, to in objects.items() if not to.exists())))
        _run(["g++", *objects.values(), *link, "-o", folder / "linked"])
        (folder / "linked").rename(result)
    return result


def operators() -> Path:
    """A library that defines the operators of NAMESPACE by CUDA's kernels."""
    from torch.utils.cpp_extension import include_paths, library_paths

    torch_flags = [f"-isystem{path}" for path in include_paths()]
    torch_flags += [f"-DBFN_NAMESPACE={NAMESPACE}", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-O1"]
    bindings = sorted((ROOT / "csrc" / "bindings").glob("*.cpp"))
    sources = {source: torch_flags for source in bindings if source.stem != "module"}
    sources[ROOT / "csrc" / "cpu" / "pages.cpp"] = ["-O1"]
    sources |= {kernel: ["-O2", *_fused()] for kernel in KERNELS} | {SHIM: ["-O2"]}
    link = ["-shared", *(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-ltorch", "-lc10"]
    return build("operators", sources, link)


SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread"],
}


def program(name: str, sanitizer: str) -> Path:
    """`driver.cpp` or `bugs.cpp`, with all kernels, under sanitizers. These are told of the fibers by the shim, which
    they do not look at."""
    flags = ["-g1", "-O1", *SANITIZERS[sanitizer]]
    sources = dict.fromkeys([HERE / f"{name}.cpp", *(KERNELS if name == "driver" else [])], flags)
    sources[SHIM] = ["-O2", "-DSHIM_ASAN" if sanitizer == "address" else "-DSHIM_TSAN"]
    return build(f"{name}.{sanitizer}", sources, SANITIZERS[sanitizer])


def register() -> None:
    """Makes the kernels a backend of that name, if they can be built. `load` must run before its operators do."""
    from bfn_kernels import backends
    from bfn_kernels.operators import Library

    if missing() is None:
        backends.add_library(Library(NAMESPACE))
        backends.BACKENDS["cuda_on_host"] = backends.Backend("cuda_on_host", "cpu", NAMESPACE)


@functools.cache
def load() -> None:
    """Loads the kernels of the backend that `register` made; they are compiled if a source has changed."""
    import torch

    torch.ops.load_library(operators())
