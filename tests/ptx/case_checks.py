"""Checks of a backend of PTX with a case of the table."""

import dataclasses
from collections.abc import Callable, Iterable

import torch

from tests.kernels.case import Case
from tests.kernels.makers import classes, draws, normal, per_class, soft, uniform, valid
from tests.kernels.support import evaluate
from tests.kernels.test_accuracy import check
from tests.ptx import ptx


def with_classes(case: Case, k: int) -> Case:
    """A case of discrete data, with k classes."""
    made = dict.fromkeys(("logits", "output_logits", "state"), per_class(normal(3), k))
    made |= {"x": classes(k, torch.int64), "noise": per_class(normal(), k), "unconditional": per_class(normal(), k)}
    made |= {"previous": per_class(uniform(0, 2 / k), k), "class_mask": valid(k), "score": per_class(normal(), k)}
    if "soft" in case.name:
        made |= {"x": soft(k), "known": soft(k)}
    if "n_samples" in case.options:
        made["noise"] = draws(made["noise"], case.options["n_samples"])
    fields = {name: made.get(name, make) for name, make in case.fields.items()}
    options = {name: {"num_classes": k, "beta_1": 16 / k}.get(name, value) for name, value in case.options.items()}
    return dataclasses.replace(case, name=f"{case.op}[K={k}]", fields=fields, options=options, num_classes=k)


def check_with(
    options: dict, cases: Iterable[Case], backend: str, reload: Callable[[], None], dtype: torch.dtype = torch.float32
) -> None:
    """With options of the interpreter the results are as accurate. reload: makes it parse kernels again."""
    shapes = ((3, 7), (3, 7), (5, 33))  # Triton compiles the same kernels for all odd sizes
    try:
        with ptx.options(**options):
            reload()
            for case in cases:
                check(case, [case.inputs(shape, dtype, seed) for seed, shape in enumerate(shapes)], backend)
    finally:
        reload()


def check_orders(case: Case, backend: str, architecture: int = 90) -> None:
    """Checks that the results have the same bits for any order of the blocks. The interpreter raises an error if a
    block reads or writes memory that another block writes."""
    inputs = case.inputs((5, 30 if case.num_classes else 300), torch.float32)
    found = []
    for order in ptx.ORDERS:
        with ptx.options(order=order, architecture=architecture):
            found.append(evaluate(case, inputs, backend))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0, equal_nan=True)


def check_rounding(case: Case, backend: str) -> None:
    """Of the same inputs a narrow type has the bits of float32's results, rounded to nearest even."""
    for dtype in (torch.bfloat16, torch.float16):
        inputs = case.inputs((6, 40), dtype)
        wide = {name: _widened(x, dtype) for name, x in inputs.items()}
        results = evaluate(case, wide, backend)
        for name, value in evaluate(case, inputs, backend).items():
            if value.dtype == dtype:
                assert torch.equal(value, results[name].to(dtype)), f"{dtype} {name}"


def _widened(x, dtype: torch.dtype):
    if isinstance(x, torch.Tensor):
        return x.float() if x.dtype == dtype else x
    return torch.float32 if x is dtype else x
