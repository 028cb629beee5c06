"""`make fuzz MINUTES=30`: the properties again and again, with new seeds, for as long as asked."""

import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCALE = 10  # times the examples that the tests take, in a round


def main(minutes: float) -> int:
    start = time.time()
    end, rounds, passed = start + 60 * minutes, 0, 0
    while (now := time.time()) < end:
        seed, rounds = secrets.randbelow(2**32), rounds + 1
        chosen = {"FUZZ_SEED": str(seed), "FUZZ_SCALE": str(SCALE)}
        print(
            f"round {rounds}, seed {seed}: {(now - start) / 60:.1f} of {minutes:g} minutes, {passed} properties held",
            flush=True,
        )
        command = [sys.executable, "-m", "pytest", "-n", "auto", "-p", "no:cacheprovider", "tests/fuzz"]
        environment = os.environ | chosen | {"FUZZ_END": str(end), "FUZZ_MINUTES": str(minutes), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            again = " ".join(f"{name}={value}" for name, value in chosen.items())
            print(
                f"{done.stdout}{done.stderr}\nAgain: {again} {sys.executable} -m pytest tests/fuzz -k <the test's name>"
            )
            return 1
        passed += sum(int(n) for n in re.findall(r"(\d+) passed", done.stdout))
    print(f"{rounds} rounds in {(time.time() - start) / 60:.1f} minutes, {passed} properties held, no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
