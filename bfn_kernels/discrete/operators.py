"""The operators of discrete data: the fake and backward pass of each.

The function of the same name in `reference.py` shows what an operator computes, and has its arguments.
"""

import torch
from torch import Tensor

from bfn_kernels.autograd import Forward
from bfn_kernels.checks import compute_dtype
from bfn_kernels.discrete import reference
from bfn_kernels.operators import (
    NATIVE,
    TRITON,
    Library,
    Operator,
    gradient_fake,
    loss_fakes,
    operator,
    saved_loss_backward,
    scaled_input_gradient,
    times_saved,
)

SHORT_ROW = 128  # up to so many classes a CPU makes the gradient of a loss in the forward pass, which has them in cache
WIDE = 128  # from so many numbers a vector on, a CPU makes the gradient of a head's loss in the forward pass
SUMS = 4  # how many numbers of each token, and of each draw, a loss of a linear head saves
ROW_STATS = 4  # how many numbers of each row a loss saves for its backward pass
_SHARD = "int first, int num_classes, str? group"  # of the classes, as `tiles.Shard` says
_HEAD = "Tensor x, Tensor hidden, Tensor weight, Tensor? bias"
_LINEAR = "(Tensor loss, Tensor scale, Tensor stats)"
_BY_HEAD = "(Tensor by_hidden, Tensor by_weight, Tensor by_bias)"


def _sender_fake(x, alpha, spread, num_classes, probs, seed, noise, dtype):
    return x.new_empty((*x.shape, num_classes), dtype=dtype)


def _step_backward(library: Library, grad: Tensor, forward: Forward):
    # a draw or a mode was sent, which has no gradient, so only the state itself has one
    keep = forward.saved.keep
    return None, scaled_input_gradient(library, grad, keep if keep is None else keep.unsqueeze(-1), forward.types[1])


def _loss_fake(x, logits, *others):
    *_, reduction, in_forward, need_logits = others
    dtype = compute_dtype(logits)
    if in_forward:
        saved = gradient_fake(logits, need_logits, dtype, dense=False)
    else:
        saved = x.new_empty((*x.shape, ROW_STATS) if need_logits else (0,), dtype=dtype)
    return *loss_fakes(x, reduction, dtype), saved


def _loss_backward(library: Library, grad: Tensor, forward: Forward):
    scale, saved, x, logits, weight, mask, in_forward = forward.saved
    if in_forward:
        return None, *times_saved(library, grad, scale, [saved], forward, first=1)
    return None, library.discrete.loss_backward(grad, scale, x, logits, weight, mask, saved)


def _discrete_time_loss_fake(x, logits, *others):
    *_, reduction, need_logits = others
    dtype = compute_dtype(logits)
    return *loss_fakes(x, reduction, dtype), gradient_fake(logits, need_logits, dtype)


def _theta_backward(library: Library, grad: Tensor, forward: Forward):
    logits, theta = forward.saved
    wide = logits.to(compute_dtype(logits))
    if wide is not logits:  # θ was rounded, and p(g − Σ gp) would cancel
        theta, grad = library.discrete.theta(wide), grad.to(wide.dtype)
    return (torch.ops.aten._softmax_backward_data(grad, theta, -1, wide.dtype).to(logits.dtype),)


def _embedding_fake(x, weight, *others):
    stats = weight.new_empty((*x.shape, 2), dtype=compute_dtype(weight))
    return weight.new_empty((*x.shape, weight.shape[1])), stats


def _embedding_backward(library: Library, grad: Tensor, forward: Forward):
    *flow, weight, first, num_classes, group = forward.saved
    more = len(weight), weight.dtype, first, num_classes, group
    return None, library.discrete.flow_embedding_backward(grad, *flow, *more)


def _linear_fake(x, hidden, weight, bias, *others, n_samples: int = 0):
    dtype = compute_dtype(hidden, weight, bias)
    stats = x.new_empty((*x.shape, 1 + n_samples, SUMS), dtype=torch.float64)
    return *loss_fakes(x, others[-4], dtype), stats


def _linear_discrete_time_loss_fake(*arguments):
    *_, n_samples, _, _, _, _, _ = arguments
    return _linear_fake(*arguments, n_samples=n_samples)


def types_of_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[torch.dtype, ...]:
    """The types of the gradients of a linear head. The gradient of a bias of None is an empty tensor."""
    return hidden.dtype, weight.dtype, compute_dtype(hidden, weight) if bias is None else bias.dtype


def _linear_backward_fake(grad, scale, x, hidden, weight, bias, *others):
    return _gradients_fake(hidden, weight, types_of_head(hidden, weight, bias), others[-1])


def _gradients_fake(hidden, weight, dtypes, wanted):
    each = zip((hidden.shape, weight.shape, weight.shape[:1]), dtypes, wanted, strict=True)
    return tuple(hidden.new_empty(shape if want else (0,), dtype=dtype) for shape, dtype, want in each)


