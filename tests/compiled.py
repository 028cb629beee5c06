"""Objects, libraries and programs of g++ and nvcc. They are stored by the content of their sources and their command,
so that nothing is compiled twice."""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build" / "compiled"
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))  # the sources of CUDA's kernels
UNUSED = 3 * 24 * 3600  # what was not asked for during so many seconds is removed
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-parameter", "-Wno-maybe-uninitialized"]
WARNINGS += ["-Wno-missing-field-initializers"]
# The namespace of the operators of CUDA's kernels on the host, and of those of their PTX. No process has both, so that
# the same bindings serve them.
NAMESPACE = "bfn_kernels_cuda_tests"

Command = Sequence[str]


@functools.cache
def _included(path: Path, folders: tuple[str, ...]) -> frozenset[Path]:
    """The file, and what it includes by a path from its own folder or from one of these; what is in neither is of
    another build."""
    names = re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE)
    paths = (Path(folder, name).resolve() for name in names for folder in (path.parent, *folders))
    return frozenset({path}).union(*(_included(one, folders) for one in paths if one.exists()))


def _kept(name: str, suffix: str, command: Sequence, files: Sequence[Path]) -> Path:
    """The file that the command makes of these; a command that is interrupted leaves nothing of the final name. The
    folder of the project does not matter, so that a copy of it can take over what was built."""
    command = [str(part) for part in command]
    content = hashlib.sha256(repr(command).replace(str(ROOT), "").encode())
    for path in files:
        content.update(hashlib.sha256(path.read_bytes()).digest())
    to = BUILT / f"{name}.{content.hexdigest()[:16]}{suffix}"
    if not to.exists():
        part = to.with_suffix(".part")
        done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        part.rename(to)
    os.utime(to)
    return to


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time builds what has this name."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        for old in BUILT.glob(f"{name}.*"):
            if time.time() - old.stat().st_mtime > UNUSED:
                old.unlink()


def objects(name: str, sources: Mapping[Path, Command]) -> list[Path]:
    """The object of each source, made by its command, two at a time, large ones first."""

    def compile(source: Path) -> Path:
        command = [*sources[source], "-c", source]
        folders = tuple(word.removeprefix("-I") for word in sources[source] if word.startswith("-I"))
        files = sorted(_included(source, folders))
        return _kept(f"{name}.{source.parent.name}_{source.stem}", ".o", command, files)

    large_first = sorted(sources, key=lambda source: source.stat().st_size, reverse=True)
    with _alone(name), ThreadPoolExecutor(2) as pool:
        made = dict(zip(large_first, pool.map(compile, large_first), strict=True))
    return [made[source] for source in sources]


def linked(name: str, parts: Sequence[Path], link: Command) -> Path:
    """The library, or without `-shared` the program, that g++ links of these objects."""
    with _alone(name):
        return _kept(name, ".so" if "-shared" in link else ".out", ["g++", *parts, *link], parts)


def bindings() -> tuple[list[Path], list[str]]:
    """The objects of the bindings of NAMESPACE, without Python's module and what a CPU alone has, and the options that
    link a library of them and of CUDA's kernels."""
    from torch.utils.cpp_extension import include_paths, library_paths

    on_cpu, on_gpu = ({path.stem for path in (ROOT / "csrc" / name).iterdir()} for name in ("cpu", "cuda"))
    left_out = {"module", *(on_cpu - on_gpu)}
    sources = sorted(path for path in (ROOT / "csrc" / "bindings").glob("*.cpp") if path.stem not in left_out)
    command = ["g++", "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", *WARNINGS, "-DBFN_CUDA_ON_HOST"]
    command += [f"-DBFN_NAMESPACE={NAMESPACE}", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    command += [f"-isystem{folder}" for folder in include_paths()]
    link = ["-shared", *(f"-L{folder}" for folder in library_paths()), "-ltorch_cpu", "-ltorch", "-lc10"]
    return objects("bindings", dict.fromkeys(sources, command)), link
