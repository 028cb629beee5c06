"""The work of each process of test_sharded.py; it imports no more than that needs, since every process imports it."""

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


def sampled(weight, bias, part=slice(None), backend=None, **group):
    """Steps of samplers in float64: new states, which are of some classes, and what is the same in all processes."""
    g = torch.Generator().manual_seed(4)
    state, hidden, previous = (torch.randn(*TOKENS, n, generator=g, dtype=torch.float64) for n in (K, WIDTH, WIDTH))
    noise = torch.randn(*TOKENS, K, generator=g)
    state, weight, bias = state[..., part], weight.double(), bias.double()
    how, states, same = {"backend": backend, "embedding": weight, **group}, [], []
    for choose in ("sample", "mode", "mean"):
        for draws in ({"seed": 1}, {"noise": noise, "draw_noise": torch.ones(TOKENS)}):
            draws = draws if choose == "sample" else {k: v for k, v in draws.items() if k != "draw_noise"}
            made = discrete.linear_update_sample(state, hidden, weight, bias, 0.01, choose=choose, **draws, **how)
            states, same = [*states, made[0]], [*same, made[1]]
    times = {"t": 0.3, "t_next": 0.7, "t_previous": 0.1, "rule": "sde2", "seed": 5, **OF}
    made = discrete.linear_solver_step(state, hidden, weight, bias, previous=previous, **times, **how)
    mode = discrete.linear_mode(hidden, weight, bias, backend=backend, **group)
    return torch.stack([*states, made[0]]), [*same, made[1], mode]


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
    mine = torch.arange(K).chunk(count)[rank]
    part = slice(int(mine[0]), int(mine[-1]) + 1)
    torch.save(sampled(weight[part], bias[part], part, **group), f"{folder}/sampled{rank}")
    with pytest.raises(ValueError, match=f"weight must have shape .* as chunk {rank} of {count} of {K} classes"):
        step(torch.float32, weight, bias, between, **group)
    with pytest.raises(ValueError, match="process_group must be None for the reference"):
        step(torch.float32, weight.chunk(count)[rank], bias.chunk(count)[rank], between, "reference", **group)
    torch.save(results, f"{folder}/{rank}")
    distributed.destroy_process_group()
