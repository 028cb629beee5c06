"""The table of cases: every public op, with inputs made from a shape, a type and a generator.

A name in lower case holds for the cases that follow it, up to the next family. A name in capitals holds everywhere.
"""

from functools import partial

import torch

from bfn_kernels import Limits
from tests.kernels.angle_cases import CIRCULAR
from tests.kernels.case import case
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
    uniform,
    valid,
)

DATA, TIME, ALPHA = uniform(-1, 1), rows(uniform(0.05, 1)), rows(log_uniform(0.1, 10))
STEP = rows(among(*(i / 7 for i in range(7))))  # the times at which the steps of n = 7 start
HARD_TIME, HARD_ALPHA = rows(among(0.0, 1e-7, 1e-4, 0.5, 1.0)), rows(among(1e-9, 1e-7, 1e-3, 1.0, 1e6))
FROM, TO, BEFORE = (rows(uniform(*ends)) for ends in ((0.25, 0.45), (0.5, 1), (0.05, 0.2)))  # the times of a step
TIMED, STEPPED, FIRST = {"t": TIME}, {"t": STEP, "n_steps": 7}, {"t": FROM, "t_next": TO}
PAPER, BETA = {"sigma_1": 0.03}, {"beta_1": 3.0}
EACH, BATCH, SUM = {"reduction": "none"}, {"reduction": "batch"}, {"reduction": "sum"}
ODE2, SDE1, SDE2, RENOISE = {"rule": "ode2"}, {"rule": "sde1"}, {"rule": "sde2"}, {"rule": "renoise"}
SAMPLE, MODE, MEAN = {"choose": "sample"}, {"choose": "mode"}, {"choose": "mean"}
GUIDANCE, COOLED = {"guidance": rows(uniform(0, 1))}, {"temperature": rows(uniform(1.5, 3))}
GUIDED = {**GUIDANCE, **COOLED}  # logits are no larger than others
KNOWN, HIDDEN = {"known": DATA, "known_mask": some}, {"mask": some}
LOUD = {"variance_scale": rows(uniform(0.2, 2))}
DIRECT, NOISE = {"parametrisation": "data"}, {"noise": normal()}
LOSSES = {"continuous_time_loss": TIMED, "discrete_time_loss": STEPPED, "reconstruction_loss": {}}

unclipped = {"clip": None}
flow, sent = {"x": DATA, "t": TIME, **NOISE, **PAPER}, {"x": DATA, "alpha": ALPHA, **NOISE}
CONTINUOUS = [
    case("continuous.flow_sample", flow, "x"),
    case("continuous.flow_sample[time per token]", {**flow, "t": rows(uniform(0, 1), 2)}, "x"),
    case("continuous.flow_sample[known]", {**flow, **KNOWN}, "x"),
    case("continuous.flow_sample[ends]", {**flow, "t": HARD_TIME, "sigma_1": 1e-3}, "x"),
    case("continuous.sender_sample", sent, "x"),
    case("continuous.sender_sample[hard]", {**sent, "alpha": HARD_ALPHA}, "x", hard=True),
]
for note, rho, alpha in [("", rows(uniform(1, 9)), ALPHA), ("[hard]", rows(among(0.5, 1.0, 1e6)), HARD_ALPHA)]:
    state, accuracies = {"mean": normal()}, {"precision": rho, "alpha": alpha}
    CONTINUOUS += [
        case(f"continuous.bayesian_update{note}", {**state, "y": normal(2), **accuracies}, "mean y"),
        case(f"continuous.update_sample{note}", {"x": DATA, **state, **NOISE, **accuracies}, "x mean"),
    ]
