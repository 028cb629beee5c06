"""The folder that Hugging Face's `kernels` loads, beside the package that is installed here."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from release import kernel_hub

ROOT = Path(__file__).resolve().parents[2]
COMPILED = f"torch-stable-abi211-cpu-{platform.machine()}-linux"

# What `kernels` does, where it is not installed.
BY_HAND = """
import importlib.util, json, sys
from pathlib import Path
def load(folder):
    name = json.loads((folder / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
"""
BY_KERNELS = """
from pathlib import Path
from kernels import get_local_kernel
load = lambda folder: get_local_kernel(folder.parents[1], backend="cpu")
"""
BESIDE = """
import torch, bfn_kernels
folder = Path(sys.argv[1])
first, second = (folder, folder.with_name("torch-cuda"))
copies = {"installed": bfn_kernels, "first": load(first), "second": load_by_hand(second)}
x, z = torch.linspace(-1, 1, 6).reshape(2, 3), torch.linspace(-2, 2, 18).reshape(2, 3, 3)

def drawn(copy):
    torch.manual_seed(1)
    flow = copy.continuous.flow_sample(x, 0.5, sigma_1=0.1)
    y = x.clone().requires_grad_()
    copy.discretised.continuous_time_loss(x, y, y - 1, flow, 0.5, sigma_1=0.1, num_bins=9).backward()
    return flow, y.grad, copy.discrete.update_sample(z, z, 0.5)

if first.name.startswith("torch-stable-abi"):  # the compiler takes long to import
    torch.testing.assert_close(torch.compile(drawn, backend="aot_eager")(copies["first"]), drawn(bfn_kernels))
for name, copy in copies.items():
    torch.testing.assert_close(drawn(copy), drawn(bfn_kernels))
    print(name, copy.__name__, copy.__version__, copy.backends.CPU_BUILD)
    libraries = {library.name for library in copy.backends.LIBRARIES.values() if hasattr(library, "implement")}
    assert all(library.startswith(copy.__name__) for library in libraries)
    assert f"{copy.__name__}::draw_seed" in torch._C._dispatch_get_all_op_names()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What `make kernel-hub` has built, if `make check-dist` runs; otherwise the variants without compiled code."""
    if "BFN_DIST" in os.environ:
        return Path(os.environ["BFN_DIST"], "kernel_hub").resolve()
    to = tmp_path_factory.mktemp("hub") / "kernel_hub"
    kernel_hub.main([str(to), "--python-only"])
    return to


@pytest.fixture(scope="module")
def variant(folder) -> Path:
    """The one that serves the CPU here."""
    return folder / "build" / (COMPILED if "BFN_DIST" in os.environ else "torch-cpu")


def test_every_variant_has_the_package_and_its_digest(folder, variant):
    ids = set()
    for to in (folder / "build").iterdir():
        metadata = json.loads((to / "metadata.json").read_text())
        assert metadata["backend"]["type"] == ("cpu" if "-cpu" in to.name else "cuda")
        assert metadata["id"].isidentifier()
        ids.add(metadata["id"])
        files = {str(path.relative_to(to)) for path in to.rglob("*") if path.suffix in (".py", ".so", ".typed")}
        assert files == set(metadata["digest"]["files"])
        package = {str(path.relative_to(kernel_hub.PACKAGE)) for path in kernel_hub.PACKAGE.rglob("*.py")}
        assert package == {name for name in files if name.endswith(".py")}
        assert bool(list(to.rglob("*.so"))) == to.name.startswith("torch-stable-abi")
    assert len(ids) == len(list((folder / "build").iterdir())) >= 2
    assert variant.is_dir()


def test_kernels_reads_the_folder(folder):
    rust = pytest.importorskip("kernels._rust")
    assert {str(b) for b in rust.Build.open(folder).general.backends} == {"cpu", "cuda"}
    for to in (folder / "build").iterdir():
        metadata = rust.Metadata.read_from_file(to / "metadata.json")
        metadata.digest.validate(rust.Digest.hash_variant(rust.DigestAlgorithm.SHA256, to))


@pytest.mark.parametrize("loader", ["by hand", "kernels"])
def test_copies_beside_the_installed_one(loader, variant):
    if loader == "kernels":
        pytest.importorskip("kernels._rust")
    loads = "import sys\n" + BY_HAND + "load_by_hand = load\n" + (BY_KERNELS if loader == "kernels" else "")
    command = [sys.executable, "-W", "ignore", "-B", "-c", loads + BESIDE, variant]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [line[0] for line in lines] == ["installed", "first", "second"]
    assert len({name for _, name, *_ in lines}) == 3
    assert (lines[1][3] == "None") == ("BFN_DIST" not in os.environ)


def test_relative_imports():
    source = (
        'def f():\n    """\n    from bfn_kernels import rows\n    """\n    from bfn_kernels.rows import (\n        a,\n'
    )
    source += "    )\n    from bfn_kernels import b\n    from torch import bfn_kernels\n"
    lines = kernel_hub.relative_imports(source, 1).splitlines()
    assert lines[2] == "    from bfn_kernels import rows"
    assert lines[4] == "    from ..rows import ("
    assert lines[7:] == ["    from .. import b", "    from torch import bfn_kernels"]
    with pytest.raises(ValueError, match="line 1: `from bfn_kernels import` can be made relative"):
        kernel_hub.relative_imports("import bfn_kernels.rows", 0)


def test_stable_abi_is_that_of_setup_py():
    major, minor = map(int, kernel_hub.STABLE_ABI.split("."))
    assert f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000" in (ROOT / "setup.py").read_text()
