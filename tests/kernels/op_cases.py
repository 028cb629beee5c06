# ruff: noqa: E501  (a table: one case a line)
"""The table of cases: every public op, with inputs made from a shape, a type and a generator."""

from functools import partial

import torch

from bfn_kernels import Limits
from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.case import Case
from tests.kernels.makers import (
    among,
    classes,
    draws,
    ends_of,
    itself,
    log_uniform,
    mixture,
    normal,
    pair,
    per_class,
    poisoned,
    rows,
    soft,
    some,
    steps,
    uniform,
    valid,
)

DATA, TIME, ALPHA = uniform(-1, 1), rows(uniform(0.05, 1)), rows(log_uniform(0.1, 10))
STEP = rows(among(*(i / 7 for i in range(7))))  # the times at which the steps of n = 7 start
HARD_TIME, HARD_ALPHA = rows(among(0.0, 1e-7, 1e-4, 0.5, 1.0)), rows(among(1e-9, 1e-7, 1e-3, 1.0, 1e6))
PAPER = {"sigma_1": 0.03}
LOSSES = [
    ("continuous_time_loss", {"t": TIME}, PAPER),
    ("discrete_time_loss", {"t": STEP}, {"n_steps": 7, **PAPER}),
    ("reconstruction_loss", {}, PAPER),
]

GUIDED = {"guidance": rows(uniform(0, 1)), "temperature": rows(uniform(1.5, 3))}  # logits no larger than others are
CONTINUOUS = [
    Case("continuous.flow_sample", {"x": DATA, "t": TIME, "noise": normal()}, PAPER, ("x",)),
    Case("continuous.flow_sample[time per token]", {"x": DATA, "t": rows(uniform(0, 1), 2), "noise": normal()}, PAPER, ("x",)),
    Case("continuous.flow_sample[ends]", {"x": DATA, "t": HARD_TIME, "noise": normal()}, {"sigma_1": 1e-3}, ("x",)),
    Case("continuous.sender_sample", {"x": DATA, "alpha": ALPHA, "noise": normal()}, {}, ("x",)),
    Case("continuous.sender_sample[hard]", {"x": DATA, "alpha": HARD_ALPHA, "noise": normal()}, {}, ("x",), hard=True),
]  # fmt: skip
for note, rho, alpha in [("", rows(uniform(1, 9)), ALPHA), ("[hard]", rows(among(0.5, 1.0, 1e6)), HARD_ALPHA)]:
    accuracies = {"precision": rho, "alpha": alpha}
    CONTINUOUS += [
        Case(f"continuous.bayesian_update{note}", {"mean": normal(), "y": normal(2), **accuracies}, {}, ("mean", "y")),
        Case(f"continuous.update_sample{note}", {"x": DATA, "mean": normal(), "noise": normal(), **accuracies}, {}, ("x", "mean")),
    ]  # fmt: skip
FROM, TO, BEFORE = (rows(uniform(*ends)) for ends in ((0.25, 0.45), (0.5, 1), (0.05, 0.2)))  # the times of a step
FIRST, SECOND = {"t": FROM, "t_next": TO}, {"t": FROM, "t_next": TO, "t_previous": BEFORE, "previous": DATA}
SOLVED = {"prediction": normal(0.3), "mean": DATA}
KNOWN = {"known": DATA, "known_mask": some}
STEP_ON = {"x": normal(0.3), "mean": DATA, "t": TIME, "noise": normal(), "precision": ALPHA, "alpha": ALPHA}
CONTINUOUS += [
    Case("continuous.update_sample[known]", {"x": DATA, "mean": normal(), "noise": normal(), "precision": ALPHA, "alpha": ALPHA, **KNOWN}, {}, ("x", "mean")),
    Case("continuous.update_sample[prediction]", STEP_ON, PAPER, ("x", "mean")),
    Case("continuous.update_sample[prediction, data]", STEP_ON, {"parametrisation": "data", **PAPER}, ("x", "mean")),
    Case("continuous.update_sample[prediction, known]", {**STEP_ON, **KNOWN}, PAPER, ("x", "mean")),
    Case("continuous.update_sample[prediction, ends]", {**STEP_ON, "t": HARD_TIME}, {"clip": None, **PAPER}, ("x", "mean"), hard=True),
    Case("continuous.predict_data", {"noise_pred": normal(0.2), "mean": DATA, "t": TIME}, PAPER, ("noise_pred", "mean")),
    Case("continuous.predict_data[unclipped]", {"noise_pred": normal(), "mean": DATA, "t": TIME}, {"clip": None, **PAPER}, ("noise_pred", "mean")),
    Case("continuous.predict_data[ends]", {"noise_pred": normal(), "mean": DATA, "t": HARD_TIME}, {"clip": None, **PAPER}, ("noise_pred", "mean"), hard=True),
    Case("continuous.solver_step", {**SOLVED, **FIRST}, PAPER),
    Case("continuous.solver_step[guided]", {**SOLVED, **SECOND, "unconditional": normal(), "guidance": GUIDED["guidance"]}, {"rule": "ode2", **PAPER}),
    Case("continuous.solver_step[ode2]", {**SOLVED, **SECOND}, {"rule": "ode2", **PAPER}),
    Case("continuous.solver_step[sde2, known]", {**SOLVED, **SECOND, **KNOWN, "noise": normal()}, {"rule": "sde2", "clip": None, **PAPER}),
    Case("continuous.solver_step[sde2, prediction]", {**SOLVED, **SECOND, **KNOWN, "noise": normal()}, {"rule": "sde2", **PAPER}, into="predicted_out"),
    Case("continuous.solver_step[renoise, data]", {**SOLVED, **FIRST, "noise": normal()}, {"rule": "renoise", "parametrisation": "data", **PAPER}),
]  # fmt: skip
LOSS = {"x": DATA, "prediction": normal(0.3), "mean": DATA}
NAN = {"x": poisoned(DATA, torch.nan), "prediction": poisoned(normal(0.3), torch.nan), "mean": DATA, "mask": some}
for op, extra, options in LOSSES:
    CONTINUOUS += [
        Case(f"continuous.{op}", {**LOSS, **extra}, options, ("x", "prediction", "mean")),
        Case(f"continuous.{op}[data]", {**LOSS, **extra}, {"parametrisation": "data", "reduction": "none", **options}, ("x", "prediction")),
        Case(f"continuous.{op}[unclipped]", {**LOSS, **extra}, {"clip": None, "reduction": "batch", **options}, ("x", "prediction", "mean")),
        Case(f"continuous.{op}[masked]", {**NAN, **extra}, options, ("x", "prediction", "mean")),
        Case(f"continuous.{op}[masked sum]", {**NAN, **extra}, {"reduction": "sum", **options}, ("x", "prediction", "mean")),
    ]  # fmt: skip
