"""Python numbers that change under torch.compile, fake tensors, a default device of another kind, and torch.func."""

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bfn_kernels import circular, continuous, discrete, discretised, gauss, noise, schedules
from tests.kernels.case import giving
from tests.kernels.declared import OPS, parameters, public
from tests.kernels.op_cases import CASES
from tests.kernels.support import (
    FIRST,
    INTERPRETED,
    NATIVE,
    ON_CPU,
    SHARED,
    WITH_COMPILER,
    evaluate,
    pairs,
    weights_like,
)
from tests.kernels.vocabulary_cases import LARGE, STEPS

X, Z, CLASSES = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(-2, 2, 24).view(3, 4, 2), torch.ones(3, 4).long()
SEEDS = [0, 1, 2, -1, -(2**63), 2**63, 2**64 - 1, 2**64 + 5, 3, 4, 5, 6]


def compilations(function, values, compiler: str = "aot_eager") -> int:
    """The number of graphs that the compiled function needs for these values; its results must be those of eager
    code."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for value in values:
        torch.testing.assert_close(compiled(value), function(value), rtol=0, atol=1e-6)
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the same whatever the backend")
@WITH_COMPILER
@pytest.mark.parametrize("backend", NATIVE[:1])
def test_a_seed_that_changes_is_compiled_twice(backend):
    """Inductor holds an int that changes in an int64. Once, seed=step failed from the second step on, and the noise of
    seed -1 differed from that of eager code, where products wrap."""

    def seeded(seed):
        seeds = [seed, noise.fold_in(3, seed)]
        return [continuous.sender_sample(X, 1.0, seed=s, backend=backend) for s in seeds]

    assert compilations(seeded, SEEDS, "inductor") == 2


FOLDED = {
    "int and int": lambda s: noise.fold_in(3, s) + torch.zeros((), dtype=torch.int64),
    "int and tensor": lambda s: noise.fold_in(s, torch.arange(3)),
    "tensor and int": lambda s: noise.fold_in(torch.tensor(3), s),
}


@pytest.mark.skipif(INTERPRETED, reason="no backend has a part in it")
@pytest.mark.parametrize("name", FOLDED)
def test_a_step_that_changes_is_compiled_twice(name):
    assert compilations(FOLDED[name], SEEDS) == 2


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_seed_that_changes_on_every_backend(backend):
    assert compilations(lambda s: continuous.sender_sample(X, 1.0, seed=s, backend=backend), SEEDS) == 2


def test_the_operator_that_joins_a_seed():
    torch.library.opcheck(torch.ops.bfn_kernels.join_seed.default, (5, 2**32 - 1, torch.device("cpu")))
    joined = torch.ops.bfn_kernels.join_seed(5, 2**32 - 1, torch.device("cpu"))
    assert joined.item() == 5 - 2**32


TIMES = [i / 20 for i in range(12)]
FUNCTIONS_OF_A_NUMBER = {
    "t": lambda t, b: continuous.flow_sample(X, t, sigma_1=0.1, noise=X, backend=b),
    "alpha and precision": lambda a, b: continuous.update_sample(X, X, 1 + a, a, noise=X, backend=b)[0],
    "the precision after": lambda a, b: X * continuous.update_sample(X, X, 1 + a, a, noise=X, backend=b)[1],
    "t of classes": lambda t, b: discrete.continuous_time_loss(CLASSES, Z, t, beta_1=1.0, backend=b),
    "alpha of classes": lambda a, b: discrete.update_sample(Z, Z, a, choose="mode", noise=Z, backend=b),
    "t of bins": lambda t, b: discretised.continuous_time_loss(X, X, X, X, t, sigma_1=0.1, num_bins=4, backend=b),
}


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("name", FUNCTIONS_OF_A_NUMBER)
def test_numbers_that_change_are_compiled_twice(name, backend):
    """If every number were a constant of its graph, torch would stop compiling after eight of them."""
    if backend not in ("cpu", "reference") and name != "t":
        pytest.skip("the graph's part of a number is the same for all")
    assert compilations(lambda value: FUNCTIONS_OF_A_NUMBER[name](value, backend), TIMES) == 2


def nodes(quadrature, backend, given=lambda tensor: tensor):
    options = {"n_steps": 3, "quadrature": quadrature, "backend": backend}
    x, z, classes = map(given, (X, Z, CLASSES))
    return (
        discretised.discrete_time_loss(x, x, x, x, 0.0, sigma_1=0.1, num_bins=4, **options),
        discrete.discrete_time_loss(classes, z, 0.0, beta_1=1.0, receiver="factorised", **options),
    )


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the same whatever the backend; the interpreter takes long")
@pytest.mark.parametrize("backend", NATIVE[:1])
def test_options_that_change_are_compiled(backend):
    """Options for which a kernel is specialised are constants of the graph."""
    few = (3, 4, 5)
    assert compilations(lambda n: nodes(n, backend), few) == 3
    assert compilations(lambda k: discretised.mode(X, X.exp(), num_bins=k, backend=backend), few) <= 3
    loss = lambda n: continuous.discrete_time_loss(X, X, X, 0.0, sigma_1=0.1, n_steps=n, backend=backend)  # noqa: E731
    assert compilations(loss, few) <= 3


@pytest.mark.parametrize("order", [1, 2, 7, 8, 64, 128])
def test_nodes(order):
    """A rule of n nodes is exact for polynomials of degree 2n − 1."""
    for rule, moments in (
        (gauss.hermite, {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}),
        (gauss.legendre, {1: 1 / 2, 2: 1 / 3, 5: 1 / 6}),
    ):
        node, weight = (torch.tensor(numbers, dtype=torch.float64) for numbers in rule(order))
        assert (node.diff() > 0).all() and len(node) == order
        for power, want in {0: 1, **moments}.items():
            if power < 2 * order:
                assert abs((weight * node**power).sum() - want) < 1e-14 * max(1, want) * order


@pytest.fixture
def forgotten():
    """Clears the cache of nodes before and after the test."""
    gauss._nodes_and_weights.cache_clear()
    yield
    gauss._nodes_and_weights.cache_clear()


@pytest.mark.parametrize("backend", ON_CPU)
def test_nodes_under_fake_tensors(backend, forgotten):
    with FakeTensorMode() as mode:
        fakes = nodes(5, backend, mode.from_tensor)
        assert noise.fold_in(7, 1) == noise.fold_in(7, 2 - 1) != noise.fold_in(7, 2)
    for fake, real in zip(
        fakes, nodes(5, backend), strict=True
    ):  # these use the nodes that were computed under the mode
        assert isinstance(real.item(), float) and real.isfinite() and real.dtype == fake.dtype


@pytest.mark.skipif(INTERPRETED, reason="no backend has a part in it")
def test_a_table_of_angles_under_fake_tensors():
    """The first call with a schedule computes the schedule's table, and later calls read this table."""
    schedule = schedules.VonMisesAccuracy([1.0, 2.0, 3.0])
    with FakeTensorMode() as mode:
        mean, concentration = circular.flow_sample(mode.from_tensor(X), 2, schedule=schedule, seed=1)
    assert mean.shape == concentration.shape == X.shape
    assert type(schedule.table) is torch.Tensor and schedule.table.isfinite().all()


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_default_device_is_not_that_of_an_op(backend, forgotten):
    """The inputs decide the device of the results, and no number is made on the default device."""
    torch.set_default_device("meta")
    try:
        losses = nodes(5, backend)
        folded = noise.fold_in(7, 1), noise.fold_in(torch.tensor(7, device="cpu"), 1)
        results = {name: f(0.5, backend) for name, f in FUNCTIONS_OF_A_NUMBER.items()} if not INTERPRETED else {}
        sent = continuous.sender_sample(X, 1.0, seed=1, backend=backend)
    finally:
        torch.set_default_device(None)
    assert sent.device.type == "cpu" and all(r.device.type == "cpu" for r in results.values())
    for loss, want in zip(losses, nodes(5, backend), strict=True):
        assert torch.equal(loss, want)
    assert folded[0] == folded[1] == noise.fold_in(7, 1)