SECOND, accuracies = {**FIRST, "t_previous": BEFORE, "previous": DATA}, {"precision": ALPHA, "alpha": ALPHA}
known = {"x": DATA, **state, **NOISE, **accuracies, **KNOWN}
update = {"x": normal(0.3), "mean": DATA, "t": TIME, **NOISE, **accuracies, **PAPER}
predict = {"noise_pred": normal(), "mean": DATA, "t": TIME, **unclipped, **PAPER}
first, second = ({"prediction": normal(0.3), "mean": DATA, **times, **PAPER} for times in (FIRST, SECOND))
guided, noisy = {**second, "unconditional": normal(), **GUIDANCE}, {**second, **KNOWN, **NOISE}
CONTINUOUS += [
    case("continuous.update_sample[known]", known, "x mean"),
    case("continuous.update_sample[prediction]", update, "x mean"),
    case("continuous.update_sample[prediction, data]", {**update, **DIRECT}, "x mean"),
    case("continuous.update_sample[prediction, known]", {**update, **KNOWN}, "x mean"),
    case("continuous.update_sample[prediction, ends]", {**update, "t": HARD_TIME, **unclipped}, "x mean", hard=True),
    case("continuous.predict_data", {"noise_pred": normal(0.2), "mean": DATA, "t": TIME, **PAPER}, "noise_pred mean"),
    case("continuous.predict_data[unclipped]", predict, "noise_pred mean"),
    case("continuous.predict_data[ends]", {**predict, "t": HARD_TIME}, "noise_pred mean", hard=True),
    case("continuous.solver_step", first),
    case("continuous.solver_step[guided]", {**guided, **ODE2}),
    case("continuous.solver_step[ode2]", {**second, **ODE2}),
    case("continuous.solver_step[sde2, known]", {**noisy, **SDE2, **unclipped}),
    case("continuous.solver_step[sde2, prediction]", {**noisy, **SDE2, **LOUD}, into="predicted_out"),
    case("continuous.solver_step[renoise, data]", {**first, **NOISE, **RENOISE, **DIRECT}),
]
predicted, inputs = {"x": DATA, "prediction": normal(0.3), "mean": DATA}, "x prediction mean"
hidden = {"x": poisoned(DATA, torch.nan), "prediction": poisoned(normal(0.3), torch.nan), "mean": DATA, **HIDDEN}
for op, more in LOSSES.items():
    loss, masked = {**predicted, **more, **PAPER}, {**hidden, **more, **PAPER}
    CONTINUOUS += [
        case(f"continuous.{op}", loss, inputs),
        case(f"continuous.{op}[data]", {**loss, **DIRECT, **EACH}, "x prediction"),
        case(f"continuous.{op}[unclipped]", {**loss, **unclipped, **BATCH}, inputs),
        case(f"continuous.{op}[masked]", masked, inputs),
        case(f"continuous.{op}[masked sum]", {**masked, **SUM}, inputs),
    ]
loss, bins, std, ends = {**predicted, **PAPER}, {"num_bins": 16, **EACH}, {"std": 0.7 * 0.03}, {"sigma_1": 1e-3, **EACH}
low, anytime = {**unclipped, "limits": Limits(t_min=0.3)}, {"t": rows(uniform(0, 1))}
CONTINUOUS += [
    case("continuous.continuous_time_loss[ends]", {**loss, "t": HARD_TIME, **ends}, inputs, hard=True),
    case("continuous.discrete_time_loss[ends]", {**loss, "t": ends_of(20), "n_steps": 20, **ends}, inputs, hard=True),
    case("continuous.reconstruction_loss[bins]", {**loss, **bins}, "prediction mean"),
    case("continuous.reconstruction_loss[std]", {**loss, **std}, inputs),
    case("continuous.reconstruction_loss[bins std]", {**loss, **bins, **std}, "prediction mean"),
    case("continuous.predict_data[limits]", {**predict, **anytime, **low}, "noise_pred mean"),
    case("continuous.continuous_time_loss[limits]", {**loss, **anytime, **low}, inputs),
    case("continuous.discrete_time_loss[limits]", {**loss, **STEPPED, **low}, inputs),
]

OUTPUT = {"mean": uniform(-1.2, 1.2), "std": log_uniform(0.02, 2)}
FAR = {"mean": among(-300, -3.0, -0.999, 0, 1, 300), "std": among(1e-3, 0.01, 0.3, 10)}
EDGES = among(*(j / 8 - 1 for j in range(17)))  # the edges of 16 bins, which are exact in every type
BINS = {bins: {"num_bins": bins} for bins in (2, 4, 16, 17, 256, 4096)}
DISCRETISED, unclipped = [], {"clip": False}
for bins in (2, 16, 17, 256):
    for note, clip in [("", {"clip": True}), (" unclipped", unclipped)]:
        law = {**OUTPUT, **BINS[bins], **clip}
        DISCRETISED += [
            case(f"discretised.expected_value[K={bins}{note}]", law, "mean std"),
            case(f"discretised.log_prob[K={bins}{note}]", {"x": DATA, **law}, "mean std"),
        ]
