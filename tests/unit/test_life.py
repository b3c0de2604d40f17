"""The table of a node's life: whole, without a dead end, and as docs/architecture.md shows it."""

from pathlib import Path

import pytest

from raida_uring import signals
from raida_uring.config import embedded_default
from raida_uring.node.daemon import Daemon
from raida_uring.node.life import LIFE, SIGNALS, Action, Event, Life, Stage, Step

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"

ANY_TIME = [Event.STOP, Event.STOP_NOW, Event.DRAIN, Event.RELOAD, Event.UPGRADE, Event.OVER]
# The columns of the table in the document; other events have one column together.
COLUMNS = [*ANY_TIME, Event.FAULT]
HEADING = f"| stage | {' | '.join(event.name for event in COLUMNS)} | others |"
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


def test_a_signal_is_unused_or_an_event() -> None:
    assert SIGNALS.keys() == signals.TAKEN - signals.UNUSED


def test_every_stage_is_reached() -> None:
    assert reachable(Stage.FOLLOWING) == set(Stage)
    assert reachable(Stage.ALONE) == set(Stage) - {Stage.FOLLOWING, Stage.INHERITING}


@pytest.mark.parametrize("stage", ALIVE)
def test_a_node_ends_once_told_twice(stage: Stage) -> None:
    """At every stage."""
    for happened in (Event.STOP, Event.STOP_NOW, Event.OVER, Event.OVER):
        if stage is not Stage.ENDED:
            stage = LIFE[stage][happened].to or stage
    assert stage is Stage.ENDED


@pytest.mark.parametrize("stage", ALIVE)
def test_what_is_put_off_is_done_in_the_end(stage: Stage) -> None:
    """A stage that defers an event is followed by one that handles it."""
    for happened, step in LIFE[stage].items():
        assert not (step.deferred and step.to), "put off, or done: not both"
        if step.deferred:
            nexts = {other.to for other in LIFE[stage].values() if other.to is not None}
            assert all(happened in LIFE[after] for after in nexts - {Stage.ENDED})


def test_every_action_is_in_the_table_and_is_carried_out() -> None:
    named = {
        action for steps in LIFE.values() for step in steps.values() for action in step.actions
    }
    assert named == set(Action)
    assert set(Daemon(embedded_default())._actions) == set(Action)


def test_a_deferred_event_comes_before_what_the_next_actions_post() -> None:
    life = Life(Stage.INHERITING)
    assert life.happen(Event.STOP) == (Action.STOP_LATER,)
    assert life.posted() is None
    assert life.happen(Event.GONE) == (Action.END_TAKEOVER,)
    assert life.stage is Stage.ALONE
    life.post(Event.FAILED)
    assert [life.posted(), life.posted(), life.posted()] == [Event.STOP, Event.FAILED, None]
    assert life.happen(Event.FAILED) == ()  # ignored at this stage
    assert life.stage is Stage.ALONE


def cell(step: Step | None) -> str:
    if step is None or not (step.to or step.deferred or step.actions):
        return "–"
    if step.to is not None:
        return step.to.name
    if step.deferred:
        return "now and later" if step.actions else "later"
    return "now"


def expected_rows() -> list[str]:
    rows = []
    for stage in ALIVE:
        steps = LIFE[stage]
        cells = [cell(steps.get(happened)) for happened in COLUMNS]
        others = [
            f"{happened.name}: {cell(step)}"
            for happened, step in steps.items()
            if happened not in COLUMNS
        ]
        rows.append(f"| {' | '.join([stage.name, *cells, ', '.join(others) or '–'])} |")
    return rows


def test_the_documentation_shows_it() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = text.splitlines()
    start = lines.index(HEADING) + 2
    assert lines[start : start + len(ALIVE)] == expected_rows()
    assert not lines[start + len(ALIVE)].startswith("|")
    for one in (*Stage, *Event):
        assert f"- `{one.name}`: {one.value}\n" in text
