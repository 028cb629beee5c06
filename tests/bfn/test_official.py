"""The paper's networks and their published checkpoints, compared with outputs of the official code."""

import json
import re
from dataclasses import asdict

import pytest
import torch

from bfn.configs import ConfigError, load
from bfn.official import (
    OFFICIAL,
    OUR_PREFIX,
    convert,
    convert_back,
    from_official,
    model_without_data,
    to_official,
)
from bfn.training import checkpoint
from bfn.training.checkpoint import CheckpointError
from bfn.training.runs import MODEL_FILE, STATE_FILE
from tests.bfn import official_outputs
from tests.bfn.command import bfn

PUBLISHED = json.loads(official_outputs.FILE.read_text())
each_network = pytest.mark.parametrize("network", OFFICIAL)


@pytest.fixture
def files(network, tmp_path):
    """A file of ours and a published one with the weights of the formula, and their configuration."""
    config = load(OFFICIAL[network].config, official_outputs.SMALL)
    model = model_without_data(config)
    fresh, ours, theirs = (tmp_path / name for name in ("fresh", "ours", "theirs.pt"))
    checkpoint.save(fresh, model.state_dict(), {"config": asdict(config)})
    torch.save(official_outputs.filled(to_official(fresh)), theirs)
    convert(theirs, ours, overrides=official_outputs.SMALL)
    return ours, theirs, config


