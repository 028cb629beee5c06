"""Finds the tools of NVIDIA's toolkit, and reads the machine code in a cubin."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


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


class Instruction(NamedTuple):
    """An instruction of PTX or of machine code. A label has no name, and stands in `rest`.

    guarded: whether a predicate decides if the instruction is executed. rest: the arguments. control: the upper half of
    the machine code, in which ptxas tells the scheduler when the instruction may issue.
    """

    name: str
    guarded: bool
    rest: str
    control: int = 0


def machine_code(cubin: Path) -> list[Instruction]:
    """The instructions of a cubin's kernels."""
    tool = find_tool("nvdisasm")
    if tool is None:
        raise RuntimeError("there is no nvdisasm; `make install` installs it")
    text = subprocess.run([tool, "-c", "-hex", str(cubin)], capture_output=True, text=True, check=True).stdout
    instruction = r"/\*[0-9a-f]{4,}\*/\s+(@\S+\s+)?([A-Z][\w.]*)([^;]*);\s+/\* 0x\w+ \*/\s+/\* (0x\w+) \*/"
    found = re.finditer(rf"^\s*(?:(\.L_x_\d+):|{instruction})", text, re.MULTILINE)
    return [Instruction(i[3] or "", bool(i[2]), i[1] or i[4], int(i[5] or "0", 16)) for i in found]
