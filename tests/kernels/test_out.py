"""`out=`: which tensors may be written into, and that autograd notices, as do tensors that share the memory."""

import inspect
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from bfn_kernels import binary, continuous, discrete, discretised
from bfn_kernels.solvers import Coefficients
from tests.kernels import vocabulary_cases
from tests.kernels.case import Case
from tests.kernels.declared import NOISES, OUTPUTS, parameters, public
from tests.kernels.op_cases import CASES
from tests.kernels.support import COMPILER, INTERPRETED, NATIVE, ON_CPU, SHARED, error

X, M = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(0.5, -0.5, 12).reshape(3, 4)
ON_EACH, ON_ONE = (pytest.mark.parametrize("backend", backends) for backends in (ON_CPU, SHARED))


def gaussian(m, out, backend, **k):
    return continuous.update_sample(k.pop("x", X), m, 1.0, 3.0, out=out, seed=7, backend=backend, **k)[0]


def predicted(m, out, backend, **k):
    x, of = k.pop("x", X), {"t": 0.5, "sigma_1": 0.1, "seed": 7, "backend": backend}
    return continuous.update_sample(x, m, 1.0, 3.0, out=out, **of, **k)[0]


def binned(m, out, backend, **k):
    shared = {"sigma_1": 0.1, "num_bins": 8, "parametrisation": "data", "seed": 7, "backend": backend}
    x = k.pop("x", X)
    return discretised.update_sample(x, x - 3, m, 1.0, 0.5, 3.0, out=out, **shared, **k)[0]


def classed(z, out, backend, **k):
    return discrete.update_sample(k.pop("x", X), z, 0.3, out=out, seed=7, backend=backend, **k)


def bits(d, out, backend, **k):
    return binary.update_sample(k.pop("x", X), d, 0.3, out=out, seed=7, backend=backend, **k)


STEPS = pytest.mark.parametrize("step", [gaussian, predicted, binned, classed, bits])
TO_THETA = pytest.mark.parametrize(("step", "theta_of"), [(classed, discrete.theta), (bits, binary.theta)])


@STEPS
@ON_EACH
def test_into_memory_of_its_own_and_into_the_state(step, backend):
    want = step(M, None, backend)
    for out in (torch.empty(3, 4), torch.empty(4, 3).t(), torch.empty(3, 8)[:, ::2], torch.empty(3, 4, 2)[..., 1]):
        before = out._version
        assert step(M, out, backend) is out and torch.equal(out, want) and out._version > before
    for state in (M.clone(), M.t().contiguous().t()):
        assert step(state, state, backend) is state and torch.equal(state, want)


@pytest.mark.parametrize("place", [0, 1, 2])
@STEPS
@ON_ONE
def test_it_may_lie_right_before_or_behind_an_input(step, place, backend):
    memory = torch.empty(3, 3, 4)
    memory[place], memory[place - 1] = M, X
    out = memory[place - 2]
    assert torch.equal(step(memory[place], out, backend, x=memory[place - 1]), step(M, None, backend))


@ON_EACH
def test_a_transform_writes_into_it_too(backend):
    """torch.func does not show which tensor needs a gradient."""

    def state(scale):
        with torch.no_grad():
            out = torch.full_like(M, torch.nan)
        assert binned(M, out, backend, choose="mean") is out
        return scale * out.sum()

    want = binned(M, None, backend, choose="mean").sum()
    torch.testing.assert_close(torch.func.grad(state)(torch.ones(())), want)


NOT_PLAIN = {
    "a negative view": (lambda: torch.zeros(3, 4, dtype=torch.complex64).conj().imag, "plain"),
    "expanded": (lambda: torch.zeros(3, 1).expand(3, 4), "place of its own"),
    "overlapping itself": (lambda: torch.zeros(20).as_strided((3, 4), (2, 1)), "place of its own"),
    "of inference mode": (lambda: torch.inference_mode()(torch.zeros)(3, 4), "inference"),
    "sparse": (lambda: torch.zeros(3, 4).to_sparse(), "dense"),
}


@ON_EACH
def test_nothing_overlaps_nothing(backend):
    nothing = torch.zeros(2, 0, 1)
    out = torch.zeros(1).as_strided((2, 0, 1), (0, 1, 0))
    assert gaussian(nothing, out, backend, x=nothing) is out


@STEPS
@pytest.mark.parametrize("name", NOT_PLAIN)
@ON_ONE
def test_what_is_not_plain_is_refused(name, step, backend):
    make, words = NOT_PLAIN[name]
    with pytest.raises((ValueError, TypeError), match=f"^out must.*{words}"):
        step(M, make(), backend)


@STEPS
@ON_ONE
def test_a_state_that_negates_its_memory_is_not_written_over(step, backend):
    state = torch._neg_view(M.clone())
    with pytest.raises(ValueError, match=r"^out must be a plain tensor"):
        step(state, state, backend)


