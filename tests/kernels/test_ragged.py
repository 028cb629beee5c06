"""Joint models of examples of different sizes, and of points without an origin."""

import math

import pytest
import torch
from torch import nn

from bfn_kernels import continuous, discrete, samplers
from bfn_kernels.adaptive import error_of_step
from bfn_kernels.nn import Continuous, Joint, Sampling
from bfn_kernels.nn.ragged import Ragged
from bfn_kernels.solvers import RULES, Coefficients
from tests.kernels.joint_models import COUNTS, Sums, T, atoms, of_atoms, padded


@pytest.mark.parametrize("n_steps", [None, 4])
def test_rows_of_examples_are_padded_examples_with_a_mask(n_steps, monkeypatch):
    """Given equal noise. Of the reductions, all but the mean over all variables are compared by their sums."""
    x, batch = atoms()
    mask = torch.arange(4) < torch.tensor(COUNTS).unsqueeze(-1)
    wide = {"positions": padded(x["positions"], mask), "types": padded(x["types"], mask), "lattice": x["lattice"]}
    noise = {"positions": torch.randn(8, 3), "types": torch.randn(8, 5)}
    dense = {name: padded(each, mask) for name, each in noise.items()}
    t = torch.tensor([0.25, 0.5, 0.0, 0.75])

    def drawn(op, name):
        def draw(x, *arguments, seed, **options):
            given = [each[name] for each in (noise, dense) if each[name].shape[: x.dim()] == x.shape]
            return op(x, *arguments, noise=given[0], **options) if given else op(x, *arguments, seed=seed, **options)

        return draw

    monkeypatch.setattr(continuous, "flow_sample", drawn(continuous.flow_sample, "positions"))
    monkeypatch.setattr(discrete, "flow_sample", drawn(discrete.flow_sample, "types"))
    network = Sums()
    masks, told = {"positions": mask, "types": mask}, of_atoms(lambda theta, t: network(theta, t, mask=mask))
    model, n = of_atoms(network), {"n_steps": n_steps, "seed": 1}
    for each in (model, told):
        each.parts["types"].receiver = "factorised"  # the draws of the joint receiver's expectation would differ
    for reduction in ("batch", "sum", "mean", "examples"):
        got = model.loss_by_part(x, t, batch=batch, reduction=reduction, **n)
        want = told.loss_by_part(wide, t, mask=masks, reduction=reduction, **n)
        torch.testing.assert_close(got, want)
        got = model.reconstruction_by_part(x, seed=1, batch=batch, reduction=reduction)
        want = told.reconstruction_by_part(wide, seed=1, mask=masks, reduction=reduction)
        torch.testing.assert_close(got, want)
    sums = model.loss_by_part(x, t, batch=batch, reduction="batch", **n)
    assert sums["positions"].shape == (4,) and sums["positions"][1] == sums["types"][1] == 0 < sums["lattice"][1]
    each = sums["types"] / torch.tensor(COUNTS).clamp(min=1)
    got = model.loss_by_part(x, t, batch=batch, reduction="examples", **n)
    torch.testing.assert_close(got["types"], each.sum() / 3)  # the empty example does not count
    torch.testing.assert_close(got["lattice"], sums["lattice"].mean() / 2)


