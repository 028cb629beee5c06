"""Networks: features [B, ..., F] and times [B] in, numbers [B, ..., outputs] out. The output head starts at zero."""

from torch import nn

from bfn.configs import NetworkConfig, choose
from bfn.networks.transformer import Transformer
from bfn.networks.unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet, "transformer": Transformer}


def build_network(config: NetworkConfig, shape: tuple[int, ...], features: int, outputs: int) -> nn.Module:
    """The network that `network.name` names, for variables arranged in `shape`."""
    network = choose(NETWORKS, config.name, "network.name")
    return network(
        shape, features, outputs, width=config.width, depth=config.depth, heads=config.heads, dropout=config.dropout
    )
