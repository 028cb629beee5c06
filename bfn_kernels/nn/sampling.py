"""The options of a sampling run, which it passes to a model in every step."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.arguments.outputs import memory_of, overlap
from bfn_kernels.nn.ragged import Ragged


class Sampling(NamedTuple):
    """Which value of the output distribution a run uses, which data are known, and what the network is told.

    Attributes:
        choose: The value of the output distribution that a step uses: a "sample", its "mode" or its "mean". None: a
            "sample" in ancestral sampling, the "mean" in a step of a solver.
        temperature: T, by which logits are divided, from 1e-30 to 1e30. None: 1.
        known: Data `[B, ...]`, which samples have where known_mask is True. None: no data are known.
        known_mask: Bool, broadcastable to the data, or shaped as their leading dimensions. Pass known and known_mask
            together.
        cond: What the network is told, as its argument `cond`. None: it is called without this argument.
        unconditional: What the network is told in the second call of a guided step, as `cond`. None: it is called
            without this argument.
        guidance: w of (1 + w)·output − w·unconditional output: a number, or a tensor `[B]`. None: the network is called
            once in a step.
        ragged: For a joint model with examples of different sizes, the example of each row. None: each row is one.
        variance_scale: The factor of the variance of the noise of a solver's step, which a run multiplies its
            coefficients by. None: 1.

    Example:
        >>> Sampling(choose="mode").guidance is None
        True
    """

    choose: str | None = None
    temperature: float | None = None
    known: Tensor | None = None
    known_mask: Tensor | None = None
    cond: Any = None
    unconditional: Any = None
    guidance: float | Tensor | None = None
    ragged: Ragged | None = None
    variance_scale: float | None = None

    def sent(self, choose: str) -> dict[str, Any]:
        """The keywords of a step that say which value of the output distribution it uses, and which data are known.

        Args:
            choose: "sample", "mode" or "mean", if the option `choose` is None.

        Returns:
            choose, known and known_mask.
        """
        chosen = choose if self.choose is None else self.choose
        return {"choose": chosen, **self.known_values}

    @property
    def known_values(self) -> dict[str, Any]:
        """The keywords of a step that say which data are known."""
        return {"known": self.known, "known_mask": self.known_mask}

    def check(self, choices: tuple[str, ...], has_logits: bool, shape: tuple[int, ...]) -> None:
        """Raises an error for options that a model does not support.

        Args:
            choices: The model's `choices`: the values that `choose` may have.
            has_logits: Whether the network puts out logits, which a temperature divides.
            shape: The shape of the data, `[B, ...]`, a tuple of ints.
        """
        if self.choose is not None:
            checks.choice("choose", self.choose, choices)
        if self.temperature is not None:
            checks.number("temperature", self.temperature, 1e-30, 1e30)
            if not has_logits:
                raise ValueError(f"temperature must be None for data without classes, got {self.temperature}")
        if self.variance_scale is not None:
            checks.number("variance_scale", self.variance_scale, 0, math.inf)
        if (self.known is None) != (self.known_mask is None):
            raise ValueError("known and known_mask must be given together")
        if self.known is not None:
            if not isinstance(self.known, Tensor):
                raise TypeError(f"known must be a tensor, got {type(self.known).__name__}")
            checks.dense("known", self.known)
        if self.known is not None and tuple(self.known.shape) != tuple(shape):
            raise ValueError(f"known must have shape {tuple(shape)}, got {tuple(self.known.shape)}")
        if self.guidance is None and self.unconditional is not None:
            raise ValueError("guidance must be given with unconditional")
        if isinstance(self.guidance, Tensor):
            checks.dense("guidance", self.guidance)
        elif self.guidance is not None:
            checks.number("guidance", self.guidance, -math.inf, math.inf)

    def tempered(self, logits: Tensor) -> Tensor:
        """Divides logits by the temperature.

        Args:
            logits: Logits, floating-point, of any shape.

        Returns:
            The divided logits, in float32 if they are float16; the logits themselves if the temperature is None.
        """
        return logits if self.temperature is None else widened(logits) / self.temperature


PLAIN = Sampling()


def widened(output: Tensor) -> Tensor:
    """A network's output, in float32 if it is float16, in which a guided output or a divided logit may overflow."""
    return output.float() if output.dtype == torch.float16 else output


def apart(output: Tensor, *thetas: Any) -> Tensor:
    """Returns a network's output. If the output shares memory with a theta, returns a copy, since a step overwrites
    theta."""
    # The compiler finds tensors that share memory, and copies them.
    if torch.compiler.is_compiling() or not isinstance(output, Tensor):
        return output
    memory = memory_of(output)
    shared = any(isinstance(theta, Tensor) and overlap(memory, memory_of(theta)) for theta in thetas)
    return output.clone() if shared else output


def row_factor(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or a number for each example `[B]`, in the type of a tensor `[B, ...]` and broadcastable to it."""
    if not isinstance(value, Tensor):
        # a CUDA graph can record new_full, but not a copy from the CPU
        return like.new_full((1,) * like.dim(), checks.finite(value))
    if value.dim() > 0 and value.shape != like.shape[:1]:
        raise ValueError(f"guidance must be a number or have shape [{len(like)}], got {tuple(value.shape)}")
    checks.same_device("guidance", value, "the network's output", like)
    return value.to(like.dtype).view(-1, *(1,) * (like.dim() - 1))


def known_where(drawn: Tensor, sampling: Sampling) -> Tensor:
    """Replaces data by the known data, in the type of `drawn`, where known_mask is True."""
    if sampling.known is None:
        return drawn
    mask = checks.mask("known_mask", sampling.known_mask, "the data", drawn, drawn.shape)
    return torch.where(mask, sampling.known.to(drawn.dtype), drawn)