of_mixture, mixed, chosen = "mean std mixture_logits", mixture(OUTPUT), {**NOISE, "component_noise": uniform(0, 1)}
broad = {"x": DATA, "mean": normal(0.5), "std": log_uniform(1e-3, 10), **BINS[4096]}
DISCRETISED += [
    case("discretised.expected_value[far]", {**FAR, **BINS[16]}, "mean std", hard=True),
    case("discretised.expected_value[K=4096]", {**FAR, **BINS[4096]}, "mean std", hard=True),
    case("discretised.log_prob[far]", {"x": EDGES, **FAR, **BINS[16]}, "mean std", hard=True),
    case("discretised.log_prob[K=4096]", broad, "mean std", hard=True),
    case("discretised.sample", {**OUTPUT, **NOISE, **BINS[16]}),
    case("discretised.sample[far]", {**FAR, **NOISE, **BINS[2]}),
    case("discretised.mode", {**OUTPUT, **BINS[17]}),
    case("discretised.expected_value[mixture]", {**mixed, **BINS[16]}, of_mixture),
    case("discretised.expected_value[mixture unclipped]", {**mixed, **BINS[17], **unclipped}, of_mixture),
    case("discretised.log_prob[mixture]", {"x": DATA, **mixed, **BINS[16]}, of_mixture),
    case("discretised.sample[mixture]", {**mixed, **chosen, **BINS[16]}),
    case("discretised.mode[mixture]", {**mixed, **BINS[17]}),
]
NET = {"pred_mean": normal(0.3), "pred_log_std": normal(0.5), "mean": DATA}
MIXED = mixture(NET, "mean")
STACKED = {"pred_mean": pair(NET["pred_mean"], NET["pred_log_std"]), "mean": DATA, "pred_log_std": None}
BOTH, ALL = "pred_mean pred_log_std", "pred_mean pred_log_std mixture_logits"
NARROW = {"limits": Limits(std=(0.2, 0.9), log_std=0.8, t_min=0.3)}  # each limit binds some of the predictions
data, hidden = {"x": DATA}, {"x": poisoned(DATA, torch.nan), **HIDDEN}
poison = {**hidden, **NET, "pred_mean": poisoned(normal(), torch.nan)}
poison_mixed, data_each = {**poison, **MIXED}, {**DIRECT, **EACH}
stacked_mixed = {**STACKED, **mixture({"pred_mean": STACKED["pred_mean"]})}
for op, timed in LOSSES.items():
    name, more, wide = f"discretised.{op}", {**timed, **PAPER}, unclipped if timed else {}
    loss, masked = {**data, **NET, **more}, {**poison, **more}
    DISCRETISED += [
        case(f"{name}[mixture]", {**data, **MIXED, **more, **BINS[16]}, ALL),
        case(f"{name}[mixture data]", {**poison_mixed, **more, **BINS[17], **BATCH, **wide, **DIRECT}, ALL),
        case(name, {**loss, **BINS[16]}, BOTH),
        case(f"{name}[data]", {**loss, **BINS[17], **data_each}, BOTH),
        case(f"{name}[batch]", {**loss, **BINS[2], **BATCH, **wide}, BOTH),
        case(f"{name}[masked]", {**masked, **BINS[16]}, BOTH),
        case(f"{name}[masked sum]", {**masked, **BINS[17], **SUM}, BOTH),
        case(f"{name}[limits]", {**loss, **BINS[16], **NARROW, **EACH}, BOTH),
        case(f"{name}[limits data]", {**loss, **BINS[17], **NARROW, **DIRECT}, BOTH),
        case(f"{name}[stacked]", {**data, **STACKED, **more, **BINS[16]}, "pred_mean"),
        case(f"{name}[stacked masked]", {**hidden, **STACKED, **more, **BINS[16], **data_each}, "pred_mean"),
        case(f"{name}[stacked mixture]", {**data, **stacked_mixed, **more, **BINS[16]}, "pred_mean mixture_logits"),
        case(f"{name}[K=256]", {**loss, **BINS[256], **EACH}, BOTH, hard=True),
    ]
