"""The operators of large vocabularies: the fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and has its arguments. None of the
operators stores a number for each class of each token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.autograd import Forward
from bfn_kernels.call.checks import compute_dtype
from bfn_kernels.operators import NATIVE, TRITON, Library, Operator, loss_fakes, operator, times_saved
from bfn_kernels.records import FlowLogits, LinearHead, Shard
from bfn_kernels.vocabulary import reference

WIDE = 128  # from so many numbers a vector on, a CPU makes the gradient of a loss in the forward pass
SUMS = 4  # how many numbers of each token, and of each draw, a loss saves
_SHARD = ", ".join(records.fields(Shard))
_LOSS_OF = f"Tensor x, {', '.join(records.fields(LinearHead) + records.fields(FlowLogits))}"  # what all losses read
_LOSS = "(Tensor loss, Tensor scale, Tensor stats)"
_BY_HEAD = "Tensor by_hidden, Tensor by_weight, Tensor by_bias, Tensor by_flow_scale"
_NAMES = " ".join(LinearHead._fields + FlowLogits._fields)
_NEEDS = ", ".join(f"bool need_{name}" for name in LinearHead._fields)


def _embedding_fake(x, weight, *others):
    stats = weight.new_empty((*x.shape, 2), dtype=compute_dtype(weight))
    return weight.new_empty((*x.shape, weight.shape[1])), stats


def _embedding_backward(library: Library, grad: Tensor, forward: Forward):
    *flow, weight, first, num_classes, group = forward.saved
    more = len(weight), weight.dtype, first, num_classes, group
    return None, library.vocabulary.flow_embedding_backward(grad, *flow, *more)


def _head(arguments) -> LinearHead:
    """The head, which stands behind x."""
    return LinearHead(*arguments[:4])


def _loss_fake(x, *others, n_samples: int = 0):
    stats = x.new_empty((*x.shape, 1 + n_samples, SUMS), dtype=torch.float64)
    return *loss_fakes(x, others[-4], compute_dtype(*_head(others))), stats


def _discrete_time_loss_fake(*arguments):
    *_, n_samples, _, _, _, _, _ = arguments
    return _loss_fake(*arguments, n_samples=n_samples)


def types_of_head(head: LinearHead) -> list[torch.dtype]:
    """The types of the gradients of a linear head. The gradient of None is an empty tensor."""
    return [compute_dtype(*head) if each is None else each.dtype for each in head]


def _backward_fake(grad, scale, x, *others):
    return _gradients_fake(_head(others), types_of_head(_head(others)), others[-1])


def _gradients_fake(head: LinearHead, dtypes: Sequence[torch.dtype], wanted: Sequence[bool]):
    hidden, weight = head.hidden, head.weight
    shapes = hidden.shape, weight.shape, weight.shape[:1], hidden.shape[:-1]
    each = zip(shapes, dtypes, wanted, strict=True)
    return tuple(hidden.new_empty(shape if want else (0,), dtype=dtype) for shape, dtype, want in each)


def _loss_backward(library: Library, grad: Tensor, forward: Forward):
    return None, *library.vocabulary.loss_backward(grad, *forward.saved, forward.needed[1:5])


def _loss_with_gradients_fake(x, *others):
    *_, reduction, _, _, _, _ = others
    head, wanted = _head(others), others[-4:]
    dtype = compute_dtype(*head)
    return loss_fakes(x, reduction, dtype)[0], *_gradients_fake(head, [dtype] * 4, wanted)


def _loss_with_gradients_backward(library: Library, grad: Tensor, forward: Forward):
    return None, *times_saved(library, grad, None, forward.saved, forward, first=1)


def _discrete_time_loss_backward(library: Library, grad: Tensor, forward: Forward):
    return None, *library.vocabulary.discrete_time_loss_backward(grad, *forward.saved, forward.needed[1:5])


_OF_TILES = {
    f"{NATIVE} {TRITON}": (
        "flow_tile(Tensor x, Tensor rows, Tensor beta, Tensor spread, Tensor seed, int first, int num_classes, "
        "bool again, Tensor(a!)? top, Tensor(b!)? total, Tensor(c!)? kept, Tensor(d!) out)",
        "sums_tile(Tensor logits, Tensor x, int first, Tensor(a!) sums)",
        "slopes_tile(Tensor x, Tensor slopes, int first, Tensor(a!) logits)",
    ),
    NATIVE: (
        "step_tile(Tensor x, Tensor rows, Tensor alpha, Tensor? spread, Tensor? keep, Tensor? seed, Tensor? noise, "
        "int first, int num_classes, bool shared, Tensor state, Tensor(a!) numbers, Tensor(b!) out, "
        "Tensor(c!)? top, Tensor(d!)? total, Tensor(e!)? kept)",
    ),
    TRITON: (
        "draws_tile(Tensor logits, Tensor x, Tensor rows, Tensor alpha, Tensor spread, Tensor seed, int first, "
        "int num_classes, Tensor(a!) sums)",
        "draw_slopes_tile(Tensor x, Tensor rows, Tensor alpha, Tensor spread, Tensor seed, int first, "
        "int num_classes, Tensor slopes, Tensor shift, Tensor(a!) logits)",
        # on tensor cores, without tiles
        "flow_products(Tensor x, Tensor rows, Tensor beta, Tensor spread, Tensor seed, int first, int num_classes, "
        "Tensor weight, Tensor(a!) top, Tensor(b!) total, Tensor(c!) sums)",
        "flow_products_backward(Tensor x, Tensor rows, Tensor beta, Tensor spread, Tensor seed, int first, "
        "int num_classes, Tensor grad, Tensor top, Tensor total, Tensor(a!) by_weight)",
        "head_sums(Tensor hidden, Tensor weight, Tensor? bias, Tensor x, int first, Tensor(a!) sums)",
        "product(Tensor a, Tensor b, bool add, Tensor(a!) sums)",
    ),
}

OPERATORS = [
    operator(
        reference.flow_embedding,
        "(Tensor out, Tensor stats)",
        fake=_embedding_fake,
        saved="x beta spread seed noise stats weight first num_classes group",
        backward=_embedding_backward,
        composed=True,
    ),
    Operator(
        "flow_embedding_backward(Tensor grad, Tensor x, Tensor beta, Tensor spread, Tensor? seed, Tensor? noise, "
        f"Tensor stats, int count, ScalarType dtype, {_SHARD}) -> Tensor",
        fake=lambda grad, *others: grad.new_empty((others[-5], grad.shape[-1]), dtype=others[-4]),
        composed=True,
    ),
    operator(
        reference.loss,
        _LOSS,
        fake=_loss_fake,
        saved=f"scale x {_NAMES} rate mask stats first num_classes group",
        backward=_loss_backward,
        composed=True,
    ),
    Operator(
        # the one above of one process on a CPU, reduced to a number, in memory as large as the weight
        f"loss_with_gradients({_LOSS_OF}, Tensor? rate, Tensor? mask, int reduction, {_NEEDS}) -> "
        f"(Tensor loss, {_BY_HEAD})",
        fake=_loss_with_gradients_fake,
        saved="by_hidden by_weight by_bias by_flow_scale",
        backward=_loss_with_gradients_backward,
        library=NATIVE,
        composed=True,
    ),
    operator(
        reference.discrete_time_loss,
        _LOSS,
        fake=_discrete_time_loss_fake,
        saved=f"scale x {_NAMES} alpha seed noise mask stats n_steps n_samples first num_classes group",
        backward=_discrete_time_loss_backward,
        composed=True,
    ),
    Operator(
        f"loss_backward(Tensor grad, Tensor scale, {_LOSS_OF}, Tensor? rate, Tensor? mask, Tensor stats, {_SHARD}, "
        f"bool[] wanted) -> ({_BY_HEAD})",
        fake=_backward_fake,
        composed=True,
    ),
    Operator(
        f"discrete_time_loss_backward(Tensor grad, Tensor scale, {_LOSS_OF}, Tensor alpha, Tensor? seed, "
        f"Tensor? noise, Tensor? mask, Tensor stats, int n_steps, int n_samples, {_SHARD}, bool[] wanted) -> "
        f"({_BY_HEAD})",
        fake=_backward_fake,
        composed=True,
    ),
    operator(
        reference.mode,
        fake=lambda hidden, *others: hidden.new_empty(hidden.shape[:-1], dtype=torch.int64),
        composed=True,
    ),
    operator(reference.step, fake=lambda state, *others: torch.empty_like(state), composed=True),
    # A CPU has kernels for what is done with a tile, and so has Triton, also for that with the draws of L_n.
    *(
        Operator(f"{schema} -> ()", fake=lambda *arguments: None, library=library)
        for library, schemas in _OF_TILES.items()
        for schema in schemas
    ),
]
