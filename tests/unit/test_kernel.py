"""The probe's diagnosis of a refusal, and the shape of its output, which others may rely on."""

import dataclasses
import errno
import json
from typing import Final

import pytest

from raida_uring.ffi import native_probe
from raida_uring.node import probe
from raida_uring.node.causes import Circumstances, call_of, diagnose, explain_refusal
from raida_uring.node.probe import Feature, Limit, Probe, Verdict

FREE: Final = Circumstances(
    disabled=0,
    group=-1,
    seccomp=False,
    privileged=False,
    groups=(1000,),
    lsms="capability,apparmor",
    memlock_bytes=64 << 10,
)
OLD: Final = dataclasses.replace(FREE, disabled=None, group=None)  # before 6.6
FILTERED: Final = dataclasses.replace(FREE, seccomp=True)
OFF: Final = dataclasses.replace(FREE, disabled=2)
GROUP: Final = dataclasses.replace(FREE, disabled=1, group=77)


@pytest.mark.parametrize(
    ("number", "call", "around", "cause", "words"),
    [
        (errno.EPERM, "setup", FILTERED, "seccomp", "io_uring_enter"),
        (errno.EPERM, "setup", OFF, "io_uring_disabled", "sysctl kernel.io_uring_disabled=0"),
        (errno.EPERM, None, OFF, "io_uring_disabled", "= 2"),
        (errno.EPERM, "setup", GROUP, "io_uring_group", "kernel.io_uring_group = 77"),
        # The switch lets a member, a privileged process and a ring already made pass.
        (errno.EPERM, "setup", dataclasses.replace(GROUP, groups=(77,)), "other", "sandbox"),
        (errno.EPERM, "setup", dataclasses.replace(GROUP, privileged=True), "other", "sandbox"),
        (errno.EPERM, "enter", dataclasses.replace(OFF, seccomp=True), "seccomp", "filter"),
        (errno.EPERM, "setup", FREE, "other", "kernel.io_uring_disabled = 0"),
        (errno.EPERM, "setup", OLD, "other", "kernel.io_uring_disabled = absent"),
        (errno.ENOSYS, "setup", OLD, "not_built", "built without io_uring"),
        (errno.ENOSYS, "setup", FILTERED, "seccomp", "hides"),
        (
            errno.ENOSYS,
            "setup",
            dataclasses.replace(OLD, seccomp=True),
            "not_built",
            "or a seccomp",
        ),
        (errno.ENOSYS, "enter", dataclasses.replace(OLD, seccomp=True), "seccomp", "hides"),
        (errno.EACCES, "setup", FREE, "lsm", "capability,apparmor"),
        (errno.EACCES, "setup", dataclasses.replace(FREE, lsms=None), "lsm", "allow"),
        # Modules are asked when a ring is made; a filter may answer whatever it likes.
        (errno.EACCES, "setup", FILTERED, "lsm", "or a seccomp filter"),
        (errno.EACCES, "enter", FILTERED, "seccomp", "a seccomp filter forbids it"),
        (errno.EACCES, "enter", FREE, "lsm", "capability,apparmor"),
        (errno.ENOMEM, None, FREE, "memlock", "64 KiB"),
        (errno.ENOMEM, None, dataclasses.replace(FREE, memlock_bytes=None), "other", "memory"),
        (errno.EINVAL, None, FREE, "too_old", "6.0"),
        (errno.EOPNOTSUPP, None, FREE, "too_old", "6.0"),
        (errno.EMFILE, "setup", FREE, "other", "open files"),
    ],
)
def test_a_refusal_has_a_cause_and_a_remedy(
    number: int, call: str | None, around: Circumstances, cause: str, words: str
) -> None:
    refusal = diagnose(number, call, around)
    assert refusal.cause == cause
    assert words in str(refusal)
    assert refusal.remedy
    assert "\n" not in str(refusal)


@pytest.mark.parametrize(
    ("doing", "call"),
    [
        ("io_uring_setup", "setup"),
        ("io_uring_enter", "enter"),
        ("registering the UDP sockets", "register"),
        ("restricting the ring", "register"),
        ("enabling the ring", "register"),
        ("mapping a buffer ring", None),
    ],
)
def test_what_failed_tells_which_call_is_refused(doing: str, call: str | None) -> None:
    assert call_of(doing) == call


def test_the_old_question_is_still_answered() -> None:
    assert "6.0 or later needed" in explain_refusal(errno.EINVAL)