far = {"pred_mean": among(-300, -0.7, 0, 0.4, 300), "pred_log_std": among(-12, -7, -2, 0, 2.5), "mean": DATA}
hard = {"x": EDGES, **far, **BINS[16], **data_each, **PAPER}
nodes = {"t": STEP, "n_steps": 7, "quadrature": 16, **BINS[4], **PAPER}
three = {**data, **NET, "t": STEP, "noise": draws(normal(), 3), "n_steps": 7, "n_samples": 3, **BINS[16], **PAPER}
output, components = {**NET, **TIMED, **PAPER}, {name: MIXED[name] for name in ("pred_mean", "pred_log_std")}
DISCRETISED += [
    case("discretised.continuous_time_loss[hard]", {**hard, "t": HARD_TIME}, BOTH, hard=True),
    case("discretised.discrete_time_loss[hard]", {**hard, "t": ends_of(20), "n_steps": 20}, BOTH, hard=True),
    case("discretised.reconstruction_loss[hard]", hard, BOTH, hard=True),
    case("discretised.discrete_time_loss[draws]", three, BOTH),
    case("discretised.discrete_time_loss[mixture 16 nodes]", {**data, **MIXED, **nodes}, ALL),
    case("discretised.discrete_time_loss[16 nodes]", {**data, **NET, **nodes}, BOTH),
    case("discretised.output_distribution", output, "pred_mean pred_log_std mean"),
    case("discretised.output_distribution[data]", {**output, **DIRECT}, BOTH),
    case("discretised.output_distribution[mixture]", {**output, **components}, "pred_mean pred_log_std mean"),
    case("discretised.output_distribution[hard]", {**far, "t": HARD_TIME, **PAPER}, f"{BOTH} mean", hard=True),
]
stepped, drawn = {"precision": ALPHA, "t": TIME, "alpha": ALPHA, **NOISE, **PAPER}, {"draw_noise": normal()}
update, stacked = ({**net, **stepped, **BINS[16]} for net in (NET, STACKED))
mixed_update, known = {**update, **MIXED}, {**update, **drawn, **KNOWN, **BINS[17]}
components, paper = {**drawn, "component_noise": uniform(0, 1)}, {**BINS[16], **PAPER}
first, second, mixed_second = ({**net, **step, **paper} for net, step in ((NET, FIRST), (NET, SECOND), (MIXED, SECOND)))
guided = {**second, "unconditional": normal(), **GUIDANCE, **ODE2}
mixed_first = {**MIXED, **FIRST, **NOISE, **components, **paper}
DISCRETISED += [
    case("discretised.update_sample", {**update, **drawn}, "mean", hard=True),
    case("discretised.update_sample[mixture]", {**mixed_update, **components, **DIRECT}, "mean"),
    case("discretised.update_sample[mixture mean]", {**mixed_update, **MEAN}, f"{ALL} mean"),
    case("discretised.update_sample[data]", {**update, **drawn, **DIRECT}, "mean"),
    case("discretised.update_sample[known]", {**known, **DIRECT}, "mean"),
    case("discretised.update_sample[mode]", {**update, **MODE, **DIRECT}, "mean"),
    case("discretised.update_sample[limits]", {**update, **drawn, **NARROW}, "mean", hard=True),
    case("discretised.update_sample[limits mean]", {**update, **MEAN, **NARROW}, f"{BOTH} mean"),
    case("discretised.update_sample[stacked]", {**stacked, **drawn, **DIRECT}, "mean"),
    case("discretised.update_sample[stacked mean]", {**stacked, **MEAN}, "pred_mean mean"),
    case("discretised.update_sample[mean]", {**update, **MEAN}, f"{BOTH} mean"),
    case("discretised.solver_step", first),
    case("discretised.solver_step[guided]", guided),
    case("discretised.solver_step[ode2, stacked]", {**STACKED, **SECOND, **ODE2, **BINS[17], **PAPER}),
    case("discretised.solver_step[sde2, prediction]", {**second, **KNOWN, **NOISE, **SDE2}, into="predicted_out"),
    case("discretised.solver_step[sde1, mixture]", {**mixed_first, **LOUD, **SDE1, **SAMPLE, **DIRECT}),
    case("discretised.solver_step[ode2, mixture]", {**mixed_second, **ODE2}, into="predicted_out"),
]

