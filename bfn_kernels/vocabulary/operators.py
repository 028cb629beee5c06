"""The operators of large vocabularies, each with its fake and, if it is differentiable, its backward pass.

`flow_embedding`, `loss`, `mode` and `step` have the arguments of the functions of the same names in `reference.py`, and
compute the same results. The other operators are gradients, a loss with its gradients, and kernels for one tile (see
`tiles.py`) or for products. No operator takes memory that grows with the number of tokens times the number of classes,
except for a sampler's state.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bfn_kernels import records
from bfn_kernels.checks import compute_dtype, widest
from bfn_kernels.declarations import NATIVE, TRITON, Forward, Operator, loss_fakes, operator, times_saved
from bfn_kernels.libraries import Library
from bfn_kernels.records import FlowLogits, LinearHead, TileMessages
from bfn_kernels.vocabulary import reference
from bfn_kernels.vocabulary.reference import Cost
from bfn_kernels.vocabulary.shards import Shard
from bfn_kernels.vocabulary.sums import SUMS

WIDE = 128  # the smallest width of hidden states for which a CPU computes the gradients of a loss in the forward pass
# Arguments and results in the schemas below.
_SHARD = ", ".join(records.fields(Shard))
_LOGITS = f"Tensor x, {', '.join(records.fields(LinearHead) + records.fields(FlowLogits))}"
_GRADIENTS = "Tensor by_hidden, Tensor by_weight, Tensor by_bias, Tensor by_flow_scale"
_TENSORS_OF_LOSS = f"x {' '.join(LinearHead._fields + FlowLogits._fields)} rate alpha seed noise mask"
_NEEDS = ", ".join(f"bool need_{name}" for name in LinearHead._fields)


def _embedding_fake(x, weight, *others):
    stats = weight.new_empty((*x.shape, 2), dtype=compute_dtype(weight))
    return weight.new_empty((*x.shape, weight.shape[1])), stats


def _backward_of_weight(name: str) -> Callable:
    """The backward pass of an embedding, of which only the weight has a gradient. name: the operator that computes this
    gradient."""

    def backward(library: Library, grad: Tensor, forward: Forward):
        *inputs, weight, first, num_classes, group = forward.saved
        of_weight = len(weight), weight.dtype, first, num_classes, group
        return None, getattr(library.vocabulary, name)(grad, *inputs, *of_weight)

    return backward


def _weight_gradient_fake(grad, *others):
    *_, count, dtype, _, _, _ = others
    return grad.new_empty((count, grad.shape[-1]), dtype=dtype)


def _noisy_sum_fake(x, weight, *others):
    return weight.new_empty((*x.shape, weight.shape[1]))


def types_of_head(head: LinearHead) -> list[torch.dtype]:
    """The types of the gradients of a linear head's tensors. For a tensor that is None, the gradient is empty, in the
    type of the arithmetic."""
    return [compute_dtype(*head) if tensor is None else tensor.dtype for tensor in head]


def _gradients_fake(head: LinearHead, dtypes: Sequence[torch.dtype], wanted: Sequence[bool]):
    hidden, weight = head.hidden, head.weight
    shapes = hidden.shape, weight.shape, weight.shape[:1], hidden.shape[:-1]
    each = zip(shapes, dtypes, wanted, strict=True)
    return tuple(hidden.new_empty(shape if want else (0,), dtype=dtype) for shape, dtype, want in each)


def _loss_fake(x, *others):
    *_, n_samples, _, reduction, _, _, _ = others
    stats = x.new_empty((*x.shape, 1 + n_samples, SUMS), dtype=widest(x.device))
    return loss_fakes(x, reduction, compute_dtype(*others[:4]))[0], stats


def _loss_backward(library: Library, grad: Tensor, forward: Forward):
    *tensors, mask, stats, n_steps, n_samples, reduction, first, num_classes, group = forward.saved
    rest = n_steps, n_samples, mask, reduction, stats, first, num_classes, group
    return None, *library.vocabulary.loss_backward(grad, *tensors, *rest, forward.needed[1:5])


def _loss_backward_fake(grad, x, *others):
    head = LinearHead(*others[:4])
    return _gradients_fake(head, types_of_head(head), others[-1])


def _loss_with_gradients_fake(x, *others):
    *_, reduction, _, _, _, _ = others
    head = LinearHead(*others[:4])
    dtype = compute_dtype(*head)
    return loss_fakes(x, reduction, dtype)[0], *_gradients_fake(head, [dtype] * 4, others[-4:])


def _loss_with_gradients_backward(library: Library, grad: Tensor, forward: Forward):
    return None, *times_saved(library, grad, None, forward.saved, forward, first=1)


_MESSAGES = ", ".join(records.fields(TileMessages))
_OF_TILES = {  # maps names of libraries to the schemas of their kernels for one tile, and of their products
    f"{NATIVE} {TRITON}": (
        "sums_tile(Tensor logits, Tensor x, int first, Tensor(a!) sums)",
        "slopes_tile(Tensor x, Tensor slopes, int first, Tensor(a!) logits)",
    ),
    NATIVE: (
        f"step_tile({_MESSAGES}, Tensor? keep, Tensor? noise, bool shared, bool again, Tensor? state, Tensor(a!)? out, "
        "Tensor(b!) numbers, Tensor(c!)? top, Tensor(d!)? total, Tensor(e!)? kept)",
    ),
    TRITON: (
        f"flow_tile({_MESSAGES}, bool again, Tensor(a!) out, Tensor(b!)? top, Tensor(c!)? total, Tensor(d!)? kept)",
        f"draws_tile({_MESSAGES}, Tensor(a!) sums, Tensor logits)",
        f"draw_slopes_tile({_MESSAGES}, Tensor slopes, Tensor shift, Tensor(a!) logits)",
        # products on tensor cores, over all classes at once
        f"flow_products({_MESSAGES}, Tensor weight, Tensor(a!) top, Tensor(b!) total, Tensor(c!) sums)",
        f"flow_products_backward({_MESSAGES}, Tensor grad, Tensor top, Tensor total, Tensor(a!) by_weight)",
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
        backward=_backward_of_weight("flow_embedding_backward"),
        composed=True,
    ),
    Operator(
        "flow_embedding_backward(Tensor grad, Tensor x, Tensor beta, Tensor spread, Tensor? seed, Tensor? noise, "
        f"Tensor stats, int count, ScalarType dtype, {_SHARD}) -> Tensor",
        fake=_weight_gradient_fake,
        composed=True,
    ),
    operator(
        reference.noisy_sum,
        fake=_noisy_sum_fake,
        saved="x scale spread seed noise weight first num_classes group",
        backward=_backward_of_weight("noisy_sum_backward"),
        composed=True,
    ),
    Operator(
        "noisy_sum_backward(Tensor grad, Tensor x, Tensor scale, Tensor spread, Tensor? seed, Tensor? noise, "
        f"int count, ScalarType dtype, {_SHARD}) -> Tensor",
        fake=_weight_gradient_fake,
        composed=True,
    ),
    operator(reference.noisy_mode, fake=lambda x, *others: x.new_empty(x.shape, dtype=torch.int64), composed=True),
    operator(
        reference.loss,
        "(Tensor loss, Tensor stats)",
        fake=_loss_fake,
        saved=f"{_TENSORS_OF_LOSS} stats n_steps n_samples reduction first num_classes group",
        backward=_loss_backward,
        composed=True,
    ),
    Operator(
        f"loss_with_gradients({_LOGITS}, Tensor? rate, Tensor? mask, int reduction, {_NEEDS}) -> "
        f"(Tensor loss, {_GRADIENTS})",
        fake=_loss_with_gradients_fake,
        saved="by_hidden by_weight by_bias by_flow_scale",
        backward=_loss_with_gradients_backward,
        library=NATIVE,
        composed=True,
    ),
    Operator(
        f"loss_backward(Tensor grad, {_LOGITS}, {', '.join(records.fields(Cost))}, Tensor? mask, int reduction, "
        f"Tensor stats, {_SHARD}, bool[] wanted) -> ({_GRADIENTS})",
        fake=_loss_backward_fake,
        composed=True,
    ),
    operator(
        reference.mode,
        fake=lambda hidden, *others: hidden.new_empty(hidden.shape[:-1], dtype=torch.int64),
        composed=True,
    ),
    operator(
        reference.sample,
        fake=lambda hidden, *others: hidden.new_empty(hidden.shape[:-1], dtype=torch.int64),
        composed=True,
    ),
    operator(reference.step, fake=lambda state, *others: torch.empty_like(state), composed=True),
    *(
        Operator(f"{schema} -> ()", fake=lambda *arguments: None, library=library)
        for library, schemas in _OF_TILES.items()
        for schema in schemas
    ),
]
