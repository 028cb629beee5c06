"""Who runs in a case, what each is held to, and the call that is timed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import bfn_kernels
from benchmarks import cases, closed_forms, published
from benchmarks.cases import Case
from bfn_kernels.backends import BACKENDS

PUBLISHED, EAGER, COMPILED = "published", "eager", "compiled"
# The largest error allowed of an output or gradient: relative, by the 2-norm of a row of the batch, in the worst row.
# Logarithms of bins' probabilities lose digits in float32, and their gradients most, when differences of Φ make them.
TOLERANCE, TOLERANCE_LOG_BINS, TOLERANCE_KERNEL = 1e-3, 3e-2, 2e-4

Truth = Callable[[Case, dict, dict], Tensor]


def reference(case: Case, tensors: dict, noise: dict, **options) -> Tensor:
    """The specification, which is `bfn_kernels`' reference, in float64; a loss per variable."""
    return kernel("reference", case, "none", **options)(**tensors, **noise)


def theta(case: Case, tensors: dict, noise: dict) -> Tensor:
    return reference(case, tensors, noise).softmax(-1)


def floored(case: Case, tensors: dict, noise: dict) -> Tensor:
    return closed_form(closed_forms, case, "none", floor=published.MIN_PROB)(**tensors, **noise)


@dataclass(frozen=True)
class Competitor:
    name: str
    # (case, reduction) -> what is called with tensors and noise; losses have the reduction "mean", as timed, or "none"
    function: Callable[[Case, str], Callable]
    compiled: bool = False
    truth: Truth = reference
    held_to: str = "float64 reference"
    tolerance: float = TOLERANCE
    share: float = 1.0  # of a row's variables, those with the least error, that are held to it
    tensors: Callable[[dict], dict] = field(default=lambda tensors: tensors)  # as this one takes them
    noise: Callable[[dict, dict], dict] = field(default=lambda noise, tensors: noise)


def kernel(backend: str, case: Case, reduction: str, **more) -> Callable:
    """The public function, a backend asked for by name."""
    family, name = case.op.split(".")
    function = getattr(getattr(bfn_kernels, family), name)
    options = {**case.keywords, **more, "backend": backend}
    if name.endswith("loss"):
        options["reduction"] = reduction
        if family != "discrete":
            options["parametrisation"] = "data"
            options["mean"] = None
    if name == "update_sample" and family == "continuous":
        return lambda **tensors: function(**tensors, **options)[0]
    return functools.partial(function, **options)


def closed_form(module, case: Case, reduction: str, **more) -> Callable:
    """The function of that name in `closed_forms` or `published`."""
    return reduced(
        functools.partial(getattr(module, case.op.replace(".", "_")), **case.keywords, **more), case, reduction
    )


def reduced(call: Callable, case: Case, reduction: str) -> Callable:
    if reduction == "none" or not case.op.endswith("loss"):
        return call
    return lambda **tensors: call(**tensors).mean()


def compiled_closed_form(case: Case) -> Callable[[Case, str], Callable]:
    """The gate and the clock share what torch.compile makes, but for ops that draw noise: there one form takes it."""

    @functools.cache
    def form() -> Callable:
        return torch.compile(closed_form(closed_forms, case, "none"), dynamic=False)

    return lambda case, reduction: reduced(form(), case, reduction)


def time_per_variable(tensors: dict) -> dict:
    """The published code has a time for each variable."""
    for name in ("t", "precision", "alpha"):
        if name in tensors and tensors[name].dim() == 1:
            wide = tensors["x"].shape
            tensors = tensors | {name: tensors[name].unsqueeze(-1).expand(wide).contiguous()}
    return tensors


def with_theta(tensors: dict) -> dict:
    rest = {name: value for name, value in tensors.items() if name != "state"}
    return rest | {"theta": tensors["state"].softmax(-1)}


def class_sent(noise: dict, tensors: dict) -> dict:
    """torch draws classes from a generator alone: for the gate the class that the uniform means is given instead."""
    if "draw_noise" not in noise:
        return noise
    cumulative = tensors["output_logits"].double().softmax(-1).cumsum(-1)
    sent = torch.searchsorted(cumulative, noise["draw_noise"].double().unsqueeze(-1)).squeeze(-1)
    return {"noise": noise["noise"], "sent": sent}


_published = Competitor(PUBLISHED, functools.partial(closed_form, published), tensors=time_per_variable)
PUBLISHED_OF_OP = {  # where it is not what the op is by default
    "discretised.discrete_time_loss": replace(
        _published,
        tolerance=TOLERANCE_LOG_BINS,
        truth=floored,
        # elsewhere p is what float32 leaves of 1 − Φ, a multiple of 6e-8
        held_to="float64 closed form, p floored at 1.2e-7 as torch's Categorical does, in 95 % of the variables",
        share=0.95,
    ),
    "discrete.discrete_time_loss": replace(
        _published,
        truth=functools.partial(reference, receiver="factorised"),
        held_to="float64 reference, factorised receiver",
    ),
    "discrete.update_sample": replace(
        _published,
        truth=theta,
        held_to="softmax of the float64 reference, the class drawn being given",
        tensors=with_theta,
        noise=class_sent,
    ),
}


def competitors(case: Case, backends: list[str], quick: bool = False, max_elements: int = 2**28) -> list[Competitor]:
    """The backends, the first of which the others are compared with, and their peers. Formulations that visit every bin
    of every draw run up to so many numbers a tensor: above, they want more memory than there is, or minutes."""
    tolerance = TOLERANCE_LOG_BINS if case.op == "discretised.discrete_time_loss" else TOLERANCE
    found = [
        Competitor(
            name, functools.partial(kernel, name), tolerance=TOLERANCE_KERNEL if BACKENDS[name].library else tolerance
        )
        for name in backends
    ]
    eager = Competitor(EAGER, functools.partial(closed_form, closed_forms), tolerance=tolerance)
    peers = [eager]
    reuse = case.options.get("reuse")
    if not (quick or reuse or case.small):
        peers.append(replace(eager, name=COMPILED, function=compiled_closed_form(case), compiled=True))
    if not (reuse or case.small or "quadrature" in case.options):
        peers.append(PUBLISHED_OF_OP.get(case.op, _published))
    share = cases.QUICK if quick else 1
    return found + [peer for peer in peers if case.elements <= max_elements // share]


def available(device: str = "cpu") -> list[str]:
    """The backends that are there, best first; the reference serves as their yardstick and is not timed."""
    return [b.name for b in BACKENDS.values() if b.missing is None and b.device == device]


def leaves(competitor: Competitor, case: Case, tensors: dict) -> dict:
    """The tensors as the competitor takes them, with gradients asked of those that have one."""
    tensors = competitor.tensors(tensors)
    if case.options.get("reuse"):
        tensors = tensors | {"out": tensors["mean"].clone()}  # whose pages were touched, as those of a state were
    return {k: v.detach().requires_grad_() if k in case.diff else v for k, v in tensors.items()}


def step(call: Callable, tensors: dict, noise: dict) -> tuple[Tensor, ...]:
    """The output and, where any are asked for, the gradients of its sum."""
    output = call(**tensors, **noise)
    wanted = [v for v in tensors.values() if v.requires_grad]
    if not wanted:
        return (output,)
    return output.detach(), *torch.autograd.grad(output, wanted, torch.ones_like(output))


def prepared(competitor: Competitor, case: Case, tensors: dict) -> Callable[[], tuple[Tensor, ...]]:
    """One repetition, as it is timed: noise is drawn in it."""
    return functools.partial(step, competitor.function(case, "mean"), leaves(competitor, case, tensors), {})
