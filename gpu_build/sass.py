"""Finds the tools of NVIDIA's toolkit, and lists the instructions in a cubin."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path


def find_tool(name: str) -> str | None:
    """The path of a tool: from PATH, from a pip package of NVIDIA, or from Triton."""
    found = shutil.which(name)
    if found:
        return found
    places = []
    for package, folder in (("nvidia", "cu13/bin"), ("triton", "backends/nvidia/bin")):
        spec = importlib.util.find_spec(package)
        places += [Path(root, folder, name) for root in (spec.submodule_search_locations or ())] if spec else []
    return next((str(place) for place in places if place.exists()), None)


def opcodes(cubin: Path) -> list[str]:
    """The instructions of a cubin's kernels, without their arguments."""
    tool = find_tool("nvdisasm")
    if tool is None:
        raise RuntimeError("there is no nvdisasm; pip install 'bfn-kernels[gpu-build]'")
    text = subprocess.run([tool, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", text, re.MULTILINE)
