"""`python -m tests.cuda_on_host.every_call LIBRARY` calls every op on CUDA's kernels for the host, in which a sanitizer
watches each access. Other tests compare the results with the reference."""

import sys

import torch

from tests.kernels import test_cuda
from tests.kernels.op_cases import CASES
from tests.kernels.support import FIRST, evaluate, serves
from tests.kernels.test_accuracy import laid_out

BACKEND = "cuda_on_host"
ODD, WHOLE, LONG = (3, 7), (2, 16), (1, 5000)  # an odd end, whole vectors, several blocks
CALLS = [
    *((ODD, dtype, "dense") for dtype in (torch.float32, torch.bfloat16, torch.float64)),
    (WHOLE, torch.float32, "dense"),
    (ODD, torch.float32, "strided"),
]


def call(case, shape, dtype, form="dense") -> None:
    print(case, shape, dtype, form, flush=True)
    inputs = laid_out(case.inputs(shape, dtype), form)
    evaluate(case, inputs, BACKEND)
    if "noise" in inputs:
        case({k: v for k, v in inputs.items() if k not in ("noise", "draw_noise")}, BACKEND, seed=1)


def main(library: str) -> None:
    torch.ops.load_library(library)
    for case in (case for case in CASES if serves(case, BACKEND)):
        for arguments in CALLS:
            call(case, *arguments)
    for case in (case for case in FIRST if serves(case, BACKEND)):
        call(case, WHOLE, torch.float16)
        if case.family in ("binary", "continuous"):
            call(case, LONG, torch.float32)
    # A row of more classes than threads hold. Nothing behind the last row may be read.
    test_cuda.test_teams(4100, BACKEND)
    # Several blocks, which sort their variables by several rules.
    test_cuda.test_expected_values_do_not_depend_on_their_neighbours(True, BACKEND)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
