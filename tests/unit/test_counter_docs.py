"""docs/reference.md lists every counter of the data plane with its law, and no other."""

from pathlib import Path

from raida_uring.ffi import native
from raida_uring.observe import metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference.md"
HEADING = "| counter | law | meaning |"
LAW_NAMES = ("UDP", "TCP", "connections")  # in the order of metrics.LAWS
NO_LAW = "–"


def documented() -> list[tuple[str, str]]:
    """Counter and law of each row under the heading."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADING) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        counter, law, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        assert meaning, f"{counter} has no meaning"
        rows.append((counter.strip("`"), law))
    return rows


def law_of(counter: str) -> str:
    """The law that `counter` is a term of, as the page calls it."""
    for name, (received, answered, dropped, under_way) in zip(LAW_NAMES, metrics.LAWS, strict=True):
        if counter in (received, answered, under_way) or counter.startswith(dropped):
            return name
    return NO_LAW


def test_every_counter_is_documented() -> None:
    missing = set(native.COUNTER_NAMES) - {counter for counter, _ in documented()}
    assert not missing, f"add to docs/reference.md: {sorted(missing)}"


def test_every_documented_counter_exists() -> None:
    stray = {counter for counter, _ in documented()} - set(native.COUNTER_NAMES)
    assert not stray, f"remove from docs/reference.md: {sorted(stray)}"


def test_the_order_is_the_code_s() -> None:
    assert [counter for counter, _ in documented()] == list(native.COUNTER_NAMES)


def test_each_counter_stands_beside_its_law() -> None:
    wrong = {counter: law for counter, law in documented() if law != law_of(counter)}
    assert not wrong, f"docs/reference.md names another law than metrics.LAWS: {wrong}"
