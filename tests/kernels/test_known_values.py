"""Variables whose values are known: a step sends what is known in the place of what the network predicts."""

import pytest
import torch

from bfn_kernels import continuous, discrete, discretised
from tests.kernels.support import ON_CPU

on_each = pytest.mark.parametrize("backend", ON_CPU)


@on_each
def test_known_values_are_sent(backend):
    zero = torch.zeros(4, 6)
    mask = torch.arange(6) % 2 == 0
    known = torch.where(mask, zero + 0.5, torch.nan)  # not looked at elsewhere
    sent = {"known": known, "known_mask": mask, "noise": zero, "backend": backend}
    want = torch.where(mask, 0.375, -0.675).expand(4, 6)
    bins = {"sigma_1": 0.1, "num_bins": 10, "parametrisation": "data"}
    z = torch.zeros(4, 6, 3)
    classes = {**sent, "known": torch.where(mask, 2, -100).expand(4, 6), "noise": z}
    for choose in ("sample", "mode", "mean"):
        draw = {"choose": choose, **({"draw_noise": zero} if choose == "sample" else {})}
        new, _ = discretised.update_sample(zero - 0.9, zero - 9, zero, 1.0, 0.5, 3.0, **bins, **draw, **sent)
        torch.testing.assert_close(new, want, rtol=1e-5, atol=1e-6)
        draw |= {"draw_noise": zero + 0.5} if choose == "sample" else {}
        new = discrete.update_sample(z + torch.tensor([9e3, 0.0, 0.0]), z, 1.0, **draw, **classes)
        assert (new.argmax(-1) == torch.where(mask, 2, 0)).all()
    new, _ = continuous.update_sample(zero - 0.9, zero, 1.0, 3.0, **sent)
    torch.testing.assert_close(new, want, rtol=1e-6, atol=0)


@on_each
def test_known_values_keep_their_digits_beside_a_narrow_prediction(backend):
    known, mean = torch.full((1, 2), 0.1234567), torch.zeros(1, 2)
    sure = {"known": known, "known_mask": torch.ones(1, 2, dtype=torch.bool), "noise": mean, "backend": backend}
    narrow, options = mean.bfloat16(), {"choose": "mode", "sigma_1": 0.1, "num_bins": 4}
    torch.testing.assert_close(continuous.update_sample(narrow, mean, 0.0, 1e6, **sure)[0], known)
    new, _ = discretised.update_sample(narrow, narrow, mean, 0.0, 0.5, 1e6, **options, **sure)
    torch.testing.assert_close(new, known)
