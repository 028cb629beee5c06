"""setup.py compiles a tree with one small C++ file, and says how far it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# An editable install as pip makes it, then what a contributor calls, then other flags.
BUILD = """
import os, runpy, sys
from setuptools import build_meta

def compiled():
    lines = open("log").read().splitlines()
    return sum("toy.cpp" in line for line in lines)

def build(**environment):
    os.environ.update(environment)
    sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
    runpy.run_path("setup.py")

build_meta.build_editable(".")
counts = [compiled()]
for tuned in ("_cpu_generic", "none"):
    build(BFN_TUNED=tuned)
    counts.append(compiled())
build(BFN_BUILDS="_cpu_other")
counts.append(compiled())
build(BFN_BUILDS="_cpu_generic")
counts.append(compiled())
print("compiled", *counts)
"""


@pytest.fixture
def tree(tmp_path):
    """The folder of a package with setup.py and one C++ file."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in (("bfn_kernels/__init__.py", "__version__ = '0'"), ("csrc/bindings/toy.cpp", "int toy = 1;")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def ran(tree, *arguments, **environment):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=tree, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_objects_of_an_install_are_found_by_the_next_build(tree):
    """Each extension has objects of its own. Other flags compile anew. The ninja of the environment is used."""
    setup = tree / "setup.py"
    setup.write_text(
        setup.read_text().replace(
            'CPU_BUILDS = {"_cpu_generic": []}', 'CPU_BUILDS = {"_cpu_generic": [], "_cpu_other": []}'
        )
    )
    other_ninja = tree / "bin" / "ninja"
    other_ninja.parent.mkdir()
    other_ninja.write_text("#!/bin/sh\nexit 1\n")
    other_ninja.chmod(0o755)
    compiler = tree / "c++"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tree / "log"}\nexec {shutil.which("c++")} "$@"\n')
    compiler.chmod(0o755)
    of = {"PATH": f"{other_ninja.parent}:{os.environ['PATH']}", "CXX": str(compiler), "BFN_NVCC": ""}
    done = ran(tree, "-c", BUILD, BFN_BUILDS="_cpu_generic", **of)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "compiled 1 1 2 3 3"
    assert "bfn-kernels: builds bfn_kernels._cpu_generic" in done.stderr.splitlines()
    assert (tree / "bfn_kernels" / "_cpu_generic.abi3.so").exists()


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("no-such-compiler", "No such file or directory"),
        ("false", "it ends with the status 1"),
        ('"c++', "No closing quotation"),
    ],
)
def test_a_compiler_that_is_named_must_work(named, reason, tree):
    done = ran(tree, "-c", "from setuptools import build_meta as b; b.build_wheel('.')", CXX=named)
    (line,) = (line for line in done.stderr.splitlines() if "bfn-kernels" in line)
    assert done.returncode == 1 and reason in line
    assert line.startswith(
        f"bfn-kernels: CXX must name a C++20 compiler, or be none for no compiled kernels, got {named}: "
    )
    assert "Traceback" not in done.stderr and not list(tree.glob("*.whl"))
