"""Every default of every public function, module and sampler, in one table. A default is a promise: it must not change
unnoticed."""

import inspect
import math

import torch

import bfn_kernels
from bfn_kernels import Limits, nn, samplers, schedules
from tests.kernels.declared import OPS, public

DEFAULTS = {  # of a parameter, or of one of a family or a function alone
    "bias": True,
    "centred": (),
    "certainty": 0.9865,
    "choose": "sample",
    "clip": True,
    "continuous.clip": (-1, 1),
    "Continuous.clip": (-1, 1),
    "device": "cpu",
    "dtype": torch.float32,
    "end": 1.0,
    "first": 0.01,
    "limits": Limits(std=(1e-3, 10.0), log_std=10.0, t_min=1e-6),
    "log_std": 10.0,
    "max_calls": 1000,
    "n_samples": 10,
    "of_examples": (),
    "output": "probs",
    "circular.output": "concentration",
    "vocabulary.output": "softmax",
    "own_times": False,
    "return_argmax": False,
    "squared": False,
    "period": 2 * math.pi,
    "parametrisation": "noise",
    "receiver": "joint",
    "reduction": "mean",
    "rule": "ode1",
    "sampler": "ancestral",
    "sampling": nn.Sampling(),
    "std": (1e-3, 10.0),
    "t": 1.0,
    "t_min": 1e-6,
    "tied": False,
    "top_p": 1.0,
}
TORCHS = {"norm_type", "scale_grad_by_freq", "sparse", "_freeze"}  # arguments of torch's own modules
OURS = {op: public(op) for op in OPS} | {
    f"{module.__name__}.{name}": each
    for module in (bfn_kernels, nn, samplers, schedules)
    for name, each in vars(module).items()
    if callable(each) and getattr(each, "__module__", "").startswith("bfn_kernels.") and name[0].isalpha()
}


def test_defaults_are_those_of_the_table():
    for name, ours in OURS.items():
        family, _, function = name.rpartition(".")
        for parameter in inspect.signature(ours).parameters.values():
            if parameter.default not in (parameter.empty, None) and parameter.name not in TORCHS:
                keys = [f"{part}.{parameter.name}" for part in (family, function)]
                want = DEFAULTS[next((key for key in keys if key in DEFAULTS), parameter.name)]
                assert parameter.default == want and type(parameter.default) is type(want), f"{name}({parameter})"
