"""A small tree whose code the tool changes and whose tests it runs."""

import subprocess

import pytest


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A tree of its own: a function, of whose two branches the tests look at one."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it starts in half the time
    root = tmp_path / "root"
    for folder in ("tests/bfn", "bfn"):
        (root / folder).mkdir(parents=True)
    (root / "bfn" / "toy.py").write_text("def size(x):\n    if x < 0:\n        return -x\n    return x\n")
    (root / "tests" / "bfn" / "test_toy.py").write_text(
        "from bfn.toy import size\n\ndef test_negative():\n    assert size(-2) == 2\n"
    )
    (root / "tests" / "bfn" / "test_environment.py").write_text(
        "import os\nfrom bfn.toy import size\n\n"
        "def test():\n    assert os.environ.get('TOY') == 'a b' and size(-2) == 2\n"
    )
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root
