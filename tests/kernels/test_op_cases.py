"""The table of cases is complete, and what a case says about itself is true."""

import torch

from bfn_kernels import backends
from tests.kernels.declared import OPS, OUTPUTS, annotations, parameters
from tests.kernels.op_cases import CASES
from tests.kernels.support import FIRST
from tests.kernels.vocabulary_cases import LARGE, MODES, STEPS

EVERY = CASES + LARGE + STEPS + MODES


def test_every_op_has_a_case():
    left_out = {op for op in OPS if "backend" in parameters(op)} - {case.op for case in EVERY}
    assert not left_out, f"tests/kernels/op_cases.py (or vocabulary_cases.py) needs a case of each of {left_out}"


# Other tests give these to every op that takes them: test_contracts.py the masks of flows, test_stores.py and
# test_out.py the outputs, test_noise.py the seeds, test_solvers.py coefficients, and test_arguments.py steps for times.
# With a factor, an op consists of torch's own ops: test_noisy.py.
ELSEWHERE = {"mask", *OUTPUTS, "seed", "coefficients", "step", "factor"}


def test_every_tensor_that_an_op_may_be_given_is_in_a_case():
    """Or in another test, so that tests of every case ask for every argument."""
    for op in {case.op for case in EVERY}:
        given = {name for case in EVERY if case.op == op for name in (*case.fields, *case.options)}
        kinds = {name: str(kind) for name, kind in annotations(op).items()}
        tensors = {name for name, kind in kinds.items() if "Tensor" in kind or "Coefficients" in kind}
        assert tensors - ELSEWHERE <= given, op


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
