"""Compares the instructions that `executed.RULES` counts with those that ptxas makes, and predicts how long a warp
takes. Only kernels without loops and without branches that depend on data are compared. A warp executes each of their
instructions once, so nothing has to run.
"""

import re
from collections import Counter
from collections.abc import Sequence

from gpu_build.executed import machine_instructions, ratio
from gpu_build.sass import Instruction
from gpu_build.table import cycles

# Classes of machine instructions. All others are "integer", which stands for `alu` and `imad`: ptxas distributes sums,
# moves and addresses over these two pipes and over the unit for numbers that all lanes share.
CLASSES = {
    "fma": r"FFMA|FMUL|FADD|H(FMA|ADD|MUL)2",
    "special": r"MUFU|F2I|I2F|F2F|FRND|POPC|FLO|BREV|FCHK",
    "memory": r"(LD|ST)(G|S|SM)|ATOMG?|REDG?",
    "other": r"SHFL|VOTE|MATCH|REDUX|D(ADD|MUL|FMA|SETP)|BRA|EXIT|BSSY|BSYNC|BAR|WARPSYNC|NOP",
}
GLOBAL, SLOW = 600, 30  # assumed cycles until a result is there, from global memory and from other slow units


def parsed(ptx: str) -> list[Instruction]:
    pattern = r"^\s*(?:(\$L__BB\w+):|(@\S+\s+)?([a-z][\w.:]*)([^;]*);)"
    return [Instruction(i[3] or "", bool(i[2]), i[1] or i[4]) for i in re.finditer(pattern, ptx, re.MULTILINE)]


def without(rare: str, code: Sequence[Instruction]) -> tuple[list[Instruction], int]:
    """Leaves out each block with an instruction whose name begins like `rare`. Returns the other instructions, and the
    number of blocks that were left out. A block begins at a label, and after a branch."""
    blocks: list[list[Instruction]] = [[]]
    for i in code:
        if i.name:
            blocks[-1].append(i)
        if not i.name or i.name.startswith(("bra", "BRA")):
            blocks.append([])
    kept = [block for block in blocks if not any(re.match(rare, i.name) for i in block)]
    return [i for block in kept for i in block], len(blocks) - len(kept)


def alone(code: Sequence[Instruction]) -> int:
    """The cycles that a warp takes if no other warp uses its scheduler. Each instruction has control bits. They say
    after how many cycles the next instruction may issue. They name the barrier that opens when the result is there, the
    one that opens when the operands are read, and the barriers that the instruction waits for."""
    now, opens = 0, [0] * 6
    for i in code:
        stall, result, read, waits = (i.control >> bit & mask for bit, mask in ((41, 15), (46, 7), (49, 7), (52, 63)))
        now = max([now, *(opens[k] for k in range(6) if waits >> k & 1)])
        for barrier, latency in ((result, GLOBAL if i.name.startswith(("LDG", "ATOM")) else SLOW), (read, SLOW)):
            if barrier < len(opens):  # 7 stands for none
                opens[barrier] = max(opens[barrier], now + latency)
        now += stall
    return now


def compared(ptx: str, machine_code: Sequence[Instruction], resident: float) -> dict[str, float] | None:
    """The columns of `table.straight`, for a scheduler that has `resident` warps at once. The result is None for a
    kernel with loops, or with branches that depend on data. Blocks that are left out: a 64-bit division, since another
    block divides small numbers, and calls, by which ptxas divides rare numbers."""
    code = parsed(ptx)
    usual, left_out = without(r"(div|rem)\.[us]64", code)
    places = {i.rest: place for place, i in enumerate(code) if not i.name}
    loops = any(places.get(i.rest.strip(), place) < place for place, i in enumerate(code) if i.name.startswith("bra"))
    if loops or sum(i.guarded and i.name.startswith("bra") for i in usual) > left_out:
        return None
    end = next(place for place, i in enumerate(machine_code) if i.name == "EXIT" and not i.guarded)
    made, _ = without("CALL", machine_code[: end + 1])
    rules: Counter[str] = Counter()
    for i in usual:
        rules.update(machine_instructions(i.name))
    names = Counter(i.name.split(".")[0] for i in made)
    ptxas = {kind: sum(n for name, n in names.items() if re.fullmatch(of, name)) for kind, of in CLASSES.items()}
    classes = {kind: ratio(rules[kind], ptxas[kind]) for kind in ("fma", "special", "memory")}
    integer = ratio(rules["alu"] + rules["imad"], len(made) - sum(ptxas.values()))
    # A scheduler issues one instruction of 32 lanes in a cycle. A multiprocessor has four schedulers.
    latency = alone(made) / resident / (128 * max(cycles(rules).values()))
    found = {"rules": rules.total(), "ptxas": len(made), "rules/ptxas": rules.total() / len(made), **classes}
    return found | {"integer": integer, "alone": alone(made), "resident": resident, "latency": latency}