def _linear_loss_backward(library: Library, grad: Tensor, forward: Forward):
    return None, *library.discrete.linear_loss_backward(grad, *forward.saved, forward.needed[1:4])


def _linear_loss_with_gradients_fake(x, *head_and_more):
    hidden, weight, bias, _, _, reduction, *wanted = head_and_more
    dtype = compute_dtype(hidden, weight, bias)
    return loss_fakes(x, reduction, dtype)[0], *_gradients_fake(hidden, weight, (dtype,) * 3, wanted)


def _linear_loss_with_gradients_backward(library: Library, grad: Tensor, forward: Forward):
    return None, *times_saved(library, grad, None, forward.saved, forward, first=1)


def _linear_discrete_time_loss_backward(library: Library, grad: Tensor, forward: Forward):
    return None, *library.discrete.linear_discrete_time_loss_backward(grad, *forward.saved, forward.needed[1:4])


_OF_TILES = {
    f"{NATIVE} {TRITON}": (
        "flow_tile(Tensor x, Tensor rows, Tensor beta, Tensor spread, Tensor seed, int first, int num_classes, "
        "bool again, Tensor(a!) top, Tensor(b!) total, Tensor(c!) kept, Tensor(d!) out)",
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
        reference.theta,
        "(Tensor theta)",
        fake=torch.empty_like,
        saved="logits theta",
        backward=_theta_backward,
    ),
    operator(reference.sender_sample, fake=_sender_fake),
    operator(
        reference.step,
        fake=lambda output_logits, state, *others: torch.empty_like(state),
        saved="keep",
        backward=_step_backward,
    ),
    # A CPU makes the gradient of short rows in the forward pass. Others save numbers of each row for `loss_backward`.
    operator(
        reference.loss,
        "(Tensor loss, Tensor scale, Tensor saved)",
        fake=_loss_fake,
        needs="logits",
        saved="scale saved x logits weight mask in_forward",
        spared="x logits weight mask",
        backward=_loss_backward,
    ),
    Operator(
        "loss_backward(Tensor grad, Tensor scale, Tensor x, Tensor logits, Tensor? weight, Tensor? mask, Tensor stats) "
        "-> Tensor",
        fake=lambda grad, scale, x, logits, *others: torch.empty_like(logits),
    ),
    operator(
        reference.discrete_time_loss,
        "(Tensor loss, Tensor scale, Tensor grad_logits)",
        fake=_discrete_time_loss_fake,
        needs="logits",
        saved="scale grad_logits",
        backward=saved_loss_backward,
    ),
    # The operators of large vocabularies never store a number for each class of each token.
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
        reference.linear_loss,
        _LINEAR,
        fake=_linear_fake,
        saved="scale x hidden weight bias rate mask stats first num_classes group",
        backward=_linear_loss_backward,
        composed=True,
    ),
    Operator(
        # the one above of one process on a CPU, reduced to a number, in memory as large as the weight
        f"linear_loss_with_gradients({_HEAD}, Tensor? rate, Tensor? mask, int reduction, bool need_hidden, "
        "bool need_weight, bool need_bias) -> (Tensor loss, Tensor by_hidden, Tensor by_weight, Tensor by_bias)",
        fake=_linear_loss_with_gradients_fake,
        saved="by_hidden by_weight by_bias",
        backward=_linear_loss_with_gradients_backward,
        library=NATIVE,
        composed=True,
    ),
    operator(
        reference.linear_discrete_time_loss,
        _LINEAR,
        fake=_linear_discrete_time_loss_fake,
        saved="scale x hidden weight bias alpha seed noise mask stats n_steps n_samples first num_classes group",
        backward=_linear_discrete_time_loss_backward,
        composed=True,
    ),
    Operator(
        f"linear_loss_backward(Tensor grad, Tensor scale, {_HEAD}, Tensor? rate, Tensor? mask, Tensor stats, "
        f"{_SHARD}, bool[] wanted) -> {_BY_HEAD}",
        fake=_linear_backward_fake,
        composed=True,
    ),
    Operator(
        f"linear_discrete_time_loss_backward(Tensor grad, Tensor scale, {_HEAD}, Tensor alpha, Tensor? seed, "
        f"Tensor? noise, Tensor? mask, Tensor stats, int n_steps, int n_samples, {_SHARD}, bool[] wanted) -> "
        f"{_BY_HEAD}",
        fake=_linear_backward_fake,
        composed=True,
    ),
    operator(
        reference.linear_mode,
        fake=lambda hidden, *others: hidden.new_empty(hidden.shape[:-1], dtype=torch.int64),
        composed=True,
    ),
    operator(reference.linear_step, fake=lambda state, *others: torch.empty_like(state), composed=True),
    # A CPU has kernels for what is done with a tile, and so has Triton, also for that with the draws of L_n.
    *(
        Operator(f"{schema} -> ()", fake=lambda *arguments: None, library=library)
        for library, schemas in _OF_TILES.items()
        for schema in schemas
    ),
]
