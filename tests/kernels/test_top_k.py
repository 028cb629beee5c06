"""The k likeliest classes of noisy one-hot vectors: their distribution, and probabilities at small temperatures."""

import math

import pytest
import torch

from bfn_kernels import vocabulary
from bfn_kernels.vocabulary import top_k

CLASSES, K, COUNT = 60, 9, 20_000
GIVEN = {"scale": 2.0, "spread": 0.8, "temperature": 0.5}


def drawn(x=7, k=K, count=COUNT, seed=1, **more):
    return vocabulary.noisy_top_k(torch.full((count,), x), CLASSES, k, seed=seed, **GIVEN | more)


def largest(count=COUNT, x=7, k=K):
    """The same from all numbers of y: the k largest, their classes, and the sum of the softmax."""
    y = 0.8 * torch.randn(count, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y[:, x] += 2
    top, classes = y.topk(k)
    return top / 0.5, classes, (y / 0.5).logsumexp(-1)


def test_the_ratios_of_probabilities_have_the_distribution_of_sorted_numbers():
    """The gaps between the k largest logits: means and standard deviations lie within five standard errors."""
    p, _ = drawn()
    gaps, want = p.double().log().diff(dim=-1), largest()[0].diff(dim=-1)
    assert (gaps <= 0).all() and p.dtype == torch.float32
    errors = want.std(0) * math.sqrt(2 / COUNT)
    assert ((gaps.mean(0) - want.mean(0)).abs() < 5 * errors).all()
    # the standard error of a variance, from the fourth moment
    square, of_square = (gaps - want.mean(0)).square(), (want - want.mean(0)).square()
    assert ((square.mean(0) - of_square.mean(0)).abs() < 5 * of_square.std(0) * math.sqrt(2 / COUNT)).all()


@pytest.mark.parametrize("x", [0, 7, CLASSES - 1])
def test_classes_are_different_and_equally_likely_in_each_place(x):
    _, classes = drawn(x, seed=x)
    assert (classes.sort(-1).values.diff(dim=-1) > 0).all() and classes.min() >= 0 and classes.max() < CLASSES
    want = (largest(x=x)[1] == x).double()
    share = (classes == x).double()
    assert ((share - want).mean(0).abs() < 5 * (2 * want.mean(0) / COUNT).sqrt() + 1e-9).all()
    for place in range(K):
        others = torch.bincount(classes[:, place], minlength=CLASSES)[torch.arange(CLASSES) != x].double()
        expected = others.sum() / (CLASSES - 1)
        # χ² with 58 degrees of freedom is below 120 with a probability of 1 − 3e-6
        assert ((others - expected).square().sum() / expected) < 120, place


@pytest.mark.parametrize(("spread", "bound"), [(0.05, 0.02), (0.8, 0.06), (4.0, 0.02)])
def test_the_sum_of_the_other_numbers_is_their_mean(spread, bound):
    """The mean of the probabilities outside, for distributions from flat to peaked."""
    given = {"scale": 0.0, "spread": spread, "temperature": 1.0}
    p, _ = drawn(**given)
    y = spread * torch.randn(COUNT, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    want = y.softmax(-1).topk(K).values.sum(-1)
    error = 5 * want.std() * math.sqrt(2 / COUNT)
    assert abs(p.double().sum(-1).mean() - want.mean()) < error + bound * (1 - want.mean())


def test_a_small_temperature_gives_all_probability_to_the_first_class():
    p, classes = drawn(temperature=1e-6)
    assert p[:, 0].min() > 0.5 and p[:, 0].mean() > 0.9999 and p.isfinite().all()
    p, classes = drawn(scale=3.0, spread=0.0, temperature=0.1)
    assert (classes[:, 0] == 7).all()
    torch.testing.assert_close(p[:, 0], torch.full((COUNT,), 1 / (1 + 59 * math.exp(-30))))
    one = drawn(k=1, scale=0.0, spread=1.0)[1]
    assert torch.bincount(one[:, 0], minlength=CLASSES).min() > 200


def test_few_rounds_leave_no_class_twice(monkeypatch):
    """Where values cannot be read, the number of rounds is fixed."""
    monkeypatch.setattr(top_k.checks, "shows", lambda x: False)
    for k, count in ((1, 5), (15, 59), (128, 30_521)):
        numbers = top_k.distinct(torch.Size((300, k)), count, torch.tensor(3))
        assert (numbers.sort(-1).values.diff(dim=-1) > 0).all() and numbers.min() >= 0 and numbers.max() < count


def test_rows_and_a_generator():
    x = torch.arange(12, dtype=torch.uint8).view(3, 4)
    scale, spread = torch.tensor([0.0, 1.0, 90.0]), torch.full((3, 4), 0.5)
    p, classes = vocabulary.noisy_top_k(x, 1000, 5, scale=scale, spread=spread, seed=2)
    assert p.shape == classes.shape == (3, 4, 5) and (classes[2, :, 0] == x[2]).all() and p[2, :, 0].min() > 0.999
    seed = [torch.Generator().manual_seed(5) for _ in range(2)]
    first, second = (vocabulary.noisy_top_k(x, 1000, 5, scale=scale, spread=spread, generator=g) for g in seed)
    assert torch.equal(first[1], second[1]) and not torch.equal(first[1], classes)
    none = vocabulary.noisy_top_k(x[:0], 1000, 5, scale=1.0, spread=1.0)
    assert none[0].shape == (0, 4, 5)


def test_compiled():
    """In compiled code, which cannot raise an error, a class that is out of range has NaN."""

    def call(x):
        return vocabulary.noisy_top_k(x, 1000, 5, scale=torch.tensor([1.0, 2.0]), spread=0.5, seed=2)

    compiled, x = torch.compile(call, backend="aot_eager", fullgraph=True), torch.tensor([3, 7])
    torch.testing.assert_close(compiled(x), call(x))
    p, _ = compiled(torch.tensor([3, 1000]))
    assert p[1].isnan().all() and torch.equal(p[0], call(x)[0][0])


def test_refusals():
    x = torch.tensor([1, 2])
    for wrong, error, message in (
        ({"k": 0}, ValueError, "k must"),
        ({"k": 16}, ValueError, "k must"),
        ({"num_classes": 3, "k": 1}, ValueError, "num_classes must"),
        ({"scale": -1.0}, ValueError, r"scale must lie in \[0, inf\], got -1.0"),
        ({"spread": torch.tensor([1.0, float("nan")])}, ValueError, "spread must lie in"),
        ({"temperature": 0.0}, ValueError, "temperature must lie in"),
        ({"x": torch.tensor([60])}, IndexError, r"x must hold classes in \[0, 60\), got 60"),
        ({"x": torch.tensor([1.0])}, TypeError, "x must"),
    ):
        given = {"x": x, "num_classes": CLASSES, "k": 3, "scale": 1.0, "spread": 1.0} | wrong
        with pytest.raises(error, match=f"^{message}"):
            vocabulary.noisy_top_k(**given)
