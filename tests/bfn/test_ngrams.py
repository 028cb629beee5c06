"""The Kneser-Ney model of a text against its definition, counted one run at a time."""

import math
from collections import Counter, defaultdict

import pytest
import torch

from bfn.data.ngrams import KneserNey

CLASSES = 7


def text(count, seed):
    """Tokens that depend on the two before, and of which class 6 occurs only in the text of seed 2."""
    g = torch.Generator().manual_seed(seed)
    tokens = [0, 1]
    for u in torch.rand(count, generator=g).tolist():
        tokens.append((tokens[-1] + 2 * tokens[-2]) % 6 if u < 0.5 else int(12 * (u - 0.5)))
    return torch.tensor([*tokens, *([6, 3] if seed == 2 else [])])


def probability(tokens, history):
    """p(w | history) for all w, by recursion over the definition. history: up to two tokens."""
    runs = [tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    counts = {3: Counter(runs)}
    counts[2] = Counter(run[1:] for run in counts[3])
    counts[1] = Counter(run[1:] for run in counts[2])

    def p(w, context):
        order = len(context) + 1
        lower = 1 / CLASSES if order == 1 else p(w, context[1:])
        values = Counter(counts[order].values())
        discount = values[1] / (values[1] + 2 * values[2]) if values[1] else 0.5
        of_context = defaultdict(int, {run[-1]: n for run, n in counts[order].items() if run[:-1] == context})
        if not of_context:
            return lower
        total = sum(of_context.values())
        kinds = len(of_context)
        return (max(of_context[w] - discount, 0) + discount * kinds * lower) / total

    return [p(w, tuple(history)) for w in range(CLASSES)]


@pytest.mark.parametrize("count", [20, 300])
def test_the_probabilities_of_the_definition(count):
    train, test = text(count, 1), text(100, 2)
    model, want = KneserNey(train, CLASSES), 0.0
    for i in range(2, len(test)):
        p = probability(train.tolist(), test[i - 2 : i].tolist())
        assert sum(p) == pytest.approx(1)
        want -= math.log2(p[test[i]])
    assert model.bits(test.int()) == pytest.approx(want / (len(test) - 2), rel=1e-12)


def test_more_context_costs_fewer_bits():
    train, test = text(3000, 1), text(500, 3)
    shuffled = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(1))]
    assert KneserNey(train, CLASSES).bits(test) < 0.85 * KneserNey(shuffled, CLASSES).bits(test)


def test_classes_of_a_large_vocabulary():
    """The runs of 32 000 classes have numbers above 2³²."""
    tokens = torch.tensor([31_999, 5, 31_998] * 50)
    assert KneserNey(tokens, 32_000).bits(tokens) < 0.1
    assert KneserNey(tokens, 32_000).bits(tokens.flip(0)) > 1
