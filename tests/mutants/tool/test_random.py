"""The rules make the mutants that they should, in an order that the seed decides, and survivors are told."""

import itertools
from pathlib import Path

import pytest

from tests.mutants import __main__ as command_line
from tests.mutants import native_places, python_places, random_run, written

ROOT = Path(__file__).resolve().parents[3]
OPTIONAL = {"out", "min"}


def changed(mutants, text):
    """What each kind makes of the text: the lines that change, as they are then."""
    found = {}
    for mutant in mutants:
        assert mutant.put_into(text) != text
        found.setdefault(mutant.kind, set()).add(mutant.diff(text)[1])
    return found


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("return (a) + b", {"operator": {"return (a) - b"}}),
        ("return α ** β", {"operator": {"return α * β"}}),  # of two bytes each
        ("return a <= b", {"comparison": {"return a < b", "return a >= b"}}),
        ("return a is not None", {"comparison": {"return a is None"}}),
        (
            "return a if b and c else d",
            {"condition": {"return a if b or c else d", "return a if (not (b and c)) else d"}},
        ),
        ("return 2", {"constant": {"return 3", "return 1", "return 0", "return (-2)"}}),
        ("return -0.5", {"constant": {"return 0.0", "return 0.5", "return (-0.25)"}}),
        ("return True", {"constant": {"return False"}}),
        ("return f(a, b)", {"argument": {"return f(b, a)"}}),
        ("return f(a, out=b)", {"argument": {"return f(a)"}}),
        ("return f(out=b, needed=c)", {"argument": {"return f(needed=c)"}}),
        ("return (a\n    ).clamp(min=b)", {"method": {")"}, "argument": {").clamp()"}}),
        ("f(a)", {"statement": {"pass"}}),
        ("a = b\n    new = c", {"statement": {"pass"}}),  # of which the second cannot be left out
        ("raise ValueError(1 + 1)", {"statement": {"pass"}}),
        ("a: dict[int, 4] = b", {}),
        ("'a text'", {}),
        ("return f'{1 + 1}'", {}),
        ("import a", {}),
    ],
)
def test_mutants_of_python(line, wanted):
    text = f"def function(a, b, c, d, f):\n    {line}\n"
    found = changed(python_places.Places("a.py", text, OPTIONAL).found, text)
    assert found == wanted


def test_mutants_of_what_runs_at_import():
    text = "LIMIT = 1.0\n\n\nclass Options:\n    size: int = 0\n\n\ndef f(x, part=True): return x\n"
    mutants = python_places.Places("a.py", text, OPTIONAL).found
    found = changed(mutants, text)
    assert found["default"] == {"size: int = 1", "size: int = (-1)", "def f(x, part=False): return x"}
    assert "LIMIT = 0.5" in found["constant"]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("return a * b;  // a + b", {"operator": "return a / b;  // a + b"}),
        ("const T* a = \"1 + 1\";", {}),
        ("T a = T(2.5f);", {"constant": "T a = T(1.25f);"}),
        ("if (a && b) f();", {"condition": "if (a || b) f();"}),
        ("x[i] = a<b>(c);", {"statement": ";"}),
        ("uint32_t a = 0x10u;", {}),
    ],
)  # fmt: skip
def test_mutants_of_cpp(tmp_path, line, wanted):
    text = f"#define A 1 + 1\nvoid f() {{\n  {line}\n}}\n"
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cpp").write_text(text)
    found = changed(native_places.native_mutants(tmp_path, cuda=False), text)
    assert found.keys() == {f"C++ {kind}" for kind in wanted}
    assert all(after in found[f"C++ {kind}"] for kind, after in wanted.items())


def test_the_seed_decides():
    def first(seed):
        return list(itertools.islice(random_run.mutants(ROOT, seed, "discrete", True, False), 50))

    found = first(3)
    assert found == first(3) != first(4)
    assert len({(one.path, one.begin, one.kind) for one in found}) == 50
    assert len({one.kind for one in found}) > 10 and any(one.path.startswith("csrc/") for one in found)


@pytest.fixture
def report(toy, monkeypatch, capsys):
    """What the tool says of so many mutants of the toy, and its exit status."""
    monkeypatch.setattr(command_line, "ROOT", toy)

    def run(count, *more):
        return command_line.main(["--random", str(count), "--python", "--workers", "1", *more]), capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_survivor_is_an_error_unless_it_is_known(toy, report, monkeypatch):
    """The tests call the function with -2 alone, and do not see another limit than 0."""
    status, said = report(100)
    assert status == 1
    assert "SURVIVED constant bfn/toy.py:2" in said and "    - if x < 0:\n    + if x < " in said
    assert "killed condition bfn/toy.py:2" in said
    assert (toy / "bfn" / "toy.py").read_text().count("x < 0") == 1
    monkeypatch.setattr(random_run, "EQUIVALENTS", [written.Fault("bfn/toy.py", "if x < 0:", "", "a reason")])
    status, said = report(100)
    assert status == 0 and "equivalent constant bfn/toy.py:2" in said and "a reason" in said


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("bfn_kernels/schedules.py", "tests/kernels/test_schedules.py"),
        ("bfn/data/angles.py", "tests/bfn/test_angles.py"),
        ("bfn_kernels/discrete/triton.py", "tests/kernels/test_accuracy.py"),
        ("csrc/cpu/discrete.cpp", "tests/kernels/test_accuracy.py"),
        ("csrc/cuda/discrete.cu", "tests/kernels/test_binary.py"),
    ],
)
def test_the_tests_that_name_a_module_come_first(path, first):
    for arguments, _ in (found := random_run.selections(ROOT, path)):
        assert all((ROOT / name).exists() for name in arguments if name.startswith("tests/"))
    assert found[0].arguments[0] == first


def test_equivalents_still_stand_in_their_files():
    for one in random_run.EQUIVALENTS:
        lines = [line.strip() for line in (ROOT / one.path).read_text().splitlines()]
        assert one.old.split("\n")[0] in lines, f"{one.path}: {one.old}"
        assert one.tests, "a reason"
