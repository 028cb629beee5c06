"""The competitors of a case, the float64 truth that each must agree with, and the call that is timed."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import bfn_kernels
from benchmarks import closed_forms, published_formulas, timed_cases, trivial_steps
from benchmarks.timed_cases import Case
from bfn_kernels import circular
from bfn_kernels import noise as random
from bfn_kernels.backends import BACKENDS

PUBLISHED, EAGER, COMPILED, BASE = "published", "eager", "compiled", "base"
UNFUSED, PRODUCTS = "unfused", "products"  # our ops that store [..., K], and only the matrix products of a case
# The largest allowed error of an output or gradient: relative, in the 2-norm, for the worst row of the batch.
# TOLERANCE_KERNEL is for our kernels, and TOLERANCE_LOG_BINS for an n-step loss of bins in plain PyTorch: there ln p of
# a bin loses digits in float32, and its gradient loses more.
TOLERANCE, TOLERANCE_LOG_BINS, TOLERANCE_KERNEL = 1e-3, 3e-2, 2e-4

Truth = Callable[[Case, dict, dict], Tensor]


def reference(case: Case, tensors: dict, noise: dict, **options) -> Tensor:
    """The result of the backend `reference`, for tensors in float64. A loss has a number for each variable."""
    return kernel("reference", case, "none", **options)(**tensors, **noise)


def theta(case: Case, tensors: dict, noise: dict) -> Tensor:
    return reference(case, tensors, noise).softmax(-1)


def floored(case: Case, tensors: dict, noise: dict) -> Tensor:
    return closed_form(closed_forms, case, "none", floor=published_formulas.MIN_PROB)(**tensors, **noise)


@dataclass(frozen=True)
class Competitor:
    name: str
    # Returns a function of tensors and noise. The reduction of a loss is "mean" if it is timed, and "none" in the gate.
    function: Callable[[Case, str], Callable]
    compiled: bool = False
    truth: Truth = reference
    held_to: str = "float64 reference"  # the name of the truth
    tolerance: float = TOLERANCE
    share: float = 1.0  # the share of a row's variables that must agree; the variables with the largest errors need not
    tensors: Callable[[dict], dict] = field(default=lambda tensors: tensors)  # converts tensors for this competitor
    noise: Callable[[dict, dict], dict] = field(default=lambda noise, tensors: noise)


def kernel(backend: str | None, case: Case, reduction: str, **more) -> Callable:
    """The public function with this backend; None is the best backend for the tensors' device."""
    family, name = case.op.split(".")
    if name == "flow_and_loss":
        return trivial_steps.OURS[family](*(kernel(backend, part, reduction, **more) for part in parts(case)))
    if name == "vocabulary_loss":
        of = [replace(case, op=f"vocabulary.{part}") for part in ("flow_embedding", "continuous_time_loss")]
        return trivial_steps.of_vectors(*(kernel(backend, part, reduction, **more) for part in of))
    function = getattr(getattr(bfn_kernels, family), name)
    options = {**case.keywords, **more, "backend": backend}
    if case.loss:
        options["reduction"] = reduction
        if family in ("continuous", "discretised"):
            options["parametrisation"] = "data"
            options["mean"] = None
    if (family == "circular" and not case.loss) or (name == "update_sample" and family == "continuous"):
        return lambda **tensors: function(**tensors, **options)[0]
    return functools.partial(function, **options)


def unfused(case: Case, reduction: str) -> Callable:
    return trivial_steps.of_layers(*(kernel(None, part, reduction) for part in parts(case)))


def products(case: Case, reduction: str) -> Callable:
    return reduced(trivial_steps.products, case, reduction)


def closed_form(module, case: Case, reduction: str, **more) -> Callable:
    """The function of the case's op in the module `closed_forms` or `published`."""
    if case.weights:
        call = trivial_steps.of_layers(*(closed_form(module, part, "none", **more) for part in parts(case)))
        return reduced(call, case, reduction)
    if case.op.endswith("flow_and_loss"):
        call = trivial_steps.THEIRS[case.family](*(closed_form(module, part, "none", **more) for part in parts(case)))
    else:
        call = functools.partial(getattr(module, case.op.replace(".", "_")), **case.keywords, **more)
    return reduced(call, case, reduction)


def parts(case: Case) -> tuple[Case, Case]:
    """The flow and the loss of a training step, as two cases."""
    flow, options = trivial_steps.FLOWS[case.family], {k: v for k, v in case.options.items() if k != "width"}
    return (
        replace(case, op=f"{flow}.flow_sample", k=case.k if flow == case.family else 0, options=options),
        replace(case, op=f"{case.family}.continuous_time_loss", options=options),
    )


def reduced(call: Callable, case: Case, reduction: str) -> Callable:
    if reduction == "none" or not case.loss:
        return call
    return lambda **tensors: call(**tensors).mean()


