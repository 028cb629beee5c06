"""Code of others on these kernels, without a change in it.

    import model  # of github.com/nnaisense/bayesian-flow-networks
    from bfn_kernels import patch

    with patch.official(model):
        ...  # train, evaluate and sample as before

docs/published_code.md tells where a definition differs.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from types import ModuleType
from typing import Any

from bfn_kernels.patch import bayesian_flow_networks, bfn_solver


class Patch(ExitStack):
    """Methods of their classes that were replaced, until `undo` or the end of a `with`."""

    def replace(self, cls: type, name: str, function: Callable[..., Any]) -> None:
        """function(original, self, ...) takes the place of a method."""
        original = getattr(cls, name)
        self.callback(setattr, cls, name, original)

        @wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(original, self, *args, **kwargs)

        setattr(cls, name, method)

    def undo(self) -> None:
        self.close()


def official(model: ModuleType) -> Patch:
    """Lets the authors' module `model` use the ops, for models that were made before too. Returns what undoes it.

    Flows, losses and sampling of every configuration that they ship go through the ops. What the ops do not compute
    stays theirs: mixtures, data that are turned into classes, Bernoulli outputs of bins, and a loss with
    `min_loss_variance`. Where they draw ten messages for an n-step loss, its expectation is computed.
    Raises AttributeError, having changed nothing, if a class or a method is missing, so that this is another module.
    """
    return replaced(model, bayesian_flow_networks.REPLACED)


def solver(module: ModuleType) -> Patch:
    """Lets the samplers of BFN-Solver (github.com/ML-GSAI/BFN-Solver, arXiv 2404.15766) use the ops likewise. module:
    their `bfnsolver_i` or `bfnsolver_t`, or one that imports a solver from there.

    Every step of their algorithms is a `solver_step`, with one-hot samples in the place of probabilities where they say
    `cate_samp`. What makes no step stays theirs: the last calls of the network with `last_drop` or `addi_step`, and
    `sde_euler` of text, which returns the logits in the place of the next state. Noise comes from seeds of torch's
    default generator, so that a run draws other samples of the same distribution than theirs.
    Raises AttributeError, having changed nothing, if there is neither of their classes, or a method is missing.
    """
    found = {of: function for of, function in bfn_solver.REPLACED.items() if hasattr(module, of[0])}
    return replaced(module, found or bfn_solver.REPLACED)


def replaced(module: ModuleType, functions: dict[tuple[str, str], Callable[..., Any]]) -> Patch:
    """The patch that puts a function in the place of each method, which its class and its name say."""
    found = [(getattr(module, cls), name, function) for (cls, name), function in functions.items()]
    for cls, name, _ in found:
        getattr(cls, name)
    patch = Patch()
    for cls, name, function in found:
        patch.replace(cls, name, function)
    return patch
