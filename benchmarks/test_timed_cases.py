"""The same cases for pytest-benchmark: `pytest benchmarks --benchmark-only`, with -k to choose."""

import pytest

from benchmarks import gate, heap, timed_cases
from benchmarks.competitors import available, competitors, prepared
from benchmarks.timed_cases import CASES

TABLE = [
    pytest.param(case, c, id=f"{case.name} {c.name}".replace(" ", "-"))
    for case in CASES
    for c in competitors(case, available())
]


@pytest.mark.parametrize(("case", "competitor"), TABLE)
def test_speed(benchmark, case, competitor):
    benchmark.group = case.name
    tensors, noise = timed_cases.inputs(case)
    verdict = gate.check(case, competitor, tensors, noise)
    assert verdict.agrees, verdict
    run = prepared(competitor, case, tensors)
    heap.warm()
    run()  # so that the time of torch.compile does not count
    benchmark(run)
