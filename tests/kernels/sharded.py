"""What each process of test_sharded.py does; it imports no more than that needs, since every process imports it."""

import warnings

import pytest
import torch
from torch import distributed

from bfn_kernels import discrete

K, WIDTH, TOKENS = 1003, 6, (3, 7)
OF = {"beta_1": 15 / K}


def step(dtype, weight, bias, between, backend=None, **group):
    """All ops, one after the other: the loss, what was embedded, and the gradients."""
    g = torch.Generator().manual_seed(1)
    x, t, mask = (
        torch.randint(K, TOKENS, generator=g),
        torch.rand(3, generator=g),
        torch.rand(TOKENS, generator=g) < 0.7,
    )
    leaves = [leaf.to(dtype).requires_grad_() for leaf in (between, weight, bias)]
    head, how = leaves[1:], {"backend": backend, **group}
    seen = discrete.flow_embedding(x, t, leaves[1], seed=3, **OF, **how)
    hidden = (seen @ leaves[0]).tanh()
    draws = {"step": 2, "n_steps": 9, "n_samples": 2, "seed": 1, "mask": mask}
    loss = (
        discrete.linear_continuous_time_loss(x, hidden, *head, t, **OF, **how)
        + discrete.linear_discrete_time_loss(x, hidden, *head, **draws, **OF, **how)
        + discrete.linear_reconstruction_loss(x, hidden, *head, **how)
    )
    return [loss.detach(), seen.detach(), *torch.autograd.grad(loss, leaves)]


def parameters():
    g = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, generator=g) for shape in ((K, WIDTH), (K,), (WIDTH, WIDTH))]


def work(rank, count, folder):
    warnings.simplefilter("error", FutureWarning)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    weight, bias, between = parameters()
    group = {"process_group": distributed.group.WORLD, "num_classes": K}
    results = step(torch.float32, weight.chunk(count)[rank], bias.chunk(count)[rank], between, **group)
    with pytest.raises(ValueError, match=f"weight must have shape .* as chunk {rank} of {count} of {K} classes"):
        step(torch.float32, weight, bias, between, **group)
    with pytest.raises(ValueError, match="process_group must be None for the reference"):
        step(torch.float32, weight.chunk(count)[rank], bias.chunk(count)[rank], between, "reference", **group)
    torch.save(results, f"{folder}/{rank}")
    distributed.destroy_process_group()
