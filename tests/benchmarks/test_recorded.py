"""The record of what runs reached has a line for each command."""

import math

import pytest

from benchmarks import csv_files, experiments
from bfn.configs import load
from bfn.data import load_data
from bfn.results.evaluate import evaluate
from bfn.training.trainer import Trainer


def test_runs_are_recorded(tmp_path, capsys):
    small = ["network.width=8", "network.depth=1", "train.batch_size=4", "train.max_steps=1", "evaluate.repeats=2"]
    config = load("digits", [*small, f"out={tmp_path / 'run'}"])
    data = load_data(config)
    trainer = Trainer(config, data)
    trainer.run()
    path = tmp_path / "runs.csv"
    for command in ("one", "two", "one"):
        assert experiments.main([command, str(trainer.out), "--out", str(path)]) == 0
    one, two = csv_files.read(experiments.Run, path)
    assert (one.command, two.command, one.steps) == ("one", "two", 1) and math.isnan(one.token_bytes)
    bound = evaluate(trainer.best(), data.test, config.evaluate)
    assert (one.bits, one.error, one.baseline) == pytest.approx((bound.bits, bound.error, data.baseline))
    assert f"{bound.bits:.4f} ± {bound.error:.4f}" in capsys.readouterr().out


def test_bits_of_a_byte():
    run = experiments.Run("c", 8.0, 0.4, 9.0, 4.0, 50, 61.2, 2, "p", "t", "d")
    assert experiments.cells(run) == ["`c`", "8.0000 ± 0.4000", "9.0000", "2.000 ± 0.100", "2.250", "50", "61", "2"]
