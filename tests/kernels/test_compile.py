"""torch.compile without graph breaks, the registration of every operator, and transforms that are refused."""

import inspect

import pytest
import torch

from bfn_kernels import circular, continuous, discrete, nn
from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.case import Case
from tests.kernels.recorded import KINDS, RECORDINGS, kind
from tests.kernels.support import COMPILER, FIRST, NATIVE, WITH_COMPILER, evaluate, named, serves, weights_like
from tests.kernels.test_nn import KINDS as KINDS_OF_MODELS
from tests.kernels.test_nn import SHAPE, Network, make
from tests.kernels.test_noise import RANDOM

ON_REFERENCE = [
    "continuous.reconstruction_loss[bins std]",
    "continuous.flow_sample",
    "discretised.continuous_time_loss",
    "discrete.update_sample[K=3]",
]
X = torch.zeros(4, 5)
ANGLES = VonMisesAccuracy([1.0, 2.0, 9.0]), VonMisesAccuracy([2.0, 9.0, 1.0])
# Operators join the compiler alike on all backends, so that one of them is enough, and of the interpreted Triton
# kernels one loss of each family. What the compiler is told of an operator is compared with what each backend makes by
# test_opcheck, by test_layouts.py and by the fuzz of layouts.
LOSSES = list({case.family: case for case in reversed(KINDS) if case.loss}.values())


def covering(cases: list[Case]) -> list[Case]:
    """Fewer cases, which give and leave out each argument of an op, and each value of an option, that some case gives
    or leaves out. The Python code that is compiled asks for one argument at a time."""
    given = [{*fields, *options, into} for _, fields, options, into in map(kind, cases)]
    known = {c.op: set().union(*(g for g, other in zip(given, cases, strict=True) if other.op == c.op)) for c in cases}
    traits = [{(c.op, each, each in g) for each in known[c.op]} for g, c in zip(given, cases, strict=True)]
    chosen, left = [], set().union(*traits)
    while left:
        best = max(range(len(cases)), key=lambda i: len(traits[i] & left))
        chosen.append(best)
        left -= traits[best]
    return [cases[i] for i in sorted(chosen)]


COVERING = covering([case for case in KINDS if serves(case, "cpu")])
# On the CPU, `make test` compiles one case of each op, and one for each kind of data. The other cases are slow tests.
QUICK = [*{case.op: case for case in reversed(COVERING)}.values(), *FIRST]
TABLE = [
    pytest.param(c, b, id=f"{b}-{c.name}", marks=[pytest.mark.slow] * (b == "cpu" and c not in QUICK))
    for b in NATIVE[:1]
    for c in (COVERING if b == "cpu" else LOSSES)
]
TABLE += [pytest.param(named(name), "reference", id=f"reference-{name}") for name in ON_REFERENCE]


def agree(got, want) -> None:
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6, equal_nan=True)


def compiled(case, compiler: str):
    def run(inputs, backend):
        return case(inputs, backend)

    torch._dynamo.reset()
    return torch.compile(run, fullgraph=True, backend=compiler)


@pytest.mark.parametrize(("case", "backend"), TABLE)
def test_compiled_equals_eager(case, backend):
    inputs = case.inputs((3, 4), torch.float32)
    want, function = evaluate(case, inputs, backend), compiled(case, "aot_eager")
    inputs = {k: v.clone().requires_grad_() if k in case.diff else v for k, v in inputs.items()}
    result = function(inputs, backend)
    got = {"result": result.detach()}
    if case.diff:
        leaves = [inputs[k] for k in case.diff]
        grads = torch.autograd.grad(result, leaves, weights_like(result).to(result.dtype))
        got |= dict(zip(case.diff, grads, strict=True))
    agree(got, want)


