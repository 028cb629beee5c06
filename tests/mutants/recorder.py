"""A plugin of pytest that writes which lines of the packages each test runs and how long it takes, to the file that
BFN_RECORD names."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import coverage
import pytest

PACKAGES = ["bfn", "bfn_kernels"]
LIMIT = 20  # seconds of this process after which the rest of a file is left out


class Recorder:
    def __init__(self, to: Path):
        self.to, self.begin = to, time.process_time()
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=[f"{p}/*" for p in PACKAGES])
        self.seconds: dict[str, float] = {}
        self.unfit: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keeps of every test as many items as show each value of each parameter once; of CUDA's kernels on the host,
        which are slow, those of large vocabularies alone, as the others run the same Python as those of the CPU. The
        first of each test come first, since there may be no time for all."""
        seen, turns, count = set(), {}, Counter()
        for item in (item for item in items if "cuda_on_host" not in item.nodeid or "vocabulary" in item.nodeid):
            indices = item.callspec.indices.items() if hasattr(item, "callspec") else [("", 0)]
            function = item.nodeid.partition("[")[0]
            values = {(function, *value) for value in indices}
            if values - seen:
                turns[item] = count[function]
                count[function] += 1
                seen |= values
        config.hook.pytest_deselected(items=[item for item in items if item not in turns])
        items[:] = sorted(turns, key=turns.__getitem__)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Leaves out, by True, what there is no time for."""
        if time.process_time() - self.begin > LIMIT:
            return True
        self.coverage.start()
        self.coverage.switch_context(item.nodeid)
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.outcome != "passed":
            self.unfit.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.coverage.stop()

    def pytest_sessionfinish(self) -> None:
        data = self.coverage.get_data()
        tests = [test for test in self.seconds if test not in self.unfit]
        number = {test: index for index, test in enumerate(tests)}
        lines = {}
        for file in data.measured_files():
            by_line = data.contexts_by_lineno(file)
            found = {line: sorted(number[c] for c in by_line[line] if c in number) for line in sorted(by_line)}
            lines[os.path.relpath(file)] = {line: of for line, of in found.items() if of}
        tests_seconds = [[test, round(self.seconds[test], 3)] for test in tests]
        self.to.write_text(json.dumps({"tests": tests_seconds, "lines": {f: of for f, of in lines.items() if of}}))


def pytest_configure(config: pytest.Config) -> None:
    if to := os.environ.get("BFN_RECORD"):
        config.pluginmanager.register(Recorder(Path(to)))
