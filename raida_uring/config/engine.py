"""Settings as the data plane takes them: the one mapping from a `Config` to `struct ru_config`.

The mapping is made of the declarations in tables.py that have a `c_field`. Pure. Any thread.
"""

from collections.abc import Mapping
from typing import Any, Final

from raida_uring.config.kinds import Setting
from raida_uring.config.tables import EVERY, Config
from raida_uring.ffi import native

FIELDS: Final[Mapping[str, Setting]] = {
    setting.c_field: setting for setting in EVERY if setting.c_field is not None
}
"""The settings of the data plane, by the field of `struct ru_config` that each fills."""


def engine_settings(config: Config, connections_max: int) -> dict[str, Any]:
    """The fields of `struct ru_config`, listeners and `shared_sockets` aside.

    connections_max: as the descriptor limit allows.
    """
    filled: dict[str, Any] = {}
    for field, setting in FIELDS.items():
        outer, _, name = field.rpartition(".")
        struct = filled.setdefault(outer, {}) if outer else filled
        struct[name] = setting.c_value(setting.of(config))
        if isinstance(struct[name], list):
            struct[f"{name}_count"] = len(struct[name])
    # Commands that change coins are answered natively by one thread of their own.
    return filled | {"connections_max": connections_max, "native_writers": filled["writers"]}


def engine_fault(config: Config) -> str | None:
    """What the data plane would refuse: key, value and what is allowed. None: nothing."""
    fault = native.check_config(engine_settings(config, config.limits.connections_max))
    if fault is None:
        return None
    if fault.field == "udp_reserve":
        contexts = config.udp.contexts
        slots, most = contexts + fault.value, contexts + fault.most
        return f"[udp] contexts + reserve = {slots}: must be at most {most}"
    setting = FIELDS[fault.field]
    if fault.value > fault.most:
        return f"{setting} = {fault.value}: must be at most {fault.most}"
    text = f"{setting} = {fault.value}: must be at least {fault.least}"
    if not setting.key.endswith("_blocks"):
        return text
    workers = config.workers.count + config.workers.slow_count + config.workers.native_count
    writer = "" if config.store.path is None else " and for the two that write"
    return f"{text}, two for each of the {workers} workers{writer}"
