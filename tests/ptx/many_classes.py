"""Cases of the table with more classes than it has."""

import dataclasses

import torch
from cases import Case, classes, draws, normal, per_class


def with_classes(case: Case, k: int) -> Case:
    """A case of discrete data, with k classes."""
    made = dict.fromkeys(("logits", "output_logits", "state"), per_class(normal(3), k))
    made |= {"x": classes(k, torch.int64), "noise": per_class(normal(), k)}
    if "n_samples" in case.options:
        made["noise"] = draws(made["noise"], case.options["n_samples"])
    fields = {name: made.get(name, make) for name, make in case.fields.items()}
    options = {name: {"num_classes": k, "beta_1": 16 / k}.get(name, value) for name, value in case.options.items()}
    return dataclasses.replace(case, name=f"{case.op}[K={k}]", fields=fields, options=options)
