"""The operators of large vocabularies in Triton."""

from bfn_kernels.vocabulary.triton_products import flow_products as flow_products
from bfn_kernels.vocabulary.triton_products import flow_products_backward as flow_products_backward
from bfn_kernels.vocabulary.triton_products import head_sums as head_sums
from bfn_kernels.vocabulary.triton_products import product as product
from bfn_kernels.vocabulary.triton_tiles import draw_slopes_tile as draw_slopes_tile
from bfn_kernels.vocabulary.triton_tiles import draws_tile as draws_tile
from bfn_kernels.vocabulary.triton_tiles import flow_tile as flow_tile
from bfn_kernels.vocabulary.triton_tiles import slopes_tile as slopes_tile
from bfn_kernels.vocabulary.triton_tiles import sums_tile as sums_tile
