"""Tests that execute the PTX that Triton compiles. They compare every kernel in float32 and bfloat16 with the
reference, and run blocks in several orders."""

import itertools
import os

import pytest

if os.environ.get("BFN_PTX") != "triton":
    pytest.skip("in a process of its own: BFN_PTX=triton pytest tests/ptx", allow_module_level=True)

import torch

from bfn_kernels.records import RECEIVERS
from tests.kernels.support import FIRST, named, serves
from tests.kernels.test_accuracy import check
from tests.kernels.test_coding import LARGE_RANGES, SMALL, check_equal
from tests.kernels.vocabulary_cases import LARGE
from tests.ptx import ptx, triton_ptx
from tests.ptx.case_checks import check_orders, check_rounding, check_with, with_classes
from tests.ptx.in_place import check_in_place, steps
from tests.ptx.snippets import module

BACKEND = "triton_ptx"
# One case of each op, and those of rows that several tiles of a kernel take.
CHOSEN = [case for case in FIRST if serves(case, BACKEND)]
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
# Kernels whose numbers are in the type of the arithmetic in every call.
TILES = ("flow", "sums", "slopes", "draws", "draw_slopes")
WIDE = {
    *(f"bfn_kernels.vocabulary.triton_tiles._{name}_tile" for name in TILES),
    "bfn_kernels.discretised.triton._output_std",
    "bfn_kernels.triton_ops.reduction._finish",
    "bfn_kernels.triton_ops.row_scalars._row_scalars",
    "bfn_kernels.triton_ops.views.write_table",
}
# Kernels that have no floating-point tensors.
INTEGERS = {"bfn_kernels.triton_ops.coding._classes", "bfn_kernels.triton_ops.coding._lattice"}
LONG_ROWS = [with_classes(named(f"discrete.discrete_time_loss[K=27 {receiver}]"), 2500) for receiver in RECEIVERS]
# Cases of the arguments that only ops of classes take: soft data, a mask of classes, and a score.
OF_CLASSES = [
    named(f"discrete.{name}")
    for name in (
        "flow_sample[K=27 soft]",
        "continuous_time_loss[K=27 soft]",
        "reconstruction_loss[K=27 soft]",
        "update_sample[K=27 soft]",
        "continuous_time_loss[K=27 class mask]",
        "solver_step[K=27 class mask, score]",
    )
]
# Of large vocabularies the noise that kernels make, and L∞, whose gradient by the logits is another one.
VOCABULARIES = [case for case in LARGE if case.in_ptx]


def check_every_kernel(dtype):
    """As ptxas fuses products and sums, and rounded apart. One test has a type, since another process would compile the
    kernels again."""
    triton_ptx.executed.clear()
    for options in ({}, {"contract": False}):
        check_with(options, CHOSEN + OF_CLASSES + VOCABULARIES, BACKEND, triton_ptx.reload, dtype)
    for case in LONG_ROWS:
        check(case, [case.inputs((2, 2), dtype, seed) for seed in range(2)], BACKEND)
    for make in (*SMALL.values(), *LARGE_RANGES.values()):
        check_equal(make(), BACKEND)
    # only numbers of 16 bits come to tensor cores
    narrow = {name for name in triton_ptx.kernels() if ".triton_products." in name and dtype == torch.float32}
    assert triton_ptx.executed.keys() == triton_ptx.kernels() - narrow
    others = {name for name, types in triton_ptx.executed.items() if TYPES[dtype] not in types}
    assert others == INTEGERS | (WIDE if dtype == torch.bfloat16 else set())


@pytest.mark.parametrize("dtype", [torch.float32], ids=str)
def test_every_kernel(dtype):
    check_every_kernel(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [-1, 1])
def test_approximations_off_by_their_documented_errors(shift):
    check_with({"shift": shift}, CHOSEN + OF_CLASSES + VOCABULARIES, BACKEND, triton_ptx.reload)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", ["continuous.flow_sample", "discrete.continuous_time_loss[K=27]"])
def test_blocks_in_any_order(name, architecture):
    """The same bits, whichever GPU the kernels are compiled for."""
    with triton_ptx.compiled_for(architecture):
        check_orders(named(name), BACKEND, architecture)


@pytest.mark.parametrize("name", ["continuous.flow_sample", "discrete.theta[K=27]"])
def test_narrow_results_are_those_of_float32_rounded(name):
    check_rounding(named(name), BACKEND)


def test_tensors_have_bounds():
    """Torch's memory is known to the last byte, and forgotten when it is freed."""
    kernel = module("ld.global.u8 %h0, [%in];\nst.global.u8 [%out], %h0;")
    source, target = torch.arange(5, dtype=torch.uint8), torch.zeros(40, dtype=torch.uint8)
    arguments = [ptx.pointer(source), ptx.pointer(target), bytes(4)]
    kernel.launch("k", (1,), (1,), arguments)
    assert target[0] == 0
    with pytest.raises(ptx.PtxError, match="bounds of every tensor"):
        kernel.launch("k", (1,), (2,), arguments)  # the second thread reads byte 8
    del source
    with pytest.raises(ptx.PtxError, match="bounds of every tensor"):
        kernel.launch("k", (1,), (1,), arguments)
    assert torch.empty(9).isnan().all()  # what nobody wrote


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
def test_every_kernel_of_other_types(dtype):
    """Not next to that of float32, so that another process takes it."""
    check_every_kernel(dtype)


# Rows that fill a tile in part, and those that take several, of tensors whose numbers differ in width. What is done
# with a class does not depend on whether it was drawn.
@pytest.mark.parametrize(("case", "shape"), [*steps((1040, 8193), (1040,), ("mode", "mean"))], ids=str)
@pytest.mark.parametrize("network", [torch.bfloat16, torch.float32], ids=str)
def test_results_may_be_written_over_inputs(case, shape, network):
    check_in_place(case, shape, network, BACKEND)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("architecture", [80, 90])
def test_products_on_tensor_cores(number, architecture):
    """Of blocks that are not full, in any strides and types; of small whole numbers the sums are exact. Each of twelve
    combinations is compiled for one of three sizes, since compiling one takes half a second."""
    with triton_ptx.compiled_for(architecture):
        check_products(number)


def check_products(number):
    tokens, classes, width = ((1, 1, 1), (130, 70, 100), (5, 200, 129))[number]
    product = getattr(torch.ops, triton_ptx.NAMESPACE).vocabulary_product
    a, b, sums = (torch.randint(-8, 9, s).float() for s in ((tokens, width), (width, classes), (tokens, classes)))
    want = a @ b
    ones, others = (a, a.bfloat16(), a.t().contiguous().t()), (b.bfloat16(), b.bfloat16().t().contiguous().t())
    outputs = (sums.clone, lambda: sums.t().clone(memory_format=torch.contiguous_format).t())
    for one, other, output in itertools.islice(itertools.product(ones, others, outputs), number, None, 3):
        to = output()
        product(one, other, True, to)
        assert torch.equal(to, sums + want)
        product(one, other, False, to.fill_(torch.nan))
        assert torch.equal(to, want)
