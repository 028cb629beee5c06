"""Published code before and after its patch. With BFN_OFFICIAL=<a checkout of
github.com/nnaisense/bayesian-flow-networks> one of its configurations is measured, at tiny sizes."""

import csv
import math
import os
import sys

import pytest
from omegaconf import OmegaConf

from benchmarks import patched

OFFICIAL = os.environ.get("BFN_OFFICIAL")
TEXT = OmegaConf.create(
    {
        "data": {"dataset": "text8"},
        "train_loader": {"batch_size": 416},
        "model": {"bayesian_flow": {"parameters": {"n_classes": 27}}},
    }
)


def test_a_batch_is_theirs_unless_the_loss_of_n_steps_would_not_fit():
    sizes = {part: patched.batch_of(TEXT, part) for part in patched.PARTS}
    fewer = sizes.pop(patched.BY_STEPS)
    assert set(sizes.values()) == {416}
    assert fewer * 10 * 256 * 27 * 27 <= 2**28 < (fewer + 1) * 10 * 256 * 27 * 27


def test_another_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        patched.main(["--official", str(tmp_path)])
    assert "has no configuration" in capsys.readouterr().err


@pytest.mark.skipif(OFFICIAL is None, reason="BFN_OFFICIAL names no checkout of the published code")
def test_both_compute_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(patched.memory, "peak_in_a_process", lambda *_, **__: 2**20)
    assert patched.main(["--official", OFFICIAL, "--quick", "--only", "discretized_16", "--out", str(tmp_path)]) == 0
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == list(patched.PARTS)
    for row in rows:
        before, after = (float(row[f"{key}_nats"]) for key in ("before", "after"))
        assert math.isnan(before) if row["part"] == patched.SAMPLED else before == pytest.approx(after, rel=0.2)
        assert 0 < float(row["after_p20_ms"]) <= float(row["after_ms"]) <= float(row["after_p80_ms"])
    report = (tmp_path / "report.txt").read_text()
    assert "cifar10_discretized_16bins" in report and "sampling, a step" in report
