"""The table of cases is complete, and what a case says about itself is true."""

import torch

from bfn_kernels import backends
from tests.kernels.declared import OPS, parameters
from tests.kernels.op_cases import CASES
from tests.kernels.support import FIRST
from tests.kernels.vocabulary_cases import LARGE, MODES, STEPS

EVERY = CASES + LARGE + STEPS + MODES


def test_every_op_has_a_case():
    left_out = {op for op in OPS if "backend" in parameters(op)} - {case.op for case in EVERY}
    assert not left_out, f"tests/kernels/op_cases.py (or vocabulary_cases.py) needs a case of each of {left_out}"


def test_a_case_says_whether_its_op_has_kernels(monkeypatch):
    asked, library = [], backends.library
    monkeypatch.setattr(backends, "library", lambda *which, **first: asked.append(which) or library(*which, **first))
    for case in FIRST:
        asked.clear()
        case(case.inputs((2, 3), torch.float32), "reference")
        assert bool(asked) == case.kernels, f"the cases of {case.op} need kernels={bool(asked)}"


def test_a_case_says_how_many_classes_it_has():
    """One logit of binary data stands for two."""
    for case in [case for case in EVERY if case.family != "binary"]:
        inputs = case.inputs((2, 3), torch.float32)
        sizes = {inputs[name].shape[-1] for name in ("logits", "output_logits", "state", "theta") if name in inputs}
        sizes |= {len(inputs["weight"])} if "weight" in inputs else set()
        sizes |= {case.options["num_classes"]} if "num_classes" in case.options else set()
        assert sizes <= {case.num_classes}, f"{case} needs num_classes={sizes}"