CONTINUOUS += [
    Case("continuous.continuous_time_loss[ends]", {**LOSS, "t": HARD_TIME}, {"sigma_1": 1e-3, "reduction": "none"}, ("x", "prediction", "mean"), hard=True),
    Case("continuous.discrete_time_loss[ends]", {**LOSS, "t": ends_of(20)}, {"sigma_1": 1e-3, "n_steps": 20, "reduction": "none"}, ("x", "prediction", "mean"), hard=True),
    Case("continuous.reconstruction_loss[bins]", LOSS, {"num_bins": 16, "reduction": "none", **PAPER}, ("prediction", "mean")),
    Case("continuous.reconstruction_loss[std]", LOSS, {"std": 0.7 * 0.03, **PAPER}, ("x", "prediction", "mean")),
    Case("continuous.reconstruction_loss[bins std]", LOSS, {"num_bins": 16, "std": 0.7 * 0.03, "reduction": "none", **PAPER}, ("prediction", "mean")),
    Case("continuous.predict_data[limits]", {"noise_pred": normal(), "mean": DATA, "t": rows(uniform(0, 1))}, {"clip": None, "limits": Limits(t_min=0.3), **PAPER}, ("noise_pred", "mean")),
    Case("continuous.continuous_time_loss[limits]", {**LOSS, "t": rows(uniform(0, 1))}, {"clip": None, "limits": Limits(t_min=0.3), **PAPER}, ("x", "prediction", "mean")),
    Case("continuous.discrete_time_loss[limits]", {**LOSS, "t": STEP}, {"n_steps": 7, "clip": None, "limits": Limits(t_min=0.3), **PAPER}, ("x", "prediction", "mean")),
]  # fmt: skip

OUTPUT = {"mean": uniform(-1.2, 1.2), "std": log_uniform(0.02, 2)}
FAR = {"mean": among(-300, -3.0, -0.999, 0, 1, 300), "std": among(1e-3, 0.01, 0.3, 10)}
EDGES = among(*(j / 8 - 1 for j in range(17)))  # the edges of 16 bins, which are exact in every type
DISCRETISED = []
for bins in (2, 16, 17, 256):
    for clip in (True, False):
        options = {"num_bins": bins, "clip": clip}
        note = f"K={bins}" if clip else f"K={bins} unclipped"
        DISCRETISED += [
            Case(f"discretised.expected_value[{note}]", OUTPUT, options, ("mean", "std")),
            Case(f"discretised.log_prob[{note}]", {"x": DATA, **OUTPUT}, options, ("mean", "std")),
        ]
