# ruff: noqa: E501  (a table: one case a line)
"""The cases of large vocabularies. Their weights do not have the data's shape, so they have tests of their own."""

from functools import partial

import torch

from tests.kernels.case import Case
from tests.kernels.declared import public
from tests.kernels.makers import classes, draws, ends_of, normal, per_class, poisoned, rows, some, uniform
from tests.kernels.op_cases import ALPHA, BEFORE, FROM, HARD_ALPHA, HARD_TIME, STEP, TIME, TO
from tests.kernels.support import INTERPRETED

SHAPES = [(3, 7), (2, 1), (0, 4)] if INTERPRETED else [(3, 7), (2, 1), (4, 3, 5), (0, 4), (2, 0)]  # of the tokens


def per_vocabulary(make, *shape):
    """Numbers of the vocabulary, whose shape is not that of the data."""
    return lambda _, dtype, g: make(shape, dtype, g)


def head(num_classes, width=6, scale=1.0):
    """The inputs of a linear head."""
    weights = {
        "weight": per_vocabulary(normal(scale), num_classes, width),
        "bias": per_vocabulary(normal(), num_classes),
    }
    return {"hidden": per_class(normal(), width), **weights}


HEAD = ("hidden", "weight", "bias")
SCALE = uniform(-1, 1)
FOLLOWING = (*HEAD, "flow_scale")  # of a head whose logits follow the flow's
LARGE = []
for k, kind in [(2, torch.int64), (5, torch.uint8), (1003, torch.int64)]:
    of, beta = partial(Case, num_classes=k), {"beta_1": 16 / k}
    noise = per_class(normal(), k)
    flow = {"x": classes(k, kind), "weight": head(k)["weight"], "noise": noise}
    loss = {"x": classes(k, kind), **head(k)}
    follow = {**loss, "flow_scale": SCALE, "flow_noise": noise}
    remade = {**loss, "flow_scale": SCALE}
    masked = {**loss, "x": poisoned(classes(k, kind), 255 if kind == torch.uint8 else -100), "mask": some}
    noisy = {"t": STEP, "noise": draws(noise, 3)}
    of_draws = {"n_steps": 7, "n_samples": 3, **beta}
    seeded = {"seed": 5, **beta}
    LARGE += [
        of(f"vocabulary.flow_embedding[K={k}]", {**flow, "t": TIME}, beta, ("weight",)),
        of(f"vocabulary.flow_embedding[K={k} seeded]", {"x": flow["x"], "weight": flow["weight"], "t": TIME}, seeded, ("weight",), in_ptx=k == 5),
        of(f"vocabulary.flow_embedding[K={k} ends]", {**flow, "t": HARD_TIME}, beta, ("weight",)),
        of(f"vocabulary.continuous_time_loss[K={k}]", {**loss, "t": TIME}, beta, HEAD, in_ptx=k == 5),
        of(f"vocabulary.continuous_time_loss[K={k} masked]", {**masked, "t": TIME}, {"reduction": "batch", **beta}, HEAD),
        of(f"vocabulary.reconstruction_loss[K={k}]", loss, {"reduction": "none"}, HEAD),
        of(f"vocabulary.reconstruction_loss[K={k} masked]", masked, {}, HEAD),
        of(f"vocabulary.discrete_time_loss[K={k}]", {**loss, **noisy}, of_draws, HEAD),
        of(f"vocabulary.discrete_time_loss[K={k} seeded]", {**loss, "t": STEP}, of_draws | seeded, HEAD, in_ptx=k == 5),
        of(f"vocabulary.discrete_time_loss[K={k} masked]", {**masked, **noisy}, {"reduction": "sum", **of_draws}, HEAD),
        of(f"vocabulary.continuous_time_loss[K={k} follows]", {**follow, "t": TIME}, beta, FOLLOWING),
        of(f"vocabulary.continuous_time_loss[K={k} follows, seeded]", {**remade, "t": TIME}, {"flow_seed": 5, **beta}, FOLLOWING, in_ptx=k == 5),
        of(f"vocabulary.continuous_time_loss[K={k} follows, masked]", {**masked, "flow_scale": SCALE, "t": TIME}, {"flow_seed": 5, "reduction": "batch", **beta}, FOLLOWING),
        of(f"vocabulary.reconstruction_loss[K={k} follows]", follow, {"reduction": "none", **beta}, FOLLOWING),
        of(f"vocabulary.reconstruction_loss[K={k} follows, seeded]", {**remade, "t": TIME}, {"flow_seed": 5, **beta}, FOLLOWING),
        of(f"vocabulary.discrete_time_loss[K={k} follows]", {**follow, **noisy}, of_draws, FOLLOWING),
        of(f"vocabulary.discrete_time_loss[K={k} follows, seeded]", {**remade, "t": STEP}, {"flow_seed": 9, **of_draws, **seeded}, FOLLOWING),
    ]  # fmt: skip
