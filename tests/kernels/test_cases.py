"""The table of cases is complete, and what a case says of itself is so."""

import pytest
import torch
from cases import CASES
from declared import OPS, parameters
from support import FIRST
from vocabularies import LARGE, MODES, STEPS

from bfn_kernels import backends

EVERY = CASES + LARGE + STEPS + MODES


@pytest.mark.parametrize("op", [op for op in OPS if "backend" in parameters(op)])
def test_every_op_has_a_case(op):
    assert op in {case.op for case in EVERY}, f"tests/kernels/cases.py (or vocabularies.py) needs a case of {op}"


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_a_case_says_whether_its_op_has_kernels(case, monkeypatch):
    asked, library = [], backends.library
    monkeypatch.setattr(backends, "library", lambda *which: asked.append(which) or library(*which))
    case(case.inputs((2, 3), torch.float32), "reference")
    assert bool(asked) == case.kernels, f"the cases of {case.op} need kernels={bool(asked)}"


# One logit of binary data stands for two classes.
@pytest.mark.parametrize("case", [case for case in EVERY if case.family != "binary"], ids=str)
def test_a_case_says_how_many_classes_it_has(case):
    """The last dimension of its logits, probabilities or states."""
    inputs = case.inputs((2, 3), torch.float32)
    of_rows = ("logits", "output_logits", "state", "theta")
    sizes = {inputs[name].shape[-1] for name in of_rows if name in inputs}
    sizes |= {len(inputs["weight"])} if "weight" in inputs else set()
    sizes |= {case.options["num_classes"]} if "num_classes" in case.options else set()
    assert sizes <= {case.num_classes}, f"{case} needs num_classes={sizes}"
