"""Write docs/raida-uring.1 from the command line's own tree and from docs/raida-uring.1.in.

The template holds what the command line cannot say of itself: files, signals, exit statuses,
examples. Its line `@COMMANDS@` becomes a section for each command, `@SYNOPSIS@` a line for each;
`@VERSION@` is the package's. A test compares the committed page with what this makes.

Pure but for the two files; source: man(7).
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

import raida_uring
from raida_uring.cli.main import app

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEMPLATE = DOCS / "raida-uring.1.in"
PAGE = DOCS / "raida-uring.1"

LINE_COLUMNS = 79  # of the source; what is read is filled anew
Command = TyperCommand | TyperGroup

# Options that every command has; they are described once.
COMMON = {"--help"}


def escape(text: str) -> str:
    """Text for roff, in which backslashes are commands and a plain `-` is a typographic one."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fP"


def value(metavar: str) -> str:
    """A value as it is typed: FILE stands for something, auto|uring are the words themselves."""
    if metavar.isupper():
        return f"\\fI{escape(metavar)}\\fP"
    optional = metavar.startswith("[")
    words = "|".join(bold(word) for word in metavar.strip("[]").split("|"))
    return f"[{words}]" if optional else words


def prose(text: str) -> str:
    """Running text, a sentence on each line, as man pages are written; `code` in bold."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    marked = "".join(bold(p) if i % 2 else escape(p) for i, p in enumerate(parts))
    lines: list[str] = []
    for sentence in re.split(r"(?<=[.:;]) (?=[A-Z[])", marked):
        lines += textwrap.wrap(
            sentence, LINE_COLUMNS, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(f"\\&{line}" if line[0] in ".'" else line for line in lines)


def option_head(option: TyperOption) -> str:
    """Its names, and what stands after them."""
    names = ", ".join(bold(name) for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {value(option.metavar or option.name.upper())}"


def bounds(option: TyperOption) -> str:
    """The value that holds without the option, and which are allowed."""
    said = []
    if not option.is_flag and option.default is not None:
        said.append(f"by default {option.default:g}")
    if option.min is not None:
        said.append(f"at least {option.min:g}")
    if option.max is not None:
        said.append(f"at most {option.max:g}")
    return f"{', '.join(said).capitalize()}." if said else ""


def described(parameter: TyperArgument | TyperOption) -> Iterator[str]:
    """A parameter as a tagged paragraph."""
    yield ".TP"
    if isinstance(parameter, TyperOption):
        yield option_head(parameter)
        yield prose(f"{parameter.help or ''} {bounds(parameter)}")
    else:
        yield value(parameter.metavar or parameter.name.upper())
        yield prose(parameter.help or "")


def parameters(command: Command) -> list[TyperArgument | TyperOption]:
    """What is told of a command: arguments first, then its own options."""
    own = [
        p
        for p in command.params
        if isinstance(p, TyperArgument | TyperOption) and not p.hidden and not COMMON & {*p.opts}
    ]
    return sorted(own, key=lambda p: isinstance(p, TyperOption))


def usage(name: str, command: Command) -> str:
    """`name [OPTIONS] ARGUMENT`, in roff."""
    parts = [bold(name)]
    told = parameters(command)
    if any(isinstance(p, TyperOption) for p in told):
        parts.append(f"[{value('OPTIONS')}]")
    for argument in told:
        if isinstance(argument, TyperArgument):
            shown = value(argument.metavar or argument.name.upper())
            parts.append(shown if argument.required or shown.startswith("[") else f"[{shown}]")
    return " ".join(parts)


def commands(group: TyperGroup, prefix: str = "") -> Iterator[tuple[str, Command]]:
    """Every command that does something, with its full name, in the order of --help."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{prefix}{name} ")
        elif not command.hidden:
            yield f"{prefix}{name}", cast(TyperCommand, command)


def section(name: str, command: Command) -> Iterator[str]:
    """What --help tells of a command."""
    yield f".SS {usage(name, command)}"
    for number, paragraph in enumerate((command.help or "").strip().split("\n\n")):
        if number:
            yield ".PP"
        yield prose(paragraph)
    for parameter in parameters(command):
        yield from described(parameter)


def page(template: str) -> str:
    """The whole page."""
    tree = cast(TyperGroup, typer.main.get_command(app))
    every = list(commands(tree))
    synopsis = [".nf", *(f"{bold('raida-uring')} {usage(*one)}" for one in every), ".fi"]
    told: list[str] = []
    for one in every:
        told += section(*one)
    general = [line for parameter in parameters(tree) for line in described(parameter)]
    filled = template.replace("@VERSION@", escape(raida_uring.__version__))
    for mark, lines in (("SYNOPSIS", synopsis), ("OPTIONS", general), ("COMMANDS", told)):
        filled = filled.replace(f"@{mark}@\n", "".join(f"{line}\n" for line in lines))
    return filled


if __name__ == "__main__":
    PAGE.write_text(page(TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")
