"""Contexts restore what they changed, also when an error ends them."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn as torch_nn

import bfn_kernels
from bfn_kernels import nn, samplers
from tests.kernels.test_nn import Network


def modes(model: torch_nn.Module) -> dict[torch_nn.Module, bool]:
    return {module: module.training for module in model.modules()}


def mixed() -> nn.Discrete:
    """A model that is in training mode, with a part that is not."""
    model = nn.Discrete(Network(5, 5), beta_1=3.0, num_classes=5)
    model.network.inner.eval()
    return model


CONTEXTS = {  # of each context: how a model enters it, what it changes, and what this is inside
    "evaluating": (samplers.evaluating, modes, lambda state: not any(state.values())),
    "using": (
        lambda model: model.using("factorised"),
        lambda model: model.receiver,
        lambda state: state == "factorised",
    ),
}


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_restores_what_it_changed(name, error):
    enter, read, is_inside = CONTEXTS[name]
    model = mixed()
    before = read(model)
    assert not is_inside(before)
    try:
        with enter(model):
            assert is_inside(read(model))
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    assert read(model) == before


def test_every_context_of_the_package_is_tested():
    found = set()
    for path in Path(bfn_kernels.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_context = isinstance(node, ast.ClassDef) and any(getattr(f, "name", "") == "__exit__" for f in node.body)
            if is_context or any("contextmanager" in ast.unparse(d) for d in getattr(node, "decorator_list", [])):
                found.add(node.name)
    assert found == CONTEXTS.keys()


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_sampling_run_that_fails_leaves_the_modes_of_modules(sampler):
    model, calls = mixed(), []
    before = modes(model)

    def fails(module, inputs):
        calls.append(module.training)
        if len(calls) == 3:
            raise RuntimeError("the network fails")

    model.network.outer.register_forward_pre_hook(fails)
    for run in (
        lambda: samplers.sample(model, (2, 3), 5, seed=1, sampler=sampler),
        lambda: samplers.sample_within(model, (2, 3), 0.01, seed=1),
    ):
        calls.clear()
        with pytest.raises(RuntimeError, match="the network fails"):
            run()
        assert calls == [False] * 3 and modes(model) == before and torch.is_grad_enabled()
