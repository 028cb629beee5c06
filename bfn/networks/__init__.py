"""Networks: features [B, ..., F] and times [B] in, numbers [B, ..., outputs] out."""

from torch import nn

from bfn.configs import NetworkConfig, find
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


def build_network(config: NetworkConfig, shape: Size, features: int, outputs: int) -> nn.Module:
    """The network that `network.name` names, for variables arranged in `shape`."""
    network = find(NETWORKS, config.name, "network.name")
    return network(shape, features, outputs, **config.sizes, **config.options)
