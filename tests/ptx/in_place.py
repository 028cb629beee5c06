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


def check_in_place(case: Case, shape: tuple[int, ...], network: torch.dtype, backend: str) -> None:
    """Checks that results written over the inputs have the same bits as results in other memory. The interpreter also
    looks for races. The network's outputs and the CARRIED tensors have types of different widths."""
    carried = case.inputs(shape, torch.float32 if network == torch.bfloat16 else torch.bfloat16)
    inputs = case.inputs(shape, network) | {name: carried[name] for name in CARRIED & carried.keys()}
    for layout, make in LAYOUTS.items():
        read = inputs | {name: make(inputs[name]) for name in (case.state, "previous")}
        apart = {"out": make(read[case.state]), "predicted_out": make(read["previous"])}
        over = {"out": read[case.state], "predicted_out": read["previous"]}
        for to in (apart, over):
            if "theta_out" in parameters(case.op):
                to["theta_out"] = make(torch.zeros_like(read[case.state]))
            case(read, backend, **to)
        for name, want in apart.items():
            assert torch.equal(over[name], want), f"{case} {layout} {name}"
