import pytest
import torch

from bfn.data import load_data
from bfn.model import build_model
from bfn.sample import sample


@pytest.mark.parametrize("name", ["digits", "digits_continuous", "digits_binary", "text"])
def test_samples_are_valid_and_follow_the_seed(name, tiny):
    config = tiny(name)
    data = load_data(config)
    torch.manual_seed(0)
    model = build_model(config, data)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # an untrained head would always say the same
    drawn = [sample(model, 8, 6, seed=s) for s in (1, 1, 2)]
    assert drawn[0].shape == (8, *data.shape) and drawn[0].dtype == data.train.dtype
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    if name == "digits":
        levels = (drawn[0] + 1) * 17 / 2 - 0.5
        torch.testing.assert_close(levels, levels.round(), atol=1e-5, rtol=0)
    low, high = (-1, 1) if data.train.is_floating_point() else (0, data.num_classes - 1)
    assert low <= drawn[0].min() and drawn[0].max() <= high
    assert len(drawn[0].unique()) > 1


def test_watching_shows_every_state_and_precision_grows_to_that_of_sigma_1(tiny):
    config = tiny("digits")
    data = load_data(config)
    model = build_model(config, data)
    seen = []
    sample(model, 2, 7, seed=0, watch=lambda i, state: seen.append((i, float(torch.as_tensor(state[1]).flatten()[0]))))
    assert [i for i, _ in seen] == list(range(8))
    precisions = [precision for _, precision in seen]
    # The accuracies of all messages add up to 1/sigma_1² - 1.
    assert precisions[0] == 1 and precisions == sorted(precisions)
    assert precisions[-1] == pytest.approx(1 / 0.03**2, rel=1e-5)
