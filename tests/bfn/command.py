"""The command line, run in the process of the tests."""

from typer.testing import CliRunner

from bfn import cli


def bfn(*arguments):
    """The result of `bfn` with these arguments: its exit code and what it printed."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
