"""Properties of the layers of the networks that hold for any weights."""

import math

import pytest
import torch

from bfn.configs import ConfigError, NetworkConfig
from bfn.networks import NETWORKS, build_network, layers
from bfn.networks.layers import Attention, TimeEmbedding
from bfn.networks.transformer import Layer, Transformer, VectorTransformer, turned, turns_of


@pytest.fixture(autouse=True)
def weights():
    torch.manual_seed(0)


def lively(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def attended(qkv, heads):
    """Attention over places [B, L, 3·C] by its equation; [B, L, C]."""
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, -1))
    weights = (torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2)


@pytest.mark.parametrize("rotary", [False, True])
def test_the_transformer_attends_from_every_place_to_all(rotary):
    layer, h, turns = lively(Layer(16, 4, 0.0)), torch.randn(2, 7, 16), turns_of(7, 4) if rotary else None
    qkv = layer.qkv(layer.norm_attention(h))
    if rotary:
        q, k, v = qkv.unflatten(-1, (3, 4, 4)).unbind(2)
        q, k = (turned(part.transpose(1, 2), turns).transpose(1, 2) for part in (q, k))
        qkv = torch.stack([q, k, v], 2).flatten(2)
    middle = h + layer.out(attended(qkv, 4))
    torch.testing.assert_close(layer(h, turns), middle + layer.mlp(layer.norm_mlp(middle)), atol=1e-5, rtol=1e-4)


def test_times_become_points_on_circles_of_frequencies_from_a_tenth_to_a_hundred():
    embedding, seen = TimeEmbedding(8), []
    embedding.mlp.register_forward_pre_hook(lambda mlp, args: seen.append(args[0].double()))
    t = torch.tensor([0.0, 0.3, 0.7])
    embedding(t)
    sines, cosines = seen[0].chunk(2, -1)
    frequencies = torch.logspace(-1, 2, 32, dtype=torch.float64)
    points = torch.polar(torch.ones(3, 32, dtype=torch.float64), 2 * math.pi * t.double()[:, None] * frequencies)
    torch.testing.assert_close(torch.complex(cosines, sines), points, atol=1e-4, rtol=0)


def test_a_fresh_transformer_says_what_it_sees():
    network = Transformer((5,), 4, 4, width=8, depth=1, heads=2, dropout=0.0)
    theta = torch.rand(3, 5, 4).softmax(-1)
    torch.testing.assert_close(network(theta, torch.rand(3)).softmax(-1), theta)


IMAGES = {"unet": {}, "unet_improved": {"width": 32}, "unet_vdm": {"width": 32}}


def built(name, shape, features, outputs, **sizes):
    config = NetworkConfig(name=name, **{"width": 16, "depth": 1, "heads": 2} | sizes)
    return lively(build_network(config, shape, features, outputs))


@pytest.mark.parametrize("name", IMAGES)
def test_images_in_colour_are_those_of_their_colours_in_channels(name):
    """[H, W, C] with one feature is [H, W] with C features, if the outputs are counted the same way."""
    colour = built(name, (8, 12, 3), 1, 2, **IMAGES[name])
    x, t = torch.randn(2, 8, 12, 3, 1), torch.tensor([0.2, 0.7])
    assert colour(x, t).shape == (2, 8, 12, 3, 2)
    if name != "unet":  # which has a gain for each feature
        grey = built(name, (8, 12), 3, 6, **IMAGES[name])
        grey.load_state_dict(colour.state_dict())
        torch.testing.assert_close(colour(x, t).flatten(3), grey(x[..., 0], t))


@pytest.mark.parametrize("name", IMAGES)
def test_the_colours_of_a_picture_depend_on_each_other(name):
    network = built(name, (8, 8, 3), 1, 1, **IMAGES[name])
    x, t = torch.randn(1, 8, 8, 3, 1), torch.tensor([0.2])
    other = x.clone()
    other[0, 4, 4, 2] += 1
    changed = (network(other, t) - network(x, t)).abs().amax((0, 1, 2, 4))
    assert (changed > 1e-4).all()


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "message"),
    [
        (
            "unet",
            (7, 8),
            {},
            r"network.name='unet' takes images \[H, W\] or \[H, W, C\] whose sides are multiples of 2",
        ),
        ("unet_improved", (6, 8), {"width": 32}, "network.name='unet_improved' takes images .* multiples of 4, got"),
        ("unet_improved", (8, 8), {"width": 48}, "network.width=48 must be a multiple of 32 and of network.heads=2"),
        ("unet_vdm", (8,), {"width": 32}, r"network.name='unet_vdm' takes images .*, got data of shape \(8,\)"),
        (
            "unet_vdm",
            (8, 8),
            {"width": 32, "heads": 3},
            "network.width=32 must be a multiple of 32 and of network.heads=3",
        ),
        ("gpt", (8, 8), {}, "network.name='gpt' takes sequences, got"),
        ("gpt", (8,), {"heads": 3}, "network.width=16 must be a multiple of network.heads=3"),
    ],
)
def test_data_that_a_network_does_not_fit_are_refused(name, shape, sizes, message):
    with pytest.raises(ConfigError, match=message):
        built(name, shape, 3, 3, **sizes)


