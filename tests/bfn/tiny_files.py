"""Tiny files in the formats of the data sets that are downloaded."""

import gzip
import io
import itertools
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_idx(path: Path, images: np.ndarray) -> None:
    content = struct.pack(">4BIII", 0, 0, 8, 3, *images.shape) + images.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


class Python2Pickler(pickle._Pickler):
    """Writes strings and bytes as Python 2 did, which wrote CIFAR-10's files."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[str] = dispatch[bytes] = save_string


def write_cifar(path: Path, images: np.ndarray) -> None:
    """Images [N, 32, 32, 3]."""
    file = io.BytesIO()
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    Python2Pickler(file, protocol=2).dump({"batch_label": path.name, "labels": [3] * len(images), "data": rows})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def levels(seed: int, *shape: int) -> np.ndarray:
    """Random levels with a bright middle, so that there is something to learn."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, shape, dtype=np.uint8)
    images[:, 8:20, 8:20] = random.integers(180, 256, images[:, 8:20, 8:20].shape, dtype=np.uint8)
    return images


def mnist(folder: Path) -> Path:
    write_idx(folder / "MNIST" / "raw" / "train-images-idx3-ubyte.gz", levels(0, 200, 28, 28))
    write_idx(folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz", levels(1, 12, 28, 28))
    return folder


def cifar10(folder: Path) -> Path:
    for i in range(1, 6):
        write_cifar(folder / "cifar-10-batches-py" / f"data_batch_{i}", levels(i, 40, 32, 32, 3))
    write_cifar(folder / "cifar-10-batches-py" / "test_batch", levels(6, 6, 32, 32, 3))
    return folder


def text8(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text8").write_text(" the quick brown fox jumps over the lazy dog" * 40)
    return folder


def moses(folder: Path) -> Path:
    """A wheel as that of MOSES with a few hundred molecules, and the file of their logP, which RDKit would compute."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = [a + b for a in ("C", "N") for b in ("O", "N", "Cl", "Br", "c1ccccc1", "c1cc[nH]c1")]
    molecules = ["C" * i + branch + end for i in range(1, 6) for branch in ("", "O", "(O)", "(Cl)") for end in ends]
    splits = {"train": (molecules * 2)[:300], "test": molecules[:40], "test_scaffolds": ["c1ccc2ccccc2c1", "CCO"] * 10}
    with zipfile.ZipFile(folder / "molsets-0.3.1-py3-none-any.whl", "w") as wheel:
        for name, lines in splits.items():
            content = gzip.compress("\n".join(["SMILES", *lines, ""]).encode())
            wheel.writestr(f"moses/dataset/data/{name}.csv.gz", content)
    np.save(folder / "moses_logp_270.npy", np.linspace(-2, 6, 270, dtype=np.float32))
    return folder


def torsions(seed: int, residues: int) -> np.ndarray:
    """φ and ψ of a chain whose residues stay in a helix or in a strand for some time, in radians."""
    random = np.random.default_rng(seed)
    strand = np.cumsum(random.random(residues) < 0.2) % 2
    means = np.radians([(-63, -42), (-120, 130)])[strand]
    return (means + 0.15 * random.standard_normal((residues, 2)) + np.pi) % (2 * np.pi) - np.pi


def backbone(angles: np.ndarray) -> np.ndarray:
    """The places of N, CA and C of each residue of a chain with these φ and ψ, [residues, 3, 3]. The first φ and the
    last ψ mean nothing."""
    atoms = [np.array(place) for place in ((0.0, 0.0, 0.0), (1.46, 0.0, 0.0), (2.0, 1.42, 0.0))]
    bonds = ((1.33, 116), (1.46, 122), (1.52, 111))  # ångström to N, CA and C, and degrees at the atom before
    for (_, psi), (phi, _) in itertools.pairwise(angles):
        for (length, degrees), torsion in zip(bonds, (psi, np.pi, phi), strict=True):
            a, b, c = atoms[-3:]
            axis = (c - b) / np.linalg.norm(c - b)
            normal = np.cross(b - a, axis)
            normal /= np.linalg.norm(normal)
            bend, side = np.radians(degrees), np.cross(normal, axis)
            turn = np.cos(torsion) * side + np.sin(torsion) * normal
            atoms.append(c + length * (np.sin(bend) * turn - np.cos(bend) * axis))
    return np.stack(atoms).reshape(-1, 3, 3)


def pdb(chains: dict[str, np.ndarray]) -> str:
    """A file of the Protein Data Bank, with side chains, alternative places, a second model and water."""
    lines = []
    for chain, residues in chains.items():
        for number, places in enumerate(residues, 1):
            for name, at in zip(("N", "CA", "C"), places, strict=True):
                for other, shift in ((" ", 0.0),) if number % 5 else (("A", 0.0), ("B", 0.4)):
                    x, y, z = at + shift
                    start = f"ATOM  {1:5d}  {name:<3}{other}ALA {chain}{number:4d}"
                    lines.append(f"{start}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00")
            lines.append(f"ATOM  {1:5d}  CB  ALA {chain}{number:4d}    {0.0:8.3f}{0.0:8.3f}{0.0:8.3f}  1.00")
        lines.append("TER")
    second = [line.replace("ATOM", "ATOM", 1)[:30] + f"{9.0:8.3f}" * 3 for line in lines if line != "TER"]
    water = f"HETATM{1:5d}  O   HOH W{1:4d}    {0.0:8.3f}{0.0:8.3f}{0.0:8.3f}  1.00"
    return "\n".join(["MODEL        1", *lines, water, "ENDMDL", "MODEL        2", *second, "ENDMDL", ""])


def angles(folder: Path) -> Path:
    """An archive as that of the package with the structures, with 20 structures of two chains of 14 residues."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "mdanalysistests-2.11.0.tar.gz", "w:gz") as archive:
        for number in range(20):
            chains = {chain: backbone(torsions(2 * number + i, 14)) for i, chain in enumerate("AB")}
            content = gzip.compress(pdb(chains).encode())
            entry = tarfile.TarInfo(f"mdanalysistests-2.11.0/MDAnalysisTests/data/dssp/{number}.pdb.gz")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return folder


def photographs(folder: Path) -> Path:
    """A stand-in for the wheel of scikit-image. Its photographs have 70 × 300 pixels, whose colours tell the number of
    the photograph, the row and the column. All are in the format PNG, since JPEG would change the colours."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
    rows, columns = np.indices((70, 300))
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for number, photograph in enumerate(("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")):
            file = io.BytesIO()
            pixels = np.stack([rows, columns % 256, 2 * number + columns // 256], -1).astype(np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
            wheel.writestr(f"skimage/data/{photograph}", file.getvalue())
    return folder


ALL = {"mnist": mnist, "cifar10": cifar10, "text8": text8}
