"""Outcomes of tests that run where they may be cut short: a pytest plugin, and their summary.

tools/test_kernel.sh runs the suites in an emulated machine for hours. Each outcome is appended to a
file outside of it when it is known, so that an interrupted run is continued by the next one.

As a plugin (`-p tests.support.outcomes`), by the environment:

    RAIDA_OUTCOMES         the file of this run, DIRECTORY/TIER-RUN.jsonl
    RAIDA_OUTCOMES_COMMIT  what is tested, noted with each outcome
    RAIDA_OUTCOMES_SHARD   INDEX/COUNT: only every COUNT-th test of the tier, from INDEX (from 1) on
    RAIDA_OUTCOMES_AGAIN   not empty: what has failed runs again; its failure stays on record

Only tests of that tier run, and of these the ones that no file of the directory has an outcome of.
The tiers: "uring" and "epoll", what is parametrised with that backend; "coop", as uring, but not
what refuses io_uring's calls by itself, since a process takes one filter that asks; "any", what
does not depend on the backend; "native" is written by others.

As a program: `python -m tests.support.outcomes [--failed] DIRECTORY` prints the summary; with
--failed also what each failed test printed. Exit status 0 if all passed or were skipped, 1 if a
test failed, 3 if none failed and an outcome is missing.

Each line of a .jsonl file is an object: {"started": TEST}, followed by its outcome unless the run
was cut short; {"test", "outcome", "seconds", "commit", "text"}; {"ended": true} when pytest came to
its end. The file of the same name in .tests names every test that the tier has.
"""

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import pytest

TIERS: Final = ("native", "uring", "epoll", "coop", "any")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended: "passed", "failed" or "skipped".

    seconds: setup, call and teardown; text: the failure, or why skipped; earlier: outcomes of the
    runs before the latest.
    """

    outcome: str
    seconds: float
    commit: str
    text: str
    earlier: tuple[str, ...]


def read_outcomes(directory: Path, tier: str) -> dict[str, Outcome]:
    """The latest outcome of each test of `tier`; a line cut short is passed over."""
    found: dict[str, Outcome] = {}
    for path in sorted(directory.glob(f"{tier}-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if "test" in entry:
                before = found.get(entry["test"])
                found[entry["test"]] = Outcome(
                    entry["outcome"],
                    float(entry.get("seconds", 0)),
                    entry.get("commit", ""),
                    entry.get("text", ""),
                    (*before.earlier, before.outcome) if before else (),
                )
    return found


def read_tests(directory: Path, tier: str) -> set[str]:
    """Every test that `tier` has, as far as any run collected them."""
    return {
        line
        for path in directory.glob(f"{tier}-*.tests")
        for line in path.read_text(encoding="utf-8").splitlines()
    }


def tier_has(tier: str, name: str, backend: str | None) -> bool:
    """Whether the test `name`, parametrised with `backend`, belongs to `tier`."""
    if tier == "any":
        return backend not in ("uring", "epoll")
    if tier == "coop":
        return backend == "uring" and "io_uring" not in name
    return backend == tier


class Recorder:
    """Chooses this run's tests, and appends each outcome to its file at once."""

    def __init__(self, path: Path, commit: str, shard: str, *, again: bool) -> None:
        self._path = path
        self._again = again
        self._tier = path.name.partition("-")[0]
        self._commit = commit
        index, _, count = shard.partition("/")
        self._index, self._count = int(index) - 1, int(count)
        self._reports: list[pytest.TestReport] = []
        self._began = 0.0
        self._file: TextIO = path.open("a", encoding="utf-8")

    def _append(self, entry: dict[str, object]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    # First: a test that -k leaves out still belongs to the tier.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        known = {
            name
            for name, outcome in read_outcomes(self._path.parent, self._tier).items()
            if not (self._again and outcome.outcome == "failed")
        }
        of_tier = [item for item in items if tier_has(self._tier, item.name, _backend_of(item))]
        self._path.with_suffix(".tests").write_text(
            "".join(f"{item.nodeid}\n" for item in of_tier), encoding="utf-8"
        )
        chosen = [item for item in of_tier[self._index :: self._count] if item.nodeid not in known]
        left = set(items) - set(chosen)
        config.hook.pytest_deselected(items=list(left))
        items[:] = chosen

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        self._began = time.monotonic()
        self._append({"started": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        outcomes = {report.outcome for report in self._reports}
        worst = next(name for name in ("failed", "skipped", "passed") if name in outcomes)
        texts = [_text_of(report) for report in self._reports if report.outcome == worst]
        self._append(
            {
                "test": nodeid,
                "outcome": worst,
                "seconds": round(time.monotonic() - self._began, 1),
                "commit": self._commit,
                "text": "" if worst == "passed" else "\n".join(texts),
            }
        )

    def pytest_sessionfinish(self) -> None:
        self._append({"ended": True})


def _backend_of(item: pytest.Item) -> str | None:
    call = getattr(item, "callspec", None)
    return None if call is None else call.params.get("backend")


def _text_of(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    sections = [f"--- {title}\n{content}" for title, content in report.sections]
    return "\n".join([report.longreprtext, *sections])


def pytest_configure(config: pytest.Config) -> None:
    """Record, if the environment says where."""
    if path := os.environ.get("RAIDA_OUTCOMES"):
        commit = os.environ.get("RAIDA_OUTCOMES_COMMIT", "")
        shard = os.environ.get("RAIDA_OUTCOMES_SHARD", "1/1")
        again = bool(os.environ.get("RAIDA_OUTCOMES_AGAIN"))
        recorder = Recorder(Path(path), commit, shard, again=again)
        config.pluginmanager.register(recorder, "outcomes")


def summary(directory: Path, *, failures: bool) -> tuple[str, int]:
    """The summary's text and the exit status that the module's docstring names."""
    lines = ["tier     tests passed failed skipped missing  seconds  commits"]
    details: list[str] = []
    failed = missing = 0
    for tier in TIERS:
        known = read_outcomes(directory, tier)
        tests = read_tests(directory, tier) | set(known)
        counts = Counter(outcome.outcome for outcome in known.values())
        absent = len(tests) - len(known)
        failed += counts["failed"]
        missing += absent + (not tests)
        seconds = sum(outcome.seconds for outcome in known.values())
        commits = ", ".join(sorted({outcome.commit for outcome in known.values()}))
        lines.append(
            f"{tier:8}{len(tests) or '?':>6}{counts['passed']:7}{counts['failed']:7}"
            f"{counts['skipped']:8}{absent if tests else '?':>8}{seconds:9.0f}  {commits}"
        )
        for name, outcome in sorted(known.items()):
            if "failed" in outcome.earlier and outcome.outcome == "passed":
                runs = ", ".join((*outcome.earlier, outcome.outcome))
                details.append(f"repeated {tier}  {name}: {runs}")
            elif outcome.outcome == "failed":
                details.append(f"failed   {tier}  {name}")
                if failures:
                    details.append(outcome.text)
            elif outcome.outcome == "skipped":
                details.append(f"skipped  {tier}  {name}: {outcome.text}")
    status = 1 if failed else 3 if missing else 0
    return "\n".join([*lines, *details]), status


def main() -> int:
    """Print the summary of a directory."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--failed"]
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: outcomes [--failed] DIRECTORY", file=sys.stderr)
        return 2
    text, status = summary(Path(arguments[0]), failures="--failed" in sys.argv)
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
