"""Whole sampling runs with the modules of bfn_kernels.nn. tests/bfn/test_sample.py compares runs with their steps."""

import pytest
import torch
from torch import nn as torch_nn

from bfn_kernels import samplers
from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.test_nn import each_kind, make


def test_sampling_is_without_dropout_and_leaves_the_modes_of_modules():
    model, _ = make("continuous")
    model.network.outer = torch_nn.Sequential(torch_nn.Dropout(0.5), model.network.outer)
    model.network.inner.eval()  # as of a part that is not trained
    modes = [module.training for module in model.modules()]
    drawn = [samplers.sample(model, (4, 5), 3, seed=1) for _ in range(2)]
    assert torch.equal(*drawn) and [module.training for module in model.modules()] == modes
    samplers.sample_within(model, (4, 5), 1.0, seed=1)
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes


def test_arguments_of_a_sampler_are_checked():
    model, _ = make("binary")
    with pytest.raises(ValueError, match=r"sampler must be one of \['ancestral', 'ode1', .*, got 'euler'"):
        samplers.sample(model, (2, 3), 4, sampler="euler")
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        samplers.sample(model, (2, 3), 0)
    with pytest.raises(ValueError, match="capture must be None or False on cpu"):
        samplers.sample(model, (2, 3), 2, capture=True)


@each_kind
def test_torch_s_default_device_and_type_do_not_matter(kind):
    """A default device may have no memory at all."""

    def results():
        yield model(x, seed=1, n_steps=25)
        for sampler in ("ancestral", "ode2"):
            yield samplers.sample(model, (2, 4), 3, seed=1, sampler=sampler)
        yield samplers.sample_within(model, (2, 4), 1.0, seed=1)[0]
        yield VonMisesAccuracy.linear_entropy(2, 9.0).table

    model, x = make(kind)
    want = [*results()]
    with torch.device("meta"):
        got = [*results()]
        model(x)
    assert all(map(torch.equal, got, want))
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = [*results()]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, got, want))


def test_a_number_of_steps_is_checked():
    model, x = make("binary")
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        model(x, n_steps=0)
