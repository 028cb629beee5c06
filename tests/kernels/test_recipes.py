"""The recipes of the pages that train a network: weights stay finite for 50 steps."""

import ast

import pytest
import torch

from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.test_docs import EXAMPLES

STEPS = 50
MADE_ONCE = torch.nn.Module, torch.optim.Optimizer, VonMisesAccuracy
RECIPES = [each for each in EXAMPLES if ".backward()" in each.values[1]]


def names_of(statement: ast.stmt) -> set[str]:
    """The names that a statement assigns to."""
    return {each.id for each in ast.walk(statement) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


def parameters(names: dict[str, object]) -> list[torch.nn.Parameter]:
    """Of all modules, each once."""
    modules = [each for each in names.values() if isinstance(each, torch.nn.Module)]
    return [*dict.fromkeys(p for module in modules for p in module.parameters())]


@pytest.mark.parametrize(("page", "block"), RECIPES)
def test_a_recipe_trains(page, block, monkeypatch):
    """Runs the block once. Then it repeats the block up to the backward pass, except what makes networks, optimizers
    and schedules, with an optimizer of its own if the block has none."""
    statements, names, backward = ast.parse(block).body, {"__name__": page}, torch.Tensor.backward
    last = max(i for i, each in enumerate(statements) if ".backward()" in ast.unparse(each))
    losses, optimizers = [], []

    def step(loss, *args, **options):
        backward(loss, *args, **options)
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    monkeypatch.setattr(torch.Tensor, "backward", step)
    torch.manual_seed(0)
    repeated = []
    for statement in statements[: last + 1]:
        exec(compile(ast.Module([statement], []), page, "exec"), names)
        made = [names[name] for name in names_of(statement) if name in names]
        once = isinstance(statement, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef))
        if not once and not any(isinstance(each, MADE_ONCE) for each in made):
            repeated.append(statement)
    assert losses and parameters(names)
    if not any(isinstance(each, torch.optim.Optimizer) for each in names.values()):
        optimizers.append(torch.optim.Adam(parameters(names), lr=1e-3))
    code = compile(ast.Module(repeated, []), page, "exec")
    while len(losses) < STEPS:
        exec(code, names)
    assert torch.tensor(losses).isfinite().all()
    assert all(p.isfinite().all() for p in parameters(names))