@pytest.mark.parametrize("backend", ON_CPU)
def test_no_tensor_is_kept(backend, forgotten):
    """One that is made while a graph is captured lies in the graph's memory, and is gone with it."""
    nodes(5, backend)  # imports what it takes
    gc.collect()
    gc.freeze()  # what is there by now is no longer listed
    try:
        nodes(6, backend)
        continuous.flow_sample(X, 0.5, sigma_1=0.3, seed=1, backend=backend)
        gc.collect()
        assert not [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("step", [True, 1.0, None])
def test_steps_are_ints(step):
    for seed in (1, torch.tensor(1)):
        with pytest.raises(TypeError, match="step must be an int or an int64 tensor"):
            noise.fold_in(seed, step)
    with pytest.raises(TypeError, match=r"seed must be an int.*str"):
        noise.fold_in("4", 0)


def test_fold_in_of_ints_and_of_tensors_is_the_same():
    assert noise.fold_in(torch.tensor([4]), 7).shape == (1,)
    for seed in SEEDS:
        for step in (0, 1, -1, 2**40, -(2**63), 2**63 - 1):
            assert noise.fold_in(seed, step) == noise.fold_in(torch.tensor(noise._signed(seed)), step).item()


differentiable = pairs(SHARED, lambda case: case.diff and not case.hard and not case.alike)


def shares(inputs: dict, case, backend):
    """A scalar function of the differentiable inputs, and these inputs."""

    def function(leaves):
        result = case(inputs | dict(zip(case.diff, leaves, strict=True)), backend)
        return (result * weights_like(result).to(result.dtype)).sum()

    return function, [inputs[k] for k in case.diff]


@differentiable
def test_gradients_by_torch_func(case, backend):
    inputs = case.inputs((2, 3), torch.float32)
    want = evaluate(case, inputs, backend)
    function, leaves = shares(inputs, case, backend)
    for name, got in zip(case.diff, torch.func.grad(function)(leaves), strict=True):
        torch.testing.assert_close(got, want[name], rtol=1e-6, atol=1e-7)


@differentiable
@pytest.mark.parametrize("outer", [lambda y: y, torch.square], ids=["itself", "squared"])
def test_second_derivatives_by_torch_func_are_errors(case, outer, backend):
    """It is an error, or right if the op is linear; never silently zero or wrong. The gradient by the result itself is
    a constant, so that only the tensors that the forward pass saved depend on the inputs."""
    inputs = case.inputs((2, 3), torch.float64)

    def squares(by):
        function, leaves = shares(inputs, case, by)
        total = lambda given: sum(g.square().sum() for g in torch.func.grad(lambda x: outer(function(x)))(given))  # noqa: E731
        return torch.func.grad(total)(leaves)

    try:
        found = squares(backend)
    except RuntimeError as error:
        assert "has no second derivative" in str(error) or "has no gradient" in str(error)
        return
    for got, want in zip(found, squares("reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_gradient_beyond_an_inner_transform(backend):
    """The inner one does not see that the logits need a gradient too."""
    loss = lambda z, by: discrete.discrete_time_loss(  # noqa: E731
        CLASSES, z, 0.5, beta_1=1.0, n_steps=2, seed=1, n_samples=2, backend=by
    )
    inner = lambda z, by: torch.func.grad(lambda y: loss(2 * z, by) * y)(torch.ones(()))  # noqa: E731
    got, want = (torch.func.grad(inner)(Z, by) for by in (backend, "reference"))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert want.abs().max() > 1e-3


@pairs(["reference"], lambda case: case in FIRST and not (case.hard or case.huge or case.into))
def test_the_reference_goes_under_vmap(case, backend):
    """Under vmap, the reference reads no values of tensors, although the tensors are on the CPU."""
    lanes = [case.inputs((2, 3), torch.float32, seed) for seed in (0, 1)]
    wants = torch.stack([case(inputs, backend) for inputs in lanes])
    names = [name for name, value in lanes[0].items() if isinstance(value, torch.Tensor)]
    stacked = {name: torch.stack([inputs[name] for inputs in lanes]) for name in names}
    got = torch.vmap(lambda inputs: case(lanes[0] | inputs, backend))(stacked)
    torch.testing.assert_close(got, wants, equal_nan=True)


@pytest.mark.parametrize("backend", NATIVE)
def test_other_transforms_stay_refused(backend):
    step = lambda x: continuous.update_sample(x, x, 1.0, 1.0, seed=1, backend=backend)[0]  # noqa: E731
    with pytest.raises(RuntimeError, match="does not go under vmap"):
        torch.vmap(torch.func.grad(lambda x: step(x).sum()))(X[None])
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(step, (X,), (X,))


class Learned:
    """A user's own schedule whose parameter requires a gradient."""

    def __init__(self, scale):
        self.scale = scale

    def gamma(self, t):
        return self.scale * t, 1 - self.scale * t

    beta = rate = lambda self, t: self.scale * t
    alpha = lambda self, i, n: self.scale * i / n  # noqa: E731


NEEDED = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
LEARNED = {"sigma_1": NEEDED, "beta_1": NEEDED, "schedule": Learned(NEEDED)}
TABLE = [case for case in [*CASES, *LARGE, *STEPS] if not case.long]
# Schedules of angles are numbers alone, and test_solvers.py has the error of a solver's step.
TRAINED = [op for op in OPS if not (op.startswith("circular") or op.endswith("solver_step"))]
WITH_SCHEDULES = [(op, name) for op in TRAINED for name in LEARNED if name in parameters(op)]


@pytest.mark.parametrize("backend", ["reference", *SHARED])
@pytest.mark.parametrize(("op", "name"), WITH_SCHEDULES)
def test_a_schedule_that_needs_a_gradient_is_an_error(op, name, backend):
    case = giving(TABLE, op, "beta_1" if "beta_1" in parameters(op) else "sigma_1")
    given = case.inputs((3, 4), torch.float32) | case.options
    given = {k: v for k, v in given.items() if k not in LEARNED} | {name: LEARNED[name], "backend": backend}
    with pytest.raises(ValueError, match=f"{name} requires a gradient, but none is defined for it"):
        public(op)(**given)
    with torch.no_grad():
        public(op)(**given)
