"""Objects and libraries of g++ and nvcc, kept by content: what was built of the same sources by the same command is
there again."""

import fcntl
import hashlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "ptx"

Command = Sequence[str]


def _run(command: list, to: Path) -> Path:
    """Runs a command that ends with `-o`; an interrupted one leaves no file of the final name."""
    part = to.with_suffix(".part")
    done = subprocess.run([*map(str, command), "-o", str(part)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    part.rename(to)
    return to


def _kept(name: str, suffix: str, *parts: bytes) -> Path:
    """Where the result that follows from these parts is kept; earlier ones of the name are removed."""
    result = BUILT / f"{name}.{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}{suffix}"
    if not result.exists():
        for old in BUILT.glob(f"{name}.{'?' * 16}{suffix}"):
            old.unlink()
    return result


def objects(name: str, sources: dict[Path, Command], headers: Sequence[Path]) -> list[Path]:
    """The object of each source, made by its command, two at a time. headers: what the sources may include."""
    BUILT.mkdir(parents=True, exist_ok=True)
    shared = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(headers))).digest()

    def compile(source: Path) -> Path:
        command = sources[source]
        to = _kept(f"{name}.{source.stem}", ".o", shared, source.read_bytes(), repr(command).encode())
        return to if to.exists() else _run([*command, "-c", source], to)

    with open(BUILT / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(compile, sources))


def library(name: str, parts: Sequence[Path], link: Command) -> Path:
    """A shared library of these objects."""
    with open(BUILT / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        to = _kept(name, ".so", repr((parts, link)).encode())
        return to if to.exists() else _run(["g++", "-shared", *parts, *link], to)