@WITH_COMPILER
@pytest.mark.parametrize("backend", NATIVE[:1])
def test_inductor(backend):
    """Inductor sees an operator's schema and fake, which are the same on all backends. It also compiles the losses of
    all modules, below."""
    step = named("discrete.update_sample[K=3]")
    inputs = step.inputs((3, 4), torch.float32)
    torch.testing.assert_close(compiled(step, "inductor")(inputs, backend), step(inputs, backend), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", NATIVE)
def test_seeds_in_compiled_code(backend):
    """The same seed as in eager code, and torch's generator where there is none."""
    function = torch.compile(
        lambda x, seed: continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=seed, backend=backend),
        fullgraph=True,
        backend="aot_eager",
    )
    x = torch.rand(3, 5)
    eager = continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=4, backend=backend)
    torch.testing.assert_close(function(x, torch.tensor(4)), eager)
    torch.manual_seed(1)
    first, second = function(x, None), function(x, None)
    torch.manual_seed(1)
    assert torch.equal(function(x, None), first) and not torch.equal(first, second)


@pytest.mark.parametrize("backend", NATIVE[:1])
def test_two_draws_in_compiled_code_differ(backend):
    """In a graph with gradients, the compiler merges calls of an operator that have the same arguments."""
    draws = lambda x: [continuous.sender_sample(x, 1.0, backend=backend) for _ in range(2)]  # noqa: E731
    compiler = "aot_eager_decomp_partition"  # partitions the graph as inductor does
    one, two = torch.compile(draws, fullgraph=True, backend=compiler)(torch.rand(3, 5, requires_grad=True))
    assert not torch.equal(one, two)


