"""What `bfn compress` takes and `bfn decompress` writes: .npy files, text files, and folders of images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bfn.codec.models import Coded
from bfn.codec.rans import Integers
from bfn.configs import ConfigError
from bfn.data import Data
from bfn.data.files import DAMAGE
from bfn.training.checkpoint import write_atomically

TEXT = ".txt"
WRONG: tuple[type[Exception], ...] = (OSError, *DAMAGE)  # errors of reading a file of another kind
SCALES = {2: 255, 256: 1}  # the brightness of level 1 in an image file, for models of so many levels


def read(model: Coded, data: Data, source: Path | str) -> tuple[Integers, int]:
    """Examples [N, ...] of a file, a folder, or the split of this name. Also returns the number of values that fill up
    the last example."""
    if isinstance(source, str):
        return model.to_levels(getattr(data, source)), 0
    if source.suffix == TEXT:
        return of_text(model, data.symbols, source)
    return (of_images if source.is_dir() else of_array)(model, source), 0


def write(model: Coded, data: Data, levels: Integers, padding: int, to: Path) -> None:
    """The inverse of `read`. The kind of file follows from its name: .txt, .npy, or a folder."""
    if to.suffix == TEXT:
        flat, symbols = levels.reshape(-1), characters(data.symbols, to)
        text = "".join(map(symbols.__getitem__, flat[: len(flat) - padding]))
        write_atomically(to, text.encode())
    elif to.suffix:
        write_atomically(to, lambda file: np.save(file, levels.astype(np.uint8)))
    else:
        scale = scale_of(model, to)
        to.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(levels):
            picture = Image.fromarray((each * scale).astype(np.uint8))
            write_atomically(to / f"{number:06}.png", partial(picture.save, format="PNG"))


def of_array(model: Coded, path: Path) -> Integers:
    """Levels are checked, since a level out of range has no interval."""
    try:
        found = np.load(path, allow_pickle=False)
        found = next(iter(found.values())) if isinstance(found, np.lib.npyio.NpzFile) and len(found) == 1 else found
    except WRONG as error:
        raise ConfigError(f"{path} must be an .npy file of whole numbers: {error}") from error
    wanted = f"{path} must hold whole numbers from 0 to {model.levels - 1} of shape [N, {str([*model.shape])[1:]}"
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.shape[1:] != model.shape:
        kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "several arrays"
        raise ConfigError(f"{wanted}, got {kind}")
    if not len(found) or found.min() < 0 or found.max() >= model.levels:
        raise ConfigError(f"{wanted}, got {f'{found.min()} to {found.max()}' if len(found) else 'no examples'}")
    return found.astype(np.int64)


def of_images(model: Coded, folder: Path) -> Integers:
    """The images of a folder, in the order of their names."""
    scale, paths = scale_of(model, folder), sorted(each for each in folder.iterdir() if each.is_file())
    if not paths:
        raise ConfigError(f"the folder {folder} must hold images, got no files")
    return np.stack([of_image(model, path, scale) for path in paths])


def of_image(model: Coded, path: Path, scale: int) -> Integers:
    try:
        picture = Image.open(path)
        pixels = np.array(picture.convert("L") if picture.mode == "1" else picture)
    except WRONG as error:
        raise ConfigError(f"{path} must be an image: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != model.shape or picture.mode == "P":
        raise ConfigError(
            f"{path} must be an image of 8 bits per value and shape {[*model.shape]}, got {picture.mode} "
            f"{list(pixels.shape)}"
        )
    levels, rest = np.divmod(pixels.astype(np.int64), scale)
    if rest.any():
        raise ConfigError(f"{path} must have pixels of 0 and {scale} alone, got {pixels[rest > 0][0]}")
    return levels


def scale_of(model: Coded, folder: Path) -> int:
    if model.levels not in SCALES or len(model.shape) < 2:
        raise ConfigError(
            f"{folder}: only models of images in 2 or 256 levels read and write folders of images, got examples of "
            f"shape {[*model.shape]} in {model.levels} levels; name an .npy file"
        )
    return SCALES[model.levels]


def of_text(model: Coded, symbols: Sequence[str | bytes], path: Path) -> tuple[Integers, int]:
    """The windows of a text. The last one is filled up with the first symbol."""
    known = characters(symbols, path)
    try:
        text = path.read_bytes().decode()
    except WRONG as error:
        raise ConfigError(f"{path} must be a text in UTF-8: {error}") from error
    number = {each: place for place, each in enumerate(known)}
    unknown = next(((place, each) for place, each in enumerate(text) if each not in number), None)
    if not text or unknown is not None:
        got = "nothing" if unknown is None else f"{unknown[1]!r} at place {unknown[0]}"
        raise ConfigError(f"{path} must have characters of {''.join(known)!r} alone, got {got}")
    padding = -len(text) % model.size
    classes = np.array([*map(number.__getitem__, text)] + [0] * padding, np.int64)
    return classes.reshape(-1, *model.shape), padding


def characters(symbols: Sequence[str | bytes], path: Path) -> list[str]:
    """The characters of the model's classes."""
    if not symbols or not all(isinstance(each, str) for each in symbols):
        raise ConfigError(f"{path}: only models of characters read and write text files; name an .npy file")
    return [*map(str, symbols)]
