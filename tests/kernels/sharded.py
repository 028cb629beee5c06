"""The work of each process of test_sharded.py. Every process imports this module, so it imports no more than it
needs."""

import importlib
import os
import warnings

import pytest
import torch
from torch import distributed

from bfn_kernels import vocabulary
from tests.kernels.vocabulary_guide import follow

WIDTH, TOKENS = 6, (3, 7)
DTYPES = (torch.float32, torch.float16)


def step(dtype, weight, bias, between, backend=None, **group):
    """All ops, one after the other: the loss, what was embedded, and the gradients."""
    g, k = torch.Generator().manual_seed(1), group.get("num_classes", len(weight))
    of = {"beta_1": 15 / k}
    x, t, mask = (
        torch.randint(k, TOKENS, generator=g),
        torch.rand(3, generator=g),
        torch.rand(TOKENS, generator=g) < 0.7,
    )
    leaves = [leaf.to(dtype).requires_grad_() for leaf in (between, weight, bias)]
    head, options = leaves[1:], {"backend": backend, **group}
    seen = vocabulary.flow_embedding(x, t, leaves[1], seed=3, **of, **options)
    parts = {"scale": 5.0, "spread": t, "seed": 4, "mask": mask}
    for output in ("softmax", "linear"):
        seen = seen + vocabulary.noisy_embedding(x, leaves[1], output=output, **parts, **options)
    hidden = (seen @ leaves[0]).tanh()
    draws = {"step": 2, "n_steps": 9, "n_samples": 2, "seed": 1, "mask": mask}
    flow = {"flow_scale": hidden.mean(-1), "flow_seed": 3}
    loss = (
        vocabulary.continuous_time_loss(x, hidden, *head, t, **flow, **of, **options)
        + vocabulary.discrete_time_loss(x, hidden, *head, **draws, **flow, **of, **options)
        + vocabulary.reconstruction_loss(x, hidden, *head, **options)
    )
    return [loss.detach(), seen.detach(), *torch.autograd.grad(loss, leaves)]


def sampled(weight, bias, part=slice(None), backend=None, **group):
    """Steps of samplers in float64: new states, which are of some classes, and what is the same in all processes."""
    g, k = torch.Generator().manual_seed(4), group.get("num_classes", len(weight))
    state, hidden, previous = (torch.randn(*TOKENS, n, generator=g, dtype=torch.float64) for n in (k, WIDTH, WIDTH))
    noise = torch.randn(*TOKENS, k, generator=g)
    state, weight, bias = state[..., part], weight.double(), bias.double()
    options, states, same = {"backend": backend, "embedding": weight, **group}, [], []
    for choose in ("sample", "mode", "mean"):
        for draws in ({"seed": 1}, {"noise": noise, "draw_noise": torch.ones(TOKENS)}):
            draws = draws if choose == "sample" else {k: v for k, v in draws.items() if k != "draw_noise"}
            made = vocabulary.update_sample(state, hidden, weight, bias, 0.01, choose=choose, **draws, **options)
            states, same = [*states, made[0]], [*same, made[1]]
    times = {"t": 0.3, "t_next": 0.7, "t_previous": 0.1, "rule": "sde2", "seed": 5, "beta_1": 15 / k}
    scales = {"flow_scale": hidden[..., 0], "previous_scale": previous[..., 0], "previous_state": state.flip(0)}
    made = vocabulary.solver_step(state, hidden, weight, bias, previous=previous, **scales, **times, **options)
    mode = vocabulary.mode(hidden, weight, bias, flow_scale=hidden[..., 0], state=state, backend=backend, **group)
    x = mode.remainder(k)
    noisy = {"scale": 0.5, "spread": 1.0, "seed": 2, "return_argmax": True, "backend": backend, **group}
    _, most = vocabulary.noisy_embedding(x, weight, **noisy)
    nucleus = {"top_p": 0.5, "seed": 3, "backend": backend, **group}
    drawn = vocabulary.sample(hidden, weight, bias, flow_scale=hidden[..., 0], state=state, **nucleus)
    return torch.stack([*states, made[0]]), [*same, made[1], mode, most, drawn]


def parameters(k):
    g = torch.Generator().manual_seed(2)
    return [torch.randn(*shape, generator=g) for shape in ((k, WIDTH), (k,), (WIDTH, WIDTH))]


def part_of(rank, count, k):
    """The classes of a process, as DTensor's Shard(0) gives them; the last processes may have none."""
    size = -(-k // count)
    return slice(min(rank * size, k), min((rank + 1) * size, k))


def work(rank, count, k, backend, folder):
    warnings.simplefilter("error", FutureWarning)
    torch.set_num_threads(1)
    if os.environ.get("TRITON_INTERPRET") == "1":
        importlib.import_module("tests.kernels.support")  # repairs the interpreter
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    weight, bias, between = parameters(k)
    group = {"backend": backend, "process_group": distributed.group.WORLD, "num_classes": k}
    part = part_of(rank, count, k)
    results = [step(dtype, weight[part], bias[part], between, **group) for dtype in DTYPES]
    torch.save(sampled(weight[part], bias[part], part, **group), f"{folder}/sampled{rank}")
    spoilt = bias.index_fill(0, torch.tensor([k - 2]), torch.nan)  # in the second process
    assert (vocabulary.mode(weight[:3], weight[part], spoilt[part], **group) == k - 2).all()
    with pytest.raises(ValueError, match=f"weight must have .* share of rank {rank} of {count} in {k} classes"):
        step(torch.float32, weight, bias, between, **group)
    with pytest.raises(ValueError, match="process_group must be None for the reference"):
        step(torch.float32, weight[part], bias[part], between, **group | {"backend": "reference"})
    torch.save(results, f"{folder}/{rank}")
    distributed.destroy_process_group()


def work_and_follow(rank, count, k, folder):
    """The work of a process on a CPU, and then the code of the guide."""
    with warnings.catch_warnings():
        work(rank, count, k, "cpu", f"{folder}/ops")
    follow(rank, count, folder)
