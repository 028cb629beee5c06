"""The cases of angles in the table of op_cases.py."""

import torch

from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.case import case
from tests.kernels.makers import among, log_uniform, normal, poisoned, proposals, rows, some, steps, uniform

ALPHA, HIDDEN = rows(log_uniform(0.1, 10)), {"mask": some}
EACH, BATCH = {"reduction": "none"}, {"reduction": "batch"}
ANGLE, UNIT, FIVE = uniform(-4, 4), uniform(0, 1), {"schedule": VonMisesAccuracy([0.5, 1.0, 2.0, 8.0, 64.0])}
PERIOD, SEED = {"period": 1.0}, {"seed": 3}
state = {"mean": ANGLE, "concentration": log_uniform(0.01, 100), "alpha": ALPHA}
flow = {"x": ANGLE, "step": steps(1, 6), **FIVE, **SEED}
hard = {"x": UNIT, "alpha": rows(among(0.0, 1e-6, 1.0, 1e4, 1e20)), **SEED, **PERIOD}
message, known = {"y": ANGLE, **state}, {"known": poisoned(ANGLE, 1.0), "known_mask": some}
step, again = ({"pred": ANGLE, **given, **FIVE, **SEED} for given in (state, {"step": steps(1, 6)}))
drawn, drawn_step = ({k: v for k, v in each.items() if k != "seed"} | {"noise": proposals(3)} for each in (flow, step))
drawn_flow = {**drawn, "concentration_noise": normal()}
CIRCULAR = [
    case("circular.flow_sample", flow),
    case("circular.flow_sample[noise]", drawn_flow),
    case("circular.flow_sample[noise, concentration]", drawn_flow, part=1),
    case("circular.flow_sample[concentration]", flow, part=1),
    case("circular.flow_sample[step per token]", {**flow, "x": uniform(-1, 2), "step": steps(1, 6, 2), **PERIOD}),
    case("circular.flow_sample[log]", {**flow, "output": "log"}, into="concentration_out"),
    case("circular.flow_sample[masked]", {**flow, "x": poisoned(ANGLE, torch.nan), **HIDDEN}, into="out"),
    case("circular.flow_sample[known]", {**flow, **known}),
    case("circular.flow_sample[known, log]", {**flow, **known, "output": "log"}, part=1),
    case("circular.sender_sample", {"x": ANGLE, "alpha": ALPHA, **SEED}),
    case("circular.sender_sample[hard]", hard, hard=True),
    case("circular.sender_sample[noise]", {"x": ANGLE, "alpha": ALPHA, "noise": proposals(1)}),
    case("circular.bayesian_update", message),
    case("circular.bayesian_update[concentration]", {**message, "y": UNIT, "mean": UNIT, **PERIOD}, part=1),
    case("circular.update_sample", step),
    case("circular.update_sample[concentration]", {**step, **known}, part=1),
    case("circular.update_sample[noise]", {**drawn_step, **known}),
    case("circular.update_sample[log]", {**step, "pred": UNIT, "mean": UNIT, **PERIOD}, into="log_out"),
    case("circular.renoise", again),
    case("circular.renoise[log]", {**again, "pred": UNIT, "output": "log", **PERIOD}, part=1),
]
squared = {"x": uniform(-1, 1), "pred": uniform(-1, 1), "step": steps(1, 5), **FIVE, "squared": True}
end = {"x": ANGLE, "pred": ANGLE, "concentration": log_uniform(1e-3, 1e4)}
ends = {**end, "concentration": among(0.0, 1e-9, 9.9, 17.9, 18.1, 3e4), **EACH}
for op, loss, diff in [
    ("discrete_time_loss", {"x": ANGLE, "pred": ANGLE, "step": steps(1, 5), **FIVE}, "pred"),
    ("reconstruction_loss", end, "pred concentration"),
]:
    CIRCULAR += [
        case(f"circular.{op}", loss, diff),
        case(f"circular.{op}[each]", {**loss, "x": UNIT, **EACH, **PERIOD}, diff),
        case(f"circular.{op}[masked]", {**loss, "x": poisoned(ANGLE, torch.nan), **HIDDEN, **BATCH}, diff),
    ]
CIRCULAR.append(case("circular.discrete_time_loss[squared]", squared, "pred"))
CIRCULAR.append(case("circular.reconstruction_loss[ends]", ends, "pred concentration", hard=True))