five = per_class(normal(2), 5)
DISCRETE = [
    case("discrete.bayesian_update", {"logits": five, "y": five}, "logits y", num_classes=5, kernels=False),
    case("discrete.theta_logits", {"theta": per_class(uniform(0.1, 1), 3)}, "theta", num_classes=3, kernels=False),
]
for k, kind in [(2, torch.int64), (3, torch.int32), (27, torch.uint8), (257, torch.int64)]:
    of = partial(case, num_classes=k)
    beta = {"beta_1": min(3.0, 16 / k)}  # K·β₁ is as in the paper's experiments, since larger ones saturate
    z, noise, x = per_class(normal(3), k), {"noise": per_class(normal(), k)}, {"x": classes(k, kind)}
    some_valid, each_valid = {"class_mask": valid(k)}, {"class_mask": valid(k, True)}
    hidden = poisoned(classes(k, kind), 255 if kind == torch.uint8 else -100)
    known, hidden_soft = {"known": hidden, "known_mask": some}, {"known": soft(k, torch.nan), "known_mask": some}
    sent, drawn = {**x, **noise, "dtype": itself, "num_classes": k}, {"draw_noise": uniform(0, 1)}
    mean, flow = {"output_logits": z, "state": z, "alpha": ALPHA, **noise}, {**sent, **TIMED, **beta}
    step = {**mean, **drawn}
    end, masked = {**x, "logits": z}, {"x": hidden, "logits": z, **HIDDEN}
    soft_end, soft_masked = {"x": soft(k), "logits": z}, {"x": soft(k, torch.nan), "logits": z, **HIDDEN}
    loss, any_class = {**end, **TIMED, **beta}, {"x": classes(1), "logits": z, **each_valid, **EACH}
    DISCRETE += [
        of(f"discrete.theta[K={k}]", {"logits": z}, "logits", hard=k == 257),
        of(f"discrete.flow_sample[K={k}]", flow),
        of(f"discrete.flow_sample[K={k} logits]", {**flow, "t": HARD_TIME, "output": "logits"}),
        of(f"discrete.flow_sample[K={k} known]", {**flow, **known}),
        of(f"discrete.flow_sample[K={k} known logits]", {**flow, **known, "output": "logits"}),
        of(f"discrete.sender_sample[K={k}]", {**sent, "alpha": ALPHA}),
        of(f"discrete.update_sample[K={k}]", step, "state"),
        of(f"discrete.update_sample[K={k} known]", {**step, **known}, "state"),
        of(f"discrete.update_sample[K={k} mode]", {**mean, **MODE}, "state"),
        of(f"discrete.update_sample[K={k} mean]", {**mean, **MEAN}, "output_logits state"),
        of(f"discrete.update_sample[K={k} theta]", step, into="theta_out"),
        of(f"discrete.continuous_time_loss[K={k}]", loss, "logits"),
        of(f"discrete.continuous_time_loss[K={k} masked]", {**masked, **TIMED, **BATCH, **beta}, "logits"),
        of(f"discrete.reconstruction_loss[K={k}]", {**end, **EACH}, "logits"),
        of(f"discrete.reconstruction_loss[K={k} masked]", {**masked, "reduction": "mean"}, "logits"),
        of(f"discrete.flow_sample[K={k} soft]", {**flow, "x": soft(k)}),
        of(f"discrete.flow_sample[K={k} soft known]", {**flow, "x": soft(k), **hidden_soft}),
        of(f"discrete.sender_sample[K={k} soft]", {**sent, "x": soft(k), "alpha": ALPHA}),
        of(f"discrete.continuous_time_loss[K={k} soft]", {**soft_end, **TIMED, **some_valid, **EACH, **beta}, "logits"),
        of(f"discrete.reconstruction_loss[K={k} soft]", soft_masked, "logits"),
        of(f"discrete.update_sample[K={k} soft]", {**step, **hidden_soft}, "state"),
        of(f"discrete.update_sample[K={k} class mask]", {**step, **each_valid}, "state"),
        of(f"discrete.continuous_time_loss[K={k} class mask]", {**loss, **some_valid, **BATCH}, "logits"),
        of(f"discrete.reconstruction_loss[K={k} class mask]", any_class, "logits"),
        of(f"discrete.entropy[K={k}]", {"logits": z}, "logits"),
        of(f"discrete.entropy[K={k} masked]", {"logits": poisoned(z, torch.nan), **HIDDEN, **BATCH}, "logits"),
    ]
    first = {"output_logits": z, "state": per_class(normal(), k), **FIRST, **beta}
    second = {**first, "t_previous": BEFORE, "previous": per_class(uniform(0, 2 / k), k)}
    other = {"unconditional": per_class(normal(), k), **GUIDED}
    score, again = {"score": per_class(normal(), k)}, {**first, **COOLED, **noise, **known, **RENOISE}
    clipped = {**some_valid, **score, "score_clip": rows(uniform(0.1, 1))}
    scored = {**second, **GUIDED, **other, **clipped, **known, **ODE2}
    guided, guided_second, soft_known = {**first, **other}, {**second, **other}, {**known, "known": soft(k)}
    DISCRETE += [
        of(f"discrete.solver_step[K={k}]", first),
        of(f"discrete.solver_step[K={k} ode2 theta]", {**second, **ODE2}, into="theta_out"),
        of(f"discrete.solver_step[K={k} guided]", guided),
        of(f"discrete.solver_step[K={k} guided sde2]", {**guided_second, **noise, **SDE2}, into="predicted_out"),
        of(f"discrete.solver_step[K={k} renoise]", again, into="predicted_out"),
        of(f"discrete.solver_step[K={k} sample]", {**guided, **drawn, **noise, **LOUD, **SAMPLE, **SDE1}),
        of(f"discrete.solver_step[K={k} mode]", {**guided, **MODE}),
        of(f"discrete.solver_step[K={k} soft]", {**second, **soft_known, **ODE2}, into="predicted_out"),
        of(f"discrete.solver_step[K={k} score]", {**first, **score, **MODE}),
        of(f"discrete.solver_step[K={k} class mask, score]", scored, into="predicted_out"),
    ]
    for receiver in ("joint", "factorised"):
        name, few = f"discrete.discrete_time_loss[K={k} {receiver}", {"n_steps": 7, "receiver": receiver, **beta}
        noisy = {"t": STEP, "noise": draws(noise["noise"], 3), "n_samples": 3, **few}
        DISCRETE += [
            of(f"{name}]", {**end, **noisy}, "logits"),
            of(f"{name} masked]", {**masked, **noisy, **SUM}, "logits"),
            of(f"{name} class mask]", {**end, **noisy, **each_valid}, "logits"),
        ]
        if k == 2 or receiver == "factorised":
            DISCRETE.append(of(f"{name} nodes]", {**end, "t": STEP, "quadrature": 8, **EACH, **few}, "logits"))
