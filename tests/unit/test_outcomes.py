"""The record of outcomes by which an interrupted run of the suites is continued."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.command_line import environment, execute
from tests.support.outcomes import read_outcomes, read_tests, summary, tier_has

PLUGIN = "tests.support.outcomes"
TESTS = """
import os
import pytest

@pytest.fixture(params=["uring", "epoll"])
def backend(request):
    return request.param

def test_one(backend):
    pass

def test_two(backend):
    if os.environ.get("TWO") == "exit":
        os._exit(7)
    assert os.environ.get("TWO") != "fail", "two is wrong"

def test_three(backend):
    pytest.skip("no such feature")

def test_io_uring_refused(backend):
    pass

def test_four():
    pass
"""


def run(place: Path, name: str, **variables: str) -> int:
    """A pytest over TESTS that records into `place`/`name`.jsonl; its exit status."""
    tests = place / "tests"
    tests.mkdir(exist_ok=True)
    (tests / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tests / "test_some.py").write_text(TESTS, encoding="utf-8")
    record = {"RAIDA_OUTCOMES": str(place / f"{name}.jsonl"), "RAIDA_OUTCOMES_COMMIT": "abc"}
    around = {
        name: value
        for name, value in environment().items()
        if not name.startswith("RAIDA_OUTCOMES")
    }
    return execute(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", PLUGIN, "test_some.py"),
        cwd=tests,
        env={**around, **record, **variables},
    ).returncode


def brief(place: Path, tier: str) -> dict[str, str]:
    """Outcomes by the test's function name."""
    return {
        name.partition("::")[2].partition("[")[0]: outcome.outcome
        for name, outcome in read_outcomes(place, tier).items()
    }


def test_an_interrupted_run_is_continued(tmp_path: Path) -> None:
    """A test with an outcome does not run again; one that was cut short does."""
    assert run(tmp_path, "uring-1", TWO="exit") == 7
    assert brief(tmp_path, "uring") == {"test_one": "passed"}
    assert json.loads((tmp_path / "uring-1.jsonl").read_text().splitlines()[-1]) == {
        "started": "test_some.py::test_two[uring]"
    }
    assert summary(tmp_path, failures=False)[1] == 3

    assert run(tmp_path, "uring-2") == 0
    assert brief(tmp_path, "uring") == {
        "test_one": "passed",
        "test_two": "passed",
        "test_three": "skipped",
        "test_io_uring_refused": "passed",
    }
    assert len(read_tests(tmp_path, "uring")) == 4
    assert "test_one" not in (tmp_path / "uring-2.jsonl").read_text()


def test_a_failure_stays_on_record(tmp_path: Path) -> None:
    assert run(tmp_path, "epoll-1", TWO="fail") == 1
    text, status = summary(tmp_path, failures=True)
    assert status == 1
    assert "failed   epoll  test_some.py::test_two[epoll]" in text
    assert "two is wrong" in text
    assert "skipped  epoll  test_some.py::test_three[epoll]: Skipped: no such feature" in text

    assert run(tmp_path, "epoll-2") == 5, "a failure is an outcome"
    assert run(tmp_path, "epoll-3", RAIDA_OUTCOMES_AGAIN="1") == 0
    found = read_outcomes(tmp_path, "epoll")["test_some.py::test_two[epoll]"]
    assert (found.outcome, found.earlier, found.commit) == ("passed", ("failed",), "abc")
    text, status = summary(tmp_path, failures=False)
    assert "repeated epoll  test_some.py::test_two[epoll]: failed, passed" in text
    assert status == 3, "the other tiers are missing"


def test_shards_share_out_a_tier(tmp_path: Path) -> None:
    assert run(tmp_path, "uring-1", RAIDA_OUTCOMES_SHARD="1/2") == 0
    first = set(read_outcomes(tmp_path, "uring"))
    assert run(tmp_path, "uring-2", RAIDA_OUTCOMES_SHARD="2/2") == 0
    assert len(first) == 2
    assert set(read_outcomes(tmp_path, "uring")) == read_tests(tmp_path, "uring")


def test_a_line_cut_short_is_no_outcome(tmp_path: Path) -> None:
    (tmp_path / "any-1.jsonl").write_text('{"test": "a", "outcome": "passed"}\n{"test": "b", "ou')
    assert set(read_outcomes(tmp_path, "any")) == {"a"}


@pytest.mark.parametrize(
    ("name", "of_backend", "tiers"),
    [
        ("test_one[uring]", "uring", {"uring", "coop"}),
        ("test_one[epoll]", "epoll", {"epoll"}),
        ("test_io_uring_refused[uring]", "uring", {"uring"}),
        ("test_one[auto]", "auto", {"any"}),
        ("test_one", None, {"any"}),
    ],
)
def test_every_test_has_its_tiers(name: str, of_backend: str | None, tiers: set[str]) -> None:
    all_tiers = ("uring", "epoll", "coop", "any")
    assert {tier for tier in all_tiers if tier_has(tier, name, of_backend)} == tiers
