import os
import pickle

import pytest
import torch

from bfn.training import checkpoint
from bfn.training.checkpoint import CheckpointError

OLD = {"w": torch.arange(1000.0), "n": torch.tensor(3)}
TYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
NEW = {"w": -torch.arange(1000.0), "n": torch.tensor(4)}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "c.safetensors", OLD, {"step": 1, "best": float("inf")})
    return tmp_path / "c.safetensors"


def assert_old(path):
    tensors, state = checkpoint.load(path)
    assert state == {"step": 1, "best": float("inf")}
    assert tensors.keys() == OLD.keys() and all(torch.equal(tensors[k], OLD[k]) for k in OLD)


def test_what_is_saved_comes_back(path):
    assert_old(path)
    checkpoint.save(path, NEW, {"step": 2})
    tensors, state = checkpoint.load(path)
    assert torch.equal(tensors["w"], NEW["w"]) and state == {"step": 2}


FORMS = {
    "one that requires a gradient": lambda: torch.arange(6.0).requires_grad_(),
    "a result with a gradient": lambda: torch.arange(6.0).requires_grad_() * 2,
    "a parameter": lambda: torch.nn.Parameter(torch.ones(2, 3)),
    "a transposed one": lambda: torch.arange(6.0).view(2, 3).t(),
    "a part of another": lambda: torch.arange(8.0)[1::2],
    "an expanded one": lambda: torch.ones(1, 3).expand(4, 3),
    "an empty one": lambda: torch.empty(0, 3),
    "a number": lambda: torch.tensor(2.5),
    **{f"one of {str(kind)[6:]}": lambda kind=kind: torch.tensor([0, 1, 1]).to(kind) for kind in TYPES},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_of_any_form_comes_back(form, tmp_path):
    tensor = FORMS[form]()
    checkpoint.save(tmp_path / "c", {"x": tensor}, {})
    back = checkpoint.load(tmp_path / "c")[0]["x"]
    assert back.dtype == tensor.dtype and torch.equal(back, tensor) and not back.requires_grad


def fail(*args):
    raise OSError("disk full")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch, call):
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, NEW, {"step": 2})
    monkeypatch.undo()
    assert_old(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_file_is_on_the_disk_before_its_name_and_the_directory_after(path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number):
        done.append(path.parent if os.path.samestat(os.fstat(number), path.parent.stat()) else "a file")
        fsync(number)

    def noted_replace(old, new):
        done.append(new)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    checkpoint.save(path, NEW, {"step": 2})
    assert done == ["a file", path, path.parent]


def test_a_save_that_fails_says_which_file_it_was(path):
    path.with_name(f".{path.name}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        checkpoint.save(path, NEW, {"step": 2})
    assert_old(path)


def test_a_save_that_is_killed_half_way_leaves_the_old_file(path):
    child = os.fork()
    if child == 0:
        os.fsync = lambda number: os._exit(9)
        checkpoint.save(path, NEW, {"step": 2})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert_old(path)


@pytest.mark.parametrize("length", [0, 4, 100, 2000, -1])
def test_a_truncated_file_is_one_clear_error(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"checkpoint .*c.safetensors cannot be read, it may be truncated"):
        checkpoint.load(path)


def test_a_flipped_bit_is_found_in_tensors_and_in_the_state(path):
    good = path.read_bytes()
    for place in (len(good) - 40, good.index(b'\\"step\\": 1') + 10):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bytes(bad))
        with pytest.raises(CheckpointError, match=r"c.safetensors is damaged: its content does not match its checksum"):
            checkpoint.load(path)


def test_a_state_that_is_damaged_is_one_clear_error_even_without_the_tensors(path):
    path.write_bytes(path.read_bytes().replace(b'\\"step\\": 1', b'\\"step\\"; 1'))
    with pytest.raises(CheckpointError, match=r"c.safetensors is damaged: its state is not JSON"):
        checkpoint.state(path)


def test_tensors_that_change_names_or_shape_are_found(path):
    tensors = {"a": torch.arange(4.0), "b": -torch.arange(4.0)}
    checkpoint.save(path, tensors, {})
    good = path.read_bytes()
    for old, new in ((b'"a":', b'"A":'), (b'"shape":[4]', b'"shape":[1,4]')):
        path.write_bytes(moved := good.replace(old, new, 1))
        assert moved != good
        # one byte more in the header, which begins with its length and ends in spaces
        size = int.from_bytes(good[:8], "little") + len(moved) - len(good)
        path.write_bytes(size.to_bytes(8, "little") + moved[8:])
        with pytest.raises(CheckpointError, match=r"c.safetensors is damaged"):
            checkpoint.load(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_is_refused_and_never_run(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"c.safetensors cannot be read"):
        checkpoint.load(path)
    assert not (path.parent / "exploded").exists()


def test_a_missing_or_foreign_file_is_named(path):
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*other.safetensors"):
        checkpoint.load(path.with_name("other.safetensors"))
    save_file(OLD, path)
    with pytest.raises(CheckpointError, match=r"c.safetensors was not written by bfn"):
        checkpoint.load(path)
