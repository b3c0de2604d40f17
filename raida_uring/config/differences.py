"""What a reload changes: the settings that two configurations disagree on. Pure. Any thread."""

from dataclasses import dataclass

from raida_uring.config.kinds import Setting, toml_value
from raida_uring.config.tables import EVERY, Config, with_value
from raida_uring.protocol.arguments import shorten


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that two configurations disagree on. Values as TOML; secrets are not shown."""

    setting: Setting
    old: object
    new: object

    def __str__(self) -> str:
        if self.setting.secret:
            return str(self.setting)
        old, new = (
            "not set" if value is None else shorten(toml_value(value))
            for value in (self.old, self.new)
        )
        return f"{self.setting} {old} -> {new}"


def differences(old: Config, new: Config) -> list[Difference]:
    """Every setting whose value differs, in the order of declaration."""
    return [
        Difference(setting, setting.of(old), setting.of(new))
        for setting in EVERY
        if setting.of(old) != setting.of(new)
    ]


def with_settings(config: Config, changes: list[Difference]) -> Config:
    """Return `config` with the new values of `changes`."""
    for change in changes:
        config = with_value(config, change.setting, change.new)
    return config
