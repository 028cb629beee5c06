"""The list of faults does not rot, and the tool tells what a fault is from what it is not."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MUTANTS = ROOT / "tests" / "mutants"


@pytest.fixture(scope="module")
def tool():
    """The folder must not stay on the path: a table there has the name of the package `bfn`."""
    sys.path.insert(0, str(MUTANTS))
    try:
        spec = importlib.util.spec_from_file_location("mutants_main", MUTANTS / "__main__.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # with fault.py, which the tables import
    finally:
        sys.path.remove(str(MUTANTS))
    return module


@pytest.fixture(scope="module")
def workshop(tool):
    return sys.modules["workshop"]


def test_every_fault_can_be_put_in_and_names_its_tests(workshop):
    found = workshop.faults()
    assert len(found) > 20
    assert [line for fault in found if (line := workshop.wrong(fault, ROOT))] == []
    assert len(set(found)) == len(found), "a fault is listed twice for the same tests"


def test_every_family_has_faults(workshop):
    """In its formulas, in the kernels for each device, and in its Python."""
    put_in = {fault.path for fault in workshop.faults()}
    for family in (path.parent.name for path in ROOT.glob("bfn_kernels/*/operators.py")):
        for files in (f"csrc/math/{family}*", f"csrc/cpu/{family}*", f"csrc/cuda/{family}*", f"bfn_kernels/{family}/*"):
            there = {str(path.relative_to(ROOT)) for path in ROOT.glob(files)}
            assert not there or there & put_in, f"a table of tests/mutants needs a Fault in {files}"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A tree of its own: a function, of whose two branches the tests look at one."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it starts in half the time
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    (root / "toy.py").write_text("def size(x):\n    return -x if x < 0 else x\n")
    (root / "tests" / "test_toy.py").write_text(
        "from toy import size\n\ndef test_negative():\n    assert size(-2) == 2\n"
    )
    (root / "tests" / "test_environment.py").write_text(
        "import os\nfrom toy import size\n\ndef test():\n    assert os.environ.get('TOY') == 'a b' and size(-2) == 2\n"
    )
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


SEEN = "tests/test_toy.py -k negative"


def test_what_the_tool_calls_a_fault(toy, tmp_path, workshop):
    Fault = workshop.Fault
    shop = workshop.Workshop(toy, tmp_path / "copy")
    found = [
        shop.outcome(Fault("toy.py", old, new, tests)).verdict
        for old, new, tests in [
            ("-x if", "x if", SEEN),
            ("else x", "else 0", SEEN),  # at which nobody looks
            ("< 0", "> 0", SEEN),  # of the same size as what it replaces, as is the next
            ("< 0", "< 9", "TOY='a b' tests/test_environment.py"),
            ("-x if", "x if", "tests/test_toy.py -k nobody"),  # no test
            ("return", "return return", SEEN),  # no module
            ("-x if", "__import__('os').abort() if", SEEN),
        ]
    ]
    killed, survived, error = workshop.KILLED, workshop.SURVIVED, workshop.ERROR
    assert found == [killed, survived, killed, survived, error, error, killed]
    assert shop.test(SEEN)[0] == 0, "a fault was left behind"
    assert "-x if x < 0 else x" in (toy / "toy.py").read_text(), "the user's own file was touched"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("gone.py", "x", "y", SEEN), "there is no such file"),
        (("toy.py", "x", "y", SEEN), "must stand there once, and does 4 times"),
        (("toy.py", "abs", "y", SEEN), "must stand there once, and does 0 times"),
        (("toy.py", "< 0", "< 0", SEEN), "is not changed"),
        (("toy.py", "< 0", "> 0", "-k negative"), "names no file of tests/"),
        (("toy.py", "< 0", "> 0", "tests/gone.py"), "tests/gone.py are not there"),
        (("toy.py", "< 0", "> 0", SEEN), None),
    ],
)
def test_what_is_wrong_with_a_fault(toy, workshop, fault, message):
    found = workshop.wrong(workshop.Fault(*fault), toy)
    assert found is None if message is None else message in found


KILLED = ("toy.py", "-x if", "x if", SEEN)
UNFIT = "tests/test_environment.py"


@pytest.mark.parametrize(
    ("fault", "only", "status", "message"),
    [
        (KILLED, "toy", 0, "1 killed, 0 SURVIVED, 0 ERROR"),
        (KILLED, "toy", 0, "assert -2 == 2"),
        (("toy.py", "else x", "else 0", SEEN), "toy", 1, "0 killed, 1 SURVIVED, 0 ERROR"),
        (("toy.py", "-x if", "x if", UNFIT), "toy", 2, f"without a fault, pytest {UNFIT}"),
        (("toy.py", "x", "y", SEEN), "toy", 2, "must stand there once"),
        (KILLED, "nothing", 2, "no fault has 'nothing' in it"),
    ],
)
def test_exit_status(toy, tool, workshop, monkeypatch, capsys, fault, only, status, message):
    monkeypatch.setattr(tool, "ROOT", toy)
    monkeypatch.setattr(tool, "faults", lambda: [workshop.Fault(*fault)])
    assert tool.main(["--only", only]) == status
    assert message in capsys.readouterr().out


def test_selections_of_the_same_files_are_joined(workshop):
    a, b, c = "tests/test_a.py", "TOY='a b' tests/test_a.py", "tests/test_b.py"
    given = [f"{a} -k one", f"{a} -k 'two and not three'", b, f"{b} -k one", f"{c} -k one"]
    both = f"{a} -k '(one) or (two and not three)'"
    assert list(workshop.joined(given).items()) == list(zip(given, [both, both, b, b, f"{c} -k '(one)'"], strict=True))