# --- Shape ------------------------------------------------------------------------------------

# What tools may rely on; None stands for a value that may be null. Change it with probe.SCHEMA.
SCHEMA_1: Final = {
    "schema": int,
    "version": str,
    "kernel": str,
    "machine": str,
    "user": str,
    "configured": str,
    "features": [
        {
            "key": str,
            "title": str,
            "since": str,
            "use": str,
            "works": (bool, None),
            "error": (str, None),
            "without": str,
        }
    ],
    "limits": [
        {
            "key": str,
            "title": str,
            "setting": str,
            "unit": str,
            "has": (int, None),
            "needs": int,
            "enough": bool,
            "too_low": str,
        }
    ],
    "circumstances": {
        "disabled": (int, None),
        "group": (int, None),
        "seccomp": bool,
        "privileged": bool,
        "groups": [int],
        "lsms": (str, None),
        "memlock_bytes": (int, None),
    },
    "refusal": ({"cause": str, "what": str, "remedy": str}, None),
    "verdict": {"backend": str, "tier": str, "reason": str, "exit_status": int},
}

FEATURES: Final = (
    "setup",
    "register",
    "enter",
    "fast_poll",
    "ext_arg",
    "cqe_skip",
    "linked_file",
    "submit_all",
    "single_issuer",
    "restrictions",
    "registered_files",
    "buffer_ring",
    "multishot_accept",
    "multishot_recv",
    "multishot_recvmsg",
    "defer_taskrun",
    "coop_taskrun",
    "send_address",
    "registered_ring",
    "no_iowait",
    "cancel_flags",
    "sync_cancel",
    "multishot_recv_cap",
    "napi",
    "min_wait",
    "msg_ring",
    "send_msg_ring",
    "send_zc",
    "sendmsg_zc",
    "bundles",
    "incremental_buffers",
    "no_sqarray",
    "query",
    "epoll",
    "mmsg",
    "memfd",
)
LIMITS: Final = ("descriptors", "memlock", "receive_buffer", "send_buffer", "backlog", "ports")


def assert_shaped(value: object, shape: object, at: str = "") -> None:
    """`value` has exactly the keys and kinds of `shape`."""
    if isinstance(shape, tuple):
        if value is None:
            return
        shape = shape[0]
    if isinstance(shape, dict):
        assert isinstance(value, dict), at
        assert list(value) == list(shape), at
        for key, kind in shape.items():
            assert_shaped(value[key], kind, f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), at
        for index, item in enumerate(value):
            assert_shaped(item, shape[0], f"{at}[{index}]")
    else:
        assert type(value) is shape, f"{at} = {value!r}"


def worst() -> Probe:
    """Everything refused, with the longest messages."""
    return Probe(
        version="0.1.0",
        kernel="6.18.44-a-long-local-version",
        machine="loongarch64",
        user="raida-uring",
        configured="auto",
        features=tuple(
            Feature(key, title, since, use, False, "EAFNOSUPPORT", without)
            for key, (title, since, use, without) in probe._FEATURES.items()
        ),
        limits=tuple(
            Limit(
                key,
                "UDP receive buffer",
                "net.core.rmem_max",
                "bytes",
                1,
                2**30,
                False,
                "smaller queues, or epoll",
            )
            for key in LIMITS
        ),
        circumstances=FREE,
        refusal=diagnose(errno.EPERM, "setup", FILTERED),
        verdict=Verdict(
            "epoll",
            "io_uring, DEFER_TASKRUN, 32768 completions for lack of locked memory",
            str(diagnose(errno.EPERM, "setup", FILTERED)),
            3,
        ),
    )


def test_json_keeps_its_shape() -> None:
    assert probe.SCHEMA == 1
    shown = json.loads(json.dumps(probe.as_dict(worst())))
    assert_shaped(shown, SCHEMA_1)


def test_every_trial_has_its_row() -> None:
    assert tuple(probe._FEATURES) == FEATURES
    assert set(native_probe.PROBE_NAMES) == set(FEATURES)


def test_the_table_shows_every_row_and_fits() -> None:
    lines = probe.table(worst()).splitlines()
    for title, since, _, without in probe._FEATURES.values():
        assert f"  {title:<40}{'no EAFNOSUPPORT':<15}{since:<8}{without}".rstrip() in lines
    assert max(map(len, lines)) <= probe.TABLE_COLUMNS
    assert not [line for line in lines if line != line.rstrip()]
