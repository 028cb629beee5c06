"""The tables of faults do not rot, and the tool tells what a fault is from what it is not."""

from pathlib import Path

import pytest

from tests.mutants import __main__ as command_line
from tests.mutants import written

ROOT = Path(__file__).resolve().parents[3]


def test_every_fault_can_be_put_in_and_names_its_tests():
    found = written.faults()
    assert len(found) > 100
    assert [line for fault in found if (line := written.wrong(fault, ROOT))] == []
    assert len(set(found)) == len(found), "a fault is listed twice for the same tests"


def test_a_table_is_parsed():
    table = "# what they are\n\na.py\n- one\n- two\n+ three\n: tests/a.py\n: tests/b.py -k c\n- four\n+\n: tests/a.py\n"
    first = ("a.py", "one\ntwo", "three")
    assert written.parsed(table) == [
        (*first, "tests/a.py"),
        (*first, "tests/b.py -k c"),
        ("a.py", "four", "", "tests/a.py"),
    ]


TOY, SEEN, UNFIT = "bfn/toy.py", "tests/bfn/test_toy.py -k negative", "tests/bfn/test_environment.py"


def test_what_the_tool_calls_a_fault(toy, tmp_path):
    sandbox = written.Sandbox(toy, tmp_path / "copy")
    found = [
        written.outcome(sandbox, written.Fault(TOY, old, new, tests)).verdict
        for old, new, tests in [
            ("-x", "x", SEEN),
            ("return x", "return 0", SEEN),  # at which nobody looks
            ("< 0", "> 0", SEEN),  # of the same size as what it replaces, as is the next
            ("< 0", "< 9", f"TOY='a b' {UNFIT}"),
            ("-x", "x", "tests/bfn/test_toy.py -k nobody"),  # no test
            ("return -x", "return return", SEEN),  # no module
            ("-x", "__import__('os').abort()", SEEN),
        ]
    ]
    killed, survived, error = written.KILLED, written.SURVIVED, written.ERROR
    assert found == [killed, survived, killed, survived, error, error, killed]
    assert written.tested(sandbox, SEEN)[0] == 0, "a fault was left behind"
    assert "return -x" in (toy / TOY).read_text(), "the user's own file was touched"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("gone.py", "x", "y", SEEN), "there is no such file"),
        ((TOY, "x", "y", SEEN), "must stand there once, and does 4 times"),
        ((TOY, "abs", "y", SEEN), "must stand there once, and does 0 times"),
        ((TOY, "< 0", "< 0", SEEN), "is not changed"),
        ((TOY, "< 0", "> 0", "-k negative"), "names no file of tests/"),
        ((TOY, "< 0", "> 0", "tests/gone.py"), "tests/gone.py are not there"),
        ((TOY, "< 0", "> 0", SEEN), None),
    ],
)
def test_what_is_wrong_with_a_fault(toy, fields, message):
    found = written.wrong(written.Fault(*fields), toy)
    assert found is None if message is None else message in found


KILLED = (TOY, "-x", "x", SEEN)


@pytest.mark.parametrize(
    ("fields", "only", "status", "message"),
    [
        (KILLED, "toy", 0, "1 killed, 0 SURVIVED, 0 ERROR"),
        ((TOY, "return x", "return 0", SEEN), "toy", 1, "0 killed, 1 SURVIVED, 0 ERROR"),
        ((TOY, "-x", "x", UNFIT), "toy", 2, f"without a fault, pytest {UNFIT}"),
        ((TOY, "x", "y", SEEN), "toy", 2, "must stand there once"),
        (KILLED, "nothing", 2, "no fault has 'nothing' in it"),
    ],
)
def test_exit_status(toy, monkeypatch, capsys, fields, only, status, message):
    monkeypatch.setattr(command_line, "ROOT", toy)
    monkeypatch.setattr(written, "faults", lambda: [written.Fault(*fields)])
    assert command_line.main(["--only", only]) == status
    said = capsys.readouterr().out
    assert message in said and ("assert -2 == 2" in said) == (status == 0)


def test_selections_of_the_same_files_are_joined():
    a, b, c = "tests/test_a.py", "TOY='a b' tests/test_a.py", "tests/test_b.py"
    selections = [f"{a} -k one", f"{a} -k 'two and not three'", b, f"{b} -k one", f"{c} -k one"]
    both = f"{a} -k '(one) or (two and not three)'"
    assert list(written.joined(selections).items()) == list(
        zip(selections, [both, both, b, b, f"{c} -k '(one)'"], strict=True)
    )