for gap in (10, 30, 100):
    of = partial(case, diff="logits", num_classes=5, gap=gap, hard=True)
    end = {"x": classes(5), "logits": per_class(among(-gap, 0, gap), 5), **EACH}
    loss, step = {**end, "t": HARD_TIME, **BETA}, {**end, "t": ends_of(10), "n_steps": 10, **BETA}
    noise = draws(per_class(normal(), 5), 2)
    DISCRETE += [
        of(f"discrete.continuous_time_loss[gap {gap}]", loss),
        of(f"discrete.reconstruction_loss[gap {gap}]", end),
        of(f"discrete.continuous_time_loss[gap {gap} soft]", {**loss, "x": soft(5)}),
        of(f"discrete.reconstruction_loss[gap {gap} soft]", {**end, "x": soft(5)}),
        of(f"discrete.entropy[gap {gap}]", {"logits": pair(among(gap), among(-gap, 0)), **EACH}, num_classes=2),
        of(f"discrete.discrete_time_loss[gap {gap} joint]", {**step, "noise": noise, "n_samples": 2}),
        of(f"discrete.discrete_time_loss[gap {gap} factorised]", {**step, "quadrature": 8, "receiver": "factorised"}),
    ]
of = partial(case, diff="logits", num_classes=4096, hard=True)
end = {"x": classes(4096), "logits": per_class(normal(5), 4096)}
loss = {**end, **TIMED, "beta_1": 0.005}
DISCRETE += [
    of("discrete.continuous_time_loss[K=4096]", loss),
    of("discrete.reconstruction_loss[K=4096]", end),
    of("discrete.reconstruction_loss[K=4096 masked]", {**end, "x": poisoned(classes(4096), -100), **HIDDEN}),
    of("discrete.continuous_time_loss[K=4096 soft]", {**loss, "x": soft(4096)}),
    of("discrete.reconstruction_loss[K=4096 soft]", {**end, "x": soft(4096)}),
    of("discrete.entropy[K=4096]", {"logits": end["logits"]}),
]

