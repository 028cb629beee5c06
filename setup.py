"""Builds the CPU kernels once per instruction set. At import, the best build that the processor supports is loaded.
Builds the CUDA kernels if there is an nvcc, whether or not torch was built for CUDA. Without a C++ compiler, or with
CXX=none, only the Python files are installed, and torch is not imported."""

import itertools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FLAGS = [
    "-O3",
    "-std=c++20",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",  # an initialiser may leave out fields, which are then empty
    "-g0",
    # torch's stable ABI and, below, Python's limited API: one wheel for torch >= 2.11 and Python >= 3.10
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]
FLAGS += os.environ.get("BFN_CXX_FLAGS", "").split()
LINK_FLAGS = []
if namespace := os.environ.get("BFN_NAMESPACE"):  # set by `make kernel-hub`: the operators are in torch.ops.<namespace>
    FLAGS.append(f"-DBFN_NAMESPACE={namespace}")
if os.environ.get("BFN_SANITIZE"):  # set by `make sanitize`; the first report ends the process
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    FLAGS += ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZERS]
    LINK_FLAGS += SANITIZERS
HEADERS = sorted(str(p) for p in Path("csrc").rglob("*.h"))
BINDINGS = sorted(str(p) for p in Path("csrc/bindings").glob("*.cpp"))
CPU_SOURCES = sorted(str(p) for p in Path("csrc/cpu").glob("*.cpp")) + BINDINGS
X86_BUILDS = {
    "_cpu_avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "_cpu_avx2": ["-march=x86-64-v3"],
}
CPU_BUILDS = {"_cpu_generic": []} | (X86_BUILDS if platform.machine() in ("x86_64", "AMD64") else {})


def cxx_compiler() -> str | None:
    """The C++20 compiler that CXX names, or the first one on the path; None if there is none, or if CXX is "none". Ends
    the process if the compiler that CXX names does not work."""
    named = os.environ.get("CXX")
    if named == "none":
        return None
    reason = ""
    for compiler in [named] if named else ["c++", "g++", "clang++"]:
        try:
            command = [*shlex.split(compiler), "-std=c++20", "-fsyntax-only", "-x", "c++", os.devnull]
            tried = subprocess.run(command, capture_output=True, text=True)
            if tried.returncode == 0:
                return compiler
            reason = next(iter(tried.stderr.splitlines()), f"it ends with the status {tried.returncode}")
        except (OSError, ValueError) as error:  # no such file, or quotes that are not closed
            reason = str(error)
    if named:
        sys.exit(
            f"bfn-kernels: CXX must name a C++20 compiler, or be none for no compiled kernels, got {named}: {reason}"
        )
    return None


CXX = cxx_compiler()
NVCC = os.environ.get("BFN_NVCC", shutil.which("nvcc") or "")  # BFN_NVCC= builds without CUDA
CUDA_SOURCES = sorted(Path("csrc/cuda").glob("*.cu"))
ARCHITECTURES = ["80", "90", "100"]  # A100, H100 and B100
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "--threads=2", "-Xcompiler=-fPIC,-fvisibility=hidden"]


def architectures() -> list[str]:
    """The compute capabilities that BFN_CUDA_ARCHITECTURES names, or those of ARCHITECTURES that this nvcc knows."""
    if named := os.environ.get("BFN_CUDA_ARCHITECTURES"):
        return named.split(",")
    known = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    return [a for a in ARCHITECTURES if f"compute_{a}" in known] or ARCHITECTURES


