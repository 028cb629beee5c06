"""Properties of the layers of the networks that hold for any weights."""

import math

import pytest
import torch

from bfn.networks.layers import TimeEmbedding
from bfn.networks.transformer import Layer, Transformer
from bfn.networks.unet import Attention


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


def test_the_unet_attends_from_every_place_to_all():
    layer, h = lively(Attention(16, 4)), torch.randn(2, 16, 4, 6)
    qkv = layer.qkv(layer.norm(h)).flatten(2).mT
    mixed = attended(qkv, 4).mT.unflatten(2, (4, 6))
    torch.testing.assert_close(layer(h), h + layer.out(mixed), atol=1e-5, rtol=1e-4)


def test_the_transformer_attends_from_every_place_to_all():
    layer, h = lively(Layer(16, 4, 0.0)), torch.randn(2, 7, 16)
    middle = h + layer.out(attended(layer.qkv(layer.norm_attention(h)), 4))
    torch.testing.assert_close(layer(h), middle + layer.mlp(layer.norm_mlp(middle)), atol=1e-5, rtol=1e-4)


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


def test_dropout_is_of_training_alone(pair):
    model, data = pair
    lively(model)
    x, t = data.test[:2], torch.full((2,), 0.5)
    for training in (True, False):
        model.train(training)
        one, other = model(x, t, seed=1), model(x, t, seed=1)
        assert torch.equal(one, other) != training
