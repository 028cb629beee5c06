"""Numbers out of range, which would give plausible results: an error on a CPU, and NaN where they cannot be read."""

import math
from dataclasses import replace

import pytest
import torch

from bfn_kernels import circular, discretised
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.discretised import losses
from tests.kernels.case import Case
from tests.kernels.declared import OPS, annotations, parameters
from tests.kernels.op_cases import CASES
from tests.kernels.support import FIRST, INTERPRETED, NATIVE, ON_CPU, evaluate, serves
from tests.kernels.vocabulary_cases import LARGE, STEPS
from tests.stand_in import Device, here, moved, tried

pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, in Triton's interpreter

# Numbers that each argument of this name must refuse, whatever op takes it.
WRONG = {
    "std": (0.0, -0.0, -0.3, -math.inf),
    "concentration": (-1e-6, -math.inf),
    "alpha": (-1e-6, -math.inf),
    "precision": (-1e-6, -math.inf),
    "t": (-1e-6, 1 + 1e-6),
    "t_next": (-1e-6, 1 + 1e-6),
    "t_previous": (-1e-6,),
    "temperature": (0.0, -1.0),
    "score_clip": (-1e-6,),
}
NUMBERS = (PerRow, PerRow | None, float, float | None)
TABLE = [*FIRST, *{case.op: case for case in [*LARGE, *STEPS]}.values()]
SHAPE = (3, 4)


def each_alone(case: Case) -> Case:
    """The case, with a result for each variable."""
    return replace(case, options=case.options | {"reduction": "none"}) if case.loss else case


def spoilt(value: torch.Tensor, wrong: float) -> torch.Tensor:
    """The numbers with one of the first row replaced; of a mixture, those of all components of one variable."""
    value = value.clone()
    value[(0,) * min(value.dim(), 2)] = wrong
    return value


def by_python(case: Case, name: str) -> bool:
    """Whether Python code reads the number, on every backend: to compute the coefficients of a solver's step, or to
    check a time that no kernel needs."""
    unused = case.op == "discretised.update_sample" and case.options.get("parametrisation") == "data"
    return case.op.endswith("solver_step") or (unused and name == "t")


TENSORS = [
    pytest.param(case, name, backend, id=f"{backend}-{case}-{name}")
    for backend in ON_CPU
    for case in TABLE
    for name in WRONG
    if name in case.fields and serves(case, backend)
    if not (INTERPRETED and name not in ("std", "concentration"))  # one function of Triton makes the scalars of rows
]


def test_every_tensor_with_a_range_is_asked():
    """test_bounds.py asks for every argument that may be a Python number."""
    asked = {(case.op, name) for case in TABLE for name in WRONG if name in case.fields}
    ranges = {(op, name) for op in OPS for name in WRONG if name in parameters(op)}
    assert {(op, name) for op, name in ranges if annotations(op)[name] not in NUMBERS} <= asked <= ranges


@pytest.mark.parametrize(("case", "name", "backend"), TENSORS)
def test_a_number_out_of_range(case, name, backend):
    """One number of the first row is wrong: an error that names the argument or, in code for GPUs, NaN in this row
    alone, in the gradient, too."""
    case = each_alone(case)
    inputs = case.inputs(SHAPE, torch.float32)
    want = case(inputs, backend)
    for wrong in WRONG[name]:
        bad = inputs | {name: spoilt(inputs[name], wrong)}
        if backend in ("cpu", "reference") or by_python(case, name):
            with pytest.raises(ValueError, match=rf"^{name} must (be positive|lie in)"):
                case(bad, backend)
                pytest.fail(f"{wrong} was taken")
            continue
        got = case(bad, backend)
        assert got[0].isnan().any() and torch.equal(got[1:], want[1:]), wrong
        if name in case.diff:
            grad = evaluate(case, bad, backend)[name]
            assert grad[0, 0].isnan().all() and grad[1:].isfinite().all(), wrong


SECOND = [case for case in CASES if case.part]
GIVEN = {(c.op, c.part): (c, n) for c in [*FIRST, *SECOND] for n in ("std", "concentration") if n in c.fields}
ONES = ("discretised.expected_value", "circular.bayesian_update")  # of the reference, which is slow to compile
COMPILED = [
    pytest.param(case, name, backend, id=f"{backend}-{case}")
    for (op, _), (case, name) in GIVEN.items()
    for backend in ON_CPU
    if backend == "cpu" or (backend == "reference" and op in ONES)
]
# Two kinds of times are left out: times at which a step of L_n must start, since any other time is an error, and times
# on which no result depends.
UNASKED = [(c.op, "t") for c in TABLE if "n_steps" in parameters(c.op)] + [("discretised.update_sample", "t")]
ROWS_ELSEWHERE = [
    (case, name)
    for case in TABLE
    for name in WRONG
    if name in case.fields and annotations(case.op).get(name) in NUMBERS
    if (case.op, name) not in UNASKED
]


