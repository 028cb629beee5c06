"""Makes published code use the ops, without a change to its source files.

    import model  # of github.com/nnaisense/bayesian-flow-networks
    from bfn_kernels import patch

    with patch.official(model):
        ...  # train, evaluate and sample as before

docs/published_code.md lists where the ops compute something else than the published code.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from types import ModuleType
from typing import Any

from bfn_kernels.patch import bayesian_flow_networks, bfn_solver


class Patch(ExitStack):
    """Replaces methods of classes. `undo`, or the end of a `with`, puts the original methods back.

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
        """Replaces a method by a function.

        Args:
            cls: The class. It is changed in place.
            name: The name of its method.
            function: Called as `function(original, self, ...)`. `original` is the replaced method.
        """

        @wraps(getattr(cls, name))
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(method.__wrapped__, self, *args, **kwargs)

        vars(method)["replaced"] = vars(cls).get(name)
        setattr(cls, name, method)
        self.callback(_put_back, cls, name, method)

    def undo(self) -> None:
        """Puts the original methods back."""
        self.close()


def _put_back(cls: type, name: str, method: Any) -> None:
    """Undoes a replacement of a method. Each patched method keeps the method that it replaced as `__wrapped__`. Its
    `replaced` is the class's own attribute of this name, or None if the class inherited the method. If a later patch
    replaced `method`, the later patch's method takes both values from `method`."""
    later = getattr(cls, name)
    if later is method and method.replaced is None:
        delattr(cls, name)
    elif later is method:
        setattr(cls, name, method.replaced)
    while later is not None:
        before = getattr(later, "__wrapped__", None)
        if before is method:
            later.__wrapped__, later.replaced = method.__wrapped__, method.replaced
        later = before


def official(model: ModuleType) -> Patch:
    """Makes the authors' code (github.com/nnaisense/bayesian-flow-networks) use the ops.

    Models that were made before this call use the ops, too. The ops compute flows, losses and samples of every
    configuration that the authors ship. For other settings a method calls the authors' original method instead of
    the ops: for example for mixtures, flows with `discretize=True`, losses with `noise_pred=False`, and losses with
    `min_loss_variance` above 0. The authors' n-step loss is an estimate from draws. The ops compute the expectation of
    this estimate.

    Args:
        model: Their module `model`.

    Returns:
        The patch. Its method `undo`, or the end of a `with`, puts their methods back.

    Raises:
        AttributeError: If the module lacks a class or a method. Nothing is changed then.

    Example:
        >>> from types import ModuleType
        >>> official(ModuleType("another"))
        Traceback (most recent call last):
        AttributeError: module 'another' has no attribute 'CtsBayesianFlow'
    """
    return replaced(model, bayesian_flow_networks.REPLACED)


def solver(module: ModuleType) -> Patch:
    """Makes the samplers of BFN-Solver (github.com/ML-GSAI/BFN-Solver, arXiv 2404.15766) use the ops.

    Each step of a sampler becomes a `solver_step`. In two cases the original method runs instead of the ops:
    (1) the last call with `last_drop` or `addi_step`, which only returns a prediction; (2) `sde_euler` of text, which
    returns logits instead of the next state. With `cate_samp=True`, a step sends one-hot samples instead of
    probabilities. Noise comes from seeds that torch's default generator draws. So a run draws other samples than
    BFN-Solver's code, from the same distribution.

    Args:
        module: Their `bfnsolver_i` or `bfnsolver_t`, or a module that imports a solver from one of them.

    Returns:
        The patch. Its method `undo`, or the end of a `with`, puts their methods back.

    Raises:
        AttributeError: If the module has none of their solvers, or a method is missing. Nothing is changed then.

    Example:
        >>> from types import ModuleType
        >>> solver(ModuleType("another"))
        Traceback (most recent call last):
        AttributeError: module 'another' has no attribute 'ImageBFNSolver'
    """
    functions = {(cls, name): each for (cls, name), each in bfn_solver.REPLACED.items() if hasattr(module, cls)}
    return replaced(module, functions or bfn_solver.REPLACED)


def replaced(module: ModuleType, functions: dict[tuple[str, str], Callable[..., Any]]) -> Patch:
    """Replaces methods of a module's classes. functions: maps a pair, the names of a class and of its method, to a
    function as in `Patch.replace`. If a class or a method is missing, nothing is changed."""
    methods = [(getattr(module, cls), name, function) for (cls, name), function in functions.items()]
    for cls, name, _ in methods:
        getattr(cls, name)
    patch = Patch()
    for cls, name, function in methods:
        patch.replace(cls, name, function)
    return patch
