"""Configuration: what is accepted, what takes effect, and how faults read."""

import dataclasses
import os
import sys
import threading
from pathlib import Path

import pytest

from raida_uring import config
from raida_uring.errors import ConfigError
from raida_uring.ffi import native
from raida_uring.handlers import page_readers

KEY = "00112233445566778899aabbccddeeff"
SERVERS = ", ".join(f'"raida{number}.example.com:{50000 + number}"' for number in range(25))

# Every key that the reference server's config.toml may have.
REFERENCE_FILE = f"""
[server]
raida_id = 14
coin_id = 6
port = 50014
admin_key = "{KEY}"
proxy_key = "{KEY}"
raida_servers = [{SERVERS}]
proxy_addr = "swap.cloudcoin.org"
proxy_port = 50000
threads = 12
backup_freq = 10
integrity_freq = 14400
synchronization_enabled = true
udp_effective_payload = 1024
btc_confirmations = 2
root_path = "/opt/raida"
"""


def parse(text: str) -> config.Config:
    return config.parse(text, "node.toml")


def parse_with(tables: str) -> config.Config:
    return parse("[server]\nraida_id = 3\n" + tables)


def fault(text: str) -> str:
    """The one-line error that `text` causes."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- What takes effect ------------------------------------------------------------------------


def test_reference_file_is_accepted_unchanged() -> None:
    server = parse(REFERENCE_FILE).server
    assert (server.raida_id, server.coin_id, server.port) == (14, 6, 50014)
    assert server.admin_key == bytes.fromhex(KEY)
    assert server.raida_servers is not None
    assert server.raida_servers[24] == "raida24.example.com:50024"
    assert server.udp_effective_payload == 1024


def test_reference_threads_count_as_workers() -> None:
    assert parse(REFERENCE_FILE).workers.count == 12


def test_workers_count_wins_over_threads() -> None:
    assert parse(REFERENCE_FILE + "[workers]\ncount = 3\n").workers.count == 3


def test_reference_threads_beyond_ours_are_lowered() -> None:
    assert parse("[server]\nraida_id = 1\nthreads = 255\n").workers.count == config.WORKERS_MAX


def test_workers_default_to_the_cores_but_eight_at_least() -> None:
    cores = len(os.sched_getaffinity(0))
    assert parse_with("").workers.count == min(max(8, cores), config.WORKERS_MAX)


def test_port_follows_from_the_raida_id() -> None:
    assert parse_with("").server.port == 50003


def test_port_zero_stays_zero() -> None:
    assert parse("[server]\nraida_id = 3\nport = 0\n").server.port == 0


@pytest.mark.parametrize(
    ("port", "http_port"), [(50003, 60003), (55535, 65535), (55536, 45536), (1, 10001), (0, 0)]
)
def test_the_http_port_follows_from_the_port(port: int, http_port: int) -> None:
    assert parse(f"[server]\nraida_id = 3\nport = {port}\n").http.port == http_port


def test_the_http_port_follows_an_overridden_port_unless_given() -> None:
    assert config.with_overrides(parse_with(""), port=50100).http.port == 60100
    given = parse_with("[http]\nport = 9000\n")
    assert config.with_overrides(given, port=50100).http.port == 9000


def test_without_bind_every_address() -> None:
    assert parse_with("").network.bind == ("0.0.0.0", "::")


def test_without_admin_key_there_is_none() -> None:
    assert parse_with("").server.admin_key is None


def test_embedded_default_is_loopback_with_a_random_key() -> None:
    first, second = config.embedded_default(), config.embedded_default()
    assert first.network.bind == ("127.0.0.1",)
    assert (first.server.raida_id, first.server.port) == (0, 50000)
    assert first.server.admin_key is not None
    assert len(first.server.admin_key) == 16
    assert first.server.admin_key != second.server.admin_key


def test_constants_of_the_issue_are_the_defaults() -> None:
    made = parse_with("")
    assert made.limits.connections_max == 65535
    assert made.limits.body_bytes_max == 65536
    assert made.server.udp_effective_payload == 1440
    assert (made.udp.contexts, made.udp.reserve) == (4096, 512)
    tcp = made.tcp
    assert tcp.progress_timeout_ms == 2_000
    assert (tcp.header_timeout_ms, tcp.body_timeout_ms, tcp.write_timeout_ms) == (
        5_000,
        15_000,
        15_000,
    )
    assert (tcp.keepalive_idle_s, tcp.keepalive_interval_s, tcp.keepalive_probes) == (60, 10, 5)
    assert tcp.idle_timeout_ms == 60_000
    network = made.network
    assert (network.wait_max_ms, network.events_per_lap, network.drain_timeout_ms) == (
        10_000,
        10_000,
        10_000,
    )


def test_every_default_is_allowed() -> None:
    """Otherwise a file could not state the default."""
    for settings in config.SETTINGS.values():
        for setting in settings.values():
            if setting.mandatory or setting.default in (None, dataclasses.MISSING):
                continue
            raw = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            assert setting.kind.parse(raw) == setting.default, setting.key


def test_the_data_plane_applies_what_is_declared_live_and_nothing_else() -> None:
    declared = {
        field.replace("exempt", "exempt_count"): setting.reload != config.RESTART
        for field, setting in config.FIELDS.items()
    }
    assert {field: native.config_is_live(field) for field in declared} == declared


def test_config_is_frozen() -> None:
    made = parse_with("")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.server.raida_id = 4  # type: ignore[misc]  # the point of the test


def test_secrets_stay_out_of_repr() -> None:
    made = parse(REFERENCE_FILE)
    assert KEY not in repr(made)
    assert str(bytes.fromhex(KEY)) not in repr(made)


# --- Ranges -----------------------------------------------------------------------------------

BOUNDED = [
    ("server", "raida_id", 0, 24),
    ("server", "coin_id", 0, 255),
    ("server", "port", 0, 65535),
    ("server", "udp_effective_payload", 512, 65507),
    ("workers", "count", 0, 64),
    ("workers", "slow_count", 1, 64),
    ("workers", "batch_max", 1, 128),
    ("limits", "body_bytes_max", 18, 65536),
    ("tcp", "buffers", 16, 32768),
]


@pytest.mark.parametrize(("table", "key", "low", "high"), BOUNDED)
def test_bounds_are_inside_and_their_neighbours_are_not(
    table: str, key: str, low: int, high: int
) -> None:
    kind = config.SETTINGS[table][key].kind
    assert kind.parse(low) == low
    assert kind.parse(high) == high
    for raw in (low - 1, high + 1):
        with pytest.raises(ValueError, match=r"^$"):
            kind.parse(raw)


@pytest.mark.parametrize("raw", [True, 1.0, "1", [1], None])
def test_only_an_integer_is_an_integer(raw: object) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        config.SETTINGS["server"]["raida_id"].kind.parse(raw)


@pytest.mark.parametrize("raw", [1, 0, "true"])
def test_only_a_boolean_is_a_boolean(raw: object) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        config.SETTINGS["tcp"]["persistent"].kind.parse(raw)


@pytest.mark.parametrize("given", [["0.0.0.0", "::"], ["0.0.0.0", "::1"], ["fe80::1%lo", "::1"]])
def test_addresses_that_stand_side_by_side(given: list[str]) -> None:
    assert config.SETTINGS["network"]["bind"].kind.parse(given) == tuple(given)


def test_as_many_addresses_as_the_data_plane_takes() -> None:
    kind = config.SETTINGS["network"]["bind"].kind
    hosts = [f"127.0.0.{last}" for last in range(1, native.LISTENERS_MAX + 2)]
    assert kind.parse(hosts[:-1]) == tuple(hosts[:-1])
    with pytest.raises(ValueError, match=r"^$"):
        kind.parse(hosts)


# --- Faults: the exact words ------------------------------------------------------------------

FAULTS = [
    ("[server]\nraida_id = 31\n", "[server] raida_id = 31: must be an integer from 0 to 24"),
    ("[server]\nraida_id = true\n", "[server] raida_id = true: must be an integer from 0 to 24"),
    ("[tcp]\n", "[server] raida_id: missing; must be an integer from 0 to 24"),
    ("[server]\nraida_di = 1\n", "[server] raida_di: unknown key; did you mean raida_id?"),
    ("[servr]\nraida_id = 1\n", "[servr]: unknown table; did you mean [server]?"),
    (
        "raida_id = 1\n",
        "raida_id: stands outside any table; did you mean [server] raida_id?",
    ),
    ("server = 1\n", "server: must be a table, written [server]"),
    (
        "[server]\nraida_id = 1\n[network]\nidle_timeout_ms = 5\n",
        "[network] idle_timeout_ms: unknown key; did you mean [tcp] idle_timeout_ms?",
    ),
    (
        '[server]\nraida_id = 1\n[network]\nbackend = "poll"\n',
        '[network] backend = "poll": must be one of "auto", "uring", "epoll"',
    ),
    ("[server]\nraida_id = \n", "line 2, column 12: Invalid value"),
    (
        "[server]\nraida_id = 1\n[server]\n",
        "line 3, column 8: table [server] is there twice: put its keys into one",
    ),
    ("[server]\nraida_id = 1\nraida_id = 2\n", "line 3, column 13: raida_id is there twice"),
    ('[server]\nversion = "1"\nversion = """\n00"""\n', "line 4, column 6: a key is there twice"),
    ('[server]\nversion = "', "line 2, column 12: Unterminated string"),
    (
        '[server]\nraida_id = 1\nraida_servers = ["a:1"]\n',
        '[server] raida_servers = ["a:1"]: must be a list of exactly 25 "host:port" strings',
    ),
    (
        '[server]\nraida_id = 1\nversion = "2025"\n',
        '[server] version = "2025": must be a string of 8 printable ASCII characters',
    ),
    (
        '[server]\nraida_id = 1\n[network]\nbind = ["127.0.0.1", "localhost"]\n',
        '[network] bind = ["127.0.0.1", "localhost"]: "localhost" is not an IP address',
    ),
    (
        '[server]\nraida_id = 1\n[network]\nbind = ["::1", "0:0:0:0:0:0:0:1"]\n',
        '[network] bind = ["::1", "0:0:0:0:0:0:0:1"]: names ::1 twice',
    ),
    (
        "[server]\nraida_id = 1\n[network]\nbind = []\n",
        "[network] bind = []: must be a list of 1 to 16 IP addresses, none twice",
    ),
    *(
        (
            f"[server]\nraida_id = 1\n[network]\nbind = {given}\n",
            f"[network] bind = {given}: {reason}",
        )
        for given, reason in (
            ('["127.0.0.1", "0.0.0.0"]', "0.0.0.0 includes 127.0.0.1"),
            ('["::", "::1"]', ":: includes ::1"),
            ('["::ffff:127.0.0.1"]', "::ffff:127.0.0.1 is IPv4: write 127.0.0.1"),
            ('["224.0.0.1"]', "224.0.0.1 is a multicast address"),
            ('["ff02::1%lo"]', "ff02::1%lo is a multicast address"),
            ('["255.255.255.255"]', "255.255.255.255 is the broadcast address"),
            ('["fe80::1"]', "fe80::1 needs its interface, as in fe80::1%eth0"),
            (
                '["fe80::1%a-name-that-is-too-long"]',
                '"a-name-that-is-too-long" cannot be an interface',
            ),
            ('["fe80::1%\\u0000"]', '"\\u0000" cannot be an interface'),
        )
    ),
    (
        "[server]\nraida_id = 1\n[tcp]\nbuffers = 100\n",
        "[tcp] buffers = 100: must be a power of two from 16 to 32768",
    ),
    (
        "[server]\nraida_id = 1\n[workers]\ncpus = [0, 0]\n",
        "[workers] cpus = [0, 0]: names 0 twice",
    ),
    (
        '[server]\nraida_id = 1\n[handlers]\nmodules = ["a-b"]\n',
        '[handlers] modules = ["a-b"]: "a-b" is not the name of a Python module',
    ),
    (
        "[server]\nraida_id = 1\n[udp]\ncontexts = 32767\nreserve = 2\n",
        "[udp] contexts + reserve = 32769: must be at most 32768",
    ),
    (
        "[server]\nraida_id = 1\n[workers]\ncount = 4\nslow_count = 3\nnative_count = 1\n"
        "[limits]\nsmall_blocks = 15\n",
        "[limits] small_blocks = 15: must be at least 16, two for each of the 8 workers",
    ),
    (
        '[server]\nraida_id = 1\n[store]\npages_for = "peers"\n',
        '[store] pages_for = "peers": needs IP addresses in [server] raida_servers, no names',
    ),
    (
        f'[server]\nraida_id = 3\n[admin]\nsocket = "/{"ü" * 53}/"\n',
        f'[admin] socket = "/{"ü" * 53}/": must be a path of up to 107 bytes',
    ),
    *(
        (
            f"[server]\nraida_id = 3\n[network]\nbind = {bind}\n"
            f'[http]\nlisten = "{listen}"\nport = 50003\n',
            "[http] port = 50003: must differ from [server] port, since [http] listen = "
            f"{listen} meets [network] bind",
        )
        for bind, listen in (
            ('["127.0.0.1"]', "127.0.0.1"),
            ('["0.0.0.0", "::"]', "127.0.0.1"),
            ('["::"]', "::1"),
            ('["127.0.0.2"]', "0.0.0.0"),
            ('["::1"]', "::"),
        )
    ),
]


FAULTS += [
    (
        f"[server]\nraida_id = 3\n[http]\n{line}\n",
        f"[http] {line}: {reason}",
    )
    for line, reason in (
        ('listen = "localhost"', '"localhost" is not an IP address'),
        ("listen = []", "must be an IP address or a list of 1 to 16 IP addresses, none twice"),
        ('listen = ["::", "::1"]', ":: includes ::1"),
        ('hosts = ["raida.example:80"]', '"raida.example:80" is not a host name, without a port'),
        ('hosts = ["a b"]', '"a b" is not a host name, without a port'),
        ('hosts = ["A.b", "a.B."]', "names a.b twice"),
        ('hosts = "raida.example"', "must be a list of host names, none twice"),
    )
]


@pytest.mark.parametrize(("text", "expected"), FAULTS, ids=[expected for _, expected in FAULTS])
def test_fault_names_place_value_and_what_is_allowed(text: str, expected: str) -> None:
    assert fault(text) == f"node.toml: {expected}"


@pytest.mark.parametrize(
    ("server", "bind", "http"),
    [
        ("", '["127.0.0.1"]', 'listen = "127.0.0.2"\nport = 50003'),
        ("", '["::"]', 'listen = "127.0.0.1"\nport = 50003'),
        ("", '["127.0.0.1"]', "enabled = false\nport = 50003"),
        ("port = 0", '["127.0.0.1"]', "port = 0"),
    ],
)
def test_http_beside_the_node_s_own_port(server: str, bind: str, http: str) -> None:
    parse(f"[server]\nraida_id = 3\n{server}\n[network]\nbind = {bind}\n[http]\n{http}\n")


def test_http_listens_on_one_address_or_several() -> None:
    assert parse_with('[http]\nlisten = "::1"\n').http.listen == ("::1",)
    made = parse_with('[http]\nlisten = ["127.0.0.1", "::1"]\nhosts = ["A.Example."]\n')
    assert made.http.listen == ("127.0.0.1", "::1")
    assert made.http.hosts == ("a.example",)
    assert config.parse(config.to_toml(made, show_secrets=True), "again") == made


def test_limits_that_just_fit_together_are_accepted() -> None:
    made = parse_with(
        "[udp]\ncontexts = 32767\nreserve = 1\n"
        "[workers]\ncount = 1\nslow_count = 1\nnative_count = 1\n"
        "[limits]\nsmall_blocks = 6\nlarge_blocks = 6\n"
    )
    assert made.udp.contexts + made.udp.reserve == native.config_range("udp_contexts")[1] + 1


def test_secret_is_not_repeated_in_an_error() -> None:
    message = fault('[server]\nraida_id = 1\nadmin_key = "too-short-but-secret"\n')
    assert message == "node.toml: [server] admin_key: must be a string of 32 hex digits"


@pytest.mark.parametrize(
    ("table", "line"), [("network", "io_cpu = {}"), ("workers", "cpus = [{}]")]
)
def test_cpu_outside_the_affinity_mask_is_refused(table: str, line: str) -> None:
    absent = next(cpu for cpu in range(1024) if cpu not in os.sched_getaffinity(0))
    message = fault(f"[server]\nraida_id = 1\n[{table}]\n{line.format(absent)}\n")
    assert f"CPU {absent} is not one that this process may use" in message


def test_long_values_are_shortened() -> None:
    message = fault(f'[server]\nraida_id = "{"x" * 500}"\n')
    assert len(message) < 200


# --- Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[" * 20_000, "a value in it is too long"),
        ("{a=" * 20_000, "a value in it is too long"),
        ("1" * 5000, "a number in it is too long"),
        ("0x" + "f" * 5000, r"\[server\] raida_id = 0xffff.*must be an integer from 0 to 24"),
    ],
    ids=["brackets", "tables", "digits", "hexadecimal digits"],
)
def test_endless_values_are_faults_like_others(value: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config.parse(f"[server]\nraida_id = {value}\n", "node.toml")


def test_a_pipe_that_nobody_writes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload would wait for ever, and a stop behind it."""
    monkeypatch.setattr(sys.modules["raida_uring.config.load"], "_PIPE_TIMEOUT_S", 0.05)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=r"/fifo: cannot be read: nothing came within 0\.05 s$"):
        config.load(tmp_path / "fifo")


