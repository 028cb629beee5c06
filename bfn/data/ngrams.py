"""Models of sequences that count runs of tokens, and the entropy of lengths: baselines that a network has to beat."""

import torch
from torch import Tensor


class Trigrams:
    """The probability of a token after two others, from counts in rows [N, L] whose padding is class 0.

    The first padding of a row is a token that ends it. If two tokens occur n times, the frequencies of the token after
    them have weight n/(n + 1), and the bigram model has weight 1/(n + 1). Bigrams and unigrams are mixed in this way,
    too.
    """

    def __init__(self, rows: Tensor, num_classes: int):
        counts = torch.zeros(num_classes**3, dtype=torch.int64)
        for some in rows.split(2**15):
            counts += torch.bincount(runs(some, num_classes), minlength=len(counts))
        three = counts.view(num_classes, num_classes, num_classes).double()
        two = three.sum(0)
        one = (two.sum(0) + 0.5) / (two.sum() + 0.5 * num_classes)
        for counted in (two, three):
            one = (counted + one) / (counted.sum(-1, keepdim=True) + 1)
        self.log_probs, self.num_classes = one.log2().flatten(), num_classes

    def bits(self, rows: Tensor) -> float:
        """The bits of all rows together, including the end of each row."""
        return -self.log_probs[runs(rows, self.num_classes)].sum().item()


def runs(rows: Tensor, num_classes: int) -> Tensor:
    """One number for each run of three classes that ends with a token or with the first padding of a row."""
    padded = torch.nn.functional.pad(rows.long(), (2, 1))
    first, second, third = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    ends = (third > 0) | (second > 0)
    return ((first * num_classes + second) * num_classes + third)[ends]


def entropy(counted: Tensor, scored: Tensor) -> float:
    """The mean bits of a number in `scored`, with probabilities from the counts in `counted`, each plus 1/2."""
    counts = torch.bincount(counted, minlength=int(scored.max()) + 1).double() + 0.5
    return -(counts / counts.sum()).log2()[scored].mean().item()


class KneserNey:
    """A trigram model of a text with any number of classes: interpolated Kneser-Ney smoothing (Kneser and Ney 1995).

    The probability of a token after two others is a mixture with the probability after one other, which is a mixture
    with the probability alone. These count in how many contexts a token occurs, not how often.
    """

    def __init__(self, tokens: Tensor, num_classes: int):
        self.num_classes = num_classes
        three = _Level(self.keys(tokens.long()), num_classes)
        two = _Level(three.keys % num_classes**2, num_classes)
        self.levels = _Level(two.keys % num_classes, num_classes), two, three

    def keys(self, tokens: Tensor) -> Tensor:
        """One number for each run of three tokens."""
        return (tokens[:-2] * self.num_classes + tokens[1:-1]) * self.num_classes + tokens[2:]

    def bits(self, tokens: Tensor) -> float:
        """The mean bits of a token of a text. The first two tokens are not counted."""
        keys = self.keys(tokens.long())
        p = torch.full(keys.shape, 1 / self.num_classes, dtype=torch.float64)
        for order, level in enumerate(self.levels, 1):
            p = level.mixed(keys % self.num_classes**order, p)
        return -p.log2().mean().item()


class _Level:
    """The counts of runs of tokens, whose last token has the others as its context, and the discount of each count."""

    def __init__(self, runs: Tensor, num_classes: int):
        self.num_classes = num_classes
        self.keys, counts = runs.unique(return_counts=True)
        self.contexts, places = (self.keys // num_classes).unique(return_inverse=True)
        self.counts, self.kinds = counts.double(), places.bincount().double()
        self.totals = torch.zeros_like(self.kinds).index_add_(0, places, self.counts)
        once, twice = ((counts == number).sum().item() for number in (1, 2))
        # Without a discount, a new token would cost infinitely many bits.
        self.discount = once / (once + 2 * twice) if once else 0.5

    def mixed(self, keys: Tensor, lower: Tensor) -> Tensor:
        """The probabilities of the last tokens of runs. lower: their probabilities with one token less of context."""
        counts, _ = _found(self.keys, keys, self.counts)
        contexts = keys // self.num_classes
        (totals, known), (kinds, _) = (_found(self.contexts, contexts, of) for of in (self.totals, self.kinds))
        p = ((counts - self.discount).clamp(min=0) + self.discount * kinds * lower) / totals.clamp(min=1)
        return torch.where(known, p, lower)


def _found(keys: Tensor, wanted: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The value of each wanted key, and whether `keys`, which are sorted, contain the key. Otherwise its value is 0."""
    places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    known = keys[places] == wanted
    return torch.where(known, values[places], 0), known
