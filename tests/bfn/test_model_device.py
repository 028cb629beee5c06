"""Whatever `bfn` does with a model, it makes every tensor on the model's device. The device is a stand-in."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from bfn.configs import EvaluateConfig, SampleConfig
from bfn.model import BFN
from bfn.results import plots
from bfn.results.evaluate import evaluate
from bfn.sample import sample, sample_within
from tests.stand_in import DEVICE, Device, here, moved, tried


def there(model: BFN) -> BFN:
    """A copy of the model on the stand-in."""
    model = deepcopy(model)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(moved(parameter)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, moved(buffer))
    return model


def pixels(path: Path) -> np.ndarray:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


OPTIONS = SampleConfig(n_steps=3, count=4)
USES = {
    "loss": lambda model, data, _: here(model(data.test[:3].to(model.device), seed=1).detach()),
    "loss n": lambda model, data, _: here(model(data.test[:3].to(model.device), seed=1, n_steps=4).detach()),
    "reconstruction": lambda model, data, _: here(
        model.reconstruction(data.test[:3].to(model.device), seed=1).detach()
    ),
    "evaluate": lambda model, data, _: evaluate(model, data.test[:5], EvaluateConfig(repeats=2, batch_size=3)).bits,
    "evaluate n": lambda model, data, _: evaluate(model, data.test[:5], EvaluateConfig(n_steps=4, repeats=2)).bits,
    "sample": lambda model, data, _: here(sample(model, 2, 3, seed=1)),
    "sample within": lambda model, data, _: here(sample_within(model, 2, 0.5, seed=1)[0]),
    "times": lambda model, data, path: pixels(plots.plot_times(model, data, path, seed=1, count=3)),
    "narrowing": lambda model, data, path: pixels(plots.plot_narrowing(model, data, path, OPTIONS)),
}


@pytest.mark.parametrize("use", USES)
def test_a_model_is_used_on_its_device(use, pair, tmp_path):
    (model, data), picture = pair, tmp_path / "picture.png"
    want = USES[use](model, data, picture)
    with tried(), Device():
        elsewhere = there(model)
        assert elsewhere.device == DEVICE
        got = USES[use](elsewhere, data, picture)
    # Curves that differ by rounding errors shade some pixels of a picture by a few of 256 levels.
    levels = 8 if isinstance(want, np.ndarray) and want.dtype == np.uint8 else 0
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=levels)
