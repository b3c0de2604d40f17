"""Which commands this node has: built in, from entry points, from `[handlers] modules`."""

import dataclasses
import importlib
import importlib.metadata
import inspect
import itertools
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Final

from raida_uring.errors import ConfigError
from raida_uring.handlers import declaration
from raida_uring.handlers.declaration import Command, commands_of
from raida_uring.log import events

ENTRY_POINT_GROUP: Final = "raida_uring.commands"


_BUILT_IN: Final = "built in"


def load(modules: Iterable[str], *, store: bool = False) -> list[Command]:
    """All commands of this node: built in, from entry points, from `modules`.

    store: whether the node has one. Raises ConfigError when one cannot be loaded, declares none, is
    no plain function of two arguments, takes a command that is already there, or writes without
    a store. A command that the data plane answers itself may be taken.
    """
    table: dict[int, Command] = {}
    sources = itertools.chain(_builtin(store=store), _entry_points(), _configured(modules))
    for source, thing in sources:
        found = commands_of(thing)
        if not found:
            path = getattr(
                thing, "__file__", None
            )  # another module may have come first on the path
            place = f" ({path})" if isinstance(thing, ModuleType) and path else ""
            raise ConfigError(f"{source}: declares no command{place}")
        for item in found:
            _check_signature(source, item)
            if item.mode == "write" and not store and not item.native:
                raise ConfigError(f"{source}: {item.name} changes the store: set [store] path")
            there = table.get(item.number)
            if there is None or (there.native and source != _BUILT_IN):
                table[item.number] = dataclasses.replace(item, source=source)
            elif there != dataclasses.replace(item, source=there.source):  # not named twice
                raise ConfigError(
                    f"{source}: command {item.group}/{item.code} is already taken by "
                    f"{there.name} ({there.source})"
                )
    return list(table.values())


def _check_signature(source: str, item: Command) -> None:
    handler = item.handler
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigError(f"{source}: {item.name} must be a plain function, not `async def`")
    if inspect.isgeneratorfunction(handler):
        raise ConfigError(f"{source}: {item.name} must return its Reply, not `yield` it")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # compiled functions need not tell theirs
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"{source}: {item.name} must take (request, node), not {signature}"
        ) from error


def _builtin(*, store: bool) -> Iterator[tuple[str, object]]:
    names = ("healing", "integrity") if store else ("pending",)
    for name in ("native", *names):
        yield _BUILT_IN, importlib.import_module(f"raida_uring.handlers.{name}")


def _entry_points() -> Iterator[tuple[str, object]]:
    for point in _declared_entry_points():
        source = f"entry point {point.name} = {point.value}"
        try:
            yield source, point.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{source}: cannot be loaded: {_reason(error)}") from error


def _declared_entry_points() -> Iterator[importlib.metadata.EntryPoint]:
    """Of every installed package, each package once.

    importlib.metadata.entry_points() would fail for all of them if one package had unreadable
    metadata, or a tool had left an empty directory.
    """
    seen: set[str] = set()
    for package in importlib.metadata.distributions():
        try:
            name = re.sub("[-_.]+", "-", package.metadata["Name"]).lower()
            points = list(package.entry_points)
        except Exception as error:
            place = getattr(package, "_path", "?")
            events.PACKAGE_UNREADABLE.log(path=place, error=_reason(error))
            continue
        if name not in seen:  # the first on the path is the one that is imported
            seen.add(name)
            yield from (one for one in points if one.group == ENTRY_POINT_GROUP)


def _configured(modules: Iterable[str]) -> Iterator[tuple[str, object]]:
    for name in modules:
        source = f"[handlers] modules: {name}"
        try:
            module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit: a script without its `if __name__`
            hint = "; without .py" if name.endswith(".py") else ""
            raise ConfigError(f"{source}: cannot be imported: {_reason(error)}{hint}") from error
        yield source, module


def _reason(error: BaseException) -> str:
    """What was raised, and by which line of the module or of what it imports."""
    try:
        text = str(error)
    except Exception as fault:  # of a class of the module's own
        text = f"it cannot say why: {type(fault).__name__} in its __str__"
    library = os.path.dirname(importlib.__file__) + os.sep
    ours = (__file__, declaration.__file__, library, "<frozen importlib")
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(ours):
            where = f" ({os.path.basename(frame.filename)}, line {frame.lineno})"
    return f"{type(error).__name__}: {text}{where}"
