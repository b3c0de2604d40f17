"""docs/configure.md lists every setting exactly as the code has it, and no other."""

from pathlib import Path

from raida_uring import config

DOCUMENT = Path(__file__).parents[2] / "docs" / "configure.md"
HEADING = "| table | key | unit | must be | default | on reload | meaning |"


def expected_rows() -> list[str]:
    """The table's rows as the code says them, in order."""
    rows = []
    for table, settings in config.SETTINGS.items():
        for setting in settings.values():
            unit = setting.unit or "–"
            default = setting.default_text
            if not setting.mandatory and setting.default is not None:
                default = f"`{default}`"
            rows.append(
                f"| `[{table}]` | `{setting.key}` | {unit} | {setting.kind.allowed} | {default} "
                f"| {setting.reload} | {setting.meaning} |"
            )
    return rows


def documented_rows() -> list[str]:
    """The rows under the heading, as they stand."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADING) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows


def test_every_setting_is_documented() -> None:
    missing = [row for row in expected_rows() if row not in documented_rows()]
    assert not missing, "add to docs/configure.md:\n" + "\n".join(missing)


def test_every_documented_setting_exists() -> None:
    stray = [row for row in documented_rows() if row not in expected_rows()]
    assert not stray, "remove from docs/configure.md:\n" + "\n".join(stray)


def test_the_order_is_the_code_s() -> None:
    assert documented_rows() == expected_rows()
