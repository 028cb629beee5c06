"""Crystals from data to samples: a joint model of angles, classes, and one lattice for several atoms."""

import pytest
import torch
from torch import nn

from bfn_kernels import samplers
from tests.kernels import crystal_models as crystals
from tests.kernels.crystal_models import MESSAGES, TYPES, Crystal


def trained(prototypes, n_steps, count):
    """Trains a model, and one that is blind. Returns both, the losses of the parts without training and with both
    models, and numbers of atoms of crystals."""
    x, rows = crystals.batch_of(prototypes, 512, torch.Generator().manual_seed(7))
    models = crystals.model_of_crystals(), crystals.model_of_crystals(blind=True)
    losses = [crystals.losses(models[0], x, rows, seed=99)]
    for model in models:
        crystals.train(model, prototypes, n_steps, count)
        losses.append(crystals.losses(model, x, rows, seed=99))
    return *models, losses, rows.sizes[:200].tolist()


def sampled(model, counts, sampler="renoise"):
    shape = {"coordinates": (sum(counts), 3), "types": (sum(counts),), "lattice": (len(counts), 6)}
    out = samplers.sample(model, shape, MESSAGES, counts=counts, seed=1, sampler=sampler)
    assert out["coordinates"].abs().max() <= 0.5 and out["lattice"].abs().max() < 2
    assert out["types"].min() >= 0 and out["types"].max() < TYPES
    return crystals.crystals_of(out, counts)


def drawn(prototypes, counts):
    """Crystals whose lattice, types and coordinates are those of three prototypes of the same size."""
    torch.manual_seed(3)
    sizes = [[each for each in prototypes if len(each.types) == count] for count in counts]
    return [Crystal(*(each[torch.randint(len(each), ())][part] for part in range(3))) for each in sizes]


def test_parts_of_crystals_learn_from_each_other():
    prototypes = crystals.by_hand()
    model, _, (start, end, blind), counts = trained(prototypes, 120, 32)
    assert end["coordinates"] < 0.85 * start["coordinates"]
    assert end["types"] < 0.9 * blind["types"] < 0.25 * start["types"]
    assert end["lattice"] < 0.75 * blind["lattice"] < 0.4 * start["lattice"]
    for sampler in ("ancestral", "renoise"):
        # uniform types would be those of a prototype in a tenth of the samples
        assert crystals.share_near(sampled(model, counts[:100], sampler), prototypes, 0.5) > 0.4


def test_a_crystal_has_no_origin():
    model = crystals.model_of_crystals()
    for weight in model.network.parameters():
        nn.init.normal_(weight, std=0.3)
    x, rows = crystals.batch_of(crystals.by_hand(), 16, torch.Generator().manual_seed(7))
    moved = x["coordinates"] + torch.rand(16, 3)[rows.batch]
    got = crystals.losses(model, x | {"coordinates": moved - moved.round()}, rows, seed=1)
    torch.testing.assert_close(got, crystals.losses(model, x, rows, seed=1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(crystals.aflow_file() is None, reason="needs pymatgen, the extra `crystals`")
def test_samples_are_near_prototypes_of_aflow():
    """Samples of a blind model and crystals of independent parts are near prototypes less often."""
    prototypes = crystals.aflow()
    model, blind, (start, end, apart), counts = trained(prototypes, 600, 64)
    assert all(end[part] < 0.98 * apart[part] < 0.95 * start[part] for part in end)
    found = [sampled(model, counts), sampled(blind, counts), drawn(prototypes, counts)]
    near, *others = (crystals.share_near(each, prototypes, 0.15) for each in found)
    assert crystals.share_near(prototypes, prototypes, 1e-3) == 1
    assert near > 1.2 * max(others)