@pytest.mark.parametrize(("case", "name", "backend"), COMPILED)
def test_compiled_code_makes_it_nan(case, name, backend):
    """Also on the CPU, where an error would come from the middle of a graph. The result keeps its type, and a
    concentration may be 0."""
    case = each_alone(case)
    inputs = case.inputs(SHAPE, torch.bfloat16)
    torch._dynamo.reset()
    call = torch.compile(lambda inputs: case(inputs, backend), fullgraph=True, backend="aot_eager")
    got = call(inputs | {name: spoilt(inputs[name], WRONG[name][0])})
    assert got[0].isnan().any() and got[1:].isfinite().all() and got.dtype == case(inputs, backend).dtype
    if name == "concentration":
        assert call(inputs | {name: spoilt(inputs[name], 0.0)}).isfinite().all()


@pytest.mark.parametrize(("case", "name"), ROWS_ELSEWHERE, ids=str)
def test_on_another_device_it_is_nan(case, name):
    """One number of the first row is wrong: NaN in this row alone."""
    case = each_alone(case)
    inputs = case.inputs(SHAPE, torch.float32)
    want = case(inputs, "reference")
    for wrong in WRONG[name]:
        with tried(), Device():
            moved_inputs = {key: moved(value) for key, value in (inputs | {name: spoilt(inputs[name], wrong)}).items()}
            got = here(case(moved_inputs, "reference"))
        assert got[0].isnan().any() and torch.equal(got[1:], want[1:]), wrong


@pytest.mark.parametrize("backend", ON_CPU)
def test_what_a_mask_hides_may_be_out_of_range(backend):
    x, mask = torch.zeros(2, 3), torch.tensor([True, False])
    concentration = torch.tensor([[2.0], [-2.0]]).expand(2, 3).contiguous()
    loss = circular.reconstruction_loss(x, x, concentration, mask=mask, backend=backend)
    torch.testing.assert_close(loss, circular.reconstruction_loss(x[:1], x[:1], concentration[:1], backend=backend))


@pytest.mark.parametrize("backend", [b for b in ON_CPU if b in ("cpu", "reference")])
def test_a_number_far_into_the_data(backend):
    """The CPU kernels look at every block of variables."""
    std = torch.ones(3, 1000)
    std[2, 999] = -2
    for call in (discretised.expected_value, discretised.mode):
        with pytest.raises(ValueError, match=r"^std must be positive, got -2\.0"):
            call(std, std, num_bins=4, backend=backend)
    with pytest.raises(ValueError, match=r"^concentration must lie in \[0(\.0)?, inf\], got -2\.0"):
        circular.bayesian_update(std, std, std, 1.0, backend=backend)


def n_step_loss(n_steps, step, dtype, backend, **options):
    """L_n of 200 variables, and its gradient by the predicted mean."""
    generator = torch.Generator().manual_seed(1)
    x = discretised.from_levels(torch.randint(16, (50, 4), generator=generator), num_bins=16)
    pred = torch.randn(3, 50, 4, generator=generator) * 0.4
    x, mean, log_std, state = (v.to(dtype) for v in (x, *pred))
    mean.requires_grad_()
    more = {"num_bins": 16, "sigma_1": 0.05, "reduction": "none", "backend": backend, **options}
    if n_steps is None:
        loss = discretised.continuous_time_loss(x, mean, log_std, state, step, **more)
    else:
        loss = discretised.discrete_time_loss(x, mean, log_std, state, n_steps=n_steps, step=step, **more)
    assert loss.dtype == dtype
    (grad,) = torch.autograd.grad(loss.sum(), mean)
    assert grad.dtype == dtype
    return loss.detach().double(), grad.double()


@pytest.mark.parametrize("backend", ON_CPU)
def test_many_steps_keep_their_digits(backend):
    """L_n in float32, in units of 1 + its value. The rounding errors of float32 would be 2e-7·n."""
    for n, allowed in ((losses.FLOAT32_STEPS, 5e-3), (losses.FLOAT32_STEPS + 1, 1e-5), (10**9, 1e-5)):
        step = n // 3
        want = n_step_loss(n, step, torch.float64, "reference")
        for got, w in zip(n_step_loss(n, step, torch.float32, backend), want, strict=True):
            assert ((got - w).abs() / (1 + w.abs())).max() < allowed, n
    for w, limit in zip(want, n_step_loss(None, (step - 1) / n, torch.float64, "reference"), strict=True):
        assert ((w - limit).abs() / (1 + limit.abs())).max() < 1e-5


@pytest.mark.parametrize("backend", NATIVE[:1])
def test_steps_beyond_all_digits_are_refused(backend, monkeypatch):
    n_step_loss(losses.MOST_STEPS, 5, torch.float32, backend)
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(ValueError, match=rf"^n_steps must be at most {10**12}, got {10**12 + 1}"):
            n_step_loss(10**12 + 1, 5, dtype, backend)
    monkeypatch.setattr(losses.checks, "widest", lambda device: torch.float32)  # as on a device without float64
    n_step_loss(10_000, 5, torch.float32, backend)
    with pytest.raises(ValueError, match=r"^n_steps must be at most 10000 on cpu, which has no float64, got 10001"):
        n_step_loss(10_001, 5, torch.float32, backend)
