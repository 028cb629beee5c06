"""Bad input: one error of the right type, whose message names the argument and what it was. test_refusals.py asks for
the types, shapes and devices of every tensor and for every word, test_bounds.py for every number, and test_every_op.py
for classes and data out of range."""

import pytest
import torch

from bfn_kernels import Limits, continuous, discrete, discretised, extensions, noise
from bfn_kernels.backends import BACKENDS
from bfn_kernels.records import NO_DRAWS, NO_SCORE, Guidance, Noise, Sent, Solver
from bfn_kernels.schedules import ExponentialVariance, QuadraticAccuracy
from tests.kernels.op_cases import CASES
from tests.kernels.support import NATIVE, ON_CPU, named, refused

X = torch.zeros(2, 3)
CLASSES = torch.zeros(2, 3, dtype=torch.long)
Z = torch.zeros(2, 3, 4)
S = {"sigma_1": 0.1}


def flow(x=X, t=0.5, **k):
    return continuous.flow_sample(x, t, **{**S, **k})


def loss(x=X, prediction=X, mean=X, t=0.5, **k):
    return continuous.continuous_time_loss(x, prediction, mean, t, **{**S, **k})


def bins(mean=X, std=X + 1, num_bins=4, **k):
    return discretised.expected_value(mean, std, num_bins=num_bins, **k)


def binned(n_steps=3, pred_mean=X, pred_log_std=X, **k):
    return discretised.discrete_time_loss(
        X, pred_mean, pred_log_std, X, 0.0, **{"num_bins": 4, "n_steps": n_steps, **S, **k}
    )


def reconstruction(**k):
    return continuous.reconstruction_loss(X, X, X, **{**S, **k})


def step(**k):
    return discretised.update_sample(X, X, X, 1.0, 0.5, 1.0, **{"num_bins": 4, **S, **k})


def mixed(**k):
    return discretised.update_sample(Z, Z, X, 1.0, 0.5, 1.0, num_bins=4, mixture_logits=Z, **S, **k)


def sent(**k):
    return continuous.update_sample(X, X, 1.0, 1.0, **k)


def normal(pred_mean=X, pred_log_std=X, mean=X, t=0.5, **k):
    return discretised.output_distribution(pred_mean, pred_log_std, mean, t, **{**S, **k})


def classes(x=CLASSES, logits=Z, t=0.5, **k):
    return discrete.continuous_time_loss(x, logits, t, **{"beta_1": 3.0, **k})


def few(n_steps=3, **k):
    return discrete.discrete_time_loss(CLASSES, Z, 0.0, **{"beta_1": 3.0, "n_steps": n_steps, **k})


def draw(output_logits=Z, state=Z, alpha=1.0, **k):
    return discrete.update_sample(output_logits, state, alpha, **k)


