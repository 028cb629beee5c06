"""Tests that need a GPU. `make gpu-check` runs them; without a GPU they are skipped."""

import pytest
import torch

from bfn_kernels import continuous, discrete, discretised, noise
from bfn_kernels.backends import BACKENDS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

ON_GPU = [b.name for b in BACKENDS.values() if b.missing is None and b.device == "cuda"]
each_backend = pytest.mark.parametrize("backend", ON_GPU)


def step(x, mean, seed, backend, out=None):
    return continuous.update_sample(x, mean, 1.0, 2.0, seed=seed, out=out, backend=backend)[0]


@each_backend
def test_a_graph_replays_with_fresh_seeds(backend):
    x = torch.rand(64, 100, device="cuda")
    seed, out = torch.zeros((), dtype=torch.int64, device="cuda"), torch.empty_like(x)
    step(x, x, seed, backend, out)  # compiles what must not be captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(x, x, seed, backend, out)
    for number in (5, -7):
        seed.fill_(number)
        graph.replay()
        assert torch.equal(out, step(x, x, number, backend))


@each_backend
def test_kernels_follow_the_current_stream(backend):
    x = torch.rand(1 << 22, device="cuda")
    want = step(x, x, 3, backend)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late = x * 2  # made after the sleep: whoever does not wait reads what is not there yet
        got = step(late, x, 3, backend)
    stream.synchronize()
    assert not torch.equal(got, want)
    torch.testing.assert_close(got, step(2 * x, x, 3, backend))


@each_backend
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_kernels_follow_their_tensors_device(backend):
    x = torch.rand(1000, device="cuda:1")
    assert step(x, x, 3, backend).device == x.device
    torch.testing.assert_close(step(x, x, 3, backend).cpu(), step(x.cuda(0), x.cuda(0), 3, backend).cpu())


@each_backend
def test_compiled(backend):
    function = torch.compile(lambda x, s: step(x, x, s, backend), fullgraph=True)
    x, seed = torch.rand(33, 70, device="cuda"), torch.tensor(4, device="cuda")
    torch.testing.assert_close(function(x, seed), step(x, x, seed, backend))


@each_backend
def test_past_two_to_the_31_variables(backend):
    count = 2**31 + 1000
    if torch.cuda.mem_get_info()[0] < 3 * 2 * count + (2 << 30):
        pytest.skip("the GPU has too little free memory")
    x = torch.zeros(count, dtype=torch.bfloat16, device="cuda")
    y = continuous.sender_sample(x, 1.0, seed=3, backend=backend)
    # the noise of the last variables, by the reference's counters
    groups = torch.arange(count // 4 - 100, count // 4, device="cuda")
    words = noise.philox(torch.tensor(3, device="cuda"), groups, noise.SENDER)
    want = noise._box_muller(words, torch.float32).flatten()
    torch.testing.assert_close(y[-400:].float(), want.bfloat16().float(), rtol=0.01, atol=0.01)
    loss = continuous.continuous_time_loss(x, y, None, 0.5, sigma_1=0.5, parametrisation="data", backend=backend)
    assert loss.isfinite()


@each_backend
def test_the_same_bits_from_run_to_run(backend):
    x, z = torch.rand(300, 1001, device="cuda"), torch.randn(300, 101, 27, device="cuda")
    classes = torch.arange(300 * 101, device="cuda").view(300, 101) % 27
    calls = [
        lambda: continuous.continuous_time_loss(x, x.flip(0), x, 0.5, sigma_1=0.1, backend=backend),
        lambda: discretised.continuous_time_loss(
            x, x.flip(0), x - 2, x, 0.5, sigma_1=0.1, num_bins=256, backend=backend
        ),
        lambda: discrete.continuous_time_loss(classes, z, 0.5, beta_1=3.0, backend=backend),
    ]
    for call in calls:
        assert len({call().item() for _ in range(5)}) == 1
