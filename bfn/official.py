"""Converts checkpoints of the official code to ours, and back. Official checkpoints are state dicts. Each name in them
begins with `net.`.

Each network has a table of pairs: an official name, and our name. `*` stands for one component of a name.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from bfn.configs import Config, ConfigError, build, load
from bfn.data import Data
from bfn.data.files import DAMAGE
from bfn.data.shipped import SYMBOLS
from bfn.model import BFN, build_model
from bfn.training import checkpoint
from bfn.training.checkpoint import CheckpointError

Names = list[tuple[str, str]]

PREFIX, OUR_PREFIX = "net.", "network."


def pairs(theirs: str, ours: str) -> Names:
    return list(zip(theirs.split(), ours.split(), strict=True))


def each(places: Names, parts: Names) -> Names:
    """The pairs of names of each part at each place."""
    return [(f"{a}.{x}.*", f"{b}.{y}.*") for a, b in places for x, y in parts]


BLOCK, ATTENTION = "norm_in conv_in time norm_out conv_out skip", "norm qkv out"  # our names of the parts
IMPROVED = [
    *pairs("input_projection.* time_embed.*.* input_blocks.0.0.*", "project.* time.mlp.*.* down.0.*"),
    *pairs("input_blocks.*.0.op.* output_blocks.*.1.conv.*", "down.*.conv.* enlarge.*.*"),
    *each(
        pairs("input_blocks.*.0 middle_block.* output_blocks.*.0", "down.* middle.* up.*"),
        pairs("in_layers.0 in_layers.2 emb_layers.1 out_layers.0 out_layers.3 skip_connection", BLOCK),
    ),
    *each(pairs("middle_block.*", "middle.*"), pairs("norm qkv proj_out", ATTENTION)),
    *pairs("out.0.* out.2.* output_adapter.output_projection.*", "head.norm.* head.conv.* head.out.*"),
]
VDM = [
    *pairs("embed_conditioning.*.* conv_in.*", "time.mlp.*.* stem.*"),
    *each(
        pairs(
            "down_blocks.*.resnet_block mid_resnet_block_1 mid_resnet_block_2 up_blocks.*.resnet_block",
            "down.* middle.0 middle.2 up.*",
        ),
        pairs("net1.0 net1.2 cond_proj net2.0 net2.3 skip_conv", BLOCK),
    ),
    *each(pairs("mid_attn_block.layers", "middle.1"), pairs("0 1 3", ATTENTION)),
    *pairs("conv_out.0.* conv_out.2.* output_adapter.output_projection.*", "head.norm.* head.conv.* head.out.*"),
]
TRANSFORMER = [
    *pairs("input_adapter.pos_embedding input_adapter.inp_embedding.*", "position embed.*"),
    *pairs("input_adapter.t_embedding.* transformer.ln_f.* lm_head.*", "time.* norm.* head.*"),
    *each(
        pairs("transformer.h.*", "layers.*"),
        pairs("ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj", "norm_attention qkv out norm_mlp mlp.0 mlp.2"),
    ),
]


class Official(NamedTuple):
    """A network of the official code."""

    names: Names
    mark: str  # a name that no other network has
    config: str  # the configuration that it was published with
    shape: Callable[[Config], tuple[int, ...]]  # of one example
    classes: int | None  # of a variable; None means continuous data
    side: int | None = None  # of images; their official adapter stores position codes, which it never reads


OFFICIAL = {
    "unet_improved": Official(IMPROVED, "time_embed.0.weight", "mnist", lambda config: (28, 28), 2, 28),
    "unet_vdm": Official(VDM, "conv_in.weight", "cifar10", lambda config: (32, 32, 3), None, 32),
    "gpt": Official(TRANSFORMER, "lm_head.weight", "text8", lambda config: (config.data.length,), len(SYMBOLS)),
}
UNREAD = "input_adapter.pos_feats"
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, SafetensorError, OSError)  # what reading a file may raise


def rename(name: str, names: Names) -> str | None:
    """Finds a name in the left column of a table, and returns its name in the right column. None: it is not there."""
    for pattern, other in names:
        if match := re.fullmatch(re.escape(pattern).replace(r"\*", r"([^.]+)"), name):
            return other.replace("*", "{}").format(*match.groups())
    return None


def position_features(side: int, bands: int = 64) -> Tensor:
    """The position codes that the official adapters of images store, [side², 4·bands + 2]."""
    axis = torch.linspace(-1, 1, side)
    places = torch.cartesian_prod(axis, axis)
    angles = math.pi * (places[:, :, None] * torch.linspace(1, side / 2, bands)).flatten(1)
    return torch.cat([angles.sin(), angles.cos(), places], 1)


def model_without_data(config: Config) -> BFN:
    """A fresh model of a configuration whose network is in OFFICIAL. No data file is read."""
    official = OFFICIAL[config.network.name]
    dtype = torch.float32 if official.classes is None else torch.int64
    nothing = torch.empty(0, *official.shape(config), dtype=dtype)
    return build_model(config, Data(nothing, nothing, nothing, official.classes or config.data.num_bins, baseline=0.0))


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a published file, by their names without the prefix. No code in the file is run."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path} cannot be read as weights that torch.save wrote; it may be damaged") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and name.startswith(PREFIX) and isinstance(tensor, Tensor)
        for name, tensor in tensors.items()
    ):
        raise CheckpointError(
            f"{path} is not a published checkpoint, a state dict whose every name begins with {PREFIX}"
        )
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def from_official(
    path: Path, config_name: str | None = None, overrides: list[str] | None = None
) -> tuple[dict, Config]:
    """The weights of a published file under the names of a model file, and their configuration."""
    tensors = read(path)
    network = next((name for name, official in OFFICIAL.items() if official.mark in tensors), None)
    if network is None:
        marks = ", ".join(f"{PREFIX}{official.mark}" for official in OFFICIAL.values())
        raise CheckpointError(f"{path} is of no known network: it has none of {marks}")
    config = load(config_name or OFFICIAL[network].config, overrides or [])
    if config.network.name != network:
        raise ConfigError(f"{path} is a {network}, and the configuration has network.name={config.network.name!r}")
    with torch.device("meta"):  # for names and shapes
        want = model_without_data(config).state_dict()
    weights = {}
    for name, tensor in tensors.items():
        if name == UNREAD:
            continue
        ours = OUR_PREFIX + (rename(name, OFFICIAL[network].names) or "?")
        if ours not in want:
            raise CheckpointError(f"{path} has a tensor {PREFIX}{name}, which its configuration has no place for")
        # The official attention of `unet_improved` sees pixels as a sequence, so its weights have one dimension less.
        shape = want[ours].shape
        if shape not in (tensor.shape, (*tensor.shape, 1)):
            shapes = f"shape {tuple(tensor.shape)}, and its configuration wants {tuple(shape)}"
            raise CheckpointError(f"{path} has {PREFIX}{name} of {shapes}")
        weights[ours] = tensor.view(shape)
    if missing := sorted(want.keys() - weights.keys()):
        raise CheckpointError(f"{path} lacks {missing[0]} of its configuration, and {len(missing) - 1} other tensors")
    return weights, config


def to_official(path: Path) -> dict[str, Tensor]:
    """A model file as the state dict that the official code loads."""
    weights, state = checkpoint.load(path)
    config = build(state.get("config", {}), where=str(path))
    if config.network.name not in OFFICIAL:
        raise CheckpointError(f"{path} is a {config.network.name!r}; the official code has {', '.join(OFFICIAL)} only")
    official = OFFICIAL[config.network.name]
    names = [(ours, theirs) for theirs, ours in official.names]
    tensors = {}
    for name, tensor in weights.items():
        theirs = rename(name.removeprefix(OUR_PREFIX), names)
        if theirs is None:
            raise CheckpointError(f"{path} has a tensor {name}, which the official code has no place for")
        flat = config.network.name == "unet_improved" and theirs.startswith("middle_block.1.") and tensor.dim() == 4
        tensors[PREFIX + theirs] = tensor.squeeze(-1) if flat else tensor
    if official.side is not None:
        tensors[PREFIX + UNREAD] = position_features(official.side)
    return tensors


def convert(source: Path, out: Path, config_name: str | None = None, overrides: list[str] | None = None) -> None:
    """Writes a published checkpoint as a model file."""
    weights, config = from_official(source, config_name, overrides)
    checkpoint.save(out, weights, {"config": asdict(config)})


def convert_back(source: Path, out: Path) -> None:
    """Writes a model file as a file that the official code loads."""
    tensors = to_official(source)
    checkpoint.write_atomically(out, lambda file: torch.save(tensors, file))
