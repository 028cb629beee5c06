"""The cases of large vocabularies. Their weights do not have the data's shape, so they have tests of their own."""

from functools import partial

import torch

from tests.kernels.case import Case, case
from tests.kernels.declared import public
from tests.kernels.makers import classes, draws, ends_of, normal, per_class, poisoned, rows, some, uniform
from tests.kernels.op_cases import ALPHA, BEFORE, FROM, HARD_ALPHA, HARD_TIME, LOUD, STEP, TIME, TO
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


HEAD, FOLLOWING = "hidden weight bias", "hidden weight bias flow_scale"  # the second with logits that follow the flow's
SCALE = {"flow_scale": uniform(-1, 1)}
LARGE = []
for k, kind in [(2, torch.int64), (5, torch.uint8), (1003, torch.int64)]:
    of, in_ptx = partial(case, num_classes=k), k == 5
    beta, noise, x = {"beta_1": 16 / k}, per_class(normal(), k), {"x": classes(k, kind)}
    timed, seed, flow_seed, each = {"t": TIME, **beta}, {"seed": 5}, {"flow_seed": 5}, {"reduction": "none"}
    flow = {**x, "weight": head(k)["weight"]}
    noisy, loss = {**flow, "noise": noise}, {**x, **head(k)}
    remade = {**loss, **SCALE}
    follow = {**remade, "flow_noise": noise}
    masked = {**loss, "x": poisoned(classes(k, kind), 255 if kind == torch.uint8 else -100), "mask": some}
    seeded_draws = {"t": STEP, "n_steps": 7, "n_samples": 3, **beta}
    given_draws, batch = {**seeded_draws, "noise": draws(noise, 3)}, {"reduction": "batch"}
    embedding, l_inf, end, l_n = (
        f"vocabulary.{op}[K={k}"
        for op in ("flow_embedding", "continuous_time_loss", "reconstruction_loss", "discrete_time_loss")
    )
    parts, kept = {"scale": rows(uniform(0, 16)), "spread": rows(uniform(0, 4))}, {"temperature": 0.7}
    linear, of_noisy = {"output": "linear"}, f"vocabulary.noisy_embedding[K={k}"
    if k > 2:
        LARGE += [
            of(f"{of_noisy}]", {**noisy, **parts, **kept}, "weight"),
            of(f"{of_noisy} linear seeded]", {**flow, **parts, **linear, **seed}, "weight", in_ptx=in_ptx),
        ]
    LARGE += [
        of(f"{embedding}]", {**noisy, **timed}, "weight"),
        of(f"{embedding} seeded]", {**flow, **timed, **seed}, "weight", in_ptx=in_ptx),
        of(f"{embedding} ends]", {**noisy, "t": HARD_TIME, **beta}, "weight"),
        of(f"{l_inf}]", {**loss, **timed}, HEAD, in_ptx=in_ptx),
        of(f"{l_inf} masked]", {**masked, **timed, **batch}, HEAD),
        of(f"{end}]", {**loss, **each}, HEAD),
        of(f"{end} masked]", masked, HEAD),
        of(f"{l_n}]", {**loss, **given_draws}, HEAD),
        of(f"{l_n} seeded]", {**loss, **seeded_draws, **seed}, HEAD, in_ptx=in_ptx),
        of(f"{l_n} masked]", {**masked, **given_draws, "reduction": "sum"}, HEAD),
        of(f"{l_inf} follows]", {**follow, **timed}, FOLLOWING),
        of(f"{l_inf} follows, seeded]", {**remade, **timed, **flow_seed}, FOLLOWING, in_ptx=in_ptx),
        of(f"{l_inf} follows, masked]", {**masked, **SCALE, **timed, **flow_seed, **batch}, FOLLOWING),
        of(f"{end} follows]", {**follow, **each, **beta}, FOLLOWING),
        of(f"{end} follows, seeded]", {**remade, **timed, **flow_seed}, FOLLOWING),
        of(f"{l_n} follows]", {**follow, **given_draws}, FOLLOWING),
        of(f"{l_n} follows, seeded]", {**remade, **seeded_draws, "flow_seed": 9, **seed}, FOLLOWING),
    ]
