"""Muon: the weights that it takes, its steps, and what it keeps in a checkpoint."""

import copy
import math

import pytest
import torch

from bfn.training.optimizers import decay_groups, kept_tensors, make_optimizer, matrices_of

SETTINGS = ["train.optimizer=muon", "train.warmup_steps=1", "train.learning_rate=0.01", "train.weight_decay=0.5"]
SETTINGS += ["network.width=32"]


def by_hand(model, vectors):
    """torch's optimizers of a model of plain parameters. Each weight of a convolution is a matrix."""
    muon = {name: p.detach().flatten(1) for name, p in model.named_parameters() if is_matrix(model, name)}
    adamw = {name: p.detach().clone() for name, p in model.named_parameters() if name not in muon}
    muon = {name: p.clone() for name, p in muon.items()}
    groups = [{"params": [p], "weight_decay": 0.5 if vectors or p.dim() > 1 else 0.0} for p in adamw.values()]
    return muon | adamw, [
        torch.optim.Muon(muon.values(), 0.01, weight_decay=0.5, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, 0.01, (0.9, 0.99), fused=True),
    ]


def is_matrix(model, name):
    layer, _, own = name.rpartition(".")
    kind, size = type(model.get_submodule(layer)).__name__, model.get_parameter(name).shape
    return (
        own == "weight" and kind in ("Linear", "Conv2d", "ConvTranspose2d") and min(size[0], math.prod(size[1:])) > 31
    )


@pytest.mark.parametrize("vectors", [True, False])
def test_muon_steps_matrices_and_convolutions_and_adamw_the_rest(vectors, make):
    trainer = make(*SETTINGS, f"train.decay_vectors={vectors}")
    wanted, optimizers = by_hand(trainer.bare, vectors)
    chosen = [name for name, p in trainer.bare.named_parameters() if is_matrix(trainer.bare, name)]
    assert len(chosen) > 10 and "network.stem.weight" not in chosen  # of one channel
    for _ in range(3):
        trainer.step()
        for name, p in trainer.bare.named_parameters():
            wanted[name].grad = p.grad.reshape(wanted[name].shape).clone()
        for optimizer in optimizers:
            optimizer.step()
    for name, p in trainer.bare.named_parameters():
        torch.testing.assert_close(p.detach().reshape(wanted[name].shape), wanted[name], rtol=0, atol=0, msg=name)


def test_a_weight_that_two_layers_share_is_one_matrix():
    embed, head = torch.nn.Linear(33, 32), torch.nn.Linear(33, 32)
    head.weight = embed.weight
    assert matrices_of(torch.nn.ModuleList([embed, head])) == [embed.weight]


def test_a_thin_weight_is_no_matrix():
    sizes = {(32, 32): True, (31, 64): False, (64, 31): False}
    for (inputs, outputs), taken in sizes.items():
        assert bool(matrices_of(torch.nn.Linear(inputs, outputs))) == taken
    assert matrices_of(torch.nn.Conv2d(4, 32, 3)) and not matrices_of(torch.nn.Conv2d(1, 32, 3))


def test_a_weight_that_is_no_matrix_in_memory_or_no_parameter_is_left_to_adamw():
    assert matrices_of(torch.nn.Conv2d(32, 32, 3)) and matrices_of(torch.nn.Linear(32, 32))
    assert not matrices_of(torch.nn.Conv2d(32, 32, 3).to(memory_format=torch.channels_last))
    assert not matrices_of(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(32, 32)))


def test_no_group_is_empty_unless_it_is_the_only_one():
    matrix, vector = (torch.nn.Parameter(torch.zeros(size)) for size in ((2, 2), (2,)))
    sizes = [[len(g["params"]) for g in decay_groups(ps, False)] for ps in ([matrix, vector], [matrix], [vector], [])]
    assert sizes == [[1, 1], [1], [1], [0]]


def test_a_network_without_matrices_trains(make):
    trainer = make(*SETTINGS, "network.width=8")
    assert type(trainer.bare_optimizer) is torch.optim.AdamW
    trainer.step()


def test_a_copy_of_the_state_goes_on_with_the_same_steps(make):
    trainer = make(*SETTINGS)
    trainer.step()
    kept = kept_tensors(trainer.bare, trainer.config.train)
    for name, p in trainer.bare.named_parameters():
        assert tuple(trainer.bare_optimizer.state[p]) == kept[name]
    model, other = copy.deepcopy((trainer.bare, trainer.bare_optimizer))
    for p, q in zip(trainer.bare.parameters(), model.parameters(), strict=True):
        q.grad = p.grad.clone()  # which a copy of a parameter lacks
    loaded = make_optimizer(model, trainer.config.train, fused=True)
    loaded.load_state_dict(copy.deepcopy(trainer.bare_optimizer.state_dict()))
    for optimizer in (trainer.bare_optimizer, other, loaded):
        for group in optimizer.param_groups:
            group["lr"] = 0.02  # each part sees the rate of its groups
    trainer.bare_optimizer.step()
    for optimizer in (other, loaded):
        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(trainer.bare.parameters(), model.parameters(), strict=True))
        model.load_state_dict(before)
