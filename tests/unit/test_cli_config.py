"""`raida-uring config` and `commands`, as processes."""

import json
import os
from pathlib import Path

import pytest

from raida_uring.store import Store
from tests.support.command_line import output_of, run, run_script
from tests.support.confine import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, give_up
from tests.support.store import MAP_BYTES, make_store, mark_unfinished


def test_config_check_says_so(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[server]\nraida_id = 1\n")
    done = run("config", "check", "node.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "node.toml: correct\n")


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    done = run("serve", "--config", "/proc/none/\x1b[2J\x9b.toml")
    assert done.returncode == 2
    assert "/proc/none/?[2J?.toml" in done.stderr
    assert not set(done.stderr) & {"\x1b", "\x9b"}


KEY = "00112233445566778899aabbccddeeff"


@pytest.mark.parametrize("key", ["admin_key", "proxy_key"])
def test_a_key_that_everybody_may_read_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        f'[server]\nraida_id = 1\n{key} = "{KEY}"\n[handlers]\nmodules = ["no_such_module"]\n'
    )
    path.chmod(0o644)
    said = (
        f"{path}: holds [server] {key}, and everybody may read it (mode 0644): `chmod 640 {path}`"
    )
    done = run("config", "check", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"raida-uring: {said}\n")
    done = run("serve", "--config", str(path))  # the module, which does not exist, ends it
    assert f"warning {said}" in done.stderr
    assert KEY not in done.stderr
    path.chmod(0o640)
    assert run("config", "check", str(path)).returncode == 0
    assert "may read it" not in run("serve", "--config", str(path)).stderr
    path.write_text("[server]\nraida_id = 1\n")
    path.chmod(0o644)
    assert run("config", "check", str(path)).returncode == 0


@pytest.mark.parametrize("closed", ["file", "directory"])
def test_a_configuration_that_may_not_be_read_names_the_owner(tmp_path: Path, closed: str) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "node.toml"
    path.write_text("[server]\nraida_id = 1\n")
    (path if closed == "file" else directory).chmod(0)
    script = "import sys; from raida_uring.cli.main import main; sys.exit(main())"
    try:
        for args in (["serve", "--config"], ["config", "check"], ["status", "--config"]):
            done = run_script(
                script,
                *args,
                path,
                preexec_fn=lambda: give_up(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH),
            )
            place = "it" if closed == "file" else directory
            assert done.returncode == 2
            assert done.stderr.startswith(
                f"raida-uring: {path}: cannot be read: Permission denied: {place} belongs to "
            )
    finally:
        directory.chmod(0o700)


HANDLER = (
    "from raida_uring.handlers import Reply, command\n"
    "@command(group=5, code=200)\n"
    "def greet(request, node):\n    return Reply()\n"
)


def test_config_check_deep_imports_modules(tmp_path: Path) -> None:
    """From the directory of the file, as serve does; importing runs the module."""
    (tmp_path / "node.toml").write_text(
        '[server]\nraida_id = 1\n[handlers]\nmodules = ["shallow_or_deep"]\n'
    )
    module = tmp_path / "shallow_or_deep.py"
    for text, fault in (
        (None, "cannot be imported: ModuleNotFoundError: No module named 'shallow_or_deep'"),
        (
            "import sys\nsys.exit(0)",
            "cannot be imported: SystemExit: 0 (shallow_or_deep.py, line 2)",
        ),
        (
            "class Odd(BaseException): pass\nraise Odd('so')",
            "cannot be imported: Odd: so (shallow_or_deep.py, line 2)",
        ),
        (
            "class Mute(Exception):\n    def __str__(self): return 1\nraise Mute",
            "cannot be imported: Mute: it cannot say why: TypeError in its __str__"
            " (shallow_or_deep.py, line 3)",
        ),
        ("x = 1", f"declares no command ({module})"),
        (
            HANDLER.replace("def", "async def"),
            "shallow_or_deep.greet must be a plain function, not `async def`",
        ),
        (
            HANDLER.replace("return", "yield"),
            "shallow_or_deep.greet must return its Reply, not `yield` it",
        ),
        (
            HANDLER.replace("200", '"200"'),
            "cannot be imported: ValueError: code = '200': must be an integer from 0 to 255"
            " (shallow_or_deep.py, line 2)",
        ),
        (
            HANDLER.replace("200", "200, needs_body=1"),
            "cannot be imported: ValueError: command 5/200: needs_body is True or False, not 1"
            " (shallow_or_deep.py, line 2)",
        ),
    ):
        if text is not None:
            module.write_text(text)
        done = run("config", "check", "node.toml", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "node.toml: correct\n")
        done = run("config", "check", "--deep", "node.toml", cwd=tmp_path)
        expected = f"raida-uring: [handlers] modules: shallow_or_deep: {fault}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    module.write_text(HANDLER)
    done = run("config", "check", "--deep", "node.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        "node.toml: correct, with its modules\n"
        "16 commands: 15 built in, 1 [handlers] modules: shallow_or_deep\n",
    )


def state_of(directory: Path) -> dict[str, tuple[int, int, int, str]]:
    """Of each file: number, size, time of its last change, a hash of its content.

    Another process reads them: by closing lock.mdb, one that has the store open would give up the
    locks that LMDB holds on it.
    """
    files = (one for one in directory.rglob("*") if one.is_file())
    names = sorted(str(one.relative_to(directory)) for one in files)
    hashed = output_of("sha256sum", "--", *names, cwd=directory).splitlines()
    found = [(directory / name).stat() for name in names]
    return {
        name: (one.st_ino, one.st_size, one.st_mtime_ns, line)
        for name, one, line in zip(names, found, hashed, strict=True)
    }


def test_commands_are_listed_with_who_answers_them(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(
        '[server]\nraida_id = 1\n[handlers]\nmodules = ["listed"]\n'
    )
    (tmp_path / "listed.py").write_text(HANDLER.replace("code=200", 'code=200, mode="slow"'))
    lines = run("commands", "--config", "node.toml", cwd=tmp_path).stdout.splitlines()
    found = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines[1:-1]}
    assert found["5/200"] == ["-", "slow", "-", "listed.greet ([handlers] modules: listed)"]
    assert found["0/0"][:2] == ["status/echo", "read"]
    assert found["0/0"][3].endswith(" (built in)")
    assert lines[-1] == "free for commands of your own: 5/128-199, 5/201-255, 6/128-255, 7/128-255"
    told = json.loads(run("commands", "--json", "--config", "node.toml", cwd=tmp_path).stdout)
    assert [one["code"] for one in told if one["group"] == 5] == [200]
    assert len(told) == len(found)


def test_config_check_deep_looks_into_the_store(tmp_path: Path) -> None:
    """It reports what serve would refuse, and changes nothing; the node may be running."""
    (tmp_path / "node.toml").write_text('[server]\nraida_id = 1\n[store]\npath = "store"\n')
    check = ("config", "check", "--deep", "node.toml")
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/store: not a store: is its disk mounted?" in done.stderr
    assert not (tmp_path / "store").exists()

    place = make_store(tmp_path / "store")
    open_by_a_node = Store(place, map_bytes=MAP_BYTES)
    before = state_of(place)
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "node.toml: correct, with its modules and its store",
    )
    now = state_of(place)
    assert {name: now[name] for name in ("data.mdb", "owner")} == {
        name: before[name] for name in ("data.mdb", "owner")
    }
    assert list(now) == list(before)
    open_by_a_node.close()
    mark_unfinished(place, "the import of a test")
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the import of a test did not come to its end" in done.stderr

    (place / "lock.mdb").unlink()  # a copy: nobody has opened it, and this must not be the first
    before = state_of(place)
    assert run(*check, cwd=tmp_path).returncode == 0
    assert state_of(place) == before

    (place / "data.mdb").write_bytes(b"")
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, "data.mdb is damaged: it is empty" in done.stderr) == (2, True)
    os.truncate(place / "data.mdb", 3 << 30)
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, "has 3072 MiB, more than the 2048 MiB" in done.stderr) == (2, True)


def test_config_show_hides_keys_until_asked(tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    (tmp_path / "node.toml").write_text(f'[server]\nraida_id = 1\nadmin_key = "{key}"\n')
    assert key not in run("config", "show", "node.toml", cwd=tmp_path).stdout
    shown = run("config", "show", "node.toml", "--secrets", cwd=tmp_path).stdout
    assert f'admin_key = "{key}"' in shown
    (tmp_path / "again.toml").write_text(shown)
    assert run("config", "show", "again.toml", "--secrets", cwd=tmp_path).stdout == shown
