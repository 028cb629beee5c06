"""The module of several kinds of data at once, such as the positions and the types of the atoms of a molecule."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.nn.base import BFN, Network
from bfn_kernels.nn.classes import Classes
from bfn_kernels.nn.parts import ByPart, Parts
from bfn_kernels.nn.ragged import Ragged
from bfn_kernels.nn.seeds import drawn_times, part, seed_of

REDUCTIONS = (*checks.REDUCTIONS, "examples")


class Joint(Parts):
    """A Bayesian flow network for data of several parts, each of its own kind. One network sees the input distributions
    of all parts, and puts out the output distributions of all parts.

    Data are a dict with an entry for each part, `[B, ...]`, as the module of the part describes its data. Theta, the
    network's output, the shape and the state of a sampler, and samples are such dicts, too. The options `mask`,
    `choose`, `temperature`, `known`, `known_mask`, `start` and `guidance` are a dict, or a value that fits all parts. A
    part that a dict leaves out has no such option.

    In a sampling run, all parts take their steps at the same times. `Circular` data have no continuous-time loss. A
    part with such data has its n-step loss, and the times of all parts are then the times of these n steps.

    Examples may have different sizes. Then x has rows, such as atoms, `[N, ...]`, and `batch` `[N]` says which example
    each row belongs to. Times stay `[B]`, one for each example. The network gets `batch` as its argument `batch`.

    Positions in space have no origin. The mean of their noise can be 0 in each example, as the mean of the data must
    be. Then no message speaks about the mean, and the reconstruction loss has no cost for it.

    A part must not have the name of an attribute of `torch.nn.ModuleDict`, such as "type".

    Args:
        network: A module, or another function of theta and of t `[B]`, neither of which it may change.
        weights: The factors of the losses of parts in the loss of a batch, a dict of numbers. None, or a part that the
            dict leaves out: 1.
        own_times: Whether training draws times for each part. t is then a dict of times `[B]`, also for the network.
        centred: Names of parts of continuous data `[B, ..., d]` or, with `batch`, `[N, d]`, whose noise and whose
            output have the mean 0 in each example. The data must have it, too.
        of_examples: Names of parts that have an entry for each example, `[B, ...]`, although others have rows.
        **parts: A module of `bfn_kernels.nn` for each part, whose network is None.

    Attributes:
        parts: The modules of the parts, an `nn.ModuleDict`.

    Example:
        >>> from bfn_kernels.nn import Continuous, Discrete
        >>> class Network(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.of_positions, self.of_types = torch.nn.Linear(3, 3), torch.nn.Linear(5, 5)
        ...     def forward(self, theta, t):
        ...         positions, types = theta["positions"], theta["types"]
        ...         return {"positions": self.of_positions(positions), "types": self.of_types(types)}
        >>> parts = {"positions": Continuous(None, sigma_1=0.1), "types": Discrete(None, beta_1=3.0, num_classes=5)}
        >>> model = Joint(Network(), **parts)
        >>> x = {"positions": torch.rand(2, 4, 3), "types": torch.zeros(2, 4, dtype=torch.int64)}
        >>> model(x).backward()
        >>> sorted(model.loss_by_part(x))
        ['positions', 'types']
    """

    def __init__(
        self,
        network: Network,
        *,
        weights: Mapping[str, float] | None = None,
        own_times: bool = False,
        centred: Sequence[str] = (),
        of_examples: Sequence[str] = (),
        **parts: BFN,
    ):
        super().__init__(network, parts, own_times, centred, of_examples)
        for name in self.names("weights", [*(weights or {})]):
            checks.number(f"weights[{name!r}]", weights[name], 0, math.inf)
        self.weights = dict.fromkeys(parts, 1.0) | dict(weights or {})

    def loss_by_part(
        self,
        x: Mapping[str, Tensor],
        t: Any = None,
        *,
        seed: int | Tensor | None = None,
        n_steps: int | None = None,
        mask: Any = None,
        cond: Any = None,
        batch: Tensor | None = None,
        num_examples: int | None = None,
        reduction: str = "mean",
    ) -> dict[str, Tensor]:
        """The loss of each part, without weights: L∞ at times t or, with n_steps, L_n. A `Circular` part has L_n.

        Args:
            x: Data, a dict with an entry `[B, ...]`, or `[N, ...]` with `batch`, for each part.
            t: Times in [0, 1], floating-point, `[B]`, or with own_times a dict of times for each part; with n_steps, or
                with a `Circular` part, times (i − 1)/n for steps i from 1 to n. None: `spread_times` makes the times.
            seed: An int that determines all random numbers of the call, or a seed for each example, an int64 tensor
                `[B]`; each example then draws as if alone. None: torch's default generator draws an int.
            n_steps: n of L_n. None: L∞.
            mask: Bool, False where a variable is left out, such as padding: its loss is 0, and the network sees its
                prior. Broadcastable to `[B, ...]`, or shaped as its leading dimensions. One mask, or a dict.
            cond: What the network is told, as its argument `cond`. None: it is called without this argument.
            batch: The example of each row, int64 `[N]`, in any order. None: each row is an example.
            num_examples: B, for `batch`. None: the length of a part of examples or else, if there is none, the largest
                number in `batch`, plus 1. So pass it if the last examples may have no rows.
            reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`), "none" (`[B, ...]`)
                or "examples" (the mean over examples of their means).

        Returns:
            The losses in nats, by part.
        """
        x = self._data(x, reduction, batch)
        if n_steps is not None:
            n_steps = checks.integer("n_steps", n_steps, 1)
            if self.grid not in (None, n_steps):
                raise ValueError(f"n_steps must be {self.grid}, as a part has it, got {n_steps}")
        ragged, first = self._ragged(x, batch, num_examples), next(iter(x.values()))
        seeds = self.seeds(seed_of(self, seed, first, ragged))
        if t is None:
            n = self.grid if n_steps is None else n_steps
            t = self._times(self.count(x, ragged), seeds, n, first.device)
        elif not isinstance(t, Mapping) or not self.own_times:
            if not isinstance(t, Tensor):
                raise TypeError(f"t must be a tensor, or with own_times=True a dict of tensors, got {type(t).__name__}")
            t = self.for_network(t)
        masks = self.options("mask", mask)
        times = self._times_of_rows(t, ragged)
        theta = self._flow(x, times, {name: part(each, 0) for name, each in seeds.items()}, masks, ragged)
        output = self._centred_output(theta, t, cond, masks, ragged)

        def loss(each: BFN, x: Tensor, output: Tensor, theta: Tensor, t: Tensor, seed: int, **options: Any) -> Tensor:
            steps = each.n_steps if n_steps is None else n_steps
            if steps is None:
                return each.continuous_time_loss(x, output, theta, t, **options)
            return each.discrete_time_loss(x, output, theta, t, steps, part(seed, 1), **options)

        return self._reduced(loss, reduction, ragged, masks, x, output, theta, times, seeds)

    def forward(self, x: Any, t: Any = None, **options: Any) -> Tensor:  # type: ignore[override]
        """The loss of a batch: the sum of the losses of the parts, times their weights. `model(x)` calls it.

        Args:
            x: Data, a dict with an entry `[B, ...]`, or `[N, ...]` with `batch`, for each part.
            t: Times, as `loss_by_part` takes them.
            **options: The further arguments of `loss_by_part`. With reduction="none" the losses have no sum.

        Returns:
            The loss in nats, differentiable in the network's parameters.
        """
        return self._sum(self.loss_by_part(x, t, **options), self.weights, options)

    def reconstruction_by_part(
        self,
        x: Mapping[str, Tensor],
        *,
        seed: int | Tensor | None = None,
        mask: Any = None,
        cond: Any = None,
        batch: Tensor | None = None,
        num_examples: int | None = None,
        reduction: str = "mean",
    ) -> dict[str, Tensor]:
        """The reconstruction loss -ln p_O(x) of each part, for the input distributions that the flows reach at t = 1.

        A centred part with d coordinates has (N − 1)·d dimensions in an example of N points.

        Args:
            x: Data, a dict with an entry `[B, ...]`, or `[N, ...]` with `batch`, for each part.
            seed: An int that determines all random numbers of the call, or a seed for each example, an int64 tensor
                `[B]`; each example then draws as if alone. None: torch's default generator draws an int.
            mask: Bool, False where a variable is left out, such as padding: its loss is 0, and the network sees its
                prior. Broadcastable to `[B, ...]`, or shaped as its leading dimensions. One mask, or a dict.
            cond: What the network is told, as its argument `cond`. None: it is called without this argument.
            batch: The example of each row, int64 `[N]`, in any order. None: each row is an example.
            num_examples: B, for `batch`. None: the length of a part of examples or else, if there is none, the largest
                number in `batch`, plus 1. So pass it if the last examples may have no rows.
            reduction: "mean" over the variables where mask is True, "sum", "batch" (sums, `[B]`), "none" (`[B, ...]`)
                or "examples" (the mean over examples of their means).

        Returns:
            The losses in nats, by part.
        """
        x, masks = self._data(x, reduction, batch), self.options("mask", mask)
        ragged = self._ragged(x, batch, num_examples)
        t = torch.ones(self.count(x, ragged), device=next(iter(x.values())).device)
        seeds = self.seeds(seed_of(self, seed, next(iter(x.values())), ragged))
        theta = self._flow(x, self.of_rows("t", t, ragged), seeds, masks, ragged)
        output = self._centred_output(theta, self.for_network(t), cond, masks, ragged)

        def loss(each: BFN, x: Tensor, output: Tensor, theta: Tensor, **options: Any) -> Tensor:
            return each.reconstruction_loss(x, output, theta, **options)

        return self._reduced(loss, reduction, ragged, masks, x, output, theta, density=True)

    def reconstruction(self, x: Any, **options: Any) -> Tensor:  # type: ignore[override]
        """The sum of the reconstruction losses of the parts, without weights.

        Args:
            x: Data, a dict with an entry `[B, ...]`, or `[N, ...]` with `batch`, for each part.
            **options: The further arguments of `reconstruction_by_part`.

        Returns:
            The loss in nats, differentiable in the network's parameters.
        """
        return self._sum(self.reconstruction_by_part(x, **options), dict.fromkeys(self.parts, 1.0), options)

    def _sum(self, losses: dict[str, Tensor], weights: Mapping[str, float], options: dict[str, Any]) -> Tensor:
        if options.get("reduction") == "none":
            raise ValueError('reduction must be "mean", "sum", "batch" or "examples" for a sum of parts, got "none"')
        return sum(loss if weights[name] == 1 else weights[name] * loss for name, loss in losses.items())  # type: ignore

    def _data(self, x: Any, reduction: str, batch: Tensor | None) -> ByPart:
        """Checks x and reduction before anything runs, and returns x."""
        checks.choice("reduction", reduction, REDUCTIONS)
        x = self.of_data("x", x)
        self.by_part(lambda _, each: checks.data("x", each, checks.KNOWN + checks.INTEGERS), x)
        sizes = {name: len(each) for name, each in x.items()}
        if batch is None and len({*sizes.values()}) > 1:
            raise ValueError(f"x must have one number of examples for all parts, got {sizes}; or pass batch")
        return x

    def _ragged(self, x: ByPart, batch: Tensor | None, num_examples: int | None) -> Ragged | None:
        """Checks which row belongs to which example."""
        if batch is None:
            if num_examples is not None:
                raise ValueError(f"num_examples must be None without batch, got {num_examples}")
            return None
        checks.data("batch", batch, (torch.int64,))
        known = [x[name] for name in self.of_examples]
        if num_examples is None:
            num_examples = len(known[0]) if known else int(batch.max()) + 1 if len(batch) else 0
        ragged = Ragged(batch, checks.integer("num_examples", num_examples, 0))
        ragged.check()
        checks.same_device("batch", batch, "x", next(iter(x.values())))
        for name, each in x.items():
            size = num_examples if name in self.of_examples else len(batch)
            if len(each) != size:
                raise ValueError(f"{name}: x must have {size} rows, as batch requires, got {len(each)}")
        return ragged

    def _times(self, count: int, seeds: ByPart, n_steps: int | None, device: torch.device) -> Any:
        """Times of the batch, which the seed of the first part determines, or times of each part."""
        times = {}
        for name, each in seeds.items():
            times[name] = drawn_times(part(each, 2), count, n_steps).to(device)
            if not self.own_times:
                return times[name]
        return times

    def _times_of_rows(self, t: Any, ragged: Ragged | None) -> ByPart:
        if not isinstance(t, Mapping):
            return self.of_rows("t", t, ragged)
        return {name: self.of_rows("t", each, ragged)[name] for name, each in self.of_data("t", t).items()}

    def flow(self, x: Any, t: Any, seed: int, mask: Any = None, ragged: Ragged | None = None) -> Any:
        """Samples of the Bayesian flows at time t: what the network sees.

        Args:
            x: Data, a dict with an entry `[B, ...]`, or `[N, ...]` with `batch`, for each part.
            t: Times in [0, 1], floating-point, `[B]`, or a dict of times for each part.
            seed: An int that determines all random numbers of the call, or `ExampleSeeds`.
            mask: Bool, False where x is not read, such as padding: the result there is as before the first message.
                Broadcastable to `[B, ...]`, or shaped as its leading dimensions.
            ragged: The examples of the rows, a `Ragged`. None: each row is an example.

        Returns:
            theta, by part.
        """
        x, times = self.of_data("x", x), self._times_of_rows(t, ragged)
        seeds = self.seeds(seed_of(self, seed, next(iter(x.values())), ragged))
        return self._flow(x, times, seeds, self.options("mask", mask), ragged)

    def _flow(self, x: ByPart, times: ByPart, seeds: ByPart, masks: ByPart, ragged: Ragged | None) -> ByPart:
        theta = self.by_part(lambda each, *arguments: each.flow(*arguments), x, times, seeds, masks)
        return self.centre(theta, ragged, masks)

    def _centred_output(self, theta: ByPart, t: Any, cond: Any, masks: ByPart, ragged: Ragged | None) -> ByPart:
        return self.centre(self.checked(self.output(theta, t, cond, ragged), theta), ragged, masks)

    def _reduced(
        self, loss: Any, reduction: str, ragged: Ragged | None, masks: ByPart, *values: ByPart, density: bool = False
    ) -> dict[str, Tensor]:
        """The losses of the parts. density: whether a loss is −ln of a density. The density of a centred part has fewer
        dimensions than the data have numbers."""
        rows, names = self.rows(ragged), {name: name for name in self.parts}

        def reduce(each: BFN, name: str, rows: Ragged | None, mask: Any, x: Tensor, *others: Any) -> Tensor:
            centred = density and name in self.centred
            if not centred and (reduction in ("none", "sum", "mean") or (reduction == "batch" and rows is None)):
                return loss(each, x, *others, mask=mask, reduction=reduction)
            examples = Ragged.of_each_row(x) if rows is None else rows
            numbers = _numbers(each, x, mask, examples) if centred or reduction == "examples" else None
            if not centred:
                losses = loss(each, x, *others, mask=mask, reduction="batch")
            else:
                losses = loss(each, x, *others, mask=mask, reduction="none")
                cost = _cost_of_mean(each, x, examples, numbers).to(losses.dtype)
                losses = losses - (cost if mask is None else cost * checks.mask("mask", mask, "x", x, x.shape))
            if reduction == "none":
                return losses
            if reduction in ("sum", "mean"):
                return losses.sum() / (numbers.sum().clamp(min=1) if reduction == "mean" else 1)
            sums = examples.sums(_of_rows(losses))
            if reduction == "batch":
                return sums
            return (sums / numbers.clamp(min=1)).sum() / (numbers > 0).sum().clamp(min=1)

        return self.by_part(reduce, names, rows, masks, *values)


def _numbers(each: BFN, x: Tensor, mask: Tensor | None, examples: Ragged) -> Tensor:
    """The number of variables of each example. With a mask, only variables where it is True count."""
    shape = checks.variables(x) if isinstance(each, Classes) else x.shape  # soft data have numbers for each class
    if mask is None:
        return examples.sizes * shape[1:].numel()
    return examples.sums(_of_rows(checks.mask("mask", mask, "x", x, shape).expand(shape).long()))


def _of_rows(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1) if values.dim() > 1 else values


def _cost_of_mean(each: BFN, x: Tensor, examples: Ragged, numbers: Tensor) -> Tensor:
    """The cost of an example's mean, ln(2πσ₁²)/2 for each coordinate, divided among the variables of the example."""
    schedule: Any = each.schedule
    variance = schedule.gamma(torch.ones((), dtype=torch.float64))[1]
    cost = x.shape[-1] * (2 * math.pi * variance).log().item() / 2
    each_variable = (cost / numbers.clamp(min=1).double()).index_select(0, examples.batch)
    return each_variable.view(-1, *(1,) * (x.dim() - 1))