DISCRETISED += [
    Case("discretised.expected_value[far]", FAR, {"num_bins": 16}, ("mean", "std"), hard=True),
    Case("discretised.expected_value[K=4096]", FAR, {"num_bins": 4096}, ("mean", "std"), hard=True),
    Case("discretised.log_prob[far]", {"x": EDGES, **FAR}, {"num_bins": 16}, ("mean", "std"), hard=True),
    Case("discretised.log_prob[K=4096]", {"x": DATA, "mean": normal(0.5), "std": log_uniform(1e-3, 10)}, {"num_bins": 4096}, ("mean", "std"), hard=True),
    Case("discretised.sample", {**OUTPUT, "noise": normal()}, {"num_bins": 16}),
    Case("discretised.sample[far]", {**FAR, "noise": normal()}, {"num_bins": 2}),
    Case("discretised.mode", OUTPUT, {"num_bins": 17}),
    Case("discretised.expected_value[mixture]", mixture(OUTPUT), {"num_bins": 16}, (*OUTPUT, "mixture_logits")),
    Case("discretised.expected_value[mixture unclipped]", mixture(OUTPUT), {"num_bins": 17, "clip": False}, (*OUTPUT, "mixture_logits")),
    Case("discretised.log_prob[mixture]", {"x": DATA, **mixture(OUTPUT)}, {"num_bins": 16}, (*OUTPUT, "mixture_logits")),
    Case("discretised.sample[mixture]", {**mixture(OUTPUT), "noise": normal(), "component_noise": uniform(0, 1)}, {"num_bins": 16}),
    Case("discretised.mode[mixture]", mixture(OUTPUT), {"num_bins": 17}),
]  # fmt: skip
NET = {"pred_mean": normal(0.3), "pred_log_std": normal(0.5), "mean": DATA}
LOSS = {"x": DATA, **NET}
NAN = {**LOSS, "x": poisoned(DATA, torch.nan), "pred_mean": poisoned(normal(), torch.nan), "mask": some}
PREDICTIONS = ("pred_mean", "pred_log_std")
NARROW = Limits(std=(0.2, 0.9), log_std=0.8, t_min=0.3)  # each limit binds some of the predictions
STACKED = {"pred_mean": pair(NET["pred_mean"], NET["pred_log_std"]), "mean": DATA}
UNSTACKED = {"pred_log_std": None}
DIRECT = {"parametrisation": "data"}
for op, extra, options in LOSSES:
    unclipped = {} if op == "reconstruction_loss" else {"clip": False}
    DISCRETISED += [
        Case(f"discretised.{op}[mixture]", {**LOSS, **mixture(NET, "mean"), **extra}, {"num_bins": 16, **options}, (*PREDICTIONS, "mixture_logits")),
        Case(f"discretised.{op}[mixture data]", {**NAN, **mixture(NET, "mean"), **extra}, {"num_bins": 17, "reduction": "batch", **unclipped, **DIRECT, **options}, (*PREDICTIONS, "mixture_logits")),
        Case(f"discretised.{op}", {**LOSS, **extra}, {"num_bins": 16, **options}, PREDICTIONS),
        Case(f"discretised.{op}[data]", {**LOSS, **extra}, {"num_bins": 17, "reduction": "none", **DIRECT, **options}, PREDICTIONS),
        Case(f"discretised.{op}[batch]", {**LOSS, **extra}, {"num_bins": 2, "reduction": "batch", **unclipped, **options}, PREDICTIONS),
        Case(f"discretised.{op}[masked]", {**NAN, **extra}, {"num_bins": 16, **options}, PREDICTIONS),
        Case(f"discretised.{op}[masked sum]", {**NAN, **extra}, {"num_bins": 17, "reduction": "sum", **options}, PREDICTIONS),
        Case(f"discretised.{op}[limits]", {**LOSS, **extra}, {"num_bins": 16, "limits": NARROW, "reduction": "none", **options}, PREDICTIONS),
        Case(f"discretised.{op}[limits data]", {**LOSS, **extra}, {"num_bins": 17, "limits": NARROW, **DIRECT, **options}, PREDICTIONS),
        Case(f"discretised.{op}[stacked]", {"x": DATA, **STACKED, **extra}, {"num_bins": 16, **UNSTACKED, **options}, ("pred_mean",)),
        Case(f"discretised.{op}[stacked masked]", {"x": NAN["x"], "mask": some, **STACKED, **extra}, {"num_bins": 16, "reduction": "none", **UNSTACKED, **DIRECT, **options}, ("pred_mean",)),
        Case(f"discretised.{op}[stacked mixture]", {"x": DATA, **mixture(STACKED, "mean"), **extra}, {"num_bins": 16, **UNSTACKED, **options}, ("pred_mean", "mixture_logits")),
        Case(f"discretised.{op}[K=256]", {**LOSS, **extra}, {"num_bins": 256, "reduction": "none", **options}, PREDICTIONS, hard=True),
    ]  # fmt: skip