of, beta = partial(Case, num_classes=67), {"beta_1": 16 / 67}
broad = {"x": classes(67), "weight": per_vocabulary(normal(), 67, 300), "t": TIME}  # more than registers have room for
wide = {"x": classes(67), **head(67, 130, 0.1)}  # enough for a CPU to make the gradients in the forward pass
WIDE = [
    of("vocabulary.flow_embedding[K=67 wide seeded]", broad, {"seed": 5, **beta}, ("weight",), in_ptx=True),
    of("vocabulary.continuous_time_loss[K=67 wide]", {**wide, "t": TIME}, beta, HEAD),
    of("vocabulary.reconstruction_loss[K=67 wide]", wide, {"reduction": "sum"}, HEAD),
    of(
        "vocabulary.continuous_time_loss[K=67 wide follows]",
        {**wide, "flow_scale": SCALE, "t": TIME},
        {"flow_seed": 5, "reduction": "sum", **beta},
        FOLLOWING,
    ),
]
LARGE += WIDE
for gap in (10, 40):  # about the scale of the weights
    of = partial(Case, num_classes=67, gap=gap, hard=True)
    loss, each = {"x": classes(67), **head(67, scale=float(gap))}, {"reduction": "none"}
    LARGE += [
        of(f"vocabulary.continuous_time_loss[gap {gap}.0]", {**loss, "t": HARD_TIME}, {**each, **beta}, HEAD),
        of(f"vocabulary.reconstruction_loss[gap {gap}.0]", loss, each, HEAD),
        of(f"vocabulary.continuous_time_loss[sum, gap {gap}.0]", {**loss, "t": HARD_TIME}, {"reduction": "sum", **beta}, HEAD),
        of(f"vocabulary.reconstruction_loss[sum, gap {gap}.0]", loss, {"reduction": "sum"}, HEAD),
        of(f"vocabulary.discrete_time_loss[gap {gap}.0]", {**loss, "t": ends_of(10), "noise": draws(per_class(normal(), 67), 2)}, {"n_steps": 10, "n_samples": 2, **each, **beta}, HEAD),
    ]  # fmt: skip


class Seen(Case):
    """A step of a sampler whose result is the embedding of the new state, the second of what it returns."""

    def __call__(self, inputs: dict, backend: str | None = None, **more) -> torch.Tensor:
        return public(self.op)(**inputs, **self.options, backend=backend, **more)[1]


STEPS, MODES = [], []  # of samplers, none of which has a gradient
for k, kind in [(2, torch.int64), (5, torch.uint8), (1003, torch.int64)]:
    beta, noise = {"beta_1": 16 / k}, {"noise": per_class(normal(), k)}
    start = {"state": per_class(normal(2), k), **head(k)}
    drawn = {**start, "alpha": ALPHA, **noise, "draw_noise": uniform(0, 1)}
    sent = {**start, "alpha": ALPHA, **noise}
    known = {"known": poisoned(classes(k, kind), 255 if kind == torch.uint8 else -100), "known_mask": some}
    embedding = {"embedding": per_vocabulary(normal(), k, 4)}
    first = {**start, "t": FROM, "t_next": TO}
    second = {**first, "t_previous": BEFORE, "previous": per_class(normal(), 6)}
    follows = {"flow_scale": SCALE, "previous_scale": SCALE, "previous_state": per_class(normal(2), k)}
    of, seen = (partial(each, num_classes=k) for each in (Case, Seen))
    update, solve = f"vocabulary.update_sample[K={k}", f"vocabulary.solver_step[K={k}"
    STEPS += [
        of(f"{update}]", {**drawn, "bias": lambda *_: None}),
        of(f"{update} ends]", {**drawn, "alpha": HARD_ALPHA}),
        of(f"{update} known]", {**drawn, **known}),
        of(f"{update} follows]", {**drawn, "flow_scale": SCALE}),
        of(f"{update} mode follows]", {**sent, "flow_scale": SCALE}, {"choose": "mode"}),
        seen(f"{update} mean seen follows]", {**sent, "alpha": rows(uniform(0, 16 / k)), "flow_scale": SCALE, **embedding}, {"choose": "mean"}),
        of(f"{update} mode]", sent, {"choose": "mode"}),
        of(f"{update} mean known]", {**sent, **known}, {"choose": "mean"}),
        seen(f"{update} seen]", {**drawn, **embedding}),
        seen(f"{update} mean seen]", {**sent, **embedding}, {"choose": "mean"}),
        of(f"{solve}]", first, beta),
        of(f"{solve} ode2 follows]", {**second, **follows}, {"rule": "ode2", **beta}),
        of(f"{solve} ode2 known]", {**second, **known}, {"rule": "ode2", **beta}),
        of(f"{solve} sde2]", {**second, **noise}, {"rule": "sde2", **beta}),
        of(f"{solve} renoise mode]", {**first, **noise}, {"rule": "renoise", "choose": "mode", **beta}),
        of(f"{solve} sde1 sample]", {**first, **noise, "draw_noise": uniform(0, 1)}, {"rule": "sde1", "choose": "sample", **beta}),
        seen(f"{solve} ode2 seen]", {**second, **embedding}, {"rule": "ode2", **beta}),
    ]  # fmt: skip
    scaled = {**head(k), "flow_scale": SCALE, "state": per_class(normal(2), k)}
    MODES += [of(f"vocabulary.mode[K={k}]", head(k)), of(f"vocabulary.mode[K={k} follows]", scaled)]
