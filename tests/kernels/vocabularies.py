# ruff: noqa: E501  (a table: one case a line)
"""The cases of large vocabularies, whose inputs are not all of the data's shape, so that they have tests of their own."""

import torch
from cases import HARD_TIME, STEP, TIME, Case, classes, draws, ends_of, normal, per_class, poisoned, some


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
LARGE = []
for k, kind in [(2, torch.int64), (5, torch.uint8), (1003, torch.int64)]:
    beta = {"beta_1": 16 / k}
    noise = per_class(normal(), k)
    flow = {"x": classes(k, kind), "weight": head(k)["weight"], "noise": noise}
    loss = {"x": classes(k, kind), **head(k)}
    masked = {**loss, "x": poisoned(classes(k, kind), 255 if kind == torch.uint8 else -100), "mask": some}
    noisy = {"t": STEP, "noise": draws(noise, 3)}
    of_draws = {"n_steps": 7, "n_samples": 3, **beta}
    seeded = {"seed": 5, **beta}
    LARGE += [
        Case(f"discrete.flow_embedding[K={k}]", {**flow, "t": TIME}, beta, ("weight",)),
        Case(f"discrete.flow_embedding[K={k} seeded]", {"x": flow["x"], "weight": flow["weight"], "t": TIME}, seeded, ("weight",)),
        Case(f"discrete.flow_embedding[K={k} ends]", {**flow, "t": HARD_TIME}, beta, ("weight",)),
        Case(f"discrete.linear_continuous_time_loss[K={k}]", {**loss, "t": TIME}, beta, HEAD),
        Case(f"discrete.linear_continuous_time_loss[K={k} masked]", {**masked, "t": TIME}, {"reduction": "batch", **beta}, HEAD),
        Case(f"discrete.linear_reconstruction_loss[K={k}]", loss, {"reduction": "none"}, HEAD),
        Case(f"discrete.linear_reconstruction_loss[K={k} masked]", masked, {}, HEAD),
        Case(f"discrete.linear_discrete_time_loss[K={k}]", {**loss, **noisy}, of_draws, HEAD),
        Case(f"discrete.linear_discrete_time_loss[K={k} seeded]", {**loss, "t": STEP}, of_draws | seeded, HEAD),
        Case(f"discrete.linear_discrete_time_loss[K={k} masked]", {**masked, **noisy}, {"reduction": "sum", **of_draws}, HEAD),
    ]  # fmt: skip
wide = {"x": classes(67), "weight": per_vocabulary(normal(), 67, 300), "t": TIME}  # more than registers have room for
LARGE.append(Case("discrete.flow_embedding[K=67 wide seeded]", wide, {"seed": 5, "beta_1": 16 / 67}, ("weight",)))
for scale in (10.0, 40.0):  # of the weights, which is about the gap between logits
    loss = {"x": classes(67), **head(67, scale=scale)}
    each, times = {"reduction": "none"}, {"beta_1": 16 / 67}
    LARGE += [
        Case(f"discrete.linear_continuous_time_loss[gap {scale}]", {**loss, "t": HARD_TIME}, {**each, **times}, HEAD, hard=True),
        Case(f"discrete.linear_reconstruction_loss[gap {scale}]", loss, each, HEAD, hard=True),
        Case(f"discrete.linear_discrete_time_loss[gap {scale}]", {**loss, "t": ends_of(10), "noise": draws(per_class(normal(), 67), 2)}, {"n_steps": 10, "n_samples": 2, **each, **times}, HEAD, hard=True),
    ]  # fmt: skip
