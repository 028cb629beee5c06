"""The losses of a module, each a function of its data and of what its network puts out."""

from abc import ABC
from functools import partial
from typing import Any

from torch import Tensor, nn

from bfn_kernels import checks
from bfn_kernels.nn.example_seeds import ExampleSeeds, drawn
from bfn_kernels.noise import MONTE_CARLO


def _overrides(kind: type, name: str, other: str) -> bool:
    """Whether a method is defined by a subclass of the class that defines another method."""
    first, second = (next(c for c in kind.__mro__ if each in vars(c)) for each in (name, other))
    return first is not second and issubclass(first, second)


class Losses(nn.Module, ABC):
    """The losses of a network's output, which the caller passes. `BFN.forward` and `BFN.reconstruction` also call the
    network.

    Attributes:
        ops: The module with the ops of this kind of data, such as `bfn_kernels.discrete`.
        has_example_seeds: Whether each example of a batch may have a seed of its own.
    """

    ops: Any
    has_example_seeds = True

    @property
    def losses(self) -> Any:
        """The module or the layer whose functions are the losses."""
        return self.ops

    def output_shape(self, theta: Any) -> tuple[int, ...] | None:
        """The shape that the network's output must have.

        Args:
            theta: What `flow` or `theta` returned.

        Returns:
            The shape; None if every shape is allowed.
        """
        return None

    def checked(self, output: Tensor, theta: Any) -> Tensor:
        """Raises an error if the output has a wrong type or a wrong shape.

        Args:
            output: What `output` returned; differentiable.
            theta: What `flow` or `theta` returned.

        Returns:
            The output.
        """
        shape = self.output_shape(theta)
        if shape is None or _overrides(type(self), "arguments", "output_shape"):
            return output
        if not isinstance(output, Tensor) or output.dtype not in checks.FLOATS:
            got = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(f"network must return a floating-point tensor, got {got}")
        if output.shape != tuple(shape):
            raise ValueError(f"network must return a tensor of shape {tuple(shape)}, got {tuple(output.shape)}")
        return output

    def arguments(self, output: Tensor, theta: Tensor) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
        """The arguments that the functions of `losses` share. A subclass must define this method or its own losses.

        Args:
            output: What `output` returned; differentiable.
            theta: What `flow` or `theta` returned.

        Returns:
            The positional arguments that describe the output distribution, and the keyword arguments.
        """
        raise NotImplementedError

    def expectation(self, seed: Any) -> dict[str, Any]:
        """The keyword arguments that say how L_n computes its expectation.

        Args:
            seed: An int that determines the draws of the expectation, or `ExampleSeeds`. A quadrature does not read it.

        Returns:
            Keyword arguments of `discrete_time_loss`.
        """
        return {}

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **options: Any) -> Tensor:
        """L∞ of an output.

        Args:
            x: Data, `[B, ...]`, as the class of the model describes them.
            output: What `output` returned; differentiable.
            theta: What `flow` returned.
            t: Times in [0, 1], floating-point, `[B]`.
            **options: `mask` and `reduction`, as in `forward`.

        Returns:
            The loss in nats. It is float64 if x or `dtype` is float64, and float32 otherwise.
        """
        tensors, settings = self.arguments(output, theta)
        return self.losses.continuous_time_loss(x, *tensors, t, **settings, **options)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: Any, **options: Any
    ) -> Tensor:
        """L_n of an output.

        Args:
            x: Data, `[B, ...]`, as the class of the model describes them.
            output: What `output` returned; differentiable.
            theta: What `flow` returned.
            t: Times (i − 1)/n for steps i from 1 to n, floating-point, `[B]`.
            n_steps: n, the number of steps, at least 1.
            seed: An int that determines the draws of the expectation, or `ExampleSeeds`. A quadrature does not read it.
            **options: `mask` and `reduction`, as in `forward`.

        Returns:
            The loss in nats. It is float64 if x or `dtype` is float64, and float32 otherwise.
        """
        tensors, settings = self.arguments(output, theta)
        expectation = self.expectation(seed)
        if "seed" in expectation:
            dtype, n = checks.compute_dtype(output), expectation.get("n_samples")
            noise = partial(ExampleSeeds.class_normals, shape=output.shape, dtype=dtype, stream=MONTE_CARLO, draws=n)
            expectation |= drawn(expectation.pop("seed"), noise=noise)
        return self.losses.discrete_time_loss(x, *tensors, t, n_steps=n_steps, **expectation, **settings, **options)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **options: Any) -> Tensor:
        """-ln p_O(x) of an output at t = 1.

        Args:
            x: Data, `[B, ...]`, as the class of the model describes them.
            output: What `output` returned; differentiable.
            theta: What `flow` returned.
            **options: `mask` and `reduction`, as in `forward`.

        Returns:
            The loss in nats. It is float64 if x or `dtype` is float64, and float32 otherwise.
        """
        tensors, settings = self.arguments(output, theta)
        return self.losses.reconstruction_loss(x, *tensors, **settings, **options)
