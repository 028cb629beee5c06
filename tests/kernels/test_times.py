"""Times, accuracies and precisions in all the forms that ops take: repeated over the data by `expand`, a number for
each variable, and a number for each group of rows."""

import pytest
import torch
from cases import ROWS, Case
from support import FIRST, NATIVE, ON_CPU, pairs

from bfn_kernels import Indexed, continuous, rows
from bfn_kernels.backends import BACKENDS, LIBRARIES
from bfn_kernels.schedules import ExponentialVariance

SHAPE = (6, 5)
GROUPS = torch.tensor([2, 0, 0, 2, 1, 2])


def has_rows(case: Case) -> bool:
    return case in FIRST and any(name in ROWS for name in case.fields)


def grouped(case: Case) -> tuple[dict, dict, list[str]]:
    """The inputs with times of three groups, the values of these groups, and the names of the times."""
    inputs = case.inputs(SHAPE, torch.float32)
    names = [n for n in ROWS if isinstance(inputs.get(n), torch.Tensor) and inputs[n].shape == SHAPE[:1]]
    values = {name: inputs[name][:3] for name in names}
    return inputs | {name: each[GROUPS] for name, each in values.items()}, values, names


def same(got, want) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pairs(ON_CPU, has_rows)
@pytest.mark.parametrize("kind", [torch.int64, torch.int32], ids=str)
def test_a_group_has_the_numbers_of_its_rows(case, backend, kind):
    inputs, values, names = grouped(case)
    index, want = GROUPS.to(kind), case(inputs, backend)
    same(case(inputs | {n: Indexed(values[n], index) for n in names}, backend), want)
    for name in names:  # one of the arguments alone, and groups that do not have the same index
        same(case(inputs | {name: Indexed(values[name], index)}, backend), want)
    same(case(inputs | {n: Indexed(values[n], index.clone()) for n in names}, backend), want)


@pairs(ON_CPU, has_rows)
def test_repeated_numbers_are_those_of_the_rows(case, backend):
    inputs, _, names = grouped(case)
    want, wide = case(inputs, backend), {n: inputs[n].unsqueeze(-1).expand(SHAPE) for n in names}
    same(case(inputs | wide, backend), want)
    same(case(inputs | {n: v.contiguous() for n, v in wide.items()}, backend), want)
    # of two dimensions, of which the first is that of neighbours in memory: no layout of repeated numbers
    turned = {n: v.t().contiguous().t() for n, v in (inputs | wide).items() if getattr(v, "shape", None) == SHAPE}
    torch.testing.assert_close(case(inputs | turned, backend), want, rtol=1e-6, atol=1e-6, equal_nan=True)


@pairs(["reference", *NATIVE[:1]], has_rows)
def test_groups_in_compiled_code(case, backend):
    inputs, values, names = grouped(case)
    torch.compiler.reset()
    compiled = torch.compile(lambda inputs: case(inputs, backend), fullgraph=True, backend="aot_eager")
    given = inputs | {name: Indexed(values[name], GROUPS) for name in names}
    torch.testing.assert_close(compiled(given), case(inputs, backend), rtol=1e-5, atol=1e-6)


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


X, VALUES = torch.zeros(SHAPE), torch.tensor([0.25, 0.5, 0.75])


def updated(precision, alpha):
    return continuous.update_sample(X, X, precision, alpha, seed=1)[1]


def test_updated_precisions():
    """Groups stay groups where both arguments have them, or the other one is a number."""
    groups = Indexed(VALUES, GROUPS)
    for precision, alpha in ((groups, groups), (groups, 2.0), (1, groups), (torch.tensor(2.0), groups)):
        rho = updated(precision, alpha)
        plain = [v.values if isinstance(v, Indexed) else v for v in (precision, alpha)]
        assert rho.index is GROUPS
        same(rho.values, plain[0] + plain[1])
        same(updated(rho, 1.0).values, rho.values + 1)
    for other in (
        VALUES[GROUPS],
        Indexed(VALUES, GROUPS.clone()),
        Indexed(VALUES[:, None].repeat(1, 2)[:, 0], GROUPS + 0),
    ):
        for rho in (updated(groups, other), updated(other, groups)):
            same(rho, 2 * VALUES[GROUPS])
    wide = VALUES[GROUPS][:, None].expand(SHAPE)
    for precision, alpha in ((wide, wide), (1.0, wide), (wide, VALUES[GROUPS]), (wide, wide + 1)):
        rho = updated(precision, alpha)
        assert rho.shape == SHAPE and (rho.stride()[1] == 0 or alpha.is_contiguous())
        again = updated(*(v.contiguous() if isinstance(v, torch.Tensor) else v for v in (precision, alpha)))
        torch.testing.assert_close(rho, again, rtol=1e-7, atol=0)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize(
    ("values", "index", "error", "message"),
    [
        (VALUES, GROUPS.float(), TypeError, r"t.index must be one of \['int64', 'int32'\], got torch.float32"),
        (VALUES, GROUPS[:5], ValueError, r"t.index must have shape \(6,\), a group a row, got \(5,\)"),
        (VALUES, GROUPS.to("meta"), ValueError, "t.index must be on cpu"),
        (VALUES, GROUPS + 1, IndexError, r"t.index must lie in \[0, 3\), got values from 1 to 3"),
        (VALUES, GROUPS - 1, IndexError, r"t.index must lie in \[0, 3\), got values from -1 to 1"),
        (VALUES[:0], GROUPS, ValueError, r"t.values must have shape \[M\], a number for each group, got \(0,\)"),
        (VALUES[:, None], GROUPS, ValueError, r"t.values must have shape \[M\], a number for each group, got \(3, 1\)"),
        (VALUES.long(), GROUPS, TypeError, "t.values must be one of"),
        (0.5, GROUPS, TypeError, "t.values must be a tensor, got float"),
        (VALUES.to("meta"), GROUPS, ValueError, "t.values must be on cpu"),
        (VALUES + 1, GROUPS, ValueError, r"t must lie in \[0, 1\], got values from 1.25 to 1.75"),
        (VALUES.clone().requires_grad_(), GROUPS, ValueError, "t requires a gradient"),
    ],
)  # fmt: skip
def test_wrong_groups(values, index, error, message, backend):
    if error is ValueError and "must lie" in message and backend not in ("cpu", "reference"):
        pytest.skip("nobody looks at times on a GPU")
    with pytest.raises(error, match=message):
        continuous.flow_sample(X, Indexed(values, index), sigma_1=0.1, seed=1, backend=backend)


def test_where_nobody_looks_a_wrong_group_gives_nan():
    torch.compiler.reset()
    flow = torch.compile(
        lambda t: continuous.flow_sample(X, t, sigma_1=0.1, seed=1), fullgraph=True, backend="aot_eager"
    )
    index = torch.tensor([0, -1, 1, 3, 2, 0])
    assert flow(Indexed(VALUES, index)).isnan().all(1).tolist() == [False, True, False, True, False, False]


def test_groups_of_an_empty_batch():
    t = Indexed(VALUES[:0], GROUPS[:0])
    assert continuous.flow_sample(X[:0], t, sigma_1=0.1).shape == (0, 5)


def test_out_may_not_be_the_values_of_groups():
    state = torch.ones(6, 1)
    with pytest.raises(ValueError, match="share no memory with any input, but it does with alpha"):
        continuous.update_sample(X[:, :1], state, 1.0, Indexed(state[:3, 0], GROUPS), out=state)
