"""Times, accuracies and precisions in all the forms that ops take: one for each row, one for each variable, and one
that `expand` repeated over the data."""

import pytest
import torch

from bfn_kernels import continuous
from bfn_kernels.arguments import rows
from bfn_kernels.backends import BACKENDS, LIBRARIES
from bfn_kernels.schedules import ExponentialVariance
from tests.kernels.case import ROWS, Case
from tests.kernels.support import FIRST, INTERPRETED, NATIVE, ON_CPU, pairs

SHAPE = (6, 5)


def has_rows(case: Case) -> bool:
    slow = INTERPRETED and "mixture_logits" in case.fields and "n_steps" in case.options  # a second for each call
    return case in FIRST and any(name in ROWS for name in case.fields) and not slow


def of_rows(case: Case) -> tuple[dict, list[str]]:
    """The inputs, and the names of their times: numbers that each row has one of."""
    inputs = case.inputs(SHAPE, torch.float32)
    return inputs, [n for n in ROWS if isinstance(inputs.get(n), torch.Tensor) and inputs[n].shape == SHAPE[:1]]


def same(got, want) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pairs(ON_CPU, has_rows)
def test_repeated_numbers_are_those_of_the_rows(case, backend):
    inputs, names = of_rows(case)
    want, wide = case(inputs, backend), {n: inputs[n].unsqueeze(-1).expand(SHAPE) for n in names}
    same(case(inputs | wide, backend), want)
    same(case(inputs | {n: v.contiguous() for n, v in wide.items()}, backend), want)
    # of two dimensions, of which the first is that of neighbours in memory: no layout of repeated numbers
    turned = {n: v.t().contiguous().t() for n, v in (inputs | wide).items() if getattr(v, "shape", None) == SHAPE}
    torch.testing.assert_close(case(inputs | turned, backend), want, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("backend", ON_CPU)
def test_row_scalars_of_repeated_numbers_are_made_once(backend):
    library, t, data = LIBRARIES[BACKENDS[backend].library], torch.rand(6, 1, 1), torch.zeros(6, 5, 4)
    for repeated, shape in (
        (t.expand(6, 5, 4), (6, 1, 1)),
        (t[:1].expand(6, 5, 4), (1, 1, 1)),
        (t[:1].expand(6, 5, 1), (1, 1, 1)),
        (torch.rand(1, 5, 1).expand(6, 5, 4), (1, 5, 1)),
        (t[0, 0].expand(6), (1, 1, 1)),
    ):
        for wanted, value, precision, schedule in (
            ("gamma", repeated, None, ExponentialVariance(0.1)),
            ("keep", 2.0, repeated, None),
        ):
            (made,) = rows.scalars(library, (wanted,), value, data, torch.float32, schedule, precision=precision)
            whole = [v.contiguous() if isinstance(v, torch.Tensor) else v for v in (value, precision)]
            (want,) = rows.scalars(library, (wanted,), whole[0], data, torch.float32, schedule, precision=whole[1])
            assert made.shape == shape
            same(made.expand(data.shape), want.expand(data.shape))


SHAPES = [(1100, 1), (600, 2), (400, 3), (400, 4), (300, 5), (100, 15), (100, 16), (100, 17), (3, 1500), (40, 7, 9)]


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_of_any_length(shape, backend):
    """Rows do not end where the blocks of a kernel do."""
    x, noise, t = torch.rand(shape), torch.zeros(shape), torch.rand(shape)
    rows = [t.flatten(1)[:, 0], t[:1], t]
    if len(shape) == 3:
        rows += [t[:, :, 0], t[:1, :, 0], t[:, :1, 0], t[:, :1].expand(shape)]
    for data in (x, torch.rand(shape[::-1]).permute(*range(len(shape))[::-1])):
        for each in rows:
            got, want = (
                continuous.flow_sample(data, each, sigma_1=0.1, noise=noise, backend=b) for b in (backend, "reference")
            )
            torch.testing.assert_close(got, want, rtol=3e-7, atol=1e-9)


def test_repeated_numbers_must_fit_the_data():
    for t in (torch.rand(()).expand(7), torch.rand(6, 1).expand(6, 4), torch.rand(1).expand(6, 5, 2)):
        with pytest.raises(ValueError, match="t must be a scalar or have the shape of a leading part of"):
            continuous.flow_sample(torch.zeros(SHAPE), t, sigma_1=0.1)


def updated(precision, alpha):
    state = torch.zeros(SHAPE)
    return continuous.update_sample(state, state, precision, alpha, seed=1)[1]


def test_an_updated_precision_repeats_what_its_terms_repeat():
    each = torch.tensor([0.75, 0.25, 0.25, 0.75, 0.5, 0.75])
    wide = each[:, None].expand(SHAPE)
    for precision, alpha in ((wide, wide), (1.0, wide), (wide, each), (wide, wide + 1)):
        rho = updated(precision, alpha)
        assert rho.shape == SHAPE and (rho.stride()[1] == 0 or alpha.is_contiguous())
        again = updated(*(v.contiguous() if isinstance(v, torch.Tensor) else v for v in (precision, alpha)))
        torch.testing.assert_close(rho, again, rtol=1e-7, atol=0)