WIDE = {
    "x": EDGES,
    "pred_mean": among(-300, -0.7, 0, 0.4, 300),
    "pred_log_std": among(-12, -7, -2, 0, 2.5),
    "mean": DATA,
}
STEPPED = {"precision": ALPHA, "t": TIME, "alpha": ALPHA, "noise": normal()}
UPDATE, UPDATE_STACKED = {**NET, **STEPPED}, {**STACKED, **STEPPED}
DISCRETISED += [
    Case("discretised.continuous_time_loss[hard]", {**WIDE, "t": HARD_TIME}, {"num_bins": 16, "reduction": "none", **DIRECT, **PAPER}, PREDICTIONS, hard=True),
    Case("discretised.discrete_time_loss[hard]", {**WIDE, "t": ends_of(20)}, {"num_bins": 16, "n_steps": 20, "reduction": "none", **DIRECT, **PAPER}, PREDICTIONS, hard=True),
    Case("discretised.reconstruction_loss[hard]", WIDE, {"num_bins": 16, "reduction": "none", **DIRECT, **PAPER}, PREDICTIONS, hard=True),
    Case("discretised.discrete_time_loss[draws]", {**LOSS, "t": STEP, "noise": draws(normal(), 3)}, {"n_steps": 7, "n_samples": 3, "num_bins": 16, **PAPER}, PREDICTIONS),
    Case("discretised.discrete_time_loss[mixture 16 nodes]", {**LOSS, **mixture(NET, "mean"), "t": STEP}, {"n_steps": 7, "quadrature": 16, "num_bins": 4, **PAPER}, (*PREDICTIONS, "mixture_logits")),
    Case("discretised.discrete_time_loss[16 nodes]", {**LOSS, "t": STEP}, {"n_steps": 7, "quadrature": 16, "num_bins": 4, **PAPER}, PREDICTIONS),
    Case("discretised.output_distribution", {**NET, "t": TIME}, PAPER, tuple(NET)),
    Case("discretised.output_distribution[data]", {**NET, "t": TIME}, {**DIRECT, **PAPER}, PREDICTIONS),
    Case("discretised.output_distribution[mixture]", {name: per_class(NET[name], 3) for name in PREDICTIONS} | {"mean": DATA, "t": TIME}, PAPER, tuple(NET)),
    Case("discretised.output_distribution[hard]", {"pred_mean": WIDE["pred_mean"], "pred_log_std": WIDE["pred_log_std"], "mean": DATA, "t": HARD_TIME}, PAPER, tuple(NET), hard=True),
    Case("discretised.update_sample", {**UPDATE, "draw_noise": normal()}, {"num_bins": 16, **PAPER}, ("mean",), hard=True),
    Case("discretised.update_sample[mixture]", {**UPDATE, **mixture(NET, "mean"), "draw_noise": normal(), "component_noise": uniform(0, 1)}, {"num_bins": 16, **DIRECT, **PAPER}, ("mean",)),
    Case("discretised.update_sample[mixture mean]", {**UPDATE, **mixture(NET, "mean")}, {"num_bins": 16, "choose": "mean", **PAPER}, (*PREDICTIONS, "mixture_logits", "mean")),
    Case("discretised.update_sample[data]", {**UPDATE, "draw_noise": normal()}, {"num_bins": 16, **DIRECT, **PAPER}, ("mean",)),
    Case("discretised.update_sample[known]", {**UPDATE, "draw_noise": normal(), **KNOWN}, {"num_bins": 17, **DIRECT, **PAPER}, ("mean",)),
    Case("discretised.update_sample[mode]", UPDATE, {"num_bins": 16, "choose": "mode", **DIRECT, **PAPER}, ("mean",)),
    Case("discretised.update_sample[limits]", {**UPDATE, "draw_noise": normal()}, {"num_bins": 16, "limits": NARROW, **PAPER}, ("mean",), hard=True),
    Case("discretised.update_sample[limits mean]", UPDATE, {"num_bins": 16, "choose": "mean", "limits": NARROW, **PAPER}, (*PREDICTIONS, "mean")),
    Case("discretised.update_sample[stacked]", {**UPDATE_STACKED, "draw_noise": normal()}, {"num_bins": 16, **UNSTACKED, **DIRECT, **PAPER}, ("mean",)),
    Case("discretised.update_sample[stacked mean]", UPDATE_STACKED, {"num_bins": 16, "choose": "mean", **UNSTACKED, **PAPER}, ("pred_mean", "mean")),
    Case("discretised.update_sample[mean]", UPDATE, {"num_bins": 16, "choose": "mean", **PAPER}, (*PREDICTIONS, "mean")),
    Case("discretised.solver_step", {**NET, **FIRST}, {"num_bins": 16, **PAPER}),
    Case("discretised.solver_step[guided]", {**NET, **SECOND, "unconditional": normal(), "guidance": GUIDED["guidance"]}, {"num_bins": 16, "rule": "ode2", **PAPER}),
    Case("discretised.solver_step[ode2, stacked]", {**STACKED, **SECOND}, {"rule": "ode2", "num_bins": 17, **UNSTACKED, **PAPER}),
    Case("discretised.solver_step[sde2, prediction]", {**NET, **SECOND, **KNOWN, "noise": normal()}, {"rule": "sde2", "num_bins": 16, **PAPER}, into="predicted_out"),
    Case("discretised.solver_step[sde1, mixture]", {**NET, **mixture(NET, "mean"), **FIRST, "noise": normal(), "draw_noise": normal(), "component_noise": uniform(0, 1)}, {"rule": "sde1", "num_bins": 16, "choose": "sample", **DIRECT, **PAPER}),
    Case("discretised.solver_step[ode2, mixture]", {**NET, **mixture(NET, "mean"), **SECOND}, {"rule": "ode2", "num_bins": 16, **PAPER}, into="predicted_out"),
]  # fmt: skip

