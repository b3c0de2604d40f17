"""docs/pitfalls.md lists every pitfall, and beside each the tests of its name, no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "pitfalls.md"
HEADING = "| number | the kernel | the node | tests |"
NUMBERS = [f"3.{number}" for number in range(1, 13)] + [f"6.{number}" for number in range(1, 8)]
DEFINITION = re.compile(r"^ *(?:def|static void) (test_pitfall_\w+)\(", re.MULTILINE)
RUN = re.compile(r"^    RUN\((test_pitfall_\w+)\);", re.MULTILINE)


def documented() -> list[tuple[str, set[str]]]:
    """Number and tests of each row under the heading."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = []
    for line in lines[lines.index(HEADING) + 2 :]:
        number, _, node, tests = (cell.strip() for cell in line.strip("|").split("|"))
        assert node, f"what the node does about {number} is missing"
        rows.append((number, set(re.findall(r"`(\w+)`", tests))))
    return rows


def defined() -> list[str]:
    """Every test of a pitfall's name, in Python and in C; one in C must be run, too."""
    names: list[str] = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        names += DEFINITION.findall(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "tests").rglob("*.c")):
        text = path.read_text(encoding="utf-8")
        here = DEFINITION.findall(text)
        assert sorted(here) == sorted(RUN.findall(text)), f"{path.name} does not run them all"
        names += here
    return names


def number_of(test: str) -> str:
    """test_pitfall_3_12_what_it_says -> 3.12"""
    found = re.match(r"test_pitfall_(\d)_(\d+)_", test)
    assert found, f"{test} names no pitfall"
    return f"{found[1]}.{found[2]}"


def test_every_pitfall_is_documented_once_and_in_order() -> None:
    assert [number for number, _ in documented()] == NUMBERS


def test_every_pitfall_has_a_test_named_after_it() -> None:
    tested = {number_of(test) for test in defined()}
    assert not set(NUMBERS) - tested, "each needs a test"
    assert not tested - set(NUMBERS), "names of no pitfall"


def test_the_table_names_each_test_beside_its_pitfall() -> None:
    names = defined()
    assert len(names) == len(set(names)), "a name for one test"
    assert dict(documented()) == {
        number: {test for test in names if number_of(test) == number} for number in NUMBERS
    }
