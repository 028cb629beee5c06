"""Writes the package as Hugging Face's `kernels` loads it: build/<variant>/ holds the package itself and metadata.json.

Such a copy is loaded under a name of its own, its id, since the package may be installed, too. So its imports are made
relative, and its operators are in torch.ops.<id>, for which its C++ is compiled again. Two further variants have no
compiled code, for a torch that does not fit the compiled variants: the reference on any processor, and Triton's kernels
on any GPU.
"""

import argparse
import ast
import base64
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bfn_kernels"
STABLE_ABI = "2.11"  # setup.py compiles for it
NAME, VERSION, LICENSE = "bfn-kernels", 0, "Apache-2.0"  # the Hub counts major versions; 0 is not stable yet
BUILD_TOML = f"""# What is in build/, which `make kernel-hub` has built; kernel-builder cannot, for want of a list.
[general]
name = "{NAME}"
version = {VERSION}
edition = 5
license = "{LICENSE}"
backends = ["cpu", "cuda"]

[torch.stable-abi]
cpu = "{STABLE_ABI}"
cuda = "{STABLE_ABI}"
"""


def fingerprint() -> str:
    """Eight digits that change with the sources, so that the ids of two versions differ."""
    digest = hashlib.sha256()
    for path in sorted([ROOT / "setup.py", *PACKAGE.rglob("*.py"), *(ROOT / "csrc").rglob("*.*")]):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def relative_imports(source: str, depth: int) -> str:
    """The source of a module `depth` folders below the package, with relative imports instead of those that name the
    package."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(a.name.split(".")[0] == PACKAGE.name for a in node.names):
            raise ValueError(f"line {node.lineno}: `from {PACKAGE.name} import` can be made relative, this cannot")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            dots = "." * (depth + 1)
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = re.sub(rf"from {PACKAGE.name}\b\.?", f"from {dots}", line, count=1)
    return "".join(lines)


def write_python(to: Path) -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        below = path.relative_to(PACKAGE)
        (to / below).parent.mkdir(parents=True, exist_ok=True)
        (to / below).write_text(relative_imports(path.read_text(), len(below.parts) - 1))
    shutil.copy(PACKAGE / "py.typed", to)


def write_compiled(to: Path, name: str, nvcc: str) -> None:
    """Compiles the extensions, with their operators in torch.ops.<name>. nvcc: as in `write`."""
    folder = ROOT / "build" / "kernel_hub" / name
    places = ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    environment = os.environ | {"BFN_NAMESPACE": name, "BFN_NVCC": nvcc}
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", *places], cwd=ROOT, env=environment, check=True)
    built = list((folder / "lib" / PACKAGE.name).glob("*.so"))
    if not built:
        raise SystemExit(f"setup.py compiled nothing for {name}: it needs a C++ compiler")
    for path in built:
        shutil.copy(path, to)


def cuda_version(nvcc: str) -> str:
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return "".join(re.findall(r"release (\d+)\.(\d+)", said)[0])


def write_metadata(to: Path, name: str, backend: dict) -> None:
    """Writes the last file of a variant, which has the digests of all others."""
    files = sorted(path for path in to.rglob("*") if path.is_file())
    sums = {
        str(path.relative_to(to)): base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        for path in files
    }
    metadata = {
        "id": name,
        "name": NAME,
        "version": VERSION,
        "license": LICENSE,
        "python-depends": [],
        "backend": backend,
        "digest": {"algorithm": "sha256", "files": sums},
    }
    (to / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def write(folder: Path, *, nvcc: str = "", compiled: bool = True) -> None:
    """Replaces the folder. nvcc: the compiler of the CUDA variant, or "", which leaves it out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "build.toml").write_text(BUILD_TOML)
    shutil.copy(ROOT / "LICENSE", folder)
    machine = f"{platform.machine()}-{platform.system().lower()}"
    stable = f"torch-stable-abi{STABLE_ABI.replace('.', '')}"
    variants: list[tuple[str, str, dict]] = [
        ("torch-cpu", "python_cpu", {"type": "cpu"}),
        ("torch-cuda", "python_cuda", {"type": "cuda"}),
    ]
    if compiled:
        variants.append((f"{stable}-cpu-{machine}", "cpu", {"type": "cpu"}))
    if compiled and nvcc:
        architectures = {"archs": ["8.0", "9.0", "10.0+PTX"]}  # the default ARCHITECTURES of setup.py
        variants.append((f"{stable}-cu{cuda_version(nvcc)}-{machine}", "cuda", {"type": "cuda"} | architectures))
    sources = fingerprint()
    for variant, kind, backend in variants:
        name, to = f"_{PACKAGE.name}_{kind}_{sources}", folder / "build" / variant
        write_python(to)
        if variant.startswith(stable):
            write_compiled(to, name, nvcc if kind == "cuda" else "")
        write_metadata(to, name, backend)
        print(to)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m release.kernel_hub", description=__doc__)
    parser.add_argument("folder", type=Path, help="what to write; what is there is removed")
    parser.add_argument("--python-only", action="store_true", help="compile nothing")
    options = parser.parse_args(arguments)
    nvcc = os.environ.get("BFN_NVCC", shutil.which("nvcc") or "")
    write(options.folder, nvcc=nvcc, compiled=not options.python_only)


if __name__ == "__main__":
    main()
