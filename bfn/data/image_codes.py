"""Two baselines for images of 256 levels: PNG, and normals that are predicted from earlier values."""

import io
import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from bfn_kernels import discretised

LEVELS = 256
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
}
NEAR = (0, -1), (-1, -1), (-1, 0), (-1, 1)  # offsets (row, column) of the four pixels that predict a pixel
RIDGE = 1e-9  # relative to the trace of the normal equations; it makes their solution unique


def picture_bytes(pixels: NDArray, form: str) -> int:
    """The size of an image without loss. pixels: uint8 [H, W] or [H, W, 3], or bool [H, W]. form: one of FORMATS."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **FORMATS[form])
    return len(file.getvalue())


def png(levels: Tensor) -> float:
    """The bits per dimension of images, uint8 [N, H, W, 3], which are stacked vertically in one optimised PNG. Separate
    files would add N headers."""
    return 8 * picture_bytes(levels.flatten(0, 1).numpy(), "PNG") / levels.numel()


def normals(train: Tensor, test: Tensor) -> Tensor:
    """The bits of each value of `test` by normals that are fitted to `train`. Both are bin centres, float64, and images
    [N, H, W, 3].

    A value x costs −log2 of the mass that N(m, s²) has in its bin. The first and the last bin have the tails. Least
    squares on `train` fit m to x, and ln s to ln(½ bin + |x − m|):

    - m is a linear function of the colours of the pixels NEAR and of the earlier colours of the same pixel.
    - ln s is a linear function of ln(½ bin + d). For a pixel NEAR, d is the distance of its colour from the average
      over NEAR. For an earlier colour of the same pixel, d is |x − m|.

    s is scaled so that the mean of ((x − m)/s)² over `train` is 1, and is then at least ⅛ bin, so that a bin can hold
    nearly all mass. Each colour has its own functions, and so have the pixels at the margins, which lack neighbours. m
    and s depend on earlier values alone, so a decoder could compute them.
    """
    images, bits, half = torch.cat([train, test]), torch.empty_like(test), 1 / LEVELS
    near = neighbours(images)
    for rows, columns in product((slice(1), slice(1, None)), (slice(1), slice(1, -1), slice(-1, None))):
        x, around = (some[:, rows, columns].flatten(0, 2) for some in (images, near))
        around = around[:, ~around[0, :, 0].isnan()]
        known = len(x) // len(images) * len(train)  # the number of values from `train`, which come first
        spread = (around - around.mean(1, keepdim=True)).abs().flatten(1)
        for colour in range(3):
            mean = fit([around.flatten(1), x[:, :colour]], x[:, colour], known)
            error = (x[:, [colour]] - mean[:, None]).abs()
            std = fit([(half + spread).log()], (half + error[:, 0]).log(), known).exp()
            std = (std * (error[:known, 0] / std[:known]).square().mean().sqrt()).clamp(min=half / 4)
            spread = torch.cat([spread, error], 1)
            nats = -discretised.log_prob(x[known:, colour], mean[known:], std[known:], num_bins=LEVELS)
            place = bits[:, rows, columns, colour]
            place.copy_(nats.view_as(place) / math.log(2))
    return bits


def neighbours(images: Tensor) -> Tensor:
    """The colours of the pixels NEAR each pixel, [N, H, W, 4, 3]; NaN outside the image."""
    height, width = images.shape[1:3]
    padded = pad(images, (0, 0, 1, 1, 1, 0), value=math.nan)
    return torch.stack([padded[:, 1 + i :, 1 + j :][:, :height, :width] for i, j in NEAR], 3)


def fit(features: Sequence[Tensor], wanted: Tensor, known: int) -> Tensor:
    """Fits `wanted` [M] by a linear function of the features [M, F] and a constant, by least squares on the first
    `known` rows. Returns the function's values for all M rows."""
    every = torch.cat([torch.ones_like(wanted)[:, None], *features], 1)
    some = every[:known]
    square = some.mT @ some
    square += RIDGE * square.trace() * torch.eye(len(square), dtype=square.dtype)
    return every @ torch.linalg.solve(square, some.mT @ wanted[:known])
