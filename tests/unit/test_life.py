"""The table of a node's life: whole, without a dead end, and as docs/architecture.md shows it."""

from pathlib import Path

import pytest

from raida_uring.node.daemon import LIFE, Event, Stage

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
HEADING = "| stage | the node | what happens → then |"

ANY_TIME = [Event.STOP, Event.HURRY, Event.DRAIN, Event.RELOAD, Event.UPGRADE, Event.OVER]
ALIVE = [stage for stage in Stage if stage is not Stage.ENDED]


def reachable(start: Stage) -> set[Stage]:
    found: set[Stage] = set()
    wanted = {start}
    while wanted:
        stage = wanted.pop()
        found.add(stage)
        wanted |= {step.to for step in LIFE[stage].values() if step.to is not None} - found
    return found


@pytest.mark.parametrize("stage", ALIVE)
def test_what_may_happen_at_any_time_has_a_step(stage: Stage) -> None:
    assert not [happened for happened in ANY_TIME if happened not in LIFE[stage]]


def test_every_stage_is_reached() -> None:
    assert reachable(Stage.FOLLOWING) == set(Stage)
    assert reachable(Stage.ALONE) == set(Stage) - {Stage.FOLLOWING, Stage.INHERITING}


@pytest.mark.parametrize("stage", ALIVE)
def test_a_node_ends_once_told_twice(stage: Stage) -> None:
    """However far it has come: nothing of it waits for anybody."""
    for happened in (Event.STOP, Event.HURRY, Event.OVER, Event.OVER):
        if stage is not Stage.ENDED:
            stage = LIFE[stage][happened].to or stage
    assert stage is Stage.ENDED


@pytest.mark.parametrize("stage", ALIVE)
def test_what_is_put_off_is_done_in_the_end(stage: Stage) -> None:
    """A stage that puts something off is left for one that knows of it."""
    for happened, step in LIFE[stage].items():
        assert not (step.deferred and step.to), "put off, or done: not both"
        if step.deferred:
            nexts = {other.to for other in LIFE[stage].values() if other.to is not None}
            assert all(happened in LIFE[after] for after in nexts - {Stage.ENDED})


def expected_rows() -> list[str]:
    rows = []
    for stage in ALIVE:
        groups: dict[str, list[str]] = {}
        for happened, step in LIFE[stage].items():
            then = f" → {step.to.name}" if step.to else ""
            if step.deferred:
                then = " → and again later" if step.actions else " → later"
            if then or step.actions:
                groups.setdefault(then, []).append(happened.name)
        said = "; ".join(", ".join(names) + then for then, names in groups.items())
        rows.append(f"| {stage.name} | {stage.value} | {said} |")
    return rows


def test_the_documentation_shows_it() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADING) + 2
    assert lines[start : start + len(ALIVE)] == expected_rows()
    assert not lines[start + len(ALIVE)].startswith("|")
    for happened in Event:
        assert f"`{happened.name}`: {happened.value}" in "\n".join(lines)
