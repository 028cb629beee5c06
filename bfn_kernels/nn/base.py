"""The base of the modules: the methods that training and samplers call."""

from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.adaptive import error_of_step
from bfn_kernels.nn.losses import Losses
from bfn_kernels.nn.sampling import PLAIN, Sampling, apart, known_where, row_factor, widened
from bfn_kernels.nn.seeds import drawn_times, part, seed_of, start_normals
from bfn_kernels.schedules import ContinuousSchedule, DiscreteSchedule
from bfn_kernels.solvers import Coefficients

# The tensors that every step of a sampler overwrites:
# - in ancestral sampling, mean and precision, or logits and theta. Angles have mean, concentration and its logarithm.
# - for a solver, the mean, or logits and theta, and then the prediction of the previous step.
# `Vocabulary` stores the embedding of theta in place of theta. For a solver, it stores the logits and the network's
# output of the previous step in place of the prediction.
State = tuple[Tensor, ...]
Network = Callable[[Tensor, Tensor], Tensor]  # a module, or another function of theta and t


class BFN(Losses):
    """The base of the modules for all kinds of data: a network with its losses and the steps of samplers.

    Data are x `[B, ...]`. Times are t `[B]`. `theta` are the parameters of the input distribution: means `[B, ...]`,
    probabilities of classes `[B, ..., K]`, or of class 1 `[B, ...]`. Losses are in nats.

    The network sees theta and t in the type of its parameters, `dtype`. Continuous and discretised samples have this
    type, too. A sampler's mean or logits have this type or, if it is narrower, float32. Losses are float64 if the data
    or `dtype` are float64, and float32 otherwise.

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.

    Attributes:
        network: The network.
        schedule: The schedule of the accuracy.
        ops: The module with the ops of this kind of data, such as `bfn_kernels.discrete`.
        state_scale: If the prediction of a step changes by δ, the new state changes by take·state_scale·δ, where take
            is a field of `Coefficients`. state_scale is 1 for continuous and discretised data, K for classes, and 4 for
            binary data.
        choices: The allowed values of `Sampling.choose`.
        has_logits: Whether the network puts out logits, which a temperature divides.
        solver_start: The time at which a run starts with a rule that cannot start at t = 0, such as "ode2": 0.01 for
            continuous and discretised data, 0.001 for classes and binary data.

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
    state_scale: float = 1
    choices: tuple[str, ...] = ("sample", "mode", "mean")
    has_logits = False
    solver_start: float = 0.0
    whole: "BFN | None" = None  # for a part of `Joint`, this model

    def __init__(self, network: Network | None):
        super().__init__()
        self.network = network

    @property
    def dtype(self) -> torch.dtype:
        """The type of the module's first parameter in float32, bfloat16, float16 or float64. If there is no such
        parameter, it is the type of the first such buffer. If there is no such buffer, it is torch's default type."""
        types = (value.dtype for each in (self.whole or self,) for value in chain(each.parameters(), each.buffers()))
        return next((dtype for dtype in types if dtype in checks.FLOATS), torch.get_default_dtype())

    @property
    def n_steps(self) -> int | None:
        """n of the loss L_n that `forward` computes by default; None: it computes L∞."""
        return None

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
        seed: int | Tensor | None = None,
        n_steps: int | None = None,
        mask: Tensor | None = None,
        cond: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of a batch: L∞ at times t or, with n_steps, L_n. `model(x)` calls it.

        Args:
            x: Data, `[B, ...]`, as the class of the model describes them.
            t: Times in [0, 1], floating-point, `[B]`, on x's device; with n_steps, times (i − 1)/n for steps i from 1
                to n. None: `spread_times` makes the times.
            seed: An int that determines all random numbers of the call, or a seed for each example, an int64 tensor
                `[B]`; each example then draws as if alone. None: torch's default generator draws an int.
            n_steps: n of L_n. None: `self.n_steps`, which is None for L∞.
            mask: Bool, False where a variable is left out, such as padding: its loss is 0, and the network sees its
                prior. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
            cond: What the network is told, as its argument `cond`. None: it is called without this argument.
            reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none"
                (`[B, ...]`).

        Returns:
            The loss in nats, differentiable in the network's parameters. It is float64 if x or `dtype` is float64, and
            float32 otherwise.
        """
        seed, n_steps = seed_of(self, seed, x), self.n_steps if n_steps is None else n_steps
        if n_steps is not None:
            n_steps = checks.integer("n_steps", n_steps, 1)
        if self.n_steps not in (None, n_steps):
            raise ValueError(f"n_steps must be {self.n_steps}, as the model has it, got {n_steps}")
        if t is None:
            t = drawn_times(part(seed, 2), len(x), n_steps).to(x.device)
        theta = self.flow(x, t, part(seed, 0), mask)
        output = self.checked(self.output(theta, t, cond), theta)
        if n_steps is None:
            return self.continuous_time_loss(x, output, theta, t, reduction=reduction, mask=mask)
        return self.discrete_time_loss(x, output, theta, t, n_steps, part(seed, 1), reduction=reduction, mask=mask)

    def reconstruction(
        self,
        x: Tensor,
        *,
        seed: int | Tensor | None = None,
        mask: Tensor | None = None,
        cond: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The reconstruction loss -ln p_O(x) for the input distribution that the flow reaches at t = 1.

        Args:
            x: Data, `[B, ...]`, as the class of the model describes them.
            seed: An int that determines all random numbers of the call, or a seed for each example, an int64 tensor
                `[B]`; each example then draws as if alone. None: torch's default generator draws an int.
            mask: Bool, False where a variable is left out, such as padding: its loss is 0, and the network sees its
                prior. Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
            cond: What the network is told, as its argument `cond`. None: it is called without this argument.
            reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`) or "none"
                (`[B, ...]`).

        Returns:
            The loss in nats, differentiable in the network's parameters. It is float64 if x or `dtype` is float64, and
            float32 otherwise.
        """
        t = torch.ones(len(x), device=x.device)
        theta = self.flow(x, t, seed_of(self, seed, x), mask)
        output = self.checked(self.output(theta, t, cond), theta)
        return self.reconstruction_loss(x, output, theta, reduction=reduction, mask=mask)

    def output(self, theta: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The network's prediction of the output distribution.

        Args:
            theta: What `flow` or `theta` returned.
            t: Times in [0, 1], floating-point, `[B]`.
            cond: What the network is told, as its argument `cond`. None: it is called without this argument.

        Returns:
            What the network puts out.
        """
        return self.network(theta, t.to(self.dtype), **({} if cond is None else {"cond": cond}))

    def guided_output(self, theta: Tensor, t: Tensor, sampling: Sampling) -> Tensor:
        """The prediction that a sampler uses. With guidance, the network is called twice.

        Args:
            theta: What `flow` or `theta` returned.
            t: Times in [0, 1], floating-point, `[B]`.
            sampling: The options of the run, a `Sampling`.

        Returns:
            The network's output or, with guidance, what `guided` makes of the two outputs. Float16 becomes float32.
        """
        output = self.checked(self.output(theta, t, sampling.cond), theta)
        if sampling.guidance is None:
            return apart(output, theta)
        output, other = widened(output), self.checked(self.output(theta, t, sampling.unconditional), theta)
        return self.guided(output, other, row_factor(sampling.guidance, output))

    def guided(self, output: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        """Combines two outputs of the network, for the same theta and t.

        Args:
            output: The output with the condition.
            other: The output without the condition, or with a condition that samples should not meet.
            weight: w, broadcastable to both outputs.

        Returns:
            (1 + w)·output − w·other.
        """
        return output + weight * (output - other)

    def sample_step(self, state: State, t: Tensor, alpha: Any, seed: Any, sampling: Sampling = PLAIN) -> None:
        """A sampling step: calls the network at time t, then updates the state by a message of accuracy alpha.

        The CPU never reads the numbers in t, alpha and seed. So a CUDA graph of one step can be replayed for all steps.

        Args:
            state: The tensors of `prior`, or of the step before. The step overwrites them.
            t: The time in [0, 1] at which the step starts, a tensor of one number on the state's device.
            alpha: Accuracy of the message, at least 0: a float, or a tensor of one number on the state's device.
            seed: An int64 tensor of one number on the state's device, or `ExampleSeeds`. Not read if nothing is drawn.
            sampling: The options of the run, a `Sampling`.
        """
        theta = self.theta(state)
        t = t.expand(len(theta))
        self.update(self.guided_output(theta, t, sampling), state, t, alpha, seed, sampling)

    def solver_step(
        self, state: State, t: Tensor, coefficients: Coefficients, seed: Any, sampling: Sampling = PLAIN
    ) -> None:
        """A step of a solver: calls the network at time t, then updates the state.

        The CPU never reads the numbers in t, coefficients and seed.

        Args:
            state: The tensors of `solver_state`, or of the step before. The step overwrites them.
            t: The time in [0, 1] at which the step starts, a tensor of one number on the state's device.
            coefficients: The numbers of the step: floats, or tensors of one number on the state's device.
            seed: An int64 tensor of one number on the state's device, or `ExampleSeeds`. Not read if nothing is drawn.
            sampling: The options of the run, a `Sampling`.
        """
        theta = self.theta(state)
        t = t.expand(len(theta))
        self.solve(self.guided_output(theta, t, sampling), state, t, coefficients, seed, sampling)

    def sample_final(self, state: State, sampling: Sampling = PLAIN) -> Tensor:
        """The sample that ends a run: the mode of the output distribution at t = 1, or known data where they are known.

        Args:
            state: The tensors of a sampler. They are only read.
            sampling: The options of the run, a `Sampling`.

        Returns:
            Data `[B, ...]`.
        """
        theta = self.theta(state)
        t = torch.ones(len(theta), device=theta.device)
        return known_where(self.mode(self.guided_output(theta, t, sampling), theta, t), sampling)

    def start_from(self, state: State, start: Tensor) -> None:
        """Replaces the means or the logits that a run starts from.

        Args:
            state: The tensors of `prior` or `solver_state`. The first tensor is overwritten. Modules whose state also
                has theta, or its embedding, override this method to overwrite it, too.
            start: The new means or logits, in the shape of the first tensor, floating-point.
        """
        checks.like("start", start, "the state", state[0])
        state[0].copy_(start)

    @abstractmethod
    def flow(self, x: Tensor, t: Tensor, seed: Any, mask: Tensor | None = None) -> Tensor:
        """A sample of the Bayesian flow of x at time t: what the network sees.

        Args:
            x: Data, `[B, ...]`, as the class of the model describes them.
            t: Times in [0, 1], floating-point, `[B]`.
            seed: An int that determines all random numbers of the call, or `ExampleSeeds`.
            mask: Bool, False where x is not read, such as padding: the result there is as before the first message.
                Broadcastable to `[B, ...]`, or shaped as its leading dimensions.

        Returns:
            theta, in `dtype`.
        """

    @abstractmethod
    def prior(self, shape: tuple[int, ...], device: torch.device, seed: Any = None) -> State:
        """The state before any message, from which ancestral sampling starts.

        Args:
            shape: The shape of the data, `[B, ...]`, a tuple of ints.
            device: The device of the result.
            seed: An int or `ExampleSeeds`, from which angles draw their means. None: all means of angles are 0.

        Returns:
            Tensors that sampling steps overwrite.
        """

    @abstractmethod
    def theta(self, state: State) -> Tensor:
        """The parameters of the input distribution that the network sees.

        Args:
            state: The tensors of a sampler. They are only read.

        Returns:
            theta, in `dtype`.
        """

    @abstractmethod
    def update(
        self, output: Tensor, state: State, t: Tensor, alpha: float | Tensor, seed: Any, sampling: Sampling = PLAIN
    ) -> None:
        """Updates the state by a message of accuracy alpha about a draw from the output distribution.

        Args:
            output: What `guided_output` returned.
            state: The tensors of `prior`, or of the step before. The step overwrites them.
            t: The time in [0, 1] at which the network was called: a tensor of one number, or `[B]`.
            alpha: Accuracy of the message, at least 0: a float, a tensor of one number, or `[B]`.
            seed: An int64 tensor of one number on the state's device, or `ExampleSeeds`. Not read if nothing is drawn.
            sampling: The options of the run, a `Sampling`.
        """

    def solver_state(self, shape: tuple[int, ...], device: torch.device, t: float, seed: Any) -> State:
        """The state that a solver starts from at time t. Its noise is the same on all devices.

        Args:
            shape: The shape of the data, `[B, ...]`, a tuple of ints.
            device: The device of the result.
            t: The time in [0, 1], a number.
            seed: An int that determines all random numbers of the call, or `ExampleSeeds`.

        Returns:
            Tensors that a solver's steps overwrite.
        """
        raise ValueError(f'sampler must be "ancestral", since {type(self).__name__} has no solver')

    def solve(
        self,
        output: Tensor,
        state: State,
        t: Tensor,
        coefficients: Coefficients,
        seed: Any,
        sampling: Sampling = PLAIN,
    ) -> None:
        """Takes a solver's step from the output distribution at time t.

        Args:
            output: What `guided_output` returned.
            state: The tensors of `solver_state`, or of the step before. The step overwrites them.
            t: The time in [0, 1] at which the network was called: a tensor of one number, or `[B]`.
            coefficients: The numbers of the step: floats, or tensors of one number on the state's device.
            seed: An int64 tensor of one number on the state's device, or `ExampleSeeds`. Not read if nothing is drawn.
            sampling: The options of the run, a `Sampling`.
        """
        raise NotImplementedError

    def step_error(
        self, coefficients: Coefficients, state: State, before: State, sampling: Sampling = PLAIN
    ) -> float | None:
        """The error of a solver's step, as `adaptive.error_of_step` estimates it. `adaptive.Steps` compares it with a
        tolerance.

        Args:
            coefficients: The numbers of the step: floats, or tensors of one number on the state's device.
            state: The tensors of the solver after the step.
            before: Copies of these tensors from before the step.
            sampling: The options of the run, a `Sampling`.

        Returns:
            The error in units of the state, or None for a step of first order.
        """
        batch = getattr(sampling.ragged, "batch", None)
        return error_of_step(coefficients, state[-1], before[-1], self.state_scale, batch)

    def solver_noise(self, shape: tuple[int, ...], variance: float, device: torch.device, seed: Any) -> Tensor:
        """Draws normals of this variance on the CPU, so that a run starts from the same state on all devices.

        Args:
            shape: The shape of the result.
            variance: Its variance, at least 0.
            device: The device of the result.
            seed: An int that determines all random numbers of the call, or `ExampleSeeds`.

        Returns:
            Noise in `state_dtype`.
        """
        return start_normals(seed, shape).mul_(variance**0.5).to(device, self.state_dtype)

    @abstractmethod
    def mode(self, output: Tensor, theta: Tensor, t: Tensor) -> Tensor:
        """The most probable data under the output distribution.

        Args:
            output: What `guided_output` returned.
            theta: What `flow` or `theta` returned.
            t: Times in [0, 1], floating-point, `[B]`.

        Returns:
            Data `[B, ...]`: floating-point numbers, or int64 classes.
        """