class Step(torch.nn.Module):
    """A network and an op."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(3, 3)

    def forward(self, state, alpha):
        theta = discrete.theta(state)
        output = self.network(theta)
        return discrete.update_sample(output, state, alpha, choose="mean", seed=1), theta


def test_a_module_with_an_op_is_exported():
    """torch.export takes the place of TorchScript, which compiles no op."""
    step, inputs = Step().eval(), (torch.rand(2, 4, 3), torch.rand(2))
    exported = torch.export.export(step, inputs).module()
    for values in (inputs, (torch.rand(2, 4, 3), torch.rand(2))):
        torch.testing.assert_close(exported(*values), step(*values))


# In this process. Calls with the same arguments absent have the same checks. How an operator joins autograd and the
# compiler is the same for all calls and in every namespace.
CHECKED, JOINED = set(), set()


@pytest.mark.parametrize("calls", RECORDINGS.values(), ids=RECORDINGS)
def test_opcheck(calls):
    for key, (op, args, kwargs) in calls().items():
        if key not in CHECKED:
            CHECKED.add(key)
            every = op.namespace == "bfn_kernels" and op not in JOINED
            JOINED.add(op)
            few = {} if every else {"test_utils": ("test_schema", "test_faketensor")}
            torch.library.opcheck(op, args, kwargs, **few)


# Operators that no op calls. test_example_seeds.py tests the noise of rows, and test_coding.py the intervals.
NO_OP = ("draw_seed", "join_seed", "numbers_of_schedule", "common_row_noise", "common_row_angles")
NO_OP += ("common_lattice_intervals", "common_class_intervals")


@pytest.mark.skipif("cpu" not in NATIVE, reason="no native operators")
def test_every_operator_is_recorded():
    seen = {op._schema.name for calls in RECORDINGS.values() for op, _, _ in calls().values()}
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("bfn_kernels::")}
    left_out = names - seen - {f"bfn_kernels::{name}" for name in NO_OP}
    assert not left_out, (
        f"tests/kernels/op_cases.py (or vocabulary_cases.py) needs a case that calls each of {sorted(left_out)}"
    )


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("case", [case for case in FIRST if case in RANDOM and case.kernels], ids=str)
def test_vmap_is_an_error(case, backend):
    """Whichever tensor has lanes: one seed and positions from 0 in every lane would repeat the same noise."""
    inputs = {k: v for k, v in case.inputs((3, 4), torch.float32).items() if not k.endswith("noise")}
    lanes = {name: torch.stack([value, value]) for name, value in inputs.items() if torch.is_tensor(value)}
    for name, stacked in ({**lanes, "seed": torch.arange(2)}).items():
        if name == "t" and case.options.get("parametrisation") == "data":
            continue  # no result depends on it
        with pytest.raises(RuntimeError, match="does not go under vmap"):
            torch.vmap(lambda x, name=name: case({"seed": 1, **inputs, name: x}, backend))(stacked)
            pytest.fail(f"lanes of {name} were taken")


def test_compiled_code_notices_another_schedule():
    """Accuracies in another order have the same number, sum and least one, but another law after the first message."""
    flow = lambda schedule: circular.flow_sample(torch.zeros(9), 3, schedule=schedule, seed=1)[1]  # noqa: E731
    compiled = torch.compile(flow, backend="eager", fullgraph=True)
    for alphas in ([1.0, 2.0, 9.0], [2.0, 9.0, 1.0]):
        schedule = VonMisesAccuracy(alphas)
        assert torch.equal(compiled(schedule), flow(schedule))


def test_compiled_code_needs_a_schedule_that_lives():
    """Any schedule with these accuracies serves, and looking for one does not keep its digest."""
    numbers = lambda digest: torch.ops.bfn_kernels.numbers_of_schedule(  # noqa: E731
        digest, "step_weights", [3], torch.device("cpu"), torch.float32
    )
    first, second = VonMisesAccuracy([7.25]), VonMisesAccuracy([7.25])
    digest, want = first.digest, first.step_weights.float()
    del second  # whichever goes, the other one serves
    torch.testing.assert_close(numbers(digest), want, equal_nan=True)
    second = VonMisesAccuracy([7.25])
    del first
    torch.testing.assert_close(numbers(digest), want, equal_nan=True)
    del second
    with pytest.raises(RuntimeError, match="compiled code needs the VonMisesAccuracy with which it was compiled"):
        numbers(digest)


class Apart(torch.nn.Module):
    """A network of two parts."""

    def __init__(self):
        super().__init__()
        self.mean, self.logit = Network(1, 1), Network(1, 1)

    def forward(self, theta, t):
        return {"mean": self.mean(theta["mean"], t), "logit": self.logit(theta["logit"], t)}


def models():
    """A model of each kind, with data. Two models of angles have accuracies in another order."""
    yield from map(make, KINDS_OF_MODELS)
    parts = {"mean": nn.Continuous(None, sigma_1=0.1, clip=None), "logit": nn.Binary(None, beta_1=4.0)}
    yield nn.Joint(Apart(), centred=["mean"], **parts), {"mean": torch.zeros(3, 2, 4), "logit": torch.ones(3, 4).long()}
    for schedule in ANGLES:
        yield nn.Circular(Network(2, 1), schedule), torch.linspace(-3, 3, 12).view(SHAPE)


def train(pairs):
    """The sum of the losses, with the flow of each model."""
    return sum(model(x, torch.tensor([0.0, 1 / 3, 2 / 3]), seed=1) for model, x in pairs)


def test_every_module_is_compiled_below():
    public = {each for each in vars(nn).values() if inspect.isclass(each) and issubclass(each, torch.nn.Module)}
    made = {type(part) for model, _ in models() for part in model.modules()}
    assert not {each for each in public - made if not inspect.isabstract(each) and each.__subclasses__() == []}


@pytest.mark.skipif(not NATIVE, reason="the modules call the fastest backend")
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_all_modules_train_in_one_graph(backend):
    """Flows, networks, losses and gradients. One graph takes inductor less time than a graph for each model. With
    "eager", the graph is captured, and torch then runs it as it is. Inductor begins as "aot_eager" does, which serves
    without a C++ compiler."""
    pairs = list(models())
    parameters = [p for model, _ in pairs for p in model.parameters()]
    want = train(pairs)
    torch._dynamo.reset()
    got = torch.compile(
        train, fullgraph=True, backend="aot_eager" if backend == "inductor" and not COMPILER else backend
    )(pairs)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    for one, other in zip(*(torch.autograd.grad(loss, parameters) for loss in (got, want)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