@pytest.mark.parametrize(
    ("name", "overrides", "count", "tensors"),
    [
        ("mnist", [], 24_808_961, 219),
        ("cifar10", [], 30_722_584, 688),
        ("cifar10", ["model.kind=continuous"], 30_722_584 - 3 * 132, 688),
        ("cifar10_16bins", [], 30_722_584, 688),
        ("text8", [], 170_175_003, 297),
    ],
)
def test_the_networks_have_as_many_parameters_as_the_published_ones(name, overrides, count, tensors):
    config = load(name, overrides)
    with torch.device("meta"):
        model = model_without_data(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    unread = OFFICIAL[config.network.name].side is not None  # a tensor that only the official code keeps
    assert len(model.state_dict()) == tensors - unread


@each_network
def test_published_weights_give_the_published_outputs(network, files):
    ours, _, config = files
    model = model_without_data(config).eval()
    model.load_state_dict(checkpoint.load(ours)[0])
    features, t = official_outputs.seen(network)
    if network == "unet_vdm":
        features = features[..., None]  # the last dimension is that of the numbers of one variable
    with torch.no_grad():
        output = model.network(features, t)
    got, want = torch.tensor(official_outputs.some(output)), torch.tensor(PUBLISHED[network]["outputs"])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@each_network
def test_a_model_goes_back_under_the_published_names_with_the_same_numbers(network, files, tmp_path):
    ours, theirs, _ = files
    convert_back(ours, tmp_path / "back.pt")
    back, there = torch.load(tmp_path / "back.pt", weights_only=True), torch.load(theirs, weights_only=True)
    assert official_outputs.checksum(back) == PUBLISHED[network]["names"]
    assert back.keys() == there.keys() and all(torch.equal(back[name], there[name]) for name in back)
    positions = next(tensor for name, tensor in back.items() if ".pos_" in name)
    got, want = torch.tensor(official_outputs.some(positions)), torch.tensor(PUBLISHED[network]["positions"])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@each_network
def test_the_code_of_positions_comes_from_the_file(network, files, tmp_path):
    _, theirs, _ = files
    tensors = torch.load(theirs, weights_only=True)
    for name in tensors:
        if ".pos_" in name:
            tensors[name] = torch.full_like(tensors[name], 3.0)
    torch.save(tensors, theirs)
    weights, _ = from_official(theirs, overrides=official_outputs.SMALL)
    threes = [name for name, tensor in weights.items() if tensor.eq(3).all()]
    assert threes == ([f"{OUR_PREFIX}position"] if network == "gpt" else [])


def spoiled(path, change):
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("network", ["unet_improved"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("net.out.0.bias"),
            "lacks network.head.norm.bias of its configuration, and 0",
        ),
        (
            lambda tensors: tensors.pop("net.time_embed.0.weight"),
            "is of no known network: it has none of net.time_embed",
        ),
        (
            lambda tensors: tensors.update({"net.label_emb.weight": torch.ones(3)}),
            "a tensor net.label_emb.weight, which",
        ),
        (
            lambda tensors: tensors.update({"net.out.0.bias": torch.ones(3)}),
            r"net.out.0.bias of shape \(3,\), and .* \(64,\)",
        ),
        (
            lambda tensors: tensors.update({"net.input_projection.weight": torch.ones(2, 64)}),
            r"net.input_projection.weight of shape \(2, 64\), and .* \(64, 2\)",
        ),
        (lambda tensors: tensors.update(step=torch.ones(3)), "is not a published checkpoint, a state dict whose every"),
        (lambda tensors: tensors.update({"net.step": 3}), "is not a published checkpoint, a state dict whose every"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(network, files, change, message):
    _, theirs, _ = files
    with pytest.raises(CheckpointError, match=message):
        from_official(spoiled(theirs, change), overrides=official_outputs.SMALL)


@pytest.mark.parametrize("network", ["gpt"])
def test_other_files_and_networks_are_refused(network, files, tmp_path):
    ours, theirs, _ = files
    (tmp_path / "notes.txt").write_text("some notes")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        from_official(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match=r"theirs.pt is a gpt, and the configuration has network.name='transformer'"):
        from_official(theirs, "text")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere"):
        from_official(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"ours cannot be read as weights that torch.save wrote"):
        from_official(ours)
    theirs.write_bytes(theirs.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"theirs.pt cannot be read as weights that torch.save wrote"):
        from_official(theirs)
    weights, state = checkpoint.load(ours)
    checkpoint.save(ours, weights | {"network.more": torch.ones(1)}, state)
    with pytest.raises(
        CheckpointError, match=r"ours has a tensor network.more, which the official code has no place for"
    ):
        to_official(ours)
    checkpoint.save(ours, weights, {"config": asdict(load("text"))})
    with pytest.raises(
        CheckpointError, match=r"ours is a 'transformer'; the official code has unet_improved, unet_vdm, gpt"
    ):
        to_official(ours)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('exploded')",)


def test_code_in_a_published_file_is_not_run(tmp_path):
    torch.save({"net.lm_head.weight": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match=r"bomb.pt cannot be read as weights"):
        from_official(tmp_path / "bomb.pt")


@pytest.mark.parametrize("network", ["gpt"])
def test_the_command_writes_a_run_that_evaluates_and_goes_back(network, files, tmp_path):
    _, theirs, _ = files
    (tmp_path / "text8").write_text("the quick brown fox jumps over the lazy dog " * 20)
    run, back = tmp_path / "run", tmp_path / "back.pt"
    result = bfn("convert", theirs, run, f"data.folder={tmp_path}", "evaluate.repeats=2", *official_outputs.SMALL)
    assert (result.exit_code, result.output) == (0, f"checkpoint: {run / MODEL_FILE}\n")
    assert re.search(r"bound\D+\d+\.\d{4} ± \d", bfn("evaluate", run).output)
    result = bfn("convert", "--back", run, back)
    assert (result.exit_code, result.output) == (0, f"checkpoint: {back}\n")
    assert official_outputs.checksum(torch.load(back, weights_only=True)) == PUBLISHED["gpt"]["names"]
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / STATE_FILE).touch()
    for there in (run, tmp_path / "young"):
        result = bfn("convert", theirs, there)
        assert result.exit_code == 1 and result.output.startswith(f"error: {there} holds a run, which a checkpoint")
    result = bfn("convert", "--config", "text", theirs, tmp_path / "other")
    assert result.exit_code == 1 and result.output.startswith(f"error: {theirs} is a gpt, and the configuration has")
