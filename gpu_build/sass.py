"""Counts the instructions of a cubin, by class, in the loop that does the work."""

import functools
import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CLASSES = {
    "fma": ("FFMA", "FADD", "FMUL", "FFMA2"),
    "imad": ("IMAD",),
    "special": ("MUFU", "F2I", "I2F", "F2F", "FRND"),
    "fp64": ("DADD", "DMUL", "DFMA", "DSETP"),
    "memory": ("LDG", "STG", "LDS", "STS", "LDL", "STL", "LD", "ST", "ATOM", "ATOMG", "RED"),
    "shuffle": ("SHFL",),
    "control": (
        "BRA", "EXIT", "BSSY", "BSYNC", "BAR", "NOP", "WARPSYNC", "CALL", "RET", "BREAK", "S2R", "CS2R", "LDC", "R2UR",
        "S2UR", "YIELD", "BMOV", "DEPBAR",
    ),
}  # fmt: skip
CLASS_OF = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes}
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)(.*?);")
LABEL = re.compile(r"(\.L_x?_?\d+):")


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


def class_of(opcode: str) -> str:
    stem = opcode.split(".")[0]
    if stem == "IMAD" and ".MOV" in opcode:
        return "fma"
    if stem.startswith("U"):
        return "uniform"
    return CLASS_OF.get(stem, "alu")


@dataclass
class Function:
    instructions: list[tuple[str, str]]  # opcode, arguments
    labels: dict[str, int]

    def loops(self) -> list[tuple[int, int]]:
        """The first and last instruction of each loop, found by its branch back."""
        found = []
        for at, (opcode, arguments) in enumerate(self.instructions):
            label = re.search(r"\.L_x?_?\d+", arguments) if opcode.startswith("BRA") else None
            if label and self.labels.get(label[0], at + 1) < at:
                found.append((self.labels[label[0]], at))
        return found

    def main_loop(self, within: int = 1) -> Counter[str]:
        """The opcodes of the longest loop. Each instruction counts once: branches that are seldom taken count in full,
        and inner loops as if they ran once, except for the longest of them, which counts `within` times."""
        loops = sorted(self.loops(), key=lambda loop: loop[0] - loop[1])
        if not loops:
            return Counter(opcode for opcode, _ in self.instructions)
        counts = self._between(loops[0])
        inner = [loop for loop in loops[1:] if loops[0][0] <= loop[0] and loop[1] <= loops[0][1]]
        for _ in range(within - 1):
            counts += self._between(inner[0])
        return counts

    def _between(self, loop: tuple[int, int]) -> Counter[str]:
        return Counter(opcode for opcode, _ in self.instructions[loop[0] : loop[1] + 1])


def disassembler() -> str:
    tool = find_tool("nvdisasm")
    if tool is None:
        raise RuntimeError("there is no nvdisasm; pip install 'bfn-kernels[gpu-build]'")
    return tool


@functools.cache
def functions(cubin: Path) -> dict[str, Function]:
    """The kernels of a cubin, by mangled name."""
    text = subprocess.run([disassembler(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    found: dict[str, Function] = {}
    current = Function([], {})
    for line in text.splitlines():
        section = re.match(r"\s*\.section\s+\.text\.([\w$]+)", line)
        if section:
            current = found.setdefault(section[1], Function([], {}))
        label = LABEL.match(line)
        if label:
            current.labels[label[1]] = len(current.instructions)
        instruction = INSTRUCTION.match(line)
        if instruction:
            current.instructions.append((instruction[1], instruction[2]))
    return found


def by_class(opcodes: Counter[str], variables: float) -> dict[str, float]:
    """The number of instructions of each class for one variable."""
    counts: Counter[str] = Counter()
    for opcode, count in opcodes.items():
        counts[class_of(opcode)] += count
    return {name: count / variables for name, count in counts.items()}
