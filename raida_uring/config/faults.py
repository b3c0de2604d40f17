"""Words for the faults of a configuration file: where they are, and what was probably meant.

Pure. Any thread.
"""

import difflib
import re

from raida_uring.config.tables import SETTINGS


def syntax_fault(message: str, text: str) -> str:
    """tomllib's message about `text`, as `line L, column C: what`."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.S)
    if match is None:
        return message
    fault, line, column = match.groups()
    twice = re.fullmatch(r"Cannot declare \((.*)\) twice", fault)
    if twice is not None:
        names = ".".join(re.findall(r"['\"](.*?)['\"]", twice[1]))
        fault = f"table [{names}] is there twice: put its keys into one"
    elif fault == "Cannot overwrite a value" and line is not None:
        name = text.split("\n")[int(line) - 1].partition("=")[0].strip()
        known = re.fullmatch(r"[A-Za-z_.]+|\[[A-Za-z_.]+\]", name)  # else a part of a value
        fault = f"{name if known else 'a key'} is there twice"
    if line is None:
        line = str(text.count("\n") + 1)
        column = str(len(text) - (text.rfind("\n") + 1) + 1)
    return f"line {line}, column {column}: {fault}"


def unknown_top_level(name: str, value: object) -> str:
    """What is wrong with a name outside the known tables, and the nearest one that exists."""
    if not isinstance(value, dict):
        return f"{name}: stands outside any table{nearest_key(name, None)}"
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    known = ", ".join(f"[{table}]" for table in SETTINGS)
    hint = f"did you mean [{near[0]}]?" if near else f"tables are {known}"
    return f"[{name}]: unknown table; {hint}"


def nearest_key(key: str, table: str | None) -> str:
    """`; did you mean ...?` or nothing: the same key elsewhere, or the most similar one."""
    for other, settings in SETTINGS.items():
        if key in settings:
            return f"; did you mean [{other}] {key}?"
    if table is not None:
        near = difflib.get_close_matches(key, SETTINGS[table], n=1)
        if near:
            return f"; did you mean {near[0]}?"
    everywhere = {name: other for other, settings in SETTINGS.items() for name in settings}
    near = difflib.get_close_matches(key, everywhere, n=1)
    return f"; did you mean [{everywhere[near[0]]}] {near[0]}?" if near else ""