@STEPS
@ON_ONE
def test_shared_memory_is_refused(step, backend):
    memory = torch.zeros(40)
    state, shifted = memory[:12].view(3, 4), memory[4:16].view(3, 4)
    for before, behind in ((state, shifted), (shifted, state)):
        with pytest.raises(ValueError, match=r"^out must be the state itself or share no memory"):
            step(before, behind, backend)
    square = torch.zeros(4, 4)
    with pytest.raises(ValueError, match=r"^out must be the state itself or share no memory"):
        step(square, square.t(), backend, x=torch.zeros(4, 4))
    x = X.clone()
    with pytest.raises(ValueError, match=r"^out must be the state itself or share no memory"):
        step(M, x, backend, x=x)
    step(memory[:12].view(3, 4), memory[12:24].view(3, 4), backend)


@STEPS
@ON_EACH
def test_autograd_notices(step, backend):
    """A state that was saved for a backward pass must not be written over in silence."""
    state, w = M.clone(), torch.ones(3, 4, requires_grad=True)
    loss = (state * w).sum()
    step(state, state, backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.skipif("cpu" not in NATIVE, reason="only these kernels find a class out of range while they compute")
@pytest.mark.parametrize("step", [classed, bits])
def test_autograd_notices_a_step_that_fails(step):
    """The kernel finds the class that is out of range only after it has written over the state."""
    state, w = M.clone(), torch.ones(3, 4, requires_grad=True)
    loss = (state * w).sum()
    known = torch.full(state.shape[: 1 if step is classed else 2], 9)
    with pytest.raises(IndexError, match="known must hold classes in"):
        step(state, state, "cpu", known=known, known_mask=known > 0)
    assert not torch.equal(state, M)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@STEPS
@ON_EACH
def test_a_lazy_clone_leaves_its_original_alone(step, backend):
    original = M.clone()
    clone = torch._lazy_clone(original)
    assert torch.equal(step(clone, clone, backend), step(M, None, backend))
    assert torch.equal(original, M)


KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PAIRS = [(torch.float32, kind) for kind in KINDS] + [(kind, torch.float32) for kind in KINDS[1:]]


@pytest.mark.parametrize(("state_kind", "kind"), PAIRS, ids=str)
@TO_THETA
@ON_EACH
def test_theta_is_that_of_the_state_that_is_returned(step, theta_of, state_kind, kind, backend):
    """Of any type and strides, beside a new state and beside one that is written over; rows may be long."""
    long = 600 if INTERPRETED and step is bits else 5000  # in several blocks or tiles
    for shape in ((2, 19, 3), (2, long), *(() if INTERPRETED else [(3, 4)])):
        x, m = torch.randn(shape), torch.randn(shape).to(state_kind)
        want = step(m, None, backend, x=x)
        theta = theta_of(want.to(torch.promote_types(state_kind, torch.float32)), backend=backend)
        for theta_out in (torch.empty(shape, dtype=kind), torch.empty(*shape, 2, dtype=kind)[..., 1]):
            for out in (None, torch.empty_like(m), m.clone()):
                before, state = theta_out._version, m if out is None else out.copy_(m)
                got = step(state, out, backend, x=x, theta_out=theta_out)
                assert torch.equal(got, want) and (out is None or got is out) and theta_out._version > before
                torch.testing.assert_close(theta_out, theta.to(kind), rtol=4e-6 + 2 * torch.finfo(kind).eps, atol=0)


@TO_THETA
@ON_EACH
def test_theta_has_memory_of_its_own(step, theta_of, backend):
    state, x, memory = M.clone(), X.clone(), torch.zeros(40)
    out = memory[:12].view(3, 4)
    for theta_out, name in ((state, "state"), (x, "output_logits"), (memory[4:16].view(3, 4), "out")):
        with pytest.raises(
            ValueError, match=f"^theta_out must share no memory with any input, but it does with {name}"
        ):
            step(state, out, backend, x=x, theta_out=theta_out)
    for make, words in NOT_PLAIN.values():
        with pytest.raises((ValueError, TypeError), match=f"^theta_out must.*{words}"):
            step(M, None, backend, theta_out=make())
    with pytest.raises(ValueError, match=r"^theta_out must have shape \(3, 4\).*\(3,\)"):
        step(M, None, backend, theta_out=torch.empty(3))
    for state, theta_out in ((M.clone().requires_grad_(), torch.empty(3, 4)), (M, X.clone().requires_grad_())):
        with pytest.raises(ValueError, match="requires a gradient, but writing into theta_out leaves none"):
            step(state, None, backend, theta_out=theta_out)
    assert torch.equal(state, M) and torch.equal(x, X) and (memory == 0).all()


WRITING = [case for case in CASES + vocabulary_cases.STEPS if not case.long and {*OUTPUTS} & {*parameters(case.op)}]


def input_of(output: str, state: str) -> str | None:
    """The name of the input that may be the same tensor as this output, or None. state: the name of the state."""
    return {"out": state, "predicted_out": "previous", "concentration_out": "concentration"}.get(output)


def tensors_of(inputs: dict) -> Iterator[tuple[str, Tensor, Callable[[Tensor], dict]]]:
    """Yields the name and the value of each tensor, and a function that returns the inputs with another tensor in its
    place."""
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            yield name, value, lambda new, name=name: inputs | {name: new}
        elif isinstance(value, Coefficients):
            for part, each in value._asdict().items():
                if isinstance(each, Tensor):
                    put = lambda new, n=name, v=value, p=part: inputs | {n: v._replace(**{p: new})}  # noqa: E731
                    yield f"{name}.{part}", each, put


def over(value: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a copy of `value` and a tensor like `like`, which share their first bytes."""
    memory = torch.zeros(max(value.nbytes, like.nbytes), dtype=torch.uint8)
    copy, out = (memory[: t.nbytes].view(t.dtype).view(t.shape) for t in (value, like))
    return copy.copy_(value), out


def variants(case: Case):
    """The inputs of a case, and the same with a seed and with coefficients."""
    inputs = case.inputs((4, 3), torch.float32) | case.options
    yield inputs
    if {"seed", *NOISES} & {*inputs}:
        yield {k: v for k, v in inputs.items() if k not in NOISES} | {"seed": torch.tensor(3)}
    if "t_next" in inputs:
        has = {"keep": True, "take": True, "variance": "noise" in inputs, "extrapolation": "previous" in inputs}
        coefficients = Coefficients(**{name: torch.rand(4) + 0.1 if there else None for name, there in has.items()})
        replaced = {"t_next", "t_previous", "rule", *(["t"] if "state" in inputs else [])}
        yield {k: v for k, v in inputs.items() if k not in replaced} | {"coefficients": coefficients}


@pytest.mark.parametrize("case", WRITING, ids=str)
@ON_ONE
def test_no_output_shares_memory_with_anything_that_is_given(case, backend):
    for inputs in variants(case):
        state = case.state
        outputs = [name for name in OUTPUTS if name in parameters(case.op)]
        public(case.op)(**inputs, **{name: inputs[state].clone() for name in outputs}, backend=backend)
        for output in outputs:
            for name, value, put in tensors_of(inputs):
                if name == input_of(output, state):
                    continue
                copy, out = over(value, inputs[state])
                with pytest.raises(ValueError, match=rf"^{output} must .*share no memory.* it does with {name}$"):
                    public(case.op)(**put(copy), **{output: out}, backend=backend)
                assert error(copy, value) == 0, "written to, though it was refused"
        for first, second in itertools.combinations(outputs, 2):
            shared = inputs[state].clone()
            with pytest.raises(ValueError, match=f"^{second} must share|^{second} must be.* it does with {first}$"):
                public(case.op)(**inputs, **{first: shared, second: shared}, backend=backend)


def test_every_argument_has_been_under_an_output():
    """The arguments that may be tensors, of each function that writes; a new argument needs a case."""
    for op in {case.op for case in WRITING}:
        seen = {name.partition(".")[0] for case in WRITING if case.op == op
                for inputs in variants(case) for name, *_ in tensors_of(inputs)}  # fmt: skip
        kinds = inspect.get_annotations(public(op), eval_str=False)
        may_be = {name for name, kind in kinds.items() if "Tensor" in str(kind) or "Coeff" in str(kind)}
        assert may_be - {"return", "generator", "mask", *OUTPUTS} <= seen, op


@pytest.mark.skipif("cpu" not in ON_CPU, reason="no native operators")
def test_an_operator_gives_a_lazy_clone_memory_of_its_own():
    """The operator writes to a lazy clone even if nothing has read its address before, as public functions do."""
    original, ones = M.clone(), torch.ones(1, 1)
    clone = torch._lazy_clone(original)
    torch.ops.bfn_kernels.continuous_gaussian_step_out(X, ones, None, None, None, None, None, clone)
    assert torch.equal(clone, X) and torch.equal(original, M)


@STEPS
@ON_EACH
def test_in_compiled_code(step, backend):
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for out in (torch.zeros(3, 4), M.clone()):
        torch.testing.assert_close(compiled(M, out, backend), step(M, None, backend))


@ON_EACH
def test_theta_in_compiled_code(backend):
    """Where the compiler makes functions of operators that write. It takes long for all that the reference calls."""
    steps, outs = (2, (False, True)) if backend in NATIVE else (1, (True,))

    def loop(state, theta, out):
        for _ in range(steps):
            state = classed(state, state if out else None, backend, x=theta + X, theta_out=theta)
        return state, 2 * theta

    for out in outs:
        torch._dynamo.reset()
        want = loop(M.clone(), X.exp(), out)
        # Inductor sees an operator's schema and fake, which are the same on all backends that have operators.
        for name in ("aot_eager", *(["inductor"] if backend in NATIVE[:1] and COMPILER and not INTERPRETED else [])):
            state, theta = M.clone(), X.exp()
            got = torch.compile(loop, fullgraph=True, backend=name)(state, theta, out)
            torch.testing.assert_close((*got, theta), (*want, want[1] / 2))
            assert torch.equal(state, got[0] if out else M)