of, beta = partial(case, num_classes=67), {"beta_1": 16 / 67}
broad = {"x": classes(67), "weight": per_vocabulary(normal(), 67, 300), "t": TIME}  # more than registers have room for
wide = {"x": classes(67), **head(67, 130, 0.1)}  # enough for a CPU to make the gradients in the forward pass
wide_sum = {**wide, **SCALE, "t": TIME, "flow_seed": 5, "reduction": "sum", **beta}
WIDE = [
    of("vocabulary.flow_embedding[K=67 wide seeded]", {**broad, "seed": 5, **beta}, "weight", in_ptx=True),
    of("vocabulary.continuous_time_loss[K=67 wide]", {**wide, "t": TIME, **beta}, HEAD),
    of("vocabulary.reconstruction_loss[K=67 wide]", {**wide, "reduction": "sum"}, HEAD),
    of("vocabulary.continuous_time_loss[K=67 wide follows]", wide_sum, FOLLOWING),
]
LARGE += WIDE
for gap in (10, 40):  # about the scale of the weights
    of = partial(case, diff=HEAD, num_classes=67, gap=gap, hard=True)
    end, each, total = {"x": classes(67), **head(67, scale=float(gap))}, {"reduction": "none"}, {"reduction": "sum"}
    loss, few = {**end, "t": HARD_TIME, **beta}, {**end, "t": ends_of(10), "n_steps": 10, **each, **beta}
    noisy = {"noise": draws(per_class(normal(), 67), 2), "n_samples": 2}
    LARGE += [
        of(f"vocabulary.continuous_time_loss[gap {gap}.0]", {**loss, **each}),
        of(f"vocabulary.reconstruction_loss[gap {gap}.0]", {**end, **each}),
        of(f"vocabulary.continuous_time_loss[sum, gap {gap}.0]", {**loss, **total}),
        of(f"vocabulary.reconstruction_loss[sum, gap {gap}.0]", {**end, **total}),
        of(f"vocabulary.discrete_time_loss[gap {gap}.0]", {**few, **noisy}),
    ]


class Seen(Case):
    """A step of a sampler whose result is the embedding of the new state, the second of what it returns."""

    def __call__(self, inputs: dict, backend: str | None = None, **more) -> torch.Tensor:
        return public(self.op)(**inputs, **self.options, backend=backend, **more)[1]


STEPS, MODES = [], []  # of samplers, none of which has a gradient
for k, kind in [(2, torch.int64), (5, torch.uint8), (1003, torch.int64)]:
    of, beta, noise = partial(case, num_classes=k), {"beta_1": 16 / k}, {"noise": per_class(normal(), k)}
    seen = lambda name, call, of=of: Seen(**vars(of(name, call)))  # noqa: E731
    start, draw = {"state": per_class(normal(2), k), **head(k)}, {"draw_noise": uniform(0, 1)}
    nucleus = {**draw, "top_p": 0.6}
    sent = {**start, "alpha": ALPHA, **noise}
    drawn, mode, mean = {**sent, **draw}, {**sent, "choose": "mode"}, {**sent, "choose": "mean"}
    known = {"known": poisoned(classes(k, kind), 255 if kind == torch.uint8 else -100), "known_mask": some}
    embedding = {"embedding": per_vocabulary(normal(), k, 4)}
    first = {**start, "t": FROM, "t_next": TO, **beta}
    second = {**first, "t_previous": BEFORE, "previous": per_class(normal(), 6)}
    ode2 = {**second, "rule": "ode2"}
    follows = {**SCALE, "previous_scale": SCALE["flow_scale"], "previous_state": per_class(normal(2), k)}
    update, solve = f"vocabulary.update_sample[K={k}", f"vocabulary.solver_step[K={k}"
    STEPS += [
        of(f"{update}]", {**drawn, "bias": lambda *_: None}),
        of(f"{update} ends]", {**drawn, "alpha": HARD_ALPHA}),
        of(f"{update} known]", {**drawn, **known}),
        of(f"{update} follows]", {**drawn, **SCALE}),
        of(f"{update} mode follows]", {**mode, **SCALE}),
        seen(f"{update} mean seen follows]", {**mean, "alpha": rows(uniform(0, 16 / k)), **SCALE, **embedding}),
        of(f"{update} mode]", mode),
        of(f"{update} nucleus]", {**sent, **nucleus}),
        of(f"{update} mean known]", {**mean, **known}),
        seen(f"{update} seen]", {**drawn, **embedding}),
        seen(f"{update} mean seen]", {**mean, **embedding}),
        of(f"{solve}]", first),
        of(f"{solve} ode2 follows]", {**ode2, **follows}),
        of(f"{solve} ode2 known]", {**ode2, **known}),
        of(f"{solve} sde2]", {**second, **noise, "rule": "sde2"}),
        of(f"{solve} renoise mode]", {**first, **noise, "rule": "renoise", "choose": "mode"}),
        of(f"{solve} sde1 sample]", {**first, **noise, **draw, **LOUD, "rule": "sde1", "choose": "sample"}),
        of(f"{solve} nucleus]", {**first, **noise, **nucleus, "rule": "sde1", "choose": "sample"}),
        seen(f"{solve} ode2 seen]", {**ode2, **embedding}),
    ]
    scaled = {**head(k), **SCALE, "state": per_class(normal(2), k)}
    MODES += [of(f"vocabulary.mode[K={k}]", head(k)), of(f"vocabulary.mode[K={k} follows]", scaled)]
    MODES += [of(f"vocabulary.sample[K={k} nucleus follows]", {**scaled, **nucleus})]
    flow = {"x": classes(k, kind), "weight": head(k)["weight"], **noise, "return_argmax": True, "output": "linear"}
    parts = {"scale": rows(uniform(0, 16)), "spread": rows(uniform(0.1, 4))}
    MODES += [of(f"vocabulary.noisy_embedding[K={k} argmax]", {**flow, **parts}, part=1)]