def compiled_closed_form(case: Case) -> Callable[[Case, str], Callable]:
    """The compiled closed form. The gate and the clock use the same compiled code, except for ops that draw noise: the
    gate calls them with explicit noise, which needs other code."""

    @functools.cache
    def form() -> Callable:
        return torch.compile(closed_form(closed_forms, case, "none"), dynamic=False)

    return lambda case, reduction: reduced(form(), case, reduction)


def time_per_variable(tensors: dict) -> dict:
    """The tensors with a time and an accuracy for each variable instead of each row, as in the published code."""
    for name in ("t", "precision", "alpha"):
        if name in tensors and tensors[name].dim() == 1:
            wide = tensors["x"].shape
            tensors = tensors | {name: tensors[name].unsqueeze(-1).expand(wide).contiguous()}
    return tensors


def with_theta(tensors: dict) -> dict:
    rest = {name: value for name, value in tensors.items() if name != "state"}
    return rest | {"theta": tensors["state"].softmax(-1)}


def class_sent(noise: dict, tensors: dict) -> dict:
    """Replaces the uniform that draws a class by this class, since torch draws classes only from a generator."""
    if "draw_noise" not in noise:
        return noise
    cumulative = tensors["output_logits"].double().softmax(-1).cumsum(-1)
    sent = torch.searchsorted(cumulative, noise["draw_noise"].double().unsqueeze(-1)).squeeze(-1)
    return {"noise": noise["noise"], "sent": sent}


def both_thetas(case: Case, tensors: dict, noise: dict) -> Tensor:
    return published_formulas.both(reference(case, tensors, noise).sigmoid())


def both_probs(case: Case, tensors: dict, noise: dict) -> Tensor:
    return published_formulas.both(reference(case, tensors, noise))


def with_both_thetas(tensors: dict) -> dict:
    rest = {name: value for name, value in tensors.items() if name != "state"}
    return rest | {"theta": published_formulas.both(tensors["state"].sigmoid())}


def of_both_classes(noise: dict, tensors: dict, scale: float = 1.0) -> dict:
    """Normals of two classes with the same effect as the one normal of binary data."""
    return {name: torch.stack([-scale * value, scale * value], -1) for name, value in noise.items()}


half_for_each = functools.partial(of_both_classes, scale=0.5**0.5)


def bit_sent(noise: dict, tensors: dict) -> dict:
    if "draw_noise" not in noise:
        return noise
    sent = noise["draw_noise"] >= (-tensors["output_logits"]).sigmoid()
    return half_for_each({"noise": noise["noise"]}, tensors) | {"sent": sent.long()}


def messages(tensors: dict, seed: Tensor) -> Tensor:
    """All messages about the angles of a flow, float64 `[n, *x.shape]`."""
    x, alphas = timed_cases.angles_of(tensors).double(), timed_cases.of_messages().alphas.to(seed.device)
    return circular.sender_sample(x.expand(len(alphas), *x.shape), alphas, seed=seed)


def sum_of_messages(case: Case, tensors: dict, noise: dict) -> Tensor:
    """The mean of the state at the start of each row's step, after updates by all earlier messages, one by one."""
    mean = torch.zeros_like(timed_cases.angles_of(tensors))
    concentration, found = torch.zeros_like(mean), torch.zeros_like(mean)
    sent = zip(messages(tensors, tensors["seed"]), timed_cases.of_messages().alphas, strict=True)
    for number, (y, alpha) in enumerate(sent, 2):
        mean, concentration = circular.bayesian_update(mean, concentration, y, alpha, backend="reference")
        found = torch.where(tensors["step"].unsqueeze(-1) == number, mean, found)
    return found


def drawn_angle(noise: dict, tensors: dict) -> dict:
    """The draws of our flow, in the form that the closed form takes."""
    if not noise:
        return noise
    x, schedule = timed_cases.angles_of(tensors), timed_cases.of_messages()
    normals = random.normal(x.shape, noise["seed"])
    row = (tensors["step"] - 1).unsqueeze(-1)
    concentration = circular.reference.concentrations(row, schedule.table, normals)
    return {"normals": normals, "angle": 2 * math.pi * circular.reference.von_mises(concentration, noise["seed"])}


