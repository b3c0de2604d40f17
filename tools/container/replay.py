"""What test_image.sh does without podman. Runs as root in a mount and a PID namespace.

`instructions` and `words` are pure; a test reads the file through them, too.
"""

import errno
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import confine

REPOSITORY = Path(__file__).resolve().parents[2]
CONTAINERFILE = Path(__file__).with_name("Containerfile")
CONTEXT = REPOSITORY / "dist"
START_TRIES = 50
CHROOT = shutil.which("chroot") or "chroot"  # not by a PATH that the file sets

CONFIG = """
[server]
raida_id = 14
[store]
path = "coins"
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, what stands after it), continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [
        (name.upper(), rest.strip())
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def words(rest: str) -> list[str]:
    """A command in its JSON form."""
    found: list[str] = json.loads(rest)
    return found


@dataclass(slots=True)
class Stage:
    """A root and what holds for whatever runs in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/bin"})
    lent: dict[str, str] = field(default_factory=dict)  # while it is built
    user: str = "0:0"
    place: str = "/"
    command: dict[str, list[str]] = field(default_factory=dict)

    def argv(self, command: list[str]) -> list[str]:
        """`command` inside."""
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', self.place, *command]
        return [CHROOT, f"--userspec={self.user}", str(self.root), *inside]

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run `command` inside to its end."""
        return subprocess.run(
            self.argv(command),
            env=self.environment | self.lent,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def say(text: str) -> None:
    print(f"replay: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> None:
    sys.exit(f"replay: FAILED: {text}")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def new_stage(work: Path, name: str) -> Stage:
    """A fresh copy of the base image's stand-in."""
    root = work / name
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(work / "debian"), str(root)], check=True)
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "tmpfs", "tmpfs", str(root / "dev"))
    for device in ("null", "zero", "urandom", "random"):
        (root / "dev" / device).touch()
        mount("--bind", f"/dev/{device}", str(root / "dev" / device))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    return Stage(root)


def lend(stage: Stage) -> None:
    """The build's access to package archives: what an engine's network and proxy would give it."""
    if Path("/etc/pip.conf").exists():
        shutil.copy("/etc/pip.conf", stage.root / "etc/pip.conf")
    passed = ("http_proxy", "https_proxy", "no_proxy")
    stage.lent = {
        key: value
        for key, value in os.environ.items()
        if key.lower() in passed or key.startswith("PIP_")
    }
    stage.lent["DEBIAN_FRONTEND"] = "noninteractive"
    trusted = Path(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"))
    if trusted.exists():  # beside the root's own, which a RUN may install anew
        shutil.copy(trusted, stage.root / "lent.crt")
        stage.lent["PIP_CERT"] = "/lent.crt"


def copy(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    """COPY [--from=STAGE] SOURCE TARGET."""
    *options, source, target = rest.split()
    origin = CONTEXT
    for option in options:
        origin = stages[option.removeprefix("--from=")].root
    place = stage.root / target.lstrip("/")
    for found in glob.glob(str(origin / source.lstrip("/"))):
        if Path(found).is_dir():
            shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, place)


def build(work: Path) -> Stage:
    """Every stage; returns the last."""
    stages: dict[str, Stage] = {}
    stage = None
    for name, rest in instructions(CONTAINERFILE.read_text(encoding="utf-8")):
        say(f"{name} {rest if len(rest) < 80 else rest[:77] + '...'}")
        if name == "FROM":
            called = rest.partition(" AS ")[2] or "final"
            stage = stages[called] = new_stage(work, called)
            lend(stage)
            continue
        assert stage is not None, "FROM comes first"  # noqa: S101
        match name:
            case "RUN":
                done = stage.run(["sh", "-c", rest])
                if done.returncode:
                    fail(f"{rest}\n{done.stdout}{done.stderr}")
            case "COPY":
                copy(stage, rest, stages)
            case "ENV":
                stage.environment |= dict(pair.split("=", 1) for pair in rest.split())
            case "USER":
                stage.user = rest
            case "WORKDIR":
                stage.place = rest
            case "ENTRYPOINT" | "CMD":
                stage.command[name] = words(rest)
            case "HEALTHCHECK":
                stage.command[name] = words(rest.partition("CMD ")[2])
            case "VOLUME" | "EXPOSE" | "STOPSIGNAL":
                pass  # an engine's
            case _:
                fail(f"{name}: not known here")
    assert stage is not None  # noqa: S101
    return stage


def refuse_rings() -> None:
    """What an engine's default profile does."""
    for number in confine.IO_URING_CALLS.values():
        confine.refuse_system_call(number, errno.EPERM)


def live(stage: Stage, *, refuse: bool) -> None:
    """A store, a node as the file starts it, its health, a stop. refuse: io_uring by a filter."""
    entry = stage.command["ENTRYPOINT"]
    subprocess.run(["rm", "-rf", str(stage.root / stage.place[1:] / "coins")], check=True)
    made = stage.run([*entry, "store", "init", "--store", f"{stage.place}/coins"])
    if made.returncode:
        fail(made.stderr)
    node = subprocess.Popen(
        stage.argv([*entry, *stage.command["CMD"]]),
        env=stage.environment,
        preexec_fn=refuse_rings if refuse else None,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(START_TRIES):
        health = stage.run(stage.command["HEALTHCHECK"])
        if health.returncode == 0 or node.poll() is not None:
            break
        time.sleep(0.1)
    else:
        node.kill()
        fail(f"not healthy: {health.stdout}{health.stderr}")
    asked = stage.run([*entry, "status"])
    say(asked.stdout.partition("\n")[2].partition("\n")[0] or asked.stderr)
    owner = Path(f"/proc/{node.pid}").stat().st_uid
    node.terminate()
    said = node.communicate(timeout=30)[1]
    if node.returncode or asked.returncode or owner == 0:
        fail(f"status {node.returncode}, user {owner}: {said}{asked.stderr}")
    if refuse and "epoll (io_uring refused" not in said:
        fail(f"the refusal is not told: {said}")
    say(next(line for line in said.splitlines() if "serving on" in line))
    if stage.run(stage.command["HEALTHCHECK"]).returncode == 0:
        fail("healthy without a node")


def main() -> None:
    work = Path(sys.argv[1])
    stage = build(work)
    stage.lent = {}
    # From here on without a network but loopback.
    confine.leave_network()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    configured = stage.root / "etc/raida-uring"
    configured.mkdir()
    (configured / "node.toml").write_text(CONFIG)
    live(stage, refuse=False)
    live(stage, refuse=True)
    say("passed")


if __name__ == "__main__":
    main()
