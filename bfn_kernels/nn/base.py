"""The base of the modules: the methods that training and samplers call."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from bfn_kernels.adaptive import error_of_step
from bfn_kernels.call.checks import FLOATS
from bfn_kernels.nn.seeds import part, random_seed, spread_times
from bfn_kernels.schedules import ContinuousSchedule, DiscreteSchedule
from bfn_kernels.solvers import Coefficients

# The tensors that every step of a sampler overwrites. In ancestral sampling they are mean and precision, or logits and
# theta. For a solver they are the mean, or logits and theta, and then the prediction of the previous step.
# `Vocabulary` stores the embedding of theta instead of theta, and the logits and the network's output of the previous
# step instead of the prediction.
State = tuple[Tensor, ...]
Network = Callable[[Tensor, Tensor], Tensor]  # a module, or another function of theta and t


class BFN(nn.Module, ABC):
    """The base of the modules for all kinds of data: a network with its losses and the steps of samplers.

    Data are x `[B, ...]`. Times are t `[B]`. `theta` are the parameters of the input distribution: means `[B, ...]`,
    probabilities of classes `[B, ..., K]`, or of class 1 `[B, ...]`. Losses are in nats.

    The network sees theta and t in the type of its parameters, `dtype`. Continuous and discretised samples have this
    type, too. Losses and a sampler's state have this type or, if it is narrower, float32.

    Args:
        network: A module, or another function of theta and of t `[B]`. Each kind of data says what theta is and what
            the network puts out.

    Attributes:
        network: The network.
        schedule: The schedule of the accuracy.
        ops: The module with the ops of this kind of data, such as `bfn_kernels.discrete`.
        state_scale: If the prediction of a step changes by δ, the new state changes by take·state_scale·δ, where take
            is a field of `Coefficients`. state_scale is 1 for continuous and discretised data, K for classes, and 4 for
            binary data.
        solver_start: The time at which a run starts with a solver that cannot start at t = 0, such as "ode2". It has
            the published values: 0.01 for continuous and discretised data, 0.001 for classes and binary data.

    Example:
        >>> from bfn_kernels.nn import Binary
        >>> class Network(torch.nn.Linear):
        ...     def forward(self, theta, t):
        ...         return super().forward(theta)
        >>> model = Binary(Network(3, 3), beta_1=9.0)
        >>> model(torch.ones(2, 3, dtype=torch.int64)).backward()
        >>> model.network.weight.grad.shape
        torch.Size([3, 3])
    """

    schedule: ContinuousSchedule | DiscreteSchedule
    ops: Any
    state_scale: float = 1
    solver_start: float

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    @property
    def dtype(self) -> torch.dtype:
        """The type of the module's first parameter in float32, bfloat16, float16 or float64. If there is no such
        parameter, it is the type of the first such buffer. If there is no such buffer, it is torch's default type."""
        types = (value.dtype for value in chain(self.parameters(), self.buffers()))
        return next((dtype for dtype in types if dtype in FLOATS), torch.get_default_dtype())

    @property
    def losses(self) -> Any:
        """The module or layer that has the losses as its functions."""
        return self.ops

    @property
    def state_dtype(self) -> torch.dtype:
        """The type of a sampler's state. It is at least float32, since in narrower types late messages of a run would
        be smaller than the spacing of numbers."""
        return torch.promote_types(self.dtype, torch.float32)

    def forward(
        self,
        x: Tensor,
        t: Tensor | None = None,
        *,
        seed: int | None = None,
        n_steps: int | None = None,
        mask: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of a batch: L∞ at times t or, with n_steps, L_n. `model(x)` calls it.

        Args:
            x: Data `[B, ...]`, as each kind of data says.
            t: Times in [0, 1], `[B]`, on x's device; with n_steps, times (i - 1)/n for steps i from 1 to n. None:
                `spread_times` makes the times.
            seed: An int that determines all times, noise and draws of the call. None: drawn from torch's default
                generator.
            n_steps: n of L_n. None: L∞.
            mask: False where a variable is left out, such as padding: its loss is 0, and the network sees its prior.
                Broadcastable to x, or shaped as its leading dimensions.
            reduction: "mean" over variables, "sum", "batch" (sums, `[B]`) or "none" (of each variable).

        Returns:
            The loss in nats, differentiable in the network's parameters. It is float64 if x or `dtype` is float64, and
            float32 otherwise.
        """
        seed = random_seed() if seed is None else seed
        if t is None:
            t = spread_times(len(x), torch.Generator().manual_seed(part(seed, 2)), n_steps).to(x.device)
        theta = self.flow(x, t, part(seed, 0), mask)
        output = self.output(theta, t)
        if n_steps is None:
            return self.continuous_time_loss(x, output, theta, t, reduction=reduction, mask=mask)
        return self.discrete_time_loss(x, output, theta, t, n_steps, part(seed, 1), reduction=reduction, mask=mask)

    def reconstruction(
        self, x: Tensor, *, seed: int | None = None, mask: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        """The reconstruction loss -ln p_O(x) for the input distribution that the flow reaches at t = 1.

        Args:
            x: Data `[B, ...]`, as each kind of data says.
            seed: An int that determines the noise of the flow. None: drawn from torch's default generator.
            mask: As in `forward`: False where a variable is left out. Broadcastable to x, or shaped as its leading
                dimensions.
            reduction: "mean" over variables, "sum", "batch" (sums, `[B]`) or "none" (of each variable).

        Returns:
            The loss in nats, differentiable in the network's parameters. It is float64 if x or `dtype` is float64, and
            float32 otherwise.
        """
        t = torch.ones(len(x), device=x.device)
        theta = self.flow(x, t, random_seed() if seed is None else seed, mask)
        return self.reconstruction_loss(x, self.output(theta, t), theta, reduction=reduction, mask=mask)

    def output(self, theta: Tensor, t: Tensor) -> Tensor:
        """The network's prediction of the output distribution.

        Args:
            theta: What `flow` or `theta` returned: parameters of the input distribution.
            t: Times in [0, 1], `[B]`; the network gets them in `dtype`.

        Returns:
            What the network puts out.
        """
        return self.network(theta, t.to(self.dtype))

    def sample_step(self, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        """A sampling step: calls the network at time t, then updates the state by a message of accuracy alpha.

        The CPU never reads the numbers in t, alpha and seed. So a CUDA graph of one step can be replayed for all steps.

        Args:
            state: The tensors of `prior`, or of the step before. The step overwrites them.
            t: The time in [0, 1], a tensor of one number on the state's device.
            alpha: The accuracy, at least 0, a tensor of one number on the state's device.
            seed: The seed of the step's noise, an int64 tensor of one number on the state's device.
        """
        theta = self.theta(state)
        t = t.expand(len(theta))
        self.update(self.output(theta, t), state, t, alpha, seed)

    def solver_step(self, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        """A step of a solver: calls the network at time t, then updates the state.

        Args:
            state: The tensors of `solver_state`, or of the step before. The step overwrites them.
            t: The time in [0, 1] at which the step starts, a tensor of one number on the state's device.
            coefficients: The numbers of the step, tensors of one number on the state's device; the CPU never reads
                them.
            seed: As in `sample_step`: an int64 tensor of one number on the state's device.
        """
        theta = self.theta(state)
        t = t.expand(len(theta))
        self.solve(self.output(theta, t), state, t, coefficients, seed)

    def sample_final(self, state: State) -> Tensor:
        """The mode of the output distribution at t = 1, which ends a sampling run.

        Args:
            state: The tensors after the last step. They are only read.

        Returns:
            Data `[B, ...]`.
        """
        theta = self.theta(state)
        t = torch.ones(len(theta), device=theta.device)
        return self.mode(self.output(theta, t), theta, t)

    @abstractmethod
    def flow(self, x: Tensor, t: Tensor, seed: int, mask: Tensor | None = None) -> Tensor:
        """A sample of the Bayesian flow of x at time t: what the network sees.

        Args:
            x: Data `[B, ...]`, as each kind of data says.
            t: Times in [0, 1], `[B]`.
            seed: An int that determines the noise of the flow.
            mask: False where x is not read and theta is the prior's. Broadcastable to x, or shaped as its leading
                dimensions.

        Returns:
            theta, in `dtype`.
        """

    def arguments(self, output: Tensor, theta: Tensor) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
        """The arguments that the functions of `losses` share. A subclass must define this method or all three losses.

        Args:
            output: What `output` returned.
            theta: What `flow` or `theta` returned.

        Returns:
            The positional arguments that describe the output distribution, and the keyword arguments.
        """
        raise NotImplementedError

    def expectation(self, seed: int) -> dict[str, Any]:
        """The keyword arguments that say how L_n computes its expectation.

        Args:
            seed: An int that determines the draws. A quadrature does not read it.

        Returns:
            Keyword arguments of `discrete_time_loss`.
        """
        return {}

    def continuous_time_loss(self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, **options: Any) -> Tensor:
        """L∞ of an output.

        Args:
            x: Data `[B, ...]`, as each kind of data says.
            output: What `output` returned, differentiable.
            theta: What `flow` returned.
            t: The times of the flow, `[B]`.
            **options: `mask` and `reduction`, as in `forward`.

        Returns:
            The loss in nats. It is float64 if x or `dtype` is float64, and float32 otherwise.
        """
        tensors, settings = self.arguments(output, theta)
        return self.losses.continuous_time_loss(x, *tensors, t, **settings, **options)

    def discrete_time_loss(
        self, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, n_steps: int, seed: int, **options: Any
    ) -> Tensor:
        """L_n of an output.

        Args:
            x: Data `[B, ...]`, as each kind of data says.
            output: What `output` returned, differentiable.
            theta: What `flow` returned.
            t: The times of the flow, `[B]`: (i - 1)/n for steps i from 1 to n.
            n_steps: n, at least 1.
            seed: An int that determines the draws of the expectation. A loss by quadrature does not read it.
            **options: `mask` and `reduction`, as in `forward`.

        Returns:
            The loss in nats. It is float64 if x or `dtype` is float64, and float32 otherwise.
        """
        tensors, settings = self.arguments(output, theta)
        expectation = self.expectation(seed)
        return self.losses.discrete_time_loss(x, *tensors, t, n_steps=n_steps, **expectation, **settings, **options)

    def reconstruction_loss(self, x: Tensor, output: Tensor, theta: Tensor, **options: Any) -> Tensor:
        """-ln p_O(x) of an output at t = 1.

        Args:
            x: Data `[B, ...]`, as each kind of data says.
            output: What `output` returned, differentiable.
            theta: What `flow` returned.
            **options: `mask` and `reduction`, as in `forward`.

        Returns:
            The loss in nats. It is float64 if x or `dtype` is float64, and float32 otherwise.
        """
        tensors, settings = self.arguments(output, theta)
        return self.losses.reconstruction_loss(x, *tensors, **settings, **options)

    @abstractmethod
    def prior(self, shape: tuple[int, ...], device: torch.device) -> State:
        """The state before any message, from which ancestral sampling starts.

        Args:
            shape: The shape of the data, `[B, ...]`.
            device: The device of the state.

        Returns:
            Tensors that sampling steps overwrite.
        """

    @abstractmethod
    def theta(self, state: State) -> Tensor:
        """The parameters of the input distribution that the network sees.

        Args:
            state: The tensors of a sampler.

        Returns:
            theta, in `dtype`.
        """

    @abstractmethod
    def update(self, output: Tensor, state: State, t: Tensor, alpha: Tensor, seed: Tensor) -> None:
        """Updates the state by a message of accuracy alpha about a draw from the output distribution.

        Args:
            output: What `output` returned.
            state: The tensors of a sampler. The update overwrites them.
            t: The time in [0, 1] at which the network was called: a tensor of one number, or `[B]`.
            alpha: The accuracy, at least 0: a tensor of one number, or `[B]`.
            seed: The seed of the noise, an int64 tensor of one number.
        """

    @abstractmethod
    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: int) -> State:
        """The state that a solver starts from at time t.

        Args:
            shape: The shape of the data, `[B, ...]`.
            device: The device of the state.
            t: The time in [0, 1].
            seed: An int that determines the noise of the state. The noise is the same on all devices.

        Returns:
            Tensors that a solver's steps overwrite.
        """

    @abstractmethod
    def solve(self, output: Tensor, state: State, t: Tensor, coefficients: Coefficients, seed: Tensor) -> None:
        """Takes a solver's step from the output distribution at time t.

        Args:
            output: What `output` returned.
            state: The tensors of a solver. The step overwrites them.
            t: The time in [0, 1] at which the network was called: a tensor of one number, or `[B]`.
            coefficients: The numbers of the step, floats or tensors of one number. If the extrapolation is None, the
                step is of first order.
            seed: The seed of the noise, an int64 tensor of one number; a step without noise does not read it.
        """

    def step_error(self, coefficients: Coefficients, state: State, before: State) -> float | None:
        """The error of a solver's step, as `adaptive.error_of_step` estimates it.

        Args:
            coefficients: The numbers of the step, floats.
            state: The tensors of the solver after the step.
            before: Copies of these tensors from before the step.

        Returns:
            The error in units of the state, or None for a step of first order.
        """
        return error_of_step(coefficients, state[-1], before[-1], self.state_scale)

    def solver_noise(self, shape: tuple[int, ...], variance: float, device: torch.device, seed: int) -> Tensor:
        """Draws normals of this variance on the CPU, so that a run starts from the same state on all devices.

        Args:
            shape: The shape of the noise.
            variance: Its variance, at least 0.
            device: The device of the result.
            seed: An int.

        Returns:
            Noise in `state_dtype`.
        """
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).mul_(variance**0.5).to(device, self.state_dtype)

    @abstractmethod
    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        """The most probable data under the output distribution.

        Args:
            output: What `output` returned.
            theta: What `theta` or `flow` returned, which the network saw.
            t: The times of theta, `[B]`.

        Returns:
            Data `[B, ...]`: floating-point numbers, or int64 classes.
        """