BETA = {"beta_1": 3.0}
DISCRETE = [
    Case("discrete.bayesian_update", {"logits": per_class(normal(2), 5), "y": per_class(normal(2), 5)}, {}, ("logits", "y"), num_classes=5, kernels=False),
    Case("discrete.theta_logits", {"theta": per_class(uniform(0.1, 1), 3)}, {}, ("theta",), num_classes=3, kernels=False),
]  # fmt: skip
for k, kind in [(2, torch.int64), (3, torch.int32), (27, torch.uint8), (257, torch.int64)]:
    of = partial(Case, num_classes=k)
    beta = {"beta_1": min(3.0, 16 / k)}  # K·β₁ is as in the paper's experiments, since larger ones saturate
    message = {"x": classes(k, kind), "noise": per_class(normal(), k), "dtype": itself}
    z = per_class(normal(3), k)
    step = {"output_logits": z, "state": z, "alpha": ALPHA, "noise": per_class(normal(), k)}
    drawn = {**step, "draw_noise": uniform(0, 1)}
    loss = {"x": classes(k, kind), "logits": z}
    masked = {"x": poisoned(classes(k, kind), 255 if kind == torch.uint8 else -100), "logits": z, "mask": some}
    DISCRETE += [
        of(f"discrete.theta[K={k}]", {"logits": z}, {}, ("logits",), hard=k == 257),
        of(f"discrete.flow_sample[K={k}]", {**message, "t": TIME}, {"num_classes": k, **beta}),
        of(f"discrete.flow_sample[K={k} logits]", {**message, "t": HARD_TIME}, {"num_classes": k, "output": "logits", **beta}),
        of(f"discrete.sender_sample[K={k}]", {**message, "alpha": ALPHA}, {"num_classes": k}),
        of(f"discrete.update_sample[K={k}]", drawn, {}, ("state",)),
        of(f"discrete.update_sample[K={k} known]", {**drawn, "known": masked["x"], "known_mask": some}, {}, ("state",)),
        of(f"discrete.update_sample[K={k} mode]", step, {"choose": "mode"}, ("state",)),
        of(f"discrete.update_sample[K={k} mean]", step, {"choose": "mean"}, ("output_logits", "state")),
        of(f"discrete.update_sample[K={k} theta]", drawn, {}, into="theta_out"),
        of(f"discrete.continuous_time_loss[K={k}]", {**loss, "t": TIME}, beta, ("logits",)),
        of(f"discrete.continuous_time_loss[K={k} masked]", {**masked, "t": TIME}, {"reduction": "batch", **beta}, ("logits",)),
        of(f"discrete.reconstruction_loss[K={k}]", loss, {"reduction": "none"}, ("logits",)),
        of(f"discrete.reconstruction_loss[K={k} masked]", masked, {"reduction": "mean"}, ("logits",)),
        of(f"discrete.flow_sample[K={k} soft]", {**message, "x": soft(k), "t": TIME}, {"num_classes": k, **beta}),
        of(f"discrete.sender_sample[K={k} soft]", {**message, "x": soft(k), "alpha": ALPHA}, {"num_classes": k}),
        of(f"discrete.continuous_time_loss[K={k} soft]", {"x": soft(k), "logits": z, "t": TIME, "class_mask": valid(k)}, {"reduction": "none", **beta}, ("logits",)),
        of(f"discrete.reconstruction_loss[K={k} soft]", {"x": soft(k, torch.nan), "logits": z, "mask": some}, {}, ("logits",)),
        of(f"discrete.update_sample[K={k} soft]", {**drawn, "known": soft(k, torch.nan), "known_mask": some}, {}, ("state",)),
        of(f"discrete.update_sample[K={k} class mask]", {**drawn, "class_mask": valid(k, True)}, {}, ("state",)),
        of(f"discrete.continuous_time_loss[K={k} class mask]", {**loss, "t": TIME, "class_mask": valid(k)}, {"reduction": "batch", **beta}, ("logits",)),
        of(f"discrete.reconstruction_loss[K={k} class mask]", {"x": classes(1), "logits": z, "class_mask": valid(k, True)}, {"reduction": "none"}, ("logits",)),
    ]  # fmt: skip
    first, second = (
        {"output_logits": z, "state": per_class(normal(), k), **times}
        for times in (FIRST, {**SECOND, "previous": per_class(uniform(0, 2 / k), k)})
    )
    DISCRETE += [
        of(f"discrete.solver_step[K={k}]", first, beta),
        of(f"discrete.solver_step[K={k} ode2 theta]", second, {"rule": "ode2", **beta}, into="theta_out"),
        of(f"discrete.solver_step[K={k} guided]", {**first, "unconditional": per_class(normal(), k), **GUIDED}, beta),
        of(f"discrete.solver_step[K={k} guided sde2]", {**second, "unconditional": per_class(normal(), k), **GUIDED, "noise": step["noise"]}, {"rule": "sde2", **beta}, into="predicted_out"),
        of(f"discrete.solver_step[K={k} renoise]", {**first, "temperature": GUIDED["temperature"], "noise": step["noise"], "known": masked["x"], "known_mask": some}, {"rule": "renoise", **beta}, into="predicted_out"),
        of(f"discrete.solver_step[K={k} sample]", {**first, "unconditional": per_class(normal(), k), **GUIDED, "draw_noise": uniform(0, 1), "noise": step["noise"]}, {"choose": "sample", "rule": "sde1", **beta}),
        of(f"discrete.solver_step[K={k} mode]", {**first, "unconditional": per_class(normal(), k), **GUIDED}, {"choose": "mode", **beta}),
        of(f"discrete.solver_step[K={k} soft]", {**second, "known": soft(k), "known_mask": some}, {"rule": "ode2", **beta}, into="predicted_out"),
        of(f"discrete.solver_step[K={k} score]", {**first, "score": per_class(normal(), k)}, {"choose": "mode", **beta}),
        of(f"discrete.solver_step[K={k} class mask, score]", {**second, **GUIDED, "unconditional": per_class(normal(), k), "class_mask": valid(k), "score": per_class(normal(), k), "score_clip": rows(uniform(0.1, 1)), "known": masked["x"], "known_mask": some}, {"rule": "ode2", **beta}, into="predicted_out"),
    ]  # fmt: skip
    for receiver in ("joint", "factorised"):
        few = {"n_steps": 7, "receiver": receiver, **beta}
        noisy = {"t": STEP, "noise": draws(per_class(normal(), k), 3)}
        DISCRETE += [
            of(f"discrete.discrete_time_loss[K={k} {receiver}]", {**loss, **noisy}, {"n_samples": 3, **few}, ("logits",)),
            of(f"discrete.discrete_time_loss[K={k} {receiver} masked]", {**masked, **noisy}, {"n_samples": 3, "reduction": "sum", **few}, ("logits",)),
            of(f"discrete.discrete_time_loss[K={k} {receiver} class mask]", {**loss, **noisy, "class_mask": valid(k, True)}, {"n_samples": 3, **few}, ("logits",)),
        ]  # fmt: skip
        if k == 2 or receiver == "factorised":
            options = {"quadrature": 8, "reduction": "none", **few}
            DISCRETE.append(of(f"discrete.discrete_time_loss[K={k} {receiver} nodes]", {**loss, "t": STEP}, options, ("logits",)))  # fmt: skip