BAD = [
    (flow, {"x": 3.0}, TypeError, "x must be a tensor.*float"),
    (flow, {"x": torch.tensor(1.0)}, ValueError, "x must have a batch dimension"),
    (flow, {"t": "now"}, TypeError, "t must be a number or a tensor.*str"),
    (flow, {"t": True}, TypeError, "t must be a number or a tensor.*bool"),
    (flow, {"sigma_1": None}, ValueError, "exactly one of sigma_1 and schedule"),
    (flow, {"schedule": object()}, ValueError, "exactly one of sigma_1 and schedule"),
    (flow, {"sigma_1": None, "schedule": QuadraticAccuracy(3.0)}, TypeError, "schedule.*gamma.*QuadraticAccuracy"),
    (classes, {"beta_1": None, "schedule": ExponentialVariance(0.1)}, TypeError, "schedule.*beta.*ExponentialVariance"),
    (flow, {"noise": X, "seed": 1}, ValueError, "seed must be None where noise is given, got 1"),
    (flow, {"seed": 1.5}, TypeError, "seed must be an int or an int64 tensor, got float"),
    (flow, {"seed": torch.zeros(2, dtype=torch.long)}, ValueError, r"seed must hold one int64.*\(2,\)"),
    (flow, {"seed": torch.tensor(1.0)}, ValueError, "seed must hold one int64.*float32"),
    (flow, {"backend": "gpu"}, ValueError, "backend must be None or one of.*'gpu'"),
    (loss, {"mean": None}, ValueError, "mean must be given.*None"),
    (loss, {"mask": torch.ones(4, dtype=torch.bool)}, ValueError, r"mask must broadcast to \(2, 3\).*\(4,\)"),
    (normal, {"mean": Z.to_sparse()}, TypeError, "mean must be a dense tensor.*torch.sparse_coo"),
    (bins, {"num_bins": 4.0}, TypeError, "num_bins must be an int, got float"),
    (bins, {"num_bins": 2**63}, ValueError, f"num_bins must be at most {2**63 - 1}, got {2**63}"),
    (bins, {"clip": None}, TypeError, "clip must be a bool, got NoneType"),
    (binned, {"n_steps": 10**30}, ValueError, f"n_steps must be at most {10**12}, got 1000000"),
    (few, {"n_steps": 10**30}, ValueError, f"n_steps must be at most {2**63 - 1}, got 1000000"),
    (binned, {"quadrature": 8, "n_samples": 2}, ValueError, "exactly one of quadrature and n_samples.*8.*2"),
    (binned, {"quadrature": 8, "seed": 1}, ValueError, "generator, seed and noise must be None with quadrature"),
    (binned, {"pred_log_std": None}, ValueError, r"pred_mean must have shape \(2, 3, 2\).*\(2, 3\)"),
    (binned, {"pred_mean": torch.zeros(2, 3, 2)}, ValueError, r"pred_mean must have shape \(2, 3\).*\(2, 3, 2\)"),
    (binned, {"limits": (1e-3, 10.0)}, TypeError, "limits must be bfn_kernels.Limits, got tuple"),
    (binned, {"limits": Limits(std=1e-3)}, ValueError, r"limits.std must be a pair.*0.001"),
    (binned, {"limits": Limits(std=(1e-3, "10"))}, TypeError, "limits.std must be a number, got str"),
    (loss, {"limits": Limits(t_min=torch.nan)}, ValueError, "limits.t_min must lie in.*nan"),
    (reconstruction, {"std": X}, TypeError, "std must be a number, got Tensor"),
    (step, {"known": X}, ValueError, "known and known_mask must be given together"),
    (step, {"out": X[:1]}, ValueError, r"out must have shape.*\(1, 3\)"),
    (step, {"out": X.double()}, TypeError, "out must be torch.float32.*float64"),
    (step, {"out": [0.0]}, TypeError, "out must be a tensor, got list"),
    (step, {"out": X.clone().requires_grad_()}, ValueError, "out requires a gradient, but writing into out leaves"),
    (step, {"choose": "mode", "draw_noise": X}, ValueError, 'draw_noise must be None with choose="mode"'),
    (mixed, {"choose": "mean", "component_noise": X}, ValueError, 'component_noise must be None with choose="mean"'),
    (sent, S, ValueError, "t must be given with sigma_1.*None"),
    (sent, {"parametrisation": "data"}, ValueError, "t must be given with.*parametrisation.*None"),
    (sent, {"clip": None}, ValueError, "t must be given with.*clip.*None"),
    (sent, {"t": 0.5}, ValueError, "exactly one of sigma_1 and schedule"),
    (normal, {"mean": X[:, :2]}, ValueError, r"mean must have shape \(2, 3\), as pred_mean.*\(2, 2\)"),
    (normal, {"mean": None}, ValueError, "mean must be given.*None"),
    (normal, {"pred_mean": Z, "pred_log_std": Z, "t": torch.ones(4)}, ValueError, r"t must be.*\(2, 3\), got \(4,\)"),
    (classes, {"logits": Z[..., :1]}, ValueError, r"logits must have shape.*K of at least 2.*\(2, 3, 1\)"),
    (classes, {"beta_1": None}, ValueError, "exactly one of beta_1 and schedule"),
    (few, {"quadrature": 8}, ValueError, "quadrature must be None for the joint receiver.*8 for K = 4"),
    (draw, {"state": Z[..., :3]}, ValueError, r"output_logits must have shape \(2, 3, 3\).*\(2, 3, 4\)"),
    (draw, {"theta_out": Z[:1]}, ValueError, r"theta_out must have shape \(2, 3, 4\).*\(1, 3, 4\)"),
    (draw, {"theta_out": Z.int()}, TypeError, "theta_out must be one of.*int32"),
    (draw, {"choose": "mean", "draw_noise": X}, ValueError, 'draw_noise must be None with choose="mean"'),
]


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize(("call", "arguments", "kind", "message"), BAD)
def test_bad_input(call, arguments, kind, message, backend):
    with pytest.raises(kind, match=message):
        call(**{"backend": backend, **arguments})


@pytest.mark.parametrize("backend", ON_CPU)
def test_the_valid_calls_that_the_bad_ones_spoil(backend):
    for call in (flow, loss, binned, reconstruction, step, mixed, sent, normal, classes, few, draw):
        call(backend=backend)


ROW = torch.ones(2, 1)


def row_scalars(ops, wanted=1, schedule=1):
    return ops.common_row_scalars(ROW, None, wanted, schedule, 0.1, 0, 0, 1.0, 1e-6, (2, 3), False)


def scaled(ops, *arguments):
    """A gaussian_step of X with these arguments first, and None for the others."""
    return ops.continuous_gaussian_step(X, *arguments, *[None] * (6 - len(arguments)))


