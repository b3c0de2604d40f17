"""tools/container/Containerfile: what it names exists, and its parts agree with one another.

An image is not built here: that is tools/container/test_image.sh.
"""

import re
import tomllib

import typer

from raida_uring.cli.main import app
from tests.support.command_line import REPOSITORY
from tools.container.replay import CONTAINERFILE, instructions, words

FILE = instructions(CONTAINERFILE.read_text(encoding="utf-8"))
FINAL = FILE[max(index for index, (name, _) in enumerate(FILE) if name == "FROM") :]


def only(name: str) -> str:
    """The arguments of the only instruction `name` of the final stage."""
    (rest,) = (rest for each, rest in FINAL if each == name)
    return rest


def test_joins_lines_and_leaves_comments_out() -> None:
    assert instructions('FROM a AS b\n# no \\\nRUN c && \\\n    d\n\ncmd ["e"]\n') == [
        ("FROM", "a AS b"),
        ("RUN", "c && d"),
        ("CMD", '["e"]'),
    ]


def test_commands_are_the_programs() -> None:
    commands = getattr(typer.main.get_command(app), "commands")  # noqa: B009  typed as its base
    entry = words(only("ENTRYPOINT"))
    health = words(only("HEALTHCHECK").partition("CMD ")[2])
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert entry == [next(iter(project["scripts"]))]
    assert health[: len(entry)] == entry
    for name, *arguments in (words(only("CMD")), health[len(entry) :]):
        options = [option for one in commands[name].params for option in one.opts]
        given = [argument for argument in arguments if argument.startswith("-")]
        assert given
        assert not set(given) - set(options), f"{name} does not take them"


def test_port_places_and_user_agree() -> None:
    serve = words(only("CMD"))
    port = serve[serve.index("--port") + 1]
    assert only("EXPOSE") == f"{port}/udp {port}/tcp"
    assert f'"127.0.0.1:{port}"' in only("HEALTHCHECK")
    user, group = only("USER").split(":")
    made = next(rest for name, rest in FINAL if name == "RUN")
    assert int(user) > 0
    assert f"useradd --uid {user} --gid {group}" in made
    assert only("VOLUME") == only("WORKDIR")
    runtime = re.search(r"RUNTIME_DIRECTORY=(\S+)", only("ENV"))
    assert runtime is not None
    for place in (only("VOLUME"), runtime[1]):
        assert re.search(rf"install -d -m \d+ -o raida-uring -g raida-uring {place}\b", made)


def test_the_wheel_and_its_context_are_what_dist_makes() -> None:
    copied = next(rest for name, rest in FILE if name == "COPY").split()[0]
    made = (REPOSITORY / "tools" / "dist.sh").read_text()
    assert copied == "raida_uring-*.whl"
    assert "dist/" in made
    assert "raida_uring-*.whl" in made
    guide = (REPOSITORY / "docs" / "install.md").read_text()
    assert f"-f {CONTAINERFILE.relative_to(REPOSITORY)} dist" in guide
