"""Builds the CPU kernels once per instruction set; the best that the processor has is loaded at import."""

import platform
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

SOURCES = sorted(str(p) for folder in ("cpu", "bindings") for p in Path("csrc", folder).glob("*.cpp"))
HEADERS = sorted(str(p) for p in Path("csrc").rglob("*.h"))
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-g0",
    # torch's stable ABI and, below, Python's limited API: one wheel for torch >= 2.11 and Python >= 3.10
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]
X86_BUILDS = {
    "_cpu_avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "_cpu_avx2": ["-march=x86-64-v3"],
}
builds = {"_cpu_generic": []} | (X86_BUILDS if platform.machine() in ("x86_64", "AMD64") else {})

setup(
    ext_modules=[
        CppExtension(
            f"bfn_kernels.{name}",
            SOURCES,
            depends=HEADERS,
            extra_compile_args={"cxx": [*FLAGS, *flags, f"-DBFN_MODULE={name}"]},
            py_limited_api=True,
        )
        for name, flags in builds.items()
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
