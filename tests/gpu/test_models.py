"""Models on a GPU. They need the packages of the extra `train`, which a machine that is lent with a GPU may lack."""

import pytest
import torch

pytest.importorskip("omegaconf", reason="omegaconf is not installed, so no configuration can be read")
from bfn.configs import load
from bfn.data import load_data
from bfn.model import build_model
from bfn.sample import sample
from bfn.training.trainer import Trainer
from tests.bfn import tiny_files

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


each_kind = pytest.mark.parametrize("name", ["digits", "digits_continuous", "digits_binary", "text", "smiles_small"])


def tiny(name, folder):
    """A configuration with a small network, whose data and run are in the folder."""
    settings = ["network.width=16", "network.depth=1", "network.heads=2", f"out={folder / 'run'}"]
    if name == "smiles_small":
        settings += [f"data.folder={tiny_files.moses(folder)}", "data.length=24", "data.count=null"]
    return load(name, settings)


@each_kind
def test_captured_samples_are_the_same(name, tmp_path):
    config = tiny(name, tmp_path)
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


@each_kind
def test_a_step_waits_for_nothing(name, tmp_path):
    config = tiny(name, tmp_path)
    trainer = Trainer(config, load_data(config))
    trainer.step()  # in which cuDNN searches and memory is allocated
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
