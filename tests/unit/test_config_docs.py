"""docs/configure.md and the annotated sample describe each setting as its declaration does."""

import re

from raida_uring import config
from raida_uring.cli.main import main
from tools import settings

DEFAULTS = "[server]\nraida_id = 0\n"


def test_the_table_is_what_the_declarations_say() -> None:
    text = settings.TABLE.read_text(encoding="utf-8")
    assert settings.document(text) == text, "run `make docs`"


def test_the_sample_is_what_the_declarations_say() -> None:
    assert settings.SAMPLE.read_text(encoding="utf-8") == config.annotated(), "run `make docs`"


def test_the_sample_holds_every_setting_once() -> None:
    keys = re.findall(r"^#?(\w+) =", config.annotated(), re.M)
    assert keys == [key for table in config.SETTINGS.values() for key in table]


def test_the_sample_uncommented_is_the_default_configuration() -> None:
    uncommented = re.sub(r"^#(\w+ = .)", r"\1", config.annotated(), flags=re.M)
    assert uncommented.count("\n#") < config.annotated().count("\n#")
    assert config.parse(uncommented, "sample") == config.parse(DEFAULTS, "defaults")


def test_the_sample_passes_the_check_as_it_is() -> None:
    assert main(["config", "check", str(settings.SAMPLE)]) == 0


def test_an_annotated_configuration_loads_to_the_same() -> None:
    text = (
        f'[server]\nraida_id = 3\nadmin_key = "{"00" * 16}"\n[workers]\ncount = 9\n'
        '[tcp]\npersistent = true\n[store]\npath = "coins"\n'
    )
    chosen = config.parse(text, "node.toml")
    shown = config.annotated(chosen, show_secrets=True)
    assert config.parse(shown, "shown") == chosen
    given = set(re.findall(r"^(\w+ = .*)", text, re.M))
    assert set(re.findall(r"^(\w+ = .*)", shown, re.M)) == given
    assert "00" * 16 not in config.annotated(chosen)
