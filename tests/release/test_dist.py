"""What is distributed: the source distribution, and what it becomes where there is no C++ compiler."""

import fcntl
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import bfn_kernels

ROOT = Path(__file__).resolve().parents[2]
HERE = f"bfn_kernels-{bfn_kernels.__version__}"

# Without the hooks of an editable install, which find the compiled extensions of another copy.
ALONE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable__")]
sys.path.insert(0, sys.argv[1])
"""
CALLS = """
import warnings, torch
from bfn_kernels import backends, continuous, discrete

def calls(backend):
    for device in ("meta", "cpu", "cpu"):  # on meta nothing is slow
        x = torch.zeros(2, 3, device=device)
        continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=1, backend=backend)
        discrete.theta(x, backend=backend)

print(backends.__file__, backends.CPU_BUILD)
for call in (calls, torch.compile(calls, fullgraph=True, backend="eager")):
    backends._warned = False
    for backend in ("reference", None):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            call(backend)
        print(backend, *(f"{w.filename}: {w.message}" for w in warned))
"""


@pytest.fixture(scope="module")
def no_compiler(tmp_path_factory) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "CXX"} | {"PATH": str(tmp_path_factory.mktemp("empty"))}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory, no_compiler) -> Path:
    """The folder of the unpacked source distribution. Nothing is compiled for it, so torch need not be imported."""
    to = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", to, "sdist", "-d", to]
    # setuptools gathers the files in ROOT for a while, where two processes of pytest-xdist would meet
    with open(tmp_path_factory.getbasetemp().parent / "sdist.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, cwd=ROOT, env=no_compiler, check=True)
    with tarfile.open(to / f"{HERE}.tar.gz") as archive:
        archive.extractall(to)
    return to / HERE


def test_sdist_has_what_the_checkout_has(sdist):
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    there = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    missing = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()} - there
    assert not missing
    assert not [name for name in there if name.endswith((".so", ".pyc"))]


@pytest.fixture(scope="module")
def wheel(sdist, no_compiler) -> Path:
    """What pip makes of the source distribution."""
    backend = "from setuptools import build_meta as b; b.{0}('..')"
    said = ""
    for step in ("prepare_metadata_for_build_wheel", "build_wheel"):
        command = [sys.executable, "-c", backend.format(step)]
        built = subprocess.run(command, cwd=sdist, env=no_compiler, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        said += built.stdout + built.stderr
    ours = [line for line in said.splitlines() if "compiler" in line]
    assert ours == ["bfn-kernels: no C++20 compiler (c++, g++ or clang++): the slow reference is installed alone"]
    return sdist.parent / f"{HERE}-py3-none-any.whl"


def test_without_a_compiler_the_wheel_has_the_python_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info" not in n}
        metadata = archive.read(f"{HERE}.dist-info/METADATA").decode()
        licence = archive.read(f"{HERE}.dist-info/licenses/LICENSE").decode()
    packages = [ROOT / "bfn", ROOT / "bfn_kernels"]
    files = {str(p.relative_to(ROOT)) for folder in packages for p in folder.rglob("*") if p.is_file()}
    assert names == {name for name in files if not name.endswith((".so", ".pyc"))}
    assert {"bfn/py.typed", "bfn_kernels/py.typed"} < names
    assert "License-Expression: Apache-2.0" in metadata
    assert licence == (ROOT / "LICENSE").read_text()


@pytest.mark.slow
def test_the_reference_warns_once_when_nobody_asked_for_it(wheel):
    command = [sys.executable, "-c", ALONE + CALLS, wheel]
    ran = subprocess.run(command, cwd=wheel.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    used, *warned = ran.stdout.splitlines()
    assert used == f"{wheel}/bfn_kernels/backends.py None"
    asked, eager, asked_again, compiled = warned
    assert asked == asked_again == "reference"
    assert eager.startswith("None <string>: no compiled backend serves cpu tensors, ")  # it points to the call
    assert compiled.startswith("None /")
    assert eager.count("no compiled backend") == compiled.count("no compiled backend") == 1


@pytest.fixture
def setup(monkeypatch):
    """Runs setup.py as for `python setup.py --version` on a machine of the kind; returns its names."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["setup.py", "--version"])
    monkeypatch.setenv("CXX", "none")

    def run(machine: str) -> dict:
        monkeypatch.setattr(platform, "machine", lambda: machine)
        return runpy.run_path("setup.py")

    return run


