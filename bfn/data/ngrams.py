"""A trigram model of sequences, and the entropy of their lengths: baselines that a network has to beat."""

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
