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
    """Methods of others' classes that were replaced, until `undo` or the end of a `with`.

    Example:
        >>> class Theirs:
        ...     def forward(self, x):
        ...         return x
        >>> with Patch() as patch:
        ...     patch.replace(Theirs, "forward", lambda original, self, x: original(self, x) + 1)
        ...     Theirs().forward(1)
        2
        >>> Theirs().forward(1)
        1
    """

    def replace(self, cls: type, name: str, function: Callable[..., Any]) -> None:
        """Puts a function in the place of a method.

        Args:
            cls: The class, which is changed.
            name: The name of its method.
            function: Called as `function(original, self, ...)`, with the method of before and its arguments.
        """
        original = getattr(cls, name)
        self.callback(setattr, cls, name, original)

        @wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(original, self, *args, **kwargs)

        setattr(cls, name, method)

    def undo(self) -> None:
        """Puts the methods of before back."""
        self.close()


def official(model: ModuleType) -> Patch:
    """Lets the authors' code (github.com/nnaisense/bayesian-flow-networks) use the ops, for models that were made
    before too.

    Flows, losses and sampling of every configuration that they ship go through the ops. What the ops do not compute
    stays theirs: mixtures, data that are turned into classes, Bernoulli outputs of bins, and a loss with
    `min_loss_variance`. Where they draw ten messages for an n-step loss, its expectation is computed.

    Args:
        model: Their module `model`.

    Returns:
        What undoes it, by `undo` or at the end of a `with`.

    Raises:
        AttributeError: If a class or a method is missing, so that this is another module. Nothing is changed then.

    Example:
        >>> from types import ModuleType
        >>> official(ModuleType("another"))
        Traceback (most recent call last):
        AttributeError: module 'another' has no attribute 'CtsBayesianFlow'
    """
    return replaced(model, bayesian_flow_networks.REPLACED)


def solver(module: ModuleType) -> Patch:
    """Lets the samplers of BFN-Solver (github.com/ML-GSAI/BFN-Solver, arXiv 2404.15766) use the ops likewise.

    Every step of their algorithms is a `solver_step`, with one-hot samples in the place of probabilities where they say
    `cate_samp`. What makes no step stays theirs: the last calls of the network with `last_drop` or `addi_step`, and
    `sde_euler` of text, which returns the logits in the place of the next state. Noise comes from seeds of torch's
    default generator, so that a run draws other samples of the same distribution than theirs.

    Args:
        module: Their `bfnsolver_i` or `bfnsolver_t`, or one that imports a solver from there.

    Returns:
        What undoes it, by `undo` or at the end of a `with`.

    Raises:
        AttributeError: If there is neither of their classes, or a method is missing. Nothing is changed then.

    Example:
        >>> from types import ModuleType
        >>> solver(ModuleType("another"))
        Traceback (most recent call last):
        AttributeError: module 'another' has no attribute 'ImageBFNSolver'
    """
    found = {of: function for of, function in bfn_solver.REPLACED.items() if hasattr(module, of[0])}
    return replaced(module, found or bfn_solver.REPLACED)


def replaced(module: ModuleType, functions: dict[tuple[str, str], Callable[..., Any]]) -> Patch:
    """Puts a function in the place of each of several methods.

    Args:
        module: The module of the classes.
        functions: The function for each name of a class and name of its method; `Patch.replace` says how it is called.

    Returns:
        The patch.

    Raises:
        AttributeError: If a class or a method is missing. Nothing is changed then.
    """
    found = [(getattr(module, cls), name, function) for (cls, name), function in functions.items()]
    for cls, name, _ in found:
        getattr(cls, name)
    patch = Patch()
    for cls, name, function in found:
        patch.replace(cls, name, function)
    return patch