def cuda_objects(folder: Path) -> list[str]:
    """Compiles the CUDA kernels to machine code for the GPUs, and to an intermediate form for later GPUs. Writes nvcc's
    messages to a .log file next to each object. Prints a line for each file, since some take minutes. This calls nvcc
    itself, since torch's CUDAExtension needs a torch that was built for CUDA. The kernels need no headers of torch."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = architectures()
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in wanted]
    code.append(f"-gencode=arch=compute_{wanted[-1]},code=compute_{wanted[-1]}")
    newest = max(os.path.getmtime(path) for path in [__file__, *HEADERS])
    objects = {source: folder / f"{source.stem}.{'-'.join(wanted)}.o" for source in CUDA_SOURCES}

    def is_old(source: Path) -> bool:
        log = objects[source].with_suffix(".log")  # written last: a build that is killed leaves an old one or none
        there = objects[source].exists() and log.exists()
        return not there or log.stat().st_mtime < max(newest, source.stat().st_mtime)

    def compile(source: Path) -> None:
        command = [NVCC, *NVCC_FLAGS, *code, "-c", str(source), "-o", str(objects[source])]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        sys.stderr.write(done.stderr)
        done.check_returncode()
        objects[source].with_suffix(".log").write_text(done.stderr)
        say(f"compiled {source}, {next(finished)} of {len(old)}, after {time.monotonic() - began:.0f} s")

    old, finished, began = list(filter(is_old, CUDA_SOURCES)), itertools.count(1), time.monotonic()
    if old:
        all_files = f"all {len(CUDA_SOURCES)} files take about 20 minutes"
        say(f"compiles {len(old)} CUDA files for compute capability {', '.join(wanted)}; {all_files}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile, old))
    return [str(to) for to in objects.values()]


def say(text: str) -> None:
    print(f"bfn-kernels: {text}", file=sys.stderr, flush=True)


def toolkit() -> Path:
    """The folder of the CUDA toolkit. nvcc is asked for it, since the nvcc on the path may be a script elsewhere."""
    asked = subprocess.run([NVCC, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True, check=True)
    return Path(re.search(r"TOP=(\S+)", asked.stderr)[1])


class BuildPython(build_py):
    def run(self):
        if CXX is None:
            wanted = os.environ.get("CXX", "c++, g++ or clang++")
            say(f"no C++20 compiler ({wanted}): the slow reference is installed alone")
        super().run()


def build_command() -> type:
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def finalize_options(self):
            super().finalize_options()
            if self.editable_mode:  # else the objects would be in a temporary folder, and `build_ext` not find them
                self.build_temp = str(Path("build", f"temp.{self.plat_name}-{sys.implementation.cache_tag}"))

        def build_extensions(self):
            self.parallel = None  # ninja compiles the files of an extension in parallel
            for extension in self.extensions:
                if extension.name == "bfn_kernels._cuda":
                    extension.extra_objects = cuda_objects(Path(self.build_temp, "csrc/cuda"))
                    extension.depends += extension.extra_objects
            super().build_extensions()

        def build_extension(self, extension):
            say(f"builds {extension.name}")
            folder = self.build_temp
            # Each extension has its own folder, since all of them compile the same files with different flags.
            self.build_temp = str(Path(folder, extension.name))
            try:
                super().build_extension(extension)
            finally:
                self.build_temp = folder

    return Build


def extension(name: str, sources: list[str], flags: list[str], **more):
    from torch.utils.cpp_extension import CppExtension

    # Builds that BFN_TUNED does not name get -O1: they compile in a quarter of the time, and run slower.
    tuned = (os.environ.get("BFN_TUNED") or name).split(",")
    compile_args = {"cxx": [*FLAGS, *flags, f"-DBFN_INIT=PyInit_{name}", *([] if name in tuned else ["-O1"])]}
    more["extra_link_args"] = [*LINK_FLAGS, *more.get("extra_link_args", ())]
    return CppExtension(
        f"bfn_kernels.{name}", sources, depends=[*HEADERS], extra_compile_args=compile_args, py_limited_api=True, **more
    )


def extensions() -> list:
    wanted = os.environ.get("BFN_BUILDS")  # builds only these, by name: BFN_BUILDS=_cpu_avx512,_cuda
    chosen = wanted.split(",") if wanted else [*CPU_BUILDS, "_cuda"]
    found = [extension(name, CPU_SOURCES, flags) for name, flags in CPU_BUILDS.items() if name in chosen]
    if NVCC and "_cuda" in chosen:
        # CUDA's runtime is linked statically, so that it cannot clash with the shared runtime that torch has loaded
        cuda = extension(
            "_cuda",
            BINDINGS,
            ["-DBFN_CUDA", "-DUSE_CUDA"],
            library_dirs=[str(toolkit() / "lib64"), str(toolkit() / "lib")],
            libraries=["cudart_static", "rt", "pthread", "dl"],
            # Without this flag, the linker would drop libtorch where torch is a CPU build, of which this extension uses
            # nothing. In a CUDA build, libtorch loads the library with the function that returns the current stream.
            extra_link_args=["-Wl,--no-as-needed", "-ltorch"],
        )
        found.append(cuda)
    return found


commands = {"build_py": BuildPython}
if CXX is not None:
    compiler, *flags = shlex.split(CXX)
    # setuptools compiles and links with it; the whole path, since another compiler may come first on the PATH below
    os.environ["CXX"] = shlex.join([shutil.which(compiler) or compiler, *flags])
    # Another version of ninja could not read the log of this environment's ninja, and would compile everything again.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    commands["build_ext"] = build_command()

setup(
    ext_modules=extensions() if CXX is not None else [],
    cmdclass=commands,
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
