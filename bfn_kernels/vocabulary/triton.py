"""The operators of large vocabularies in Triton."""

from bfn_kernels.vocabulary.triton_products import flow_products, flow_products_backward, head_sums, product
from bfn_kernels.vocabulary.triton_tiles import (
    draw_slopes_tile,
    draws_tile,
    flow_tile,
    slopes_tile,
    sums_tile,
)

__all__ = [
    "draw_slopes_tile",
    "draws_tile",
    "flow_products",
    "flow_products_backward",
    "flow_tile",
    "head_sums",
    "product",
    "slopes_tile",
    "sums_tile",
]