z, mean = {"logits": normal(3)}, {"output_logits": normal(3), "state": normal(3), "alpha": ALPHA, **NOISE}
drawn, end = {"draw_noise": uniform(0, 1)}, {"x": classes(2), **z}
step, masked = {**mean, **drawn}, {"x": poisoned(classes(2), -100), **z, **HIDDEN}
known, sent = {"known": masked["x"], "known_mask": some}, {**NOISE, "dtype": itself}
first, other = {"output_logits": normal(3), "state": normal(3), **FIRST, **BETA}, {"unconditional": normal()}
second = {**first, "t_previous": BEFORE, "previous": uniform(0, 1)}
guided, again = {**first, **other, **GUIDED}, {**first, **COOLED, **NOISE, **known}
BINARY = [
    case("binary.bayesian_update", {"logits": normal(2), "y": normal(2)}, "logits y", kernels=False),
    case("binary.theta", z, "logits", kernels=False),
    case("binary.theta_logits", {"theta": uniform(0.1, 0.9)}, "theta", kernels=False),
    case("binary.flow_sample", {"x": classes(2, torch.bool), **TIMED, **sent, **BETA}),
    case("binary.flow_sample[logits]", {"x": classes(2), "t": HARD_TIME, **sent, "output": "logits", **BETA}),
    case("binary.flow_sample[known]", {"x": classes(2), **TIMED, **sent, **known, **BETA}),
    case("binary.sender_sample", {"x": classes(2, torch.uint8), "alpha": ALPHA, **sent}),
    case("binary.update_sample", step, "state"),
    case("binary.update_sample[known]", {**step, **known}, "state"),
    case("binary.update_sample[mode]", {**mean, **MODE}, "state"),
    case("binary.update_sample[mean]", {**mean, **MEAN}, "output_logits state"),
    case("binary.update_sample[theta]", step, into="theta_out"),
    case("binary.solver_step", first),
    case("binary.solver_step[ode2 theta]", {**second, **ODE2}, into="theta_out"),
    case("binary.solver_step[guided]", guided),
    case("binary.solver_step[guided sde2]", {**second, **other, **GUIDED, **NOISE, **SDE2}, into="predicted_out"),
    case("binary.solver_step[renoise]", {**again, **RENOISE}, into="predicted_out"),
    case("binary.solver_step[sample]", {**guided, **drawn, **NOISE, **LOUD, **SAMPLE, **SDE1}),
    case("binary.solver_step[mode]", {**guided, **MODE}),
    case("binary.entropy", z, "logits"),
    case("binary.entropy[masked]", {"logits": poisoned(normal(3), torch.nan), **HIDDEN, **BATCH}, "logits"),
    case("binary.entropy[far]", {"logits": among(-80, -10, 0, 1e-3, 30), **EACH}, "logits", hard=True),
]
for op, more in [("continuous_time_loss", {**TIMED, **BETA}), ("reconstruction_loss", {})]:
    for kind in (torch.int64, torch.int32, torch.uint8, torch.bool):
        BINARY.append(case(f"binary.{op}[{str(kind)[6:]}]", {"x": classes(2, kind), **z, **more}, "logits"))
    BINARY.append(case(f"binary.{op}[masked]", {**masked, **more, **BATCH}, "logits"))
for receiver in ("joint", "factorised"):
    for note, estimate in [("", {"noise": draws(normal(), 3), "n_samples": 3}), (" nodes", {"quadrature": 8})]:
        name, few = f"binary.discrete_time_loss[{receiver}{note}", {**STEPPED, **estimate, "receiver": receiver, **BETA}
        BINARY += [
            case(f"{name}]", {**end, **few, **EACH}, "logits"),
            case(f"{name} masked]", {**masked, **few, **SUM}, "logits"),
        ]
for gap in (10, 30, 100):
    of = partial(case, diff="logits", gap=gap, hard=True)
    end = {"x": classes(2), "logits": among(-gap, 0, gap), **EACH}
    step = {**end, "t": ends_of(10), "n_steps": 10, **BETA}
    noise = {"noise": draws(normal(), 2), "n_samples": 2}
    BINARY += [
        of(f"binary.continuous_time_loss[gap {gap}]", {**end, "t": HARD_TIME, **BETA}),
        of(f"binary.reconstruction_loss[gap {gap}]", end),
        of(f"binary.discrete_time_loss[gap {gap}]", {**step, **noise}),
    ]
accurate = {**step, "beta_1": 300.0}  # density ratios up to exp(160)
BINARY.append(case("binary.discrete_time_loss[accurate]", {**accurate, **noise}, "logits", hard=True))
BINARY.append(case("binary.discrete_time_loss[accurate nodes]", accurate, "logits", hard=True))

CASES = CONTINUOUS + DISCRETISED + DISCRETE + BINARY + CIRCULAR
