"""Write what the settings' declarations say: the table in docs/configure.md, and the annotated
sample configuration, systemd/raida-uring.toml.

A test compares the committed files with what this makes.
"""

from pathlib import Path

from raida_uring import config

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "configure.md"
SAMPLE = ROOT / "systemd" / "raida-uring.toml"
HEADING = "| table | key | unit | must be | default | on reload | meaning |"


def document(text: str) -> str:
    """`text`, docs/configure.md, with the rows of every setting."""
    lines = text.splitlines()
    start = end = lines.index(HEADING) + 2
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "\n".join([*lines[:start], *config.documented(), *lines[end:]]) + "\n"


if __name__ == "__main__":
    TABLE.write_text(document(TABLE.read_text(encoding="utf-8")), encoding="utf-8")
    SAMPLE.write_text(config.annotated(), encoding="utf-8")