for gap in (10, 30, 100):
    of = partial(Case, num_classes=5, gap=gap, hard=True)
    loss = {"x": classes(5), "logits": per_class(among(-gap, 0, gap), 5)}
    timed, stepped = {**loss, "t": HARD_TIME}, {**loss, "t": ends_of(10)}
    each = {"reduction": "none"}
    DISCRETE += [
        of(f"discrete.continuous_time_loss[gap {gap}]", timed, {**each, **BETA}, ("logits",)),
        of(f"discrete.reconstruction_loss[gap {gap}]", loss, each, ("logits",)),
        of(f"discrete.continuous_time_loss[gap {gap} soft]", {**timed, "x": soft(5)}, {**each, **BETA}, ("logits",)),
        of(f"discrete.reconstruction_loss[gap {gap} soft]", {**loss, "x": soft(5)}, each, ("logits",)),
        of(f"discrete.discrete_time_loss[gap {gap} joint]", {**stepped, "noise": draws(per_class(normal(), 5), 2)}, {"n_steps": 10, "n_samples": 2, **each, **BETA}, ("logits",)),
        of(f"discrete.discrete_time_loss[gap {gap} factorised]", stepped, {"n_steps": 10, "quadrature": 8, "receiver": "factorised", **each, **BETA}, ("logits",)),
    ]  # fmt: skip
