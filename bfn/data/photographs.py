"""Crops of photographs that the wheel of scikit-image ships. docs/results.md names their authors and licences."""

import hashlib
import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bfn.configs import Config
from bfn.data.files import Package, damage, find_file
from bfn.data.image_codes import LEVELS, normals, png
from bfn.data.paper_datasets import in_bins
from bfn.data.splits import Data
from bfn_kernels.discretised import from_levels

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SCIKIT_IMAGE = Package(
    "scikit-image==0.26.0",
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    ("--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"),  # the same wheel everywhere
)
SHA256 = "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"
SIDE, BAND = 32, 128  # the side of a crop; the columns of a band, whose last SIDE columns are held out
STRIDE = 8  # rows and columns between the corners of training crops
FITTED = 512  # normals are fitted to about this many training crops; every n-th is taken


def photographs(config: Config) -> Data:
    """Crops [N, 32, 32, 3] of 256 levels. Each photograph is cut into bands of 128 columns. The first 96 columns of a
    band train, in crops that overlap. The other 32 are held out, in crops that do not overlap: for the test and for
    validation in turn. A narrower last band only trains."""
    bands = [photograph.split(BAND, 1) for photograph in read(find_file(config, [SCIKIT_IMAGE.file], [""]))]
    train = torch.cat([crops(band[:, : BAND - SIDE], STRIDE) for some in bands for band in some])
    held_out = [[crops(band[:, BAND - SIDE :], SIDE) for band in some] for some in bands]
    test, validation = (torch.cat([part for some in held_out for part in some[i::2]]) for i in (0, 1))
    return in_bins(train, validation, test, LEVELS, rivals=partial(rivals, train, test))


def read(path: Path) -> list[Tensor]:
    """The photographs in the wheel, uint8 [H, W, 3]."""
    with damage(path, f"the wheel of {SCIKIT_IMAGE.requirement}"):
        content = path.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != SHA256:
            raise ValueError(f"its SHA-256 is {found}, expected {SHA256}")
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            files = [io.BytesIO(wheel.read(f"skimage/data/{name}")) for name in PHOTOGRAPHS]
        return [torch.from_numpy(np.array(Image.open(file).convert("RGB"))) for file in files]


def crops(part: Tensor, stride: int) -> Tensor:
    """The crops [N, SIDE, SIDE, 3] of a part of a photograph; none if it is too narrow."""
    if part.shape[1] < SIDE:
        return part.new_empty(0, SIDE, SIDE, 3)
    return part.unfold(0, SIDE, stride).unfold(1, SIDE, stride).flatten(0, 1).movedim(1, -1)


def rivals(train: Tensor, test: Tensor) -> dict[str, float]:
    """The bits per dimension of the test crops by PNG and by normals."""
    some = train[:: max(1, len(train) // FITTED)]
    known, scored = (from_levels(levels, num_bins=LEVELS, dtype=torch.float64) for levels in (some, test))
    return {"PNG": png(test), "normals given earlier pixels": normals(known, scored).mean().item()}
