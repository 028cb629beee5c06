"""The examples in the docstrings of every public module."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import bfn_kernels

MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(bfn_kernels.__path__, "bfn_kernels.")
    if not m.name.rsplit(".", 1)[-1].startswith("_") and "triton" not in m.name
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch})
    assert failed == 0


@pytest.mark.parametrize("family", ["continuous", "discretised", "discrete"])
def test_every_public_function_has_an_example(family):
    module = importlib.import_module(f"bfn_kernels.{family}")
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_"):
            if name in ("read_mean", "data_numbers", "bin_loss"):  # shared between families
                continue
            assert ">>>" in (value.__doc__ or ""), f"{family}.{name}"