of = partial(Case, num_classes=4096, hard=True)
big = {"x": classes(4096), "logits": per_class(normal(5), 4096)}
DISCRETE += [
    of("discrete.continuous_time_loss[K=4096]", {**big, "t": TIME}, {"beta_1": 0.005}, ("logits",)),
    of("discrete.reconstruction_loss[K=4096]", big, {}, ("logits",)),
    of(
        "discrete.reconstruction_loss[K=4096 masked]",
        {**big, "x": poisoned(classes(4096), -100), "mask": some},
        {},
        ("logits",),
    ),
    of(
        "discrete.continuous_time_loss[K=4096 soft]",
        {**big, "x": soft(4096), "t": TIME},
        {"beta_1": 0.005},
        ("logits",),
    ),
    of("discrete.reconstruction_loss[K=4096 soft]", {**big, "x": soft(4096)}, {}, ("logits",)),
]

BINARY = [
    Case("binary.bayesian_update", {"logits": normal(2), "y": normal(2)}, {}, ("logits", "y"), kernels=False),
    Case("binary.theta", {"logits": normal(3)}, {}, ("logits",), kernels=False),
    Case("binary.theta_logits", {"theta": uniform(0.1, 0.9)}, {}, ("theta",), kernels=False),
]  # fmt: skip
step = {"output_logits": normal(3), "state": normal(3), "alpha": ALPHA, "noise": normal()}
drawn = {**step, "draw_noise": uniform(0, 1)}
masked = {"x": poisoned(classes(2), -100), "logits": normal(3), "mask": some}
BINARY += [
    Case("binary.flow_sample", {"x": classes(2, torch.bool), "t": TIME, "noise": normal(), "dtype": itself}, BETA),
    Case("binary.flow_sample[logits]", {"x": classes(2), "t": HARD_TIME, "noise": normal(), "dtype": itself}, {"output": "logits", **BETA}),
    Case("binary.sender_sample", {"x": classes(2, torch.uint8), "alpha": ALPHA, "noise": normal(), "dtype": itself}),
    Case("binary.update_sample", drawn, {}, ("state",)),
    Case("binary.update_sample[known]", {**drawn, "known": masked["x"], "known_mask": some}, {}, ("state",)),
    Case("binary.update_sample[mode]", step, {"choose": "mode"}, ("state",)),
    Case("binary.update_sample[mean]", step, {"choose": "mean"}, ("output_logits", "state")),
    Case("binary.update_sample[theta]", drawn, {}, into="theta_out"),
]  # fmt: skip
first, second = (
    {"output_logits": normal(3), "state": normal(3), **times}
    for times in (FIRST, {**SECOND, "previous": uniform(0, 1)})
)
BINARY += [
    Case("binary.solver_step", first, BETA),
    Case("binary.solver_step[ode2 theta]", second, {"rule": "ode2", **BETA}, into="theta_out"),
    Case("binary.solver_step[guided]", {**first, "unconditional": normal(), **GUIDED}, BETA),
    Case("binary.solver_step[guided sde2]", {**second, "unconditional": normal(), **GUIDED, "noise": normal()}, {"rule": "sde2", **BETA}, into="predicted_out"),
    Case("binary.solver_step[renoise]", {**first, "temperature": GUIDED["temperature"], "noise": normal(), "known": masked["x"], "known_mask": some}, {"rule": "renoise", **BETA}, into="predicted_out"),
    Case("binary.solver_step[sample]", {**first, "unconditional": normal(), **GUIDED, "draw_noise": uniform(0, 1), "noise": normal()}, {"choose": "sample", "rule": "sde1", **BETA}),
    Case("binary.solver_step[mode]", {**first, "unconditional": normal(), **GUIDED}, {"choose": "mode", **BETA}),
]  # fmt: skip
for op, extra, options in [("continuous_time_loss", {"t": TIME}, BETA), ("reconstruction_loss", {}, {})]:
    for kind in (torch.int64, torch.int32, torch.uint8, torch.bool):
        BINARY.append(Case(f"binary.{op}[{str(kind)[6:]}]", {"x": classes(2, kind), "logits": normal(3), **extra}, options, ("logits",)))  # fmt: skip
    BINARY.append(Case(f"binary.{op}[masked]", {**masked, **extra}, {"reduction": "batch", **options}, ("logits",)))
for receiver in ("joint", "factorised"):
    few = {"n_steps": 7, "receiver": receiver, **BETA}
    for note, estimate, extra in [
        ("", {"n_samples": 3}, {"noise": draws(normal(), 3)}),
        (" nodes", {"quadrature": 8}, {}),
    ]:
        BINARY += [
            Case(f"binary.discrete_time_loss[{receiver}{note}]", {"x": classes(2), "logits": normal(3), "t": STEP, **extra}, {"reduction": "none", **estimate, **few}, ("logits",)),
            Case(f"binary.discrete_time_loss[{receiver}{note} masked]", {**masked, "t": STEP, **extra}, {"reduction": "sum", **estimate, **few}, ("logits",)),
        ]  # fmt: skip
