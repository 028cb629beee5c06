"""Models on a GPU. They need the packages of the extra `train`, which a machine that is lent with a GPU may lack."""

import pytest
import torch

pytest.importorskip("omegaconf", reason="omegaconf is not installed, so no configuration can be read")
from bfn.configs import load
from bfn.data import load_data
from bfn.model import build_model
from bfn.sample import sample
from bfn.training.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.mark.parametrize("name", ["digits", "digits_continuous", "digits_binary", "text"])
def test_captured_samples_are_the_same(name):
    config = load(name, ["network.width=16", "network.depth=1", "network.heads=2"])
    model = build_model(config, load_data(config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.cuda()
    for seed in (1, 2):
        seen, drawn = [], []
        for capture in (False, True):
            seen.append([])
            drawn.append(
                sample(
                    model,
                    3,
                    6,
                    seed=seed,
                    device="cuda",
                    capture=capture,
                    watch=lambda i, state, states=seen[-1]: states.extend(state),
                )
            )
        assert torch.equal(*drawn)
        assert len(seen[0]) == len(seen[1]) and all(map(torch.equal, *seen))


@pytest.mark.parametrize("name", ["digits", "digits_continuous", "digits_binary", "text"])
def test_a_step_waits_for_nothing(name, tmp_path):
    config = load(name, ["network.width=16", "network.depth=1", "network.heads=2", f"out={tmp_path}"])
    trainer = Trainer(config, load_data(config))
    trainer.step()  # in which cuDNN searches and memory is allocated
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