@pytest.mark.parametrize("heads_first", [False, True])
def test_heads_come_first_or_queries_do(heads_first):
    layer, h = lively(Attention(16, 4, heads_first=heads_first)), torch.randn(2, 16, 4, 6)
    qkv = layer.qkv(layer.norm(h)).flatten(2).mT
    if heads_first:
        qkv = qkv.unflatten(-1, (4, 3, 4)).transpose(-2, -3).flatten(2)
    mixed = attended(qkv, 4).mT.unflatten(2, (4, 6))
    torch.testing.assert_close(layer(h), h + layer.out(mixed), atol=1e-5, rtol=1e-4)


def test_fresh_layers_of_gpt_add_less_the_more_there_are():
    config = NetworkConfig(name="gpt", width=64, depth=8, heads=2)
    network = build_network(config, (8,), 27, 27)
    stds = {name: parameter.std().item() for name, parameter in network.named_parameters() if "weight" in name}
    for name, std in stds.items():
        if "norm" not in name:
            residual = name.endswith(("out.weight", "mlp.2.weight"))
            assert std == pytest.approx(0.02 / 4 if residual else 0.02, rel=0.15), name
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_compiles_a_network_in_one_piece(name):
    text, sizes = name in ("gpt", "transformer"), {"width": 32}
    # in float64, since attention is another function in compiled code, which rounds differently
    network = built(name, (6,) if text else (8, 8), 4, 4, **sizes).double()
    features = torch.randn(2, *((6,) if text else (8, 8)), 4, dtype=torch.float64).softmax(-1)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(features, t), network(features, t))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_drop_out_in_training_alone(name):
    """Of gpt's embedding too, where there are no layers."""
    shape, depth = (6,) if name in ("gpt", "transformer") else (8, 8), 0 if name == "gpt" else 1
    network = built(name, shape, 4, 4, width=32, depth=depth, dropout=0.5)
    features, t = torch.randn(2, *shape, 4).softmax(-1), torch.tensor([0.2, 0.7])
    for training in (True, False):
        network.train(training)
        assert torch.equal(network(features, t), network(features, t)) != training


@pytest.mark.parametrize("timeless", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_of_a_network_matters(name, timeless):
    """Also where what the network makes of the time is 0, by which it scales and shifts and does no more."""
    shape = (6,) if name in ("gpt", "transformer") else (8, 8)
    network = built(name, shape, 4, 4, width=64).double()  # with several channels in a group of a norm
    of_time = {n for n, _ in network.named_parameters() if {"time", "own", "gain"} & set(n.split("."))}
    assert of_time
    for parameter in (network.get_parameter(n) for n in of_time if timeless):
        torch.nn.init.zeros_(parameter)
    features, t = torch.randn(2, *shape, 4, dtype=torch.float64).softmax(-1), torch.tensor([0.2, 0.7]).double()
    network(features, t).square().mean().backward()
    for n, parameter in network.named_parameters():
        unseen = n.endswith("bias") or (n in of_time and timeless)  # a norm takes a bias before it away
        assert unseen or parameter.grad.abs().max() > 1e-10, n


@pytest.mark.parametrize("length", [layers.SHORT, layers.SHORT + 1])
def test_attention_is_the_same_where_it_is_compiled(length):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, length, 8, generator=generator, requires_grad=True) for _ in range(3))
    weights = torch.randn(2, 4, length, 8, generator=generator)
    names = []

    def noted(graph, inputs):
        names.extend(node.name for node in graph.graph.nodes)
        return graph

    results = []
    for attend in (layers.attend, torch.compile(layers.attend, backend=noted)):
        mixed = attend(q, k, v)
        results.append((mixed, *torch.autograd.grad(mixed, (q, k, v), weights)))
    assert any("softmax" in name for name in names) == (length == layers.SHORT)  # torch's kernel beyond
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)


def test_products_of_turned_vectors_depend_on_their_distance():
    turns, (q, k) = turns_of(12, 8), torch.randn(2, 8)
    products = turned(q.expand(12, 8), turns) @ turned(k.expand(12, 8), turns).mT
    torch.testing.assert_close(products[:-1, :-1], products[1:, 1:])
    assert (products[0] - products[0, 0])[1:].abs().min() > 1e-4
    torch.testing.assert_close(turned(q.expand(12, 8), turns).norm(dim=-1), q.norm().expand(12))


def test_a_rotary_transformer_needs_heads_of_even_width():
    sizes = {"width": 6, "depth": 1, "heads": 2, "dropout": 0.0}
    with pytest.raises(ConfigError, match=r"network.width=6 must be a multiple of 4"):
        Transformer((6,), 5, 5, **sizes, rotary=True)
    assert VectorTransformer((6,), **sizes | {"heads": 1}, rotary=True).turns is not None


def test_a_rotary_transformer_turns_by_the_places_of_a_sequence():
    network = lively(Transformer((6,), 5, 5, width=16, depth=1, heads=2, dropout=0.0, rotary=True))
    theta, t = torch.rand(2, 6, 5), torch.rand(2)
    h = network.embed(theta.mT).mT + network.position + network.time(t)[:, None]
    torch.testing.assert_close(network.through(theta, t)[0], network.norm(network.layers[0](h, turns_of(6, 8))))
