"""Solver steps that write over the tensors that they read."""

import dataclasses
from collections.abc import Iterator

import torch

from tests.kernels.case import Case
from tests.kernels.declared import parameters
from tests.kernels.makers import uniform
from tests.kernels.support import named
from tests.ptx.case_checks import with_classes

OF_CLASSES = dataclasses.replace(named("discrete.solver_step[K=27 ode2 theta]"), into="")
ELEMENTWISE = [
    dataclasses.replace(named(name), into="")
    for name in (
        "continuous.solver_step[sde2, known]",
        "discretised.solver_step[ode2, stacked]",
        "discretised.solver_step[ode2, mixture]",
        "binary.solver_step[ode2 theta]",
    )
]
CARRIED = {"state", "mean", "previous"}  # from step to step; the network makes the other tensors
LAYOUTS = {"dense": torch.clone, "strided": lambda x: torch.stack([x, x], -1)[..., 0]}


def steps(
    lengths: tuple[int, ...], counts: tuple[int, ...], ways: tuple[str, ...] = ("sample", "mode", "mean")
) -> Iterator[tuple[Case, tuple[int, ...]]]:
    """Steps that read the prediction before, and the shapes of their data: of rows of so many classes, whose prediction
    is made in these ways, and two rows of so many numbers."""
    for k in lengths:
        of_k = with_classes(OF_CLASSES, k)
        for choose in ways:
            fields = of_k.fields | ({"draw_noise": uniform(0, 1)} if choose == "sample" else {})
            options = of_k.options | {"choose": choose}
            yield dataclasses.replace(of_k, name=f"{of_k.name} {choose}", fields=fields, options=options), (2, 1)
    for case in ELEMENTWISE:
        for count in counts:
            yield case, (2, count)


def inputs_of(case: Case, shape: tuple[int, ...], carried: torch.dtype, network: torch.dtype) -> dict:
    carried_inputs, inputs = case.inputs(shape, carried), case.inputs(shape, network)
    return {name: carried_inputs[name] if name in CARRIED else value for name, value in inputs.items()}


def check_in_place(case: Case, inputs: dict, backend: str) -> None:
    """The results are the same bits, whether they are written over what the step has read or elsewhere. Where the
    backend is of PTX, the interpreter looks for races."""
    state = "state" if "state" in inputs else "mean"
    for layout, make in LAYOUTS.items():
        read = inputs | {name: make(inputs[name]) for name in (state, "previous")}
        apart = {"out": make(read[state]), "predicted_out": make(read["previous"])}
        over = {"out": read[state], "predicted_out": read["previous"]}
        for to in (apart, over):
            if "theta_out" in parameters(case.op):
                to["theta_out"] = make(torch.zeros_like(read[state]))
            case(read, backend, **to)
        for name, want in apart.items():
            assert torch.equal(over[name], want), f"{case} {layout} {name}"
