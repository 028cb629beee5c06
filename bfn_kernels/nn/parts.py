"""The base of `Joint`: modules of several kinds of data with one network, and the steps of samplers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bfn_kernels import checks
from bfn_kernels.nn.base import BFN, Network, State
from bfn_kernels.nn.example_seeds import with_rows
from bfn_kernels.nn.normal import Continuous
from bfn_kernels.nn.ragged import Ragged
from bfn_kernels.nn.sampling import PLAIN, Sampling, apart, known_where, row_factor, widened
from bfn_kernels.nn.seeds import part
from bfn_kernels.nn.vocabulary import Vocabulary

ByPart = dict[str, Any]  # something for each part, by its name


ABOUT_ARGUMENTS = ValueError, TypeError, IndexError


def naming(name: str, error: Exception) -> Exception:
    """An error about an argument, which begins with the name of the part that it is about."""
    return next(kind for kind in ABOUT_ARGUMENTS if isinstance(error, kind))(f"{name}: {error}")


class Parts(BFN):
    """The base of `Joint`, which describes its arguments. It has the parts, and the methods that samplers call."""

    def __init__(
        self,
        network: Network,
        parts: Mapping[str, BFN],
        own_times: bool,
        centred: Sequence[str],
        of_examples: Sequence[str],
    ):
        super().__init__(network)
        self.own_times = own_times
        if not parts:
            raise ValueError("parts must have at least one part, got none")
        for name, each in parts.items():
            if not isinstance(each, BFN) or isinstance(each, (Parts, Vocabulary)):
                kind = type(each).__name__
                raise TypeError(f"{name} must be a module of bfn_kernels.nn for one kind of data, got {kind}")
            if each.network is not None:
                raise ValueError(f"{name} must have no network, as in {type(each).__name__}(None, ...)")
            if each.whole is not None:
                raise ValueError(f"{name} must be a module of its own, got a part of another joint model")
            if hasattr(nn.ModuleDict, name) or "." in name or not name:
                raise ValueError(f"the name of a part must not be an attribute of torch.nn.ModuleDict, got {name!r}")
        for each in parts.values():
            vars(each)["whole"] = self  # as a submodule it would be a circle
        self.parts = nn.ModuleDict(parts)
        self.centred, self.of_examples = self.names("centred", centred), self.names("of_examples", of_examples)
        for name in self.centred:
            each = parts[name]
            if not isinstance(each, Continuous) or name in of_examples:
                raise ValueError(f"centred must name parts of Continuous data of rows, got {name!r}")
            if each.num_bins is not None or each.clip is not None:
                got = f"num_bins={each.num_bins} and clip={each.clip}"
                raise ValueError(f"{name}: num_bins and clip must be None for a centred part, got {got}")
        steps = {name: each.n_steps for name, each in parts.items() if each.n_steps is not None}
        if len({*steps.values()}) > 1:
            raise ValueError(f"parts must have schedules of the same number of steps, got {steps}")
        self.grid = next(iter(steps.values()), None)
        self.solver_start = max(each.solver_start for each in parts.values())

    def names(self, name: str, names: Sequence[str]) -> tuple[str, ...]:
        """Checks names of parts.

        Args:
            name: The name of the value, for errors.
            names: Names of parts.

        Returns:
            The names.
        """
        if isinstance(names, str) or (unknown := sorted({*names} - {*self.parts})):
            got = repr(names) if isinstance(names, str) else unknown
            raise ValueError(f"{name} must name parts among {[*self.parts]}, got {got}")
        return tuple(names)

    def by_part(self, function: Callable[..., Any], *values: Any) -> ByPart:
        """Calls a function for each part.

        Args:
            function: A function of a part's module and of the part's entry of each of the values. Its errors get the
                part's name.
            *values: Dicts with an entry for each part.

        Returns:
            The results, by part.
        """
        found = {}
        for name, each in self.parts.items():
            try:
                found[name] = function(each, *(value[name] for value in values))
            except ABOUT_ARGUMENTS as error:
                raise naming(name, error) from error
        return found

    def options(self, name: str, value: Any) -> ByPart:
        """An option of each part.

        Args:
            name: The name of the value, for errors.
            value: A dict, or a value for all parts.

        Returns:
            The options, by part; None for a part that the dict leaves out.
        """
        if not isinstance(value, Mapping):
            return dict.fromkeys(self.parts, value)
        self.names(name, [*value])
        return {each: value.get(each) for each in self.parts}

    def of_data(self, name: str, value: Any) -> ByPart:
        """Checks that a dict has an entry for each part, and no other.

        Args:
            name: The name of the value, for errors.
            value: A dict with an entry for each part.

        Returns:
            The dict.
        """
        if not isinstance(value, Mapping) or {*value} != {*self.parts}:
            got = [*value] if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"{name} must be a dict with the parts {[*self.parts]}, got {got}")
        return dict(value)

    def seeds(self, seed: Any) -> ByPart:
        """The seeds of the parts: each part draws what its module alone would draw with its seed.

        Args:
            seed: An int that determines all random numbers of the call, or `ExampleSeeds`.

        Returns:
            `part(seed, i)` for the part i, by part.
        """
        rows = self.rows(getattr(seed, "ragged", None))
        return {name: with_rows(part(seed, index), rows[name]) for index, name in enumerate(self.parts)}

    def rows(self, ragged: Ragged | None) -> dict[str, Ragged | None]:
        """The rows of each part.

        Args:
            ragged: The examples of the rows, a `Ragged`. None: each row is an example.

        Returns:
            The examples of the rows, by part; None for a part with a row for each example.
        """
        return {name: None if name in self.of_examples else ragged for name in self.parts}

    def of_rows(self, name: str, numbers: Tensor, ragged: Ragged | None) -> ByPart:
        """Numbers of examples as numbers of rows.

        Args:
            name: The name of the value, for errors.
            numbers: Numbers of examples, `[B]`, or one number for all.
            ragged: The examples of the rows, a `Ragged`. None: each row is an example.

        Returns:
            Numbers of rows, `[N]` or `[B]`, by part, or the number for all.
        """
        if ragged is None or numbers.dim() == 0:
            return dict.fromkeys(self.parts, numbers)
        if numbers.shape != (ragged.num_examples,):
            raise ValueError(f"{name} must have shape [{ragged.num_examples}], got {tuple(numbers.shape)}")
        of_rows = numbers.index_select(0, ragged.batch)
        return {part: numbers if part in self.of_examples else of_rows for part in self.parts}

    def centre(self, means: ByPart, ragged: Ragged | None, masks: ByPart | None = None) -> ByPart:
        """Subtracts from each centred part the mean over the variables of its example.

        Args:
            means: Numbers `[N, ..., d]` for each part, of which those of centred parts are means.
            ragged: The examples of the rows, a `Ragged`. None: each row is an example.
            masks: Masks of the variables that count, by part, or None.

        Returns:
            The numbers, by part, with the mean 0 in each example of a centred part.
        """
        found = dict(means)
        for name in self.centred:
            value, mask = means[name], None if masks is None else masks[name]
            if value.dim() < (3 if ragged is None else 2):
                shape = "[B, ..., points, d], or [N, d] with batch or counts"
                raise ValueError(f"{name} must have shape {shape}, as a centred part, got {tuple(value.shape)}")
            if mask is not None:
                mask = checks.mask("mask", mask, "x", value, value.shape)
                if mask.shape[-1] != 1:
                    raise ValueError(
                        f"{name}: mask must be one for all coordinates of a point, got {tuple(mask.shape)}"
                    )
                mask = mask.expand(*value.shape[:-1], 1).flatten()
            found[name] = points_of(value, ragged).centred(value.flatten(0, -2), mask).view_as(value)
        return found

    def output(self, theta: Any, t: Any, cond: Any = None, ragged: Ragged | None = None) -> Any:
        """The network's predictions of the output distributions.

        Args:
            theta: What `flow` or `theta` returned.
            t: Times in [0, 1], floating-point, `[B]`, or a dict of times for each part.
            cond: What the network is told, as its argument `cond`. None: it is called without this argument.
            ragged: The examples of the rows, a `Ragged`. None: each row is an example.

        Returns:
            The network's output, a dict.
        """
        dtype = self.dtype
        times: Any = each_part(lambda each: each.to(dtype), t)
        told = {} if cond is None else {"cond": cond}
        if ragged is not None:
            told["batch"] = ragged.batch
        network: Any = self.network
        return network(dict(theta), times, **told)

    def checked(self, output: Any, theta: Any) -> Any:
        output = self.of_data("the network's output", output)
        return self.by_part(lambda each, output, theta: each.checked(output, theta), output, theta)

    def sampling_by_part(self, sampling: Sampling) -> ByPart:
        """The options of a run, for each part.

        Args:
            sampling: The options of the run, a `Sampling`.

        Returns:
            A `Sampling` for each part.
        """
        names = "choose", "temperature", "known", "known_mask", "guidance", "variance_scale"
        values = {name: getattr(sampling, name) for name in names}
        each = {name: self.options(name, value) for name, value in values.items() if value is not None}
        if self.of_examples and sampling.ragged is not None:
            each["ragged"] = self.rows(sampling.ragged)
        if not each:
            return dict.fromkeys(self.parts, sampling)
        for name in self.centred:
            if each.get("known", {}).get(name) is not None:
                raise ValueError(f"{name}: known must be None for a centred part, whose origin moves in each step")
        guided = [name for name, guidance in each.get("guidance", {}).items() if guidance is not None]
        if guided:  # the network is called twice for all parts, but a part without guidance has no second output
            each["unconditional"] = {name: sampling.unconditional if name in guided else None for name in self.parts}
        for name in guided:
            if isinstance(weight := each["guidance"][name], Tensor) and weight.dim() > 0:
                each["guidance"][name] = self.of_rows("guidance", weight, sampling.ragged)[name]
        return {p: sampling._replace(**{name: values[p] for name, values in each.items()}) for p in self.parts}

    def guided_output(self, theta: Any, t: Tensor, sampling: Sampling) -> Any:
        times, by_part = self.for_network(t), self.sampling_by_part(sampling)
        output = self.checked(self.output(theta, times, sampling.cond, sampling.ragged), theta)
        other, inputs = output, [*theta.values()]  # the step of any part may overwrite an input
        if any(each.guidance is not None for each in by_part.values()):
            other = self.checked(self.output(theta, times, sampling.unconditional, sampling.ragged), theta)

        def guided(each: BFN, output: Tensor, other: Tensor, sampling: Sampling) -> Tensor:
            if sampling.guidance is None:
                return apart(output, *inputs)
            output = widened(output)
            return each.guided(output, other, row_factor(sampling.guidance, output))

        return self.centre(self.by_part(guided, output, other, by_part), sampling.ragged)

    def for_network(self, t: Tensor) -> Any:
        """The times of all parts as the network sees them.

        Args:
            t: Times in [0, 1], floating-point, `[B]`.

        Returns:
            The times or, with own_times, a dict of times.
        """
        return dict.fromkeys(self.parts, t) if self.own_times else t

    def sample_step(self, state: Any, t: Tensor, alpha: Any, seed: Any, sampling: Sampling = PLAIN) -> None:
        self.update(self._predicted(state, t, sampling), state, t, alpha, seed, sampling)

    def solver_step(self, state: Any, t: Tensor, coefficients: Any, seed: Any, sampling: Sampling = PLAIN) -> None:
        self.solve(self._predicted(state, t, sampling), state, t, coefficients, seed, sampling)

    def _predicted(self, state: Any, t: Tensor, sampling: Sampling) -> Any:
        theta = self.theta(state)
        return self.guided_output(theta, t.expand(self.count(theta, sampling.ragged)), sampling)

    def sample_final(self, state: Any, sampling: Sampling = PLAIN) -> Any:
        theta, by_part = self.theta(state), self.sampling_by_part(sampling)
        t = torch.ones(self.count(theta, sampling.ragged), device=next(iter(theta.values())).device)

        def final(each: BFN, output: Tensor, theta: Tensor, t: Tensor, sampling: Sampling) -> Tensor:
            return known_where(each.mode(output, theta, t), sampling)

        output = self.guided_output(theta, t, sampling)
        return self.by_part(final, output, theta, self.of_rows("t", t, sampling.ragged), by_part)

    def count(self, tensors: ByPart, ragged: Ragged | None) -> int:
        """The number of examples.

        Args:
            tensors: A tensor of each part.
            ragged: The examples of the rows, a `Ragged`. None: each row is an example.

        Returns:
            B.
        """
        return len(next(iter(tensors.values()))) if ragged is None else ragged.num_examples

    def start_from(self, state: Any, start: Any) -> None:
        def start_part(each: BFN, state: State, start: Any) -> None:
            if start is not None:
                each.start_from(state, start)

        self.by_part(start_part, state, self.options("start", start))

    def prior(self, shape: Any, device: torch.device, seed: Any = None) -> Any:
        seeds = dict.fromkeys(self.parts) if seed is None else self.seeds(seed)
        return self.by_part(lambda each, shape, seed: each.prior(shape, device, seed), shape, seeds)

    def solver_state(self, shape: Any, device: torch.device, t: float, seed: int) -> Any:
        seeds = self.seeds(seed)
        return self.by_part(lambda each, shape, seed: each.solver_state(shape, device, t, seed), shape, seeds)

    def theta(self, state: Any) -> Any:
        return self.by_part(lambda each, state: each.theta(state), state)

    def update(self, output: Any, state: Any, t: Tensor, alpha: Any, seed: Any, sampling: Sampling = PLAIN) -> None:
        self._step(lambda each, *arguments: each.update(*arguments), output, state, t, alpha, seed, sampling)

    def solve(
        self, output: Any, state: Any, t: Tensor, coefficients: Any, seed: Any, sampling: Sampling = PLAIN
    ) -> None:
        self._step(lambda each, *arguments: each.solve(*arguments), output, state, t, coefficients, seed, sampling)

    def _step(
        self, step: Callable, output: Any, state: Any, t: Tensor, numbers: Any, seed: Any, sampling: Sampling
    ) -> None:
        times, by_part = self.of_rows("t", t, sampling.ragged), self.sampling_by_part(sampling)
        self.by_part(step, output, state, times, numbers, seed, by_part)
        self.centre_state(state, sampling.ragged)

    def centre_state(self, state: Any, ragged: Ragged | None) -> None:
        """Subtracts from the means of each centred part their mean over the variables of an example. So the noise of a
        step has the mean 0, as the data have.

        Args:
            state: The tensors of a sampler, by part. Those of centred parts are overwritten.
            ragged: The examples of the rows, a `Ragged`. None: each row is an example.
        """
        for name, mean in self.centre({name: each[0] for name, each in state.items()}, ragged).items():
            if name in self.centred:
                state[name][0].copy_(mean)

    def step_error(self, coefficients: Any, state: Any, before: Any, sampling: Sampling = PLAIN) -> float | None:
        by_part = self.sampling_by_part(sampling)
        found = self.by_part(lambda each, *arguments: each.step_error(*arguments), coefficients, state, before, by_part)
        return None if None in found.values() else max(found.values())

    def mode(self, output: Any, theta: Any, t: Tensor) -> Any:
        return self.by_part(lambda each, output, theta: each.mode(output, theta, t), output, theta)


def points_of(value: Tensor, ragged: Ragged | None) -> Ragged:
    """The examples of the points `[..., d]` of a part: of its rows, or of all variables of a row that is an example."""
    rows = Ragged.of_each_row(value) if ragged is None else ragged
    points = value.shape[1:-1].numel()
    return rows if points == 1 else Ragged(rows.batch.repeat_interleave(points), rows.num_examples)


def unwrapped(model: Any) -> Any:
    """The module that torch.compile wraps, or the model itself."""
    return getattr(model, "_orig_mod", model)


def joint_of(model: Any) -> Parts | None:
    """The model if it is a joint model."""
    whole = unwrapped(model)
    return whole if isinstance(whole, Parts) else None


def by_part(model: BFN, of: Callable[..., Any], *values: Any) -> Any:
    """Calls a function for a model, or for each part of a joint model. Then it returns a dict."""
    joint = joint_of(model)
    return of(model, *values) if joint is None else joint.by_part(of, *values)


def each_part(of: Callable[..., Any], *values: Any) -> Any:
    """Calls a function for values. If they are dicts, calls it for the values of each part, and returns a dict."""
    if isinstance(values[0], Mapping):
        return {name: each_part(of, *(value[name] for value in values)) for name in values[0]}
    return of(*values)


def copied(state: Any) -> Any:
    """A copy of a state's tensors."""
    return each_part(lambda state: tuple(value.clone() for value in state), state)