def test_the_order_of_rows_does_not_matter():
    """The noise of a row depends on its place, so that the network's view is compared without noise, at t = 1."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    x, batch = atoms()
    turned, of = atoms(order)
    model = of_atoms()
    ragged, other = Ragged(batch, 4), Ragged(of, 4)
    theta = {
        "positions": x["positions"],
        "types": nn.functional.one_hot(x["types"], 5).float(),
        "lattice": x["lattice"],
    }
    moved = theta | {name: theta[name][order] for name in ("positions", "types")}
    t = torch.rand(4)
    want, got = model.output(theta, t, ragged=ragged), model.output(moved, t, ragged=other)
    torch.testing.assert_close(got["types"], want["types"][order])
    want, got = model.centre(want, ragged), model.centre(got, other)
    torch.testing.assert_close(got["positions"], want["positions"][order])
    assert ragged.sums(want["positions"]).abs().max() < 1e-5 and turned["types"].tolist() == x["types"][order].tolist()


def test_noise_and_output_of_a_centred_part_have_no_mean():
    seen = []

    class Seen(Sums):
        def forward(self, theta, t, **told):
            seen.append(theta["positions"].clone())  # a sampler overwrites it
            return super().forward(theta, t, **told)

    x, batch = atoms()
    model, ragged = of_atoms(Seen()), Ragged(batch, 4)
    got = model.loss_by_part(x, batch=batch, seed=2, reduction="batch")
    assert ragged.sums(seen[-1]).abs().max() < 1e-5 < seen[-1].abs().max()
    with torch.no_grad():
        model.network.positions.bias += 5.0  # a shift of the output of all atoms
    torch.testing.assert_close(model.loss_by_part(x, batch=batch, seed=2, reduction="batch"), got)
    # an example of one atom is at the origin, and has no dimension
    assert got["positions"][2] == 0
    assert abs(model.reconstruction_by_part(x, batch=batch, seed=2, reduction="batch")["positions"][2]) < 1e-5
    shape = {"positions": (8, 3), "types": (8,), "lattice": (4, 2)}
    for sampler in ("ancestral", *RULES):
        seen.clear()
        out = samplers.sample(model, shape, 3, seed=1, sampler=sampler, counts=COUNTS)
        assert max(ragged.sums(each).abs().max() for each in (*seen, out["positions"])) < 1e-4 < out["positions"].std()


def test_the_density_of_centred_data_is_that_of_their_dimensions():
    """With a network that puts out no noise, x̂ = μ/γ. The loss is that of a normal in an orthonormal basis."""
    model = of_atoms(lambda theta, t, batch: {n: torch.zeros_like(v) for n, v in theta.items()})
    x, batch = atoms()
    got = model.reconstruction_by_part(x, batch=batch, seed=4, reduction="batch")["positions"]
    theta = model.flow(x, torch.ones(4), 4, ragged=Ragged(batch, 4))["positions"]
    residual = x["positions"] - theta / (1 - 0.1**2)
    normal = torch.distributions.Normal(0.0, 0.1)
    for example, count in enumerate(COUNTS):
        basis = torch.linalg.svd(torch.eye(count) - 1 / max(count, 1)).U[:, : max(count - 1, 0)]
        want = -normal.log_prob(basis.T @ residual[batch == example]).sum()
        torch.testing.assert_close(got[example], want, rtol=1e-4, atol=1e-4)


def test_the_error_of_a_step_is_of_the_example_with_the_largest():
    step, p, batch = Coefficients(1.0, 0.5, extrapolation=2.0), torch.zeros(4, 3), torch.tensor([7, 0, 7, 0])
    p[1], p[0] = 2.0, 1.0  # mean squares 2 and 1/2
    assert error_of_step(step, p, torch.zeros(4, 3), 3.0, batch) == pytest.approx(3 * 2**0.5)
    assert error_of_step(step, p, torch.zeros(4, 3), 3.0) == pytest.approx(3 * 2.0)


def test_adaptive_steps_of_rows():
    """Atoms that see each other are sampled as examples; the lattice has an error of its own."""
    shape = {"positions": (8, 3), "types": (8,), "lattice": (4, 2)}
    out, calls = samplers.sample_within(of_atoms(), shape, 0.05, seed=1, counts=COUNTS)
    assert calls > 3 and Ragged.of_counts(COUNTS).sums(out["positions"]).abs().max() < 1e-4 < out["positions"].std()
    assert samplers.sample_within(of_atoms(), shape, 0.5, seed=1, counts=COUNTS)[1] < calls


def test_guidance_of_examples_is_of_their_rows():
    x, batch = atoms()
    model, seen = of_atoms(), []

    def network(theta, t, cond, batch):
        seen.append(cond)
        return {name: each + cond for name, each in model.network(theta, t, batch=batch).items()}

    guided = of_atoms(network)
    theta = {"positions": x["positions"], "types": torch.rand(8, 5), "lattice": x["lattice"]}
    weight = torch.tensor([0.0, 1.0, 2.0, 3.0])
    told = Sampling(cond=2.0, unconditional=1.0, guidance={"types": weight, "lattice": weight}, ragged=Ragged(batch, 4))
    got, plain = guided.guided_output(theta, T[:4], told), model.output(theta, T[:4], ragged=Ragged(batch, 4))
    torch.testing.assert_close(got["types"] - plain["types"], (2 + weight[batch]).unsqueeze(-1).expand(8, 5))
    torch.testing.assert_close(got["lattice"] - plain["lattice"], (2 + weight).unsqueeze(-1).expand(4, 2))
    assert seen == [2.0, 1.0]


def test_masked_points_are_at_the_origin_and_do_not_count():
    rows = Ragged(torch.tensor([0, 1, 0, 0]), 2)
    values, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0], [torch.nan, 0.0], [3.0, 6.0]]), torch.tensor([1, 1, 0, 1]) > 0
    want = torch.tensor([[-1.0, -2.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    torch.testing.assert_close(rows.centred(values, mask), want)
    torch.testing.assert_close(rows.centred(values.nan_to_num(7.0)).mean(0), torch.zeros(2))


def test_sums_of_narrow_and_of_wide_types():
    rows = Ragged(torch.zeros(1000, dtype=torch.int64), 1)
    assert rows.centred(torch.full((1000, 3), 100.0).half()).abs().max() == 0
    network = lambda theta, t, batch: {"positions": theta["positions"] * 0}  # noqa: E731
    model = Joint(network, positions=Continuous(None, sigma_1=0.1, clip=None), centred=["positions"]).double()
    got = model.reconstruction({"positions": torch.zeros(1000, 3).double()}, batch=rows.batch, seed=1, reduction="sum")
    theta = model.flow({"positions": torch.zeros(1000, 3)}, torch.ones(1), 1, ragged=rows)["positions"].double()
    squares = (theta / 0.99 / 0.1).square().sum() / 2
    assert got.dtype == torch.float64
    torch.testing.assert_close(
        got - squares, torch.tensor(3 * 999 * math.log(2 * math.pi * 0.01) / 2).double(), rtol=1e-6, atol=0
    )


def test_examples_of_no_atoms_at_all():
    model = of_atoms()
    x = {"positions": torch.zeros(0, 3), "types": torch.zeros(0, dtype=torch.int64), "lattice": torch.rand(2, 2)}
    empty = torch.zeros(0, dtype=torch.int64)
    for reduction in ("mean", "sum", "batch", "examples"):
        got = model.loss_by_part(x, batch=empty, seed=1, reduction=reduction)
        assert got["positions"].sum() == got["types"].sum() == 0 < got["lattice"].sum()
    model(x, batch=empty).backward()
    out = samplers.sample(model, {"positions": (0, 3), "types": (0,), "lattice": (2, 2)}, 3, counts=[0, 0])
    assert out["types"].shape == (0,) and out["lattice"].isfinite().all()