@pytest.mark.parametrize(
    ("machine", "builds"), [("x86_64", ["_cpu_generic", "_cpu_avx512", "_cpu_avx2"]), ("aarch64", ["_cpu_generic"])]
)
def test_builds_for_a_processor(machine, builds, setup, capfd):
    assert list(setup(machine)["CPU_BUILDS"]) == builds
    assert capfd.readouterr().out == f"{bfn_kernels.__version__}\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_compilers(setup, monkeypatch, tmp_path):
    """The first one on the path is taken, whatever it is called, or the one that CXX names, which must work."""
    cxx_compiler = setup("x86_64")["cxx_compiler"]
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "clang++").symlink_to(shutil.which("g++", path=os.defpath))
    found = {}
    for name in (None, "none", "clang++ -m64"):
        if name is None:
            monkeypatch.delenv("CXX")
        else:
            monkeypatch.setenv("CXX", name)
        found[name] = cxx_compiler()
    assert found == {None: "clang++", "none": None, "clang++ -m64": "clang++ -m64"}
    monkeypatch.setenv("CXX", "clang++ -std=c++nonsense")
    with pytest.raises(SystemExit, match=r"got clang\+\+ -std=c\+\+nonsense: .+"):
        cxx_compiler()


NVCC = """#!/bin/sh
test "$1" != --list-gpu-arch || exec printf 'compute_80\\ncompute_90\\n'
echo "$@" >&2
while test "$1" != -o; do shift; done
echo compiled > "$2"
"""


@pytest.fixture
def nvcc(monkeypatch, tmp_path):
    """An nvcc that does not know compute capability 10.0."""
    (tmp_path / "nvcc").write_text(NVCC)
    (tmp_path / "nvcc").chmod(0o755)
    monkeypatch.setenv("BFN_NVCC", str(tmp_path / "nvcc"))


@pytest.mark.parametrize(("named", "compiled_for"), [(None, ["80", "90"]), ("90,100", ["90", "100"])])
def test_the_default_leaves_out_what_nvcc_does_not_know(named, compiled_for, nvcc, setup, monkeypatch, tmp_path):
    if named:
        monkeypatch.setenv("BFN_CUDA_ARCHITECTURES", named)
    for made in setup("x86_64")["cuda_objects"](tmp_path / "objects"):
        assert made.endswith(f".{'-'.join(compiled_for)}.o")
        command, last = Path(made).with_suffix(".log").read_text(), compiled_for[-1]
        assert re.findall("code=sm_([0-9]+)", command) == compiled_for
        assert re.findall("code=compute_([0-9]+)", command) == [last]


def test_what_a_killed_build_left_is_compiled_again(nvcc, setup, tmp_path, capfd):
    """It has no log yet, or the log of an earlier build. A line says what is compiled, and a line follows each file."""
    build = setup("x86_64")["cuda_objects"]
    first, second, third, *others = map(Path, build(tmp_path / "objects"))
    for path in (first, second, third):
        path.write_text("half")
    first.with_suffix(".log").unlink()
    os.utime(second.with_suffix(".log"), (0, 0))
    capfd.readouterr()
    build(tmp_path / "objects")
    beginning, *lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("bfn-kernels: ")]
    every = f"all {3 + len(others)} files take about 20 minutes"
    assert beginning == f"bfn-kernels: compiles 2 CUDA files for compute capability 80, 90; {every}"
    said = r"bfn-kernels: compiled csrc/cuda/\w+\.cu, {} of 2, after \d+ s"
    assert len(lines) == 2 and all(re.fullmatch(said.format(i), line) for i, line in enumerate(lines, 1)), lines
    assert [path.read_text() for path in (first, second, third)] == ["compiled\n", "compiled\n", "half"]


def test_the_changelog_begins_with_this_version():
    newest = re.search(r"^## \[(\d.*)\]$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == bfn_kernels.__version__


@pytest.mark.skipif("BFN_DIST" not in os.environ, reason="make check-dist tests what make dist has built")
def test_wheel_of_the_sdist(tmp_path, no_compiler):
    """The wheel, compiled of the unpacked source distribution, serves torch where nothing else is."""
    wheel = next(Path(os.environ["BFN_DIST"]).glob(f"{HERE}-cp310-abi3-*.whl")).resolve()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-c", ALONE + CALLS, tmp_path]
    ran = subprocess.run(command, cwd=tmp_path, env=no_compiler, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{tmp_path}/bfn_kernels/backends.py _cpu_")
