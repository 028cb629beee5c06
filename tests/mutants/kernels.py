"""Faults of the public functions, the reference, Triton, C++, CUDA and the benchmarks' gate."""

from fault import Fault

FAULTS: list[Fault] = []