def squared(ops, x=X, reduction=3):
    return ops.continuous_squared_loss(
        x, x, None, None, None, -1.0, 1.0, torch.ones(()), None, None, reduction, *[False] * 3
    )


def step_arguments(choice, *score):
    """The arguments of a step of classes behind its logits and its state, with explicit noise."""
    return *Solver(None, ROW, ROW), *Guidance(), *score, *Sent(choice, None, None, None), *Noise(None, X)


OPERATORS = {
    "scalars of nothing": lambda o: row_scalars(o, wanted=1 << 17),
    "a negative set": lambda o: row_scalars(o, wanted=-1),
    "too many scalars": lambda o: row_scalars(o, wanted=2**17 - 1),
    "an unknown schedule": lambda o: row_scalars(o, schedule=7),
    "scalars of another type": lambda o: scaled(o, ROW.double()),
    "scalars of another shape": lambda o: scaled(o, torch.ones(5, 1)),
    "no seed": lambda o: scaled(o, None, None, None, ROW),
    "no batch": lambda o: squared(o, X[0, 0]),
    "an unknown reduction": lambda o: squared(o, reduction=4),
    "no classes": lambda o: o.discrete_loss(CLASSES, Z[..., :0], None, None, None, 3, False, False),
    "no classes of a message": lambda o: o.discrete_sender_sample(CLASSES, ROW, ROW, 0, False, None, Z, torch.float32),
    "an unknown choice": lambda o: o.discrete_step(Z, None, Z, *step_arguments(9, *NO_SCORE)),
    "a pair of three": lambda o: o.discretised_loss(
        X, torch.zeros(2, 3, 3), *[None] * 7, False, 0, *NO_DRAWS, 4, True, 1e-3, 10.0, 10.0, None, 3, *[False] * 3
    ),
    "the mean of bins": lambda o: o.discretised_choose(X, X + 2, None, 4, 2, None, None, None),
    "an unknown choice of a bit": lambda o: o.binary_step(X, X, *step_arguments(3)),
    "an unknown receiver of bits": lambda o: o.binary_discrete_time_loss(
        CLASSES, X, ROW, 5, 2, (0.5,), (1.0,), 0, None, None, None, 3, False
    ),
    "weights without nodes": lambda o: o.discrete_discrete_time_loss(
        CLASSES, Z, None, ROW, 5, 1, (0.5, 1.0), (1.0,), 0, None, None, None, 3, False
    ),
}


@pytest.mark.skipif("cpu" not in NATIVE, reason="no native operators")
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_called_directly(name):
    """Arguments that no public function passes are errors, and not reads out of bounds."""
    with refused():
        OPERATORS[name](torch.ops.bfn_kernels)


@pytest.mark.skipif("cpu" not in NATIVE, reason="no native operators")
def test_only_what_was_refused_is_a_value_error():
    with pytest.raises(ValueError) as caught:
        flow(t=torch.tensor([0.5, 1.5]))
    assert isinstance(extensions.as_refused(RuntimeError(str(caught.value))), ValueError)
    error = RuntimeError("another")
    assert extensions.as_refused(error) is error


def test_a_message_is_of_floats():
    with pytest.raises(TypeError, match=r"dtype must be one of.*int32"):
        discrete.sender_sample(CLASSES, 1.0, num_classes=4, dtype=torch.int32)


def test_a_backend_that_cannot_serve_a_call_says_why():
    """It is missing, or takes tensors on another device. Other backends are called by the tests of the table."""
    for backend in BACKENDS.values():
        for case in [case for case in CASES[::40] if case.kernels]:
            inputs = case.inputs((2, 3), torch.float32)
            if backend.device not in (None, "cpu"):
                with pytest.raises(ValueError, match=f"backend '{backend.name}' takes tensors on {backend.device}"):
                    case(inputs, backend.name)
            elif backend.missing is not None:
                with pytest.raises(RuntimeError, match=f"backend '{backend.name}' is not available: "):
                    case(inputs, backend.name)


def test_the_best_backend_is_the_default():
    """None takes the native kernels where they are: to the bit."""
    case = named("continuous.flow_sample")
    inputs = case.inputs((3, 40), torch.float32)
    assert torch.equal(case(inputs), case(inputs, ON_CPU[0]))


def test_meta_tensors_are_served_by_shape():
    """No backend but the reference takes another device than its own."""
    x = torch.zeros(2, 3, device="meta")
    assert flow(x=x, noise=x).shape == (2, 3)
    if BACKENDS["cpu"].missing is None:
        with pytest.raises(ValueError, match="takes tensors on cpu, got meta"):
            flow(x=x, noise=x, backend="cpu")
    with pytest.raises(ValueError, match="seed must be on meta"):
        noise.as_seed(torch.tensor(1), x)
