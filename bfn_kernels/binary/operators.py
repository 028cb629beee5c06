"""The operators of binary data, each with its fake (its result without numbers, for torch.compile) and its backward
pass.

The function of the same name in `reference.py` computes the same result and has the same arguments.
"""

import torch

from bfn_kernels.binary import reference
from bfn_kernels.declarations import gradient_operator, operator, step_operator

OPERATORS = [
    operator(reference.sender_sample, fake=lambda x, *others: torch.empty_like(x, dtype=others[-1])),
    step_operator(reference.step, state=1),
    gradient_operator(reference.loss, "logits", dense=False),
    gradient_operator(reference.discrete_time_loss, "logits", dense=False),
    gradient_operator(reference.entropy, "logits", dense=False),
]
