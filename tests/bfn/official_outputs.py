"""The outputs of the official networks, at a size that a test can run: the numbers in official_outputs.json.

They were written by `PYTHONPATH=. python tests/bfn/official_outputs.py CHECKOUT`, where CHECKOUT is a checkout of
github.com/nnaisense/bayesian-flow-networks at its last commit. Weights and inputs come from the formulas below, so that
the file holds names' checksums and outputs only.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor

FILE = Path(__file__).with_suffix(".json")
# The configuration of each network's numbers, and the shape of what the network sees.
# With as many channels as groups, the norms would hide the time.
WIDTH = 64
SMALL = [f"network.width={WIDTH}", "network.depth=1", "network.heads=2", "data.length=12", "network.dropout=0.0"]
SEEN = {"unet_improved": (2, 28, 28, 1), "unet_vdm": (2, 32, 32, 3), "gpt": (2, 12, 27)}


def waves(count: int, start: int) -> Tensor:
    """Numbers in [-1, 1] that look random, the same on every machine."""
    return (12.9898 * torch.arange(count, dtype=torch.float64) + start % 1000).sin()


def weight(name: str, shape: torch.Size) -> Tensor:
    """The weight of an official name: near 1 for norms, otherwise small enough that no layer's output grows."""
    values = waves(shape.numel(), zlib.crc32(name.encode())).view(shape)
    if len(shape) > 1:
        return (values * (1 / shape[1:].numel()) ** 0.5).float()
    return (0.1 * values + name.endswith("weight")).float()


def seen(network: str) -> tuple[Tensor, Tensor]:
    """The features that the network sees, and a time for each example."""
    shape = torch.Size(SEEN[network])
    features = waves(shape.numel(), 5).view(shape).float()
    return (features.softmax(-1) if network == "gpt" else features), torch.tensor([0.3, 0.875])


def some(values: Tensor) -> list[float]:
    """About a hundred of the values, which is enough to tell a wrong layer."""
    values = values.flatten()
    return [round(v, 7) for v in values[:: len(values) // 100].tolist()]


def checksum(tensors: dict[str, Tensor]) -> str:
    """Of names and shapes."""
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def filled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names with weights from the formula; the codes of positions stay as they are."""
    return {n: t if ".pos_" in n else weight(n, t.shape) for n, t in tensors.items()}


def official(checkout: str) -> dict[str, torch.nn.Module]:
    """The official networks, at the size of SMALL."""
    sys.path.insert(0, checkout)
    from networks import adapters
    from networks.transformer import GPT
    from networks.unet_improved import UNetModel
    from networks.unet_vdm import UNetVDM

    image = adapters.FourierImageInputAdapter
    black_and_white = image(input_channels=1, input_shape=(28, 28), output_height=2, add_pos_feats=False)
    colour = image(input_channels=3, input_shape=(32, 32), output_height=3, add_pos_feats=False, add_mask=False)
    size = {"image_size": 28, "in_channels": 2, "model_channels": WIDTH, "out_channels": WIDTH, "num_res_blocks": 1}
    improved = UNetModel(
        {"input_adapter": black_and_white, "output_adapter": adapters.OutputAdapter(2 * WIDTH, 1, 1)},
        **size,
        channel_mult=(1, 2, 2),
        num_heads=2,
        project_input=True,
    )
    adapter = {"input_adapter": colour, "output_adapter": adapters.OutputAdapter(3 + WIDTH, 3, 2)}
    vdm = UNetVDM(adapter, embedding_dim=WIDTH, n_blocks=1, n_attention_heads=2)
    gpt = GPT(
        {"input_adapter": adapters.TextInputAdapter(27, 12, WIDTH), "output_adapter": None}, 27, 1, 2, WIDTH, skip=True
    )
    return {"unet_improved": improved, "unet_vdm": vdm, "gpt": gpt}


def main(checkout: str) -> None:
    numbers = {}
    for name, network in official(checkout).items():
        tensors = {f"net.{key}": tensor for key, tensor in network.state_dict().items()}
        network.load_state_dict({key.removeprefix("net."): t for key, t in filled(tensors).items()})
        features, t = seen(name)
        times = t.view(-1, *[1] * (features.dim() - 1)).expand_as(features)
        with torch.no_grad():
            output = network.eval()(features, times[..., 0] if name == "gpt" else times)
        positions = next(tensor for key, tensor in tensors.items() if ".pos_" in key)
        numbers[name] = {"names": checksum(tensors), "positions": some(positions), "outputs": some(output)}
    FILE.write_text(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