_published = Competitor(PUBLISHED, functools.partial(closed_form, published_formulas), tensors=time_per_variable)
_factorised = replace(
    _published,
    truth=functools.partial(reference, receiver="factorised"),
    held_to="float64 reference, factorised receiver",
)
PUBLISHED_OF_OP = {  # for ops whose published form takes other arguments or has another definition
    "discretised.discrete_time_loss": replace(
        _published,
        tolerance=TOLERANCE_LOG_BINS,
        truth=floored,
        # in the other variables, p is 1 − Φ, which float32 rounds to a multiple of 6e-8
        held_to="float64 closed form, p floored at 1.2e-7 as torch's Categorical does, in 95 % of the variables",
        share=0.95,
    ),
    "discrete.discrete_time_loss": _factorised,
    "discrete.update_sample": replace(
        _published,
        truth=theta,
        held_to="softmax of the float64 reference, the class drawn being given",
        tensors=with_theta,
        noise=class_sent,
    ),
    "binary.flow_sample": replace(
        _published, truth=both_probs, held_to="float64 reference, probabilities of both classes", noise=half_for_each
    ),
    **dict.fromkeys(
        ("circular.flow_sample", "circular.renoise"),
        replace(
            _published,
            truth=sum_of_messages,
            held_to="float64 sum of the same messages",
            noise=lambda noise, tensors: noise and {"y": messages(tensors, noise["seed"])},
        ),
    ),
    "binary.flow_and_loss": replace(_published, noise=half_for_each),
    "binary.discrete_time_loss": replace(_factorised, noise=of_both_classes),
    "binary.update_sample": replace(
        _published,
        truth=both_thetas,
        held_to="probabilities of both classes by the float64 reference, the class drawn being given",
        tensors=with_both_thetas,
        noise=bit_sent,
    ),
}


def plain_tolerance(case: Case) -> float:
    return TOLERANCE_LOG_BINS if case.op == "discretised.discrete_time_loss" else TOLERANCE


def of_backend(name: str, case: Case) -> Competitor:
    # In the cases that are not `exact`, every implementation loses digits: in the difference between x and a mean that
    # was rounded to float32, or in small gradients by logits that a matrix product has rounded.
    exact = name != "reference" and not case.op.endswith("flow_and_loss") and not case.weights
    return Competitor(
        name,
        functools.partial(kernel, name),
        tolerance=TOLERANCE_KERNEL if exact else plain_tolerance(case),
        tensors=functools.partial(timed_cases.as_passed, case),
    )


def competitors(case: Case, backends: list[str], quick: bool = False, max_elements: int = 2**28) -> list[Competitor]:
    """The competitors of a case, the backends first. The report divides all times by the time of the first backend.

    max_elements: the most `Case.elements`, variables times classes or bins times draws, for competitors that are no
    backends. In larger cases these are left out, since they would take minutes or too much memory.
    """
    found = [of_backend(name, case) for name in backends]
    if case.within:  # the target compares our op with our op in another case
        return found
    eager = Competitor(EAGER, functools.partial(closed_form, closed_forms), tolerance=plain_tolerance(case))
    if case.family == "circular" and not case.loss:
        eager = replace(eager, noise=drawn_angle)
    peers = [eager]
    reuse = case.options.get("reuse")
    if not (quick or reuse or case.small):
        peers.append(replace(eager, name=COMPILED, function=compiled_closed_form(case), compiled=True))
    if not (reuse or case.small or "quadrature" in case.options):
        peers.append(PUBLISHED_OF_OP.get(case.op, _published))
    if case.weights:
        peers.append(Competitor(UNFUSED, unfused))
        own = lambda case, tensors, noise: trivial_steps.products(**tensors)  # noqa: E731
        peers.append(Competitor(PRODUCTS, products, truth=own, held_to="float64 products"))
    share = timed_cases.QUICK if quick else 1
    return found + [peer for peer in peers if case.elements <= max_elements // share]


def available(device: str = "cpu") -> list[str]:
    """The available backends, best first, without the reference: it computes the truth, and is not timed."""
    return [b.name for b in BACKENDS.values() if b.missing is None and b.device == device]


def leaves(competitor: Competitor, case: Case, tensors: dict) -> dict:
    """The tensors as the competitor takes them. Tensors with a gradient require it."""
    tensors = competitor.tensors(tensors)
    if case.options.get("reuse"):
        tensors = tensors | {"out": tensors["mean"].clone()}  # memory that has been written, like a state's memory
    return {k: v.detach().requires_grad_() if k in case.diff else v for k, v in tensors.items()}


def step(call: Callable, tensors: dict, noise: dict) -> tuple[Tensor, ...]:
    """The output, and the gradients of its sum by the tensors that require a gradient."""
    output = call(**tensors, **noise)
    wanted = [v for v in tensors.values() if isinstance(v, Tensor) and v.requires_grad]
    if not wanted:
        return (output,)
    return output.detach(), *torch.autograd.grad(output, wanted, torch.ones_like(output))


def prepared(competitor: Competitor, case: Case, tensors: dict) -> Callable[[], tuple[Tensor, ...]]:
    """The call of one repetition, which also draws the noise."""
    return functools.partial(step, competitor.function(case, "mean"), leaves(competitor, case, tensors), {})