for gap in (10, 30, 100):
    of = partial(Case, gap=gap, hard=True)
    loss = {"x": classes(2), "logits": among(-gap, 0, gap)}
    noisy = {"t": ends_of(10), "noise": draws(normal(), 2)}
    BINARY += [
        of(f"binary.continuous_time_loss[gap {gap}]", {**loss, "t": HARD_TIME}, {"reduction": "none", **BETA}, ("logits",)),
        of(f"binary.reconstruction_loss[gap {gap}]", loss, {"reduction": "none"}, ("logits",)),
        of(f"binary.discrete_time_loss[gap {gap}]", {**loss, **noisy}, {"n_steps": 10, "n_samples": 2, "reduction": "none", **BETA}, ("logits",)),
    ]  # fmt: skip
accurate = {"n_steps": 10, "reduction": "none", "beta_1": 300.0}  # density ratios up to exp(160)
BINARY += [
    Case("binary.discrete_time_loss[accurate]", {**loss, **noisy}, {"n_samples": 2, **accurate}, ("logits",), hard=True),
    Case("binary.discrete_time_loss[accurate nodes]", {**loss, "t": ends_of(10)}, accurate, ("logits",), hard=True),
]  # fmt: skip

ANGLE, FIVE = uniform(-4, 4), VonMisesAccuracy([0.5, 1.0, 2.0, 8.0, 64.0])
MESSAGES, PERIOD = {"schedule": FIVE, "seed": 3}, {"period": 1.0}
AT, AFTER = {"step": steps(1, 5)}, {"step": steps(1, 6)}
CIRCLE = {"mean": ANGLE, "concentration": log_uniform(0.01, 100), "alpha": ALPHA}
CONCENTRATED = {"x": ANGLE, "pred": ANGLE, "concentration": log_uniform(1e-3, 1e4)}
CIRCULAR = [
    Case("circular.flow_sample", {"x": ANGLE, **AFTER}, MESSAGES),
    Case("circular.flow_sample[concentration]", {"x": ANGLE, **AFTER}, MESSAGES, part=1),
    Case("circular.flow_sample[step per token]", {"x": uniform(-1, 2), "step": steps(1, 6, 2)}, {**MESSAGES, **PERIOD}),
    Case("circular.flow_sample[log]", {"x": ANGLE, **AFTER}, {"output": "log", **MESSAGES}, into="concentration_out"),
    Case("circular.flow_sample[masked]", {"x": poisoned(ANGLE, torch.nan), "mask": some, **AFTER}, MESSAGES, into="out"),
    Case("circular.sender_sample", {"x": ANGLE, "alpha": ALPHA}, {"seed": 3}),
    Case("circular.sender_sample[hard]", {"x": uniform(0, 1), "alpha": rows(among(0.0, 1e-6, 1.0, 1e4, 1e20))}, {"seed": 3, **PERIOD}, hard=True),
    Case("circular.bayesian_update", {"y": ANGLE, **CIRCLE}),
    Case("circular.bayesian_update[concentration]", {"y": uniform(0, 1), **CIRCLE, "mean": uniform(0, 1)}, PERIOD, part=1),
    Case("circular.update_sample", {"pred": ANGLE, **CIRCLE}, MESSAGES),
    Case("circular.update_sample[concentration]", {"pred": ANGLE, **CIRCLE, "known": poisoned(ANGLE, 1.0), "known_mask": some}, MESSAGES, part=1),
    Case("circular.update_sample[log]", {"pred": uniform(0, 1), **CIRCLE, "mean": uniform(0, 1)}, {**MESSAGES, **PERIOD}, into="log_out"),
    Case("circular.renoise", {"pred": ANGLE, **AFTER}, MESSAGES),
    Case("circular.renoise[log]", {"pred": uniform(0, 1), **AFTER}, {"output": "log", **MESSAGES, **PERIOD}, part=1),
]  # fmt: skip
for op, fields, options, diff in [
    ("discrete_time_loss", {"x": ANGLE, "pred": ANGLE, **AT}, {"schedule": FIVE}, ("pred",)),
    ("reconstruction_loss", CONCENTRATED, {}, ("pred", "concentration")),
]:
    hidden = {**fields, "x": poisoned(ANGLE, torch.nan), "mask": some}
    CIRCULAR += [
        Case(f"circular.{op}", fields, options, diff),
        Case(f"circular.{op}[each]", {**fields, "x": uniform(0, 1)}, {"reduction": "none", **options, **PERIOD}, diff),
        Case(f"circular.{op}[masked]", hidden, {"reduction": "batch", **options}, diff),
    ]
CIRCULAR += [
    Case("circular.discrete_time_loss[squared]", {"x": uniform(-1, 1), "pred": uniform(-1, 1), **AT}, {"schedule": FIVE, "squared": True}, ("pred",)),
    Case("circular.reconstruction_loss[ends]", {**CONCENTRATED, "concentration": among(0.0, 1e-9, 9.9, 17.9, 18.1, 3e4)}, {"reduction": "none"}, ("pred", "concentration"), hard=True),
]  # fmt: skip

CASES = CONTINUOUS + DISCRETISED + DISCRETE + BINARY + CIRCULAR
