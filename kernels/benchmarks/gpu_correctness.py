"""The correctness stage of `on_gpu.py`: the tests marked `gpu`, in this process, a row for each."""

from pathlib import Path
from typing import Any

import pytest
from gpu_rows import FAILED, OK, SKIPPED, Recorder

ROOT = Path(__file__).parents[2]
FILES = ("tests/kernels/test_on_device.py", "tests/test_on_device.py")


class RowPerTest:
    """Takes every n-th test, writes a row as each ends, and stops when the time is over."""

    def __init__(self, recorder: Recorder, shard: int, shards: int) -> None:
        self.recorder, self.shard, self.shards = recorder, shard, shards

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = items[self.shard :: self.shards]

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.replace("::", " ").removeprefix("tests/")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            note = " ".join(str(crash.message if crash else report.longrepr).split())[:300]
            self.recorder.add(name, status=FAILED, note=f"{report.when}: {note}")
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.recorder.add(name, status=SKIPPED, note=reason.removeprefix("Skipped: "))
        elif report.when == "call":
            self.recorder.add(name, status=OK)

    def pytest_runtest_protocol(self, item: Any) -> bool | None:
        if self.recorder.seconds_left > 0:
            return None
        self.recorder.add(item.nodeid.removeprefix("tests/"), status=SKIPPED, note="no time was left")
        return True


def run(recorder: Recorder, shard: int, shards: int) -> None:
    """Run one share of the tests."""
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=short", "-m", "gpu", "--rootdir", str(ROOT)]
    files = [str(ROOT / file) for file in FILES]
    code = pytest.main([*options, *files], plugins=[RowPerTest(recorder, shard, shards)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        recorder.add("the test run", status=FAILED, note=f"pytest ended with {code!s}")