@pytest.mark.parametrize(
    "value", ["5", "true", "1.5", '"x"', "[5]", "[true]", "[[]]", "{}", "1979-05-27"]
)
def test_a_value_of_another_type_is_told_in_one_line(value: str) -> None:
    for table, settings in config.SETTINGS.items():
        for key in settings:
            own = "" if key == "raida_id" else "raida_id = 0\n"
            below = "" if table == "server" else f"[{table}]\n"
            told = f"[{table}] {key}"
            try:
                parse(f"[server]\n{own}{below}{key} = {value}\n")
            except ConfigError as error:
                told = str(error)
            assert f"[{table}] {key}" in told
            assert "\n" not in told


def test_a_directory_is_refused_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        config.load(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_a_pipe_is_read_to_its_end() -> None:
    """`serve --config <(decrypt node.toml)`: what comes in pieces, and late."""
    reading, writing = os.pipe()
    rest = threading.Event()

    def write() -> None:
        os.write(writing, b"[server]\nraida")
        rest.wait()
        os.write(writing, b"_id = 7\n")
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    threading.Timer(0.05, rest.set).start()
    try:
        assert config.load(f"/dev/fd/{reading}").server.raida_id == 7
    finally:
        writer.join()
        os.close(reading)


def test_endless_files_are_not_read() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: is longer than 256 KiB"):
        config.load("/dev/zero")


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(REFERENCE_FILE)
    assert config.load(path) == parse(REFERENCE_FILE)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        config.load(tmp_path / "absent.toml")


def test_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


def test_bytes_that_are_no_text_are_located(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"[server]\nraida_id = 1\n# \xff\n")
    with pytest.raises(ConfigError, match="line 3: is not UTF-8 text"):
        config.load(path)


def test_byte_order_mark_is_named(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\nraida_id = 1\n")
    with pytest.raises(ConfigError, match="line 1: starts with a byte order mark"):
        config.load(path)


# --- Showing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [REFERENCE_FILE, "[server]\nraida_id = 0\nport = 0\n"])
def test_shown_configuration_loads_to_the_same(text: str) -> None:
    made = parse(text)
    assert parse(config.to_toml(made, show_secrets=True)) == made


def test_shown_without_secrets_still_loads() -> None:
    shown = config.to_toml(parse(REFERENCE_FILE))
    assert KEY not in shown
    server = parse(shown).server
    assert server.admin_key is None
    assert server.port == 50014


def test_odd_strings_survive_showing() -> None:
    path = '/srv/"quoted"\\back\tslash\x7f/é😀'
    made = parse_with("")
    made = dataclasses.replace(made, store=dataclasses.replace(made.store, path=path))
    assert parse(config.to_toml(made)).store.path == path


# --- Overrides --------------------------------------------------------------------------------


def test_overrides_replace_what_they_name() -> None:
    changed = config.with_overrides(parse(REFERENCE_FILE), host="::1", port=0, backend="uring")
    assert changed.network.bind == ("::1",)
    assert changed.server.port == 0
    assert changed.network.backend == "uring"
    assert changed.server.raida_id == 14


def test_no_override_changes_nothing() -> None:
    made = parse(REFERENCE_FILE)
    assert config.with_overrides(made) == made


def test_wrong_overrides_name_the_option() -> None:
    made = parse(REFERENCE_FILE)
    with pytest.raises(ConfigError, match=r'^--host name: "name" is not an IP address$'):
        config.with_overrides(made, host="name")
    with pytest.raises(ConfigError, match=r"^--port 65536: must be an integer from 0 to 65535$"):
        config.with_overrides(made, port=65536)
    with pytest.raises(ConfigError, match=r"^--backend poll: must be one of"):
        config.with_overrides(made, backend="poll")
    made = parse_with("[http]\nport = 9000\n")
    with pytest.raises(ConfigError, match=r"^command line: \[http\] port = 9000: must differ"):
        config.with_overrides(made, port=9000)


@pytest.mark.parametrize(
    ("store", "bind", "handed"),
    [
        ('path = "coins"', "", False),
        ('path = "coins"\npages_for = "none"', "", False),
        ('path = "coins"\npages_for = "{}"', "", True),
        ('path = "coins"\npages_for = "{}"', 'bind = ["127.0.0.1", "192.0.2.1"]', True),
        ('path = "coins"\npages_for = "{}"', 'bind = ["127.0.0.1", "::1"]', False),
        ('pages_for = "{}"', "", False),
    ],
)
@pytest.mark.parametrize("readers", ["all", "peers"])
def test_to_whom_pages_are_given(
    store: str, bind: str, handed: bool, readers: str, tmp_path: Path
) -> None:
    path = tmp_path / "node.toml"
    servers = ", ".join(['"192.0.2.1:50000"'] * 25)
    path.write_text(
        f"[server]\nraida_id = 1\nraida_servers = [{servers}]\n[network]\n{bind}\n"
        f"[store]\n{store.format(readers)}\n"
    )
    loaded = config.load(path)
    assert page_readers.handed_to(loaded) == (readers if handed else "none")
