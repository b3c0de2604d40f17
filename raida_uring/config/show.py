"""Writing: a configuration as TOML, plain or with each setting explained.

systemd/raida-uring.toml is what annotated() returns (`make docs`). Pure. Any thread.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Final

from raida_uring.config.kinds import LIVE, LOWER, RESTART, Setting, toml_value
from raida_uring.config.load import parse
from raida_uring.config.tables import SETTINGS, TABLE_TYPES, Config

_COLUMNS: Final = 100
_CHANGES: Final = {
    RESTART: "a change needs a restart",
    LIVE: "a reload applies a change",
    LOWER: "a reload applies a change, up to the value at start",
}

_SAMPLE_HEAD: Final = """\
# Every setting of raida-uring, with its meaning and its default.
#
# To change a setting remove the # in front of it; a setting that is left out keeps its default.
# Check the result with `raida-uring config check FILE`. The file may hold keys: let nobody but the
# node's user read it (chmod 640).
"""


def to_toml(config: Config, *, show_secrets: bool = False) -> str:
    """Return `config` as TOML that loads to the same values again.

    Settings without a value, and secrets unless `show_secrets`, stand in comments.
    """
    lines: list[str] = []
    for table, settings in SETTINGS.items():
        lines.append(f"[{table}]")
        for setting in settings.values():
            value = setting.of(config)
            if value is None:
                lines.append(f"# {setting.key} is not set")
            elif setting.secret and not show_secrets:
                lines.append(f"# {setting.key} is set, not shown")
            else:
                lines.append(f"{setting.key} = {toml_value(value)}")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def annotated(config: Config | None = None, *, show_secrets: bool = False) -> str:
    """Return `config` as TOML with each setting explained.

    A setting at its default is commented out, as `#key = value`; without a default, as `#key =`.
    None: the sample, RAIDA 0 with every setting at its default.
    """
    raida_id = 0 if config is None else config.server.raida_id
    default = parse(f"[server]\nraida_id = {raida_id}\n", "default")
    lines = [_SAMPLE_HEAD] if config is None else []
    for table, settings in SETTINGS.items():
        purpose = (TABLE_TYPES[table].__doc__ or "").partition(": ")[2]
        lines += [f"[{table}]", *_comment(purpose), ""]
        for setting in settings.values():
            lines += _comment(f"{setting.meaning}.")
            lines += _comment(f"{setting.kind.allowed}{_bounds(setting)}.")
            lines += [_assignment(setting, default, config or default, show_secrets), ""]
    return "\n".join(lines[:-1]) + "\n"


def _comment(text: str) -> Iterator[str]:
    text = text[0].upper() + text[1:]
    return (f"# {line}" for line in textwrap.wrap(text, _COLUMNS - 2, break_on_hyphens=False))


def _bounds(setting: Setting) -> str:
    """Unit, default, and when a change takes effect."""
    unit = f" ({setting.unit})" if setting.unit else ""
    told = re.sub(r"\[\w+\]\(([^)]*)\)", r"docs/\1", setting.shown_default)  # a link's target
    default = "" if setting.mandatory else f"; default: {told}"
    return f"{unit}{default}; {_CHANGES[setting.reload]}"


def _assignment(setting: Setting, default: Config, config: Config, show_secrets: bool) -> str:
    value = setting.of(config)
    if value is None:
        return f"#{setting.key} ="
    if setting.secret and not show_secrets:
        return f"# {setting.key} is set, not shown"
    if setting.mandatory or value != setting.of(default):
        return f"{setting.key} = {toml_value(value)}"
    # What is declared, not what follows from it: the number of workers depends on the machine.
    declared = value if setting.default is MISSING else setting.default
    return f"#{setting.key} = {toml_value(declared)}"
