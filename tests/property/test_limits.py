"""A configuration that is found correct starts, or fails for what the machine has not got."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raida_uring import config
from raida_uring.errors import ConfigError, EngineError, StartError
from raida_uring.ffi import native
from raida_uring.node.server import Server
from tests.support.node import config_text
from tests.support.store import make_store

# What belongs together, at and around the edges; sizes that fit any machine.
TABLES = st.fixed_dictionaries(
    {
        "workers": st.fixed_dictionaries(
            {
                "count": st.sampled_from((0, 1, 2, 8, 63, 64)),
                "slow_count": st.sampled_from((1, 2, 8, 63, 64)),
                "batch_max": st.sampled_from((1, 128)),
            }
        ),
        "limits": st.fixed_dictionaries(
            {
                "small_blocks": st.sampled_from((2, 4, 6, 18, 32, 34, 256, 258, 300)),
                "large_blocks": st.sampled_from((2, 4, 6, 18, 32, 34, 256, 258, 300)),
                "connections_max": st.sampled_from((1, 100)),
                "body_bytes_max": st.sampled_from((18, 65536)),
            }
        ),
        "udp": st.fixed_dictionaries(
            {
                "contexts": st.sampled_from((1, 4096, 32767)),
                "reserve": st.sampled_from((1, 2, 512)),
            }
        ),
        "tcp": st.fixed_dictionaries({"buffers": st.sampled_from((16, 64))}),
        "network": st.fixed_dictionaries(
            {"events_per_lap": st.sampled_from((1, 65536)), "backend": st.just("epoll")}
        ),
    }
)


def tables(**given: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """A configuration that is small and correct but for what is given."""
    return {
        "workers": {"count": 1, "slow_count": 1},
        "limits": {"connections_max": 100, "small_blocks": 300, "large_blocks": 300},
        "network": {"backend": "epoll"},
        **given,
    }


@pytest.fixture(scope="module")
def store_path() -> Iterator[Path]:
    """A fresh store, which takes a while to make."""
    with tempfile.TemporaryDirectory() as directory:
        yield make_store(Path(directory) / "coins")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(given=TABLES, stored=st.booleans())
@example(given=tables(workers={"count": 64, "slow_count": 64}), stored=True)
@example(given=tables(workers={"count": 64, "slow_count": 64}), stored=False)
@example(
    given=tables(
        workers={"count": 8, "slow_count": 8},
        limits={"small_blocks": 4096, "large_blocks": 32, "connections_max": 100},
    ),
    stored=True,
)
@example(
    given=tables(
        workers={"count": 8, "slow_count": 8},
        limits={"small_blocks": 4096, "large_blocks": 34, "connections_max": 100},
    ),
    stored=True,
)
def test_what_is_accepted_starts(
    store_path: Path, given: dict[str, Mapping[str, object]], stored: bool
) -> None:
    text = config_text({**given, "store": {"path": str(store_path)} if stored else {}})
    refused = why_refused(text)
    if refused is not None:  # one line: the key, its value, what is allowed
        assert re.search(r"node\.toml: \[\w+\] .* = .*: must be", refused), refused
        return
    failed = why_failed(Server(config.parse(text, "node.toml")))
    assert re.search("^$|Cannot allocate memory|No space left|TasksMax|LimitNOFILE", failed), failed


def why_refused(text: str) -> str | None:
    """By the configuration; None: it is accepted."""
    try:
        config.parse(text, "node.toml")
    except ConfigError as error:
        return str(error)
    return None


def why_failed(server: Server) -> str:
    """To start; empty: it has not."""
    try:
        server.start()
    except StartError as error:
        return str(error)
    server.stop()
    return ""


def test_engine_names_what_it_refuses() -> None:
    """Also when the configuration was not checked before."""
    good = config.engine_settings(config.parse(config_text({}), "node.toml"), 100)
    assert native.check_config(good) is None
    fault = native.check_config({**good, "writers": 1, "large_blocks": 3})
    assert fault is not None
    assert (fault.field, fault.value) == ("large_blocks", 3)
    threads = ("workers", "slow_workers", "native_workers", "native_writers")
    assert fault.least == 2 * (sum(int(str(good[name])) for name in threads) + 1)
    with pytest.raises(EngineError, match=r"large_blocks = 3, which must be from \d+ to"):
        native.Engine([native.Listener(0, 0, False)], {**good, "large_blocks": 3})


@pytest.mark.parametrize("field", ["workers", "batch_max", "udp_contexts", "tcp_buffers"])
def test_ranges_are_what_is_enforced(field: str) -> None:
    good = config.engine_settings(config.parse(config_text(tables()), "node.toml"), 100)
    least, most = native.config_range(field)
    for value in (least - 1, most + 1):
        fault = native.check_config({**good, field: value})
        assert fault == native.ConfigFault(field, value, least, most)
