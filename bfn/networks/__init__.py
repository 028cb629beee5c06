"""Networks: features [B, ..., F] and times [B] in, numbers [B, ..., outputs] out."""

from collections.abc import Callable
from typing import Any

from torch import nn

from bfn.configs import ConfigError, NetworkConfig, called, find
from bfn.networks.equivariant import Equivariant
from bfn.networks.gpt import GPT
from bfn.networks.layers import Size
from bfn.networks.transformer import AngleTransformer, Transformer
from bfn.networks.unet import UNet
from bfn.networks.unet_improved import UNetImproved
from bfn.networks.unet_vdm import UNetVDM

NETWORKS: dict[str, type[nn.Module]] = {
    # small ones, whose output head starts at zero, but for angles
    "unet": UNet,
    "transformer": Transformer,
    "angle_transformer": AngleTransformer,
    # the paper's
    "unet_improved": UNetImproved,
    "unet_vdm": UNetVDM,
    "gpt": GPT,
}

ATOM_NETWORKS: dict[str, type[nn.Module]] = {"equivariant": Equivariant}  # input distributions of atoms in, and out


def build_network(config: NetworkConfig, shape: Size, features: int, outputs: int) -> nn.Module:
    """The network that `network.name` names, for variables arranged in `shape`."""
    network = find(NETWORKS, config.name, "network.name")
    return made(network, config, shape, features, outputs)


def made(network: Callable[..., nn.Module], config: NetworkConfig, *arguments: Any) -> nn.Module:
    """Calls a network's class with the sizes and the options of the configuration, if it takes all of them."""
    if twice := sorted(config.sizes.keys() & config.options.keys()):
        raise ConfigError(f"network.options.{twice[0]} is the setting network.{twice[0]}")
    return called(network, f"network.name={config.name!r}", config.options, *arguments, **config.sizes)
