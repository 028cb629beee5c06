"""Networks about as large as the networks of published code, since the share of an op in a step depends on the
network. `share` divides their depth or their widths, for quick runs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Run = Callable[[], tuple[Tensor, ...]]


def trained(network: nn.Module, *inputs: Tensor) -> Run:
    """A forward and a backward pass."""
    parameters = list(network.parameters())

    def run() -> tuple[Tensor, ...]:
        output = network(*inputs)
        return torch.autograd.grad(output, parameters, torch.ones_like(output))

    return run


def called(network: nn.Module, *inputs: Tensor, times: int = 1) -> Run:
    """The forward passes of a step of sampling. With guidance, there are two."""

    @torch.no_grad()
    def run() -> tuple[Tensor, ...]:
        return tuple(network(*inputs) for _ in range(times))

    return run


def transformer(num_classes: int, share: int = 1, layers: int = 12, width: int = 512) -> nn.Module:
    """ChemBFN's size: 12 layers of width 512."""
    layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, max(1, layers // share), enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(num_classes, width), encoder, nn.Linear(width, num_classes))


class Messages(nn.Module):
    """MolCRAFT's size: 9 layers of width 128, in which each node gets messages from 32 others."""

    def __init__(self, num_classes: int, share: int = 1, width: int = 128, layers: int = 9):
        super().__init__()
        self.read, self.write = nn.Linear(num_classes, width), nn.Linear(width, num_classes)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(max(1, layers // share))
        )

    def forward(self, theta: Tensor, others: Tensor) -> Tensor:
        """theta: probabilities [nodes, K]. others: the numbers of the nodes that send messages to each, [nodes, 32]."""
        nodes = self.read(theta)
        for layer in self.layers:
            pairs = torch.cat([nodes[:, None].expand(*others.shape, -1), nodes[others]], -1)
            nodes = nodes + layer(pairs).sum(1)
        return self.write(nodes)


def convolutions(numbers: int, share: int = 1) -> nn.Module:
    """The size of a diffusion policy's U-Net: kernels of 5 steps, 256, 512 and 1024 channels, down and up again."""
    widths = [width // share for width in (256, 512, 1024, 512, 256)]
    strides = (1, 2, 2)
    layers: list[nn.Module] = []
    before = numbers
    for place, width in enumerate(widths):
        if place >= len(strides):
            layers.append(nn.Upsample(scale_factor=2))
        layers += [nn.Conv1d(before, width, 5, strides[place] if place < len(strides) else 1, 2), nn.Mish()]
        layers += [nn.Conv1d(width, width, 5, 1, 2), nn.Mish()]
        before = width
    return nn.Sequential(*layers, nn.Conv1d(before, numbers, 1))


def images(share: int = 1) -> nn.Module:
    """The size of the U-Net of variational diffusion models for CIFAR-10, which never downsamples: 66 blocks of two
    convolutions with 128 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1)]
    for _ in range(132 // share):
        layers += [nn.SiLU(), nn.Conv2d(128, 128, 3, padding=1)]
    return nn.Sequential(*layers, nn.Conv2d(128, 3, 1))
