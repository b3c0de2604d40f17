"""House rules that linters cannot check, as a ratchet: exceptions are listed and only get fewer."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[2]
C_FUNCTION_LINES_MAX = 70

# "file: function" -> lines. A shorter function must be entered as such, a short one removed.
LONG_C_FUNCTIONS: dict[str, int] = {}

FFI = ROOT / "raida_uring" / "ffi"

# Folders of the data plane, upper ones first: a file includes headers of its own and of lower ones.
C_FOLDERS = (
    ("engine",),
    ("commands",),
    ("coins", "guard", "kernel", "seal"),
    ("wire",),
    ("count",),
    ("memory",),
    (".",),
)

# "file: function" that other files call by a name that is not the file's.
FOREIGN_C_NAMES = {
    "count/stats.c: ru_counters_publish",
    "count/stats.c: ru_counters_read",
    "count/stats.c: ru_gauges_publish",
    "count/stats.c: ru_gauges_read",
    "wire/fast.c: ru_random_fill",
}

# Files of C whose functions call each other's.
C_CIRCLES: set[tuple[str, ...]] = set()

# A module compiled from C -> those that may import it.
SOLE_IMPORTERS = {
    "_native": (
        *(
            f"raida_uring/ffi/{name}.py"
            for name in (
                "native",
                "native_base",
                "native_command",
                "native_probe",
                "native_store",
                "native_tap",
                "native_trees",
                "native_worker",
            )
        ),
        "tests/support/native_seal.py",
    ),
    "_loadgen": ("raida_uring/bench/load.py",),
}

# Top to bottom: a package imports from lines below its own. "" is the root package itself.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("node", "bench", "testing"),
    ("admin",),
    ("observe",),
    ("workers",),
    ("handlers",),
    ("client", "store", "config"),
    ("ffi", "protocol"),
    ("log",),
    ("addresses", "descriptors", "remedies", "signals", "threads"),
    ("errors", ""),
)
# "module imports module", against that order.
UPWARD_IMPORTS: set[str] = set()
# Modules that import each other.
CIRCLES: set[tuple[str, ...]] = set()

# English that a reader has to decode: a relative clause as subject, an old subjunctive, "else" for
# "otherwise".
FOREIGN_RHYTHM = re.compile(r"(?:^|[.] )Who(?:ever)? [a-z]|\blest\b|, be it\b|[,;] else [a-z]")

LINES_MAX = 600
CLASS_LINES_MAX = 300
# What is longer -> lines. What has shrunk must be entered as shorter; once short, be removed.
LONG_FILES: dict[str, int] = {}
LONG_CLASSES: dict[str, int] = {}

GENERATED = {"_native.c", "_loadgen.c"}
TEXT_SUFFIXES = {".c", ".h", ".md", ".py", ".service", ".sh", ".sysusers", ".toml", ".yaml"}
TOP_LEVEL = ("raida_uring", "tests", "tools", "docs", "examples", "systemd", ".ci")

# Spelled so that this file does not match itself.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:ro" + r"ot|ho" + r"me|wo" + r"rk|Us" + r"ers)/\w")


def files(*suffixes: str) -> list[Path]:
    """Every source file with one of `suffixes`; what a build generates is left out."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for name in TOP_LEVEL:
        found += (path for path in (ROOT / name).rglob("*") if path.is_file())
    return sorted(path for path in found if path.suffix in suffixes and path.name not in GENERATED)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def c_function_lengths(text: str) -> dict[str, int]:
    """Lines of each function body, braces included: only they are in column 0."""
    lengths: dict[str, int] = {}
    name, start = "", None
    for number, line in enumerate(text.splitlines()):
        if start is None:
            called = re.match(r"(?=[A-Za-z_]).*?\b(\w+)\(", line)
            if called is not None:
                name = called[1]
            if line == "{":
                start = number
        elif line == "}":
            lengths[name] = number - start + 1
            start = None
    return lengths


def test_the_measure_finds_functions() -> None:
    text = "static int\nadd(int a,\n    int b)\n{\n    return a + b;\n}\n\nstruct pair {\n};\n"
    assert c_function_lengths(text) == {"add": 3}


def test_c_functions_are_short() -> None:
    long_functions = {
        f"{name_of(path)}: {function}": lines
        for path in files(".c", ".h")
        for function, lines in c_function_lengths(path.read_text(encoding="utf-8")).items()
        if lines > C_FUNCTION_LINES_MAX
    }
    assert long_functions == LONG_C_FUNCTIONS


def test_c_files_say_what_they_are() -> None:
    anonymous = [
        name_of(path)
        for path in files(".c", ".h")
        if not path.read_text(encoding="utf-8").startswith(f"/* {path.name}: ")
    ]
    assert not anonymous, "open with /* <file name>: <purpose>"


def data_plane(suffix: str) -> dict[str, str]:
    """The data plane's files by their name under ffi/: the text without its comments."""
    return {
        path.relative_to(FFI).as_posix(): re.sub(
            r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        for path in sorted(FFI.rglob(f"*{suffix}"))
        if path.name not in GENERATED
    }


def external_functions(text: str) -> list[str]:
    """The functions with external linkage that a C file defines."""
    definition = re.compile(r"^(?!static\b)[A-Za-z_][\w *]*?\b(\w+)\([^;{}]*\)\n\{", re.MULTILINE)
    return definition.findall(text)


def called_files(sources: dict[str, str]) -> dict[str, set[str]]:
    """Of each C file, the other ones whose functions it names."""
    home = {name: file for file, text in sources.items() for name in external_functions(text)}
    return {
        file: {home[word] for word in re.findall(r"\b\w+\b", text) if word in home} - {file}
        for file, text in sources.items()
    }


def circles(arrows: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """The strongly connected parts of more than one node, each sorted."""
    reached: dict[str, set[str]] = {}
    for start in arrows:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = arrows.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        reached[start] = seen
    return {
        tuple(sorted(other for other in reached[node] if node in reached.get(other, ())))
        for node in arrows
        if node in reached[node]
    }


def declared_to_python() -> set[str]:
    """Functions that Python may call: named after a thing, in any file."""
    regions = (
        path.read_text(encoding="utf-8").partition("/* cdef: begin */")[2]
        for path in FFI.rglob("*.h")
    )
    return {
        name
        for region in regions
        for name in re.findall(r"\b(ru_\w+)\(", region.partition("/* cdef: end */")[0])
    }


def test_the_measure_finds_circles() -> None:
    function = "{}int ru_{}_go(int x)\n{{\n    return {}(x);\n}}\n\n"
    sources = {
        "a.c": function.format("", "a", "ru_b_go"),
        "b.c": function.format("static ", "help", "ru_a_go") + function.format("", "b", "ru_help"),
        "c.c": function.format("", "c", "ru_a_go"),
    }
    assert external_functions(sources["b.c"]) == ["ru_b_go"]
    assert circles(called_files(sources)) == {("a.c", "b.c")}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {("b", "c")}


def test_c_files_call_in_no_circle() -> None:
    assert circles(called_files(data_plane(".c"))) == C_CIRCLES


def test_c_functions_are_named_by_their_file() -> None:
    exempt = declared_to_python()
    foreign = {
        f"{file}: {name}"
        for file, text in data_plane(".c").items()
        for name in external_functions(text)
        if name not in exempt and not re.match(rf"ru_{Path(file).stem}s?_", name)
    }
    assert foreign == FOREIGN_C_NAMES


def test_c_includes_flow_one_way() -> None:
    level = {folder: i for i, folders in enumerate(C_FOLDERS) for folder in folders}
    sources = {**data_plane(".c"), **data_plane(".h")}
    includes = {
        file: set(re.findall(r'^#include "(.+)"', text, re.MULTILINE))
        for file, text in sources.items()
    }
    upward = [
        f"{file} includes {name}"
        for file, names in includes.items()
        for name in names
        for here, there in [(Path(file).parent.as_posix(), Path(name).parent.as_posix())]
        if here != there and level[there] <= level[here]
    ]
    assert not upward
    assert not circles(includes)


def imported_names(path: Path) -> set[str]:
    """Last parts of every module or name that the file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.rpartition(".")[2] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
            names.add((node.module or "").rpartition(".")[2])
    return names


def test_compiled_modules_have_their_importers() -> None:
    strays = [
        f"{name_of(path)} imports {module}"
        for path in files(".py")
        for module, importers in SOLE_IMPORTERS.items()
        if module in imported_names(path) and name_of(path) not in importers
    ]
    assert not strays


def test_python_modules_say_what_they_are() -> None:
    anonymous = []
    for path in files(".py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and ast.get_docstring(tree) is None:
            anonymous.append(name_of(path))
    assert not anonymous


def matches(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: text` of every line that `pattern` is found in."""
    found = []
    for path in [*files(*TEXT_SUFFIXES), ROOT / "Makefile", ROOT / ".ci" / "run"]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()}")
    return found


def comments_of(path: Path) -> list[str]:
    """The comments of a file, in Python also its docstrings, each as running text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        found = re.findall(r"/\*(.*?)\*/", text, re.S)
        return [" ".join(one.replace("\n *", "\n").split()) for one in found]
    docstrings = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [one.string.lstrip("# ") for one in tokens if one.type == tokenize.COMMENT]
    return [" ".join(one.split()) for one in (*docstrings, *comments)]


def test_the_measure_finds_foreign_rhythm() -> None:
    found = (
        "Who is told",
        "It ends. Whoever asks waits",
        "lest it fails",
        "one, be it small",
        "0; else a",
    )
    plain = "The node whose store", "nothing else", "one who has it", "if x:\nelse: y", "may be it"
    assert all(FOREIGN_RHYTHM.search(one) for one in found)
    assert not any(FOREIGN_RHYTHM.search(one) for one in plain)


def test_comments_are_plain_english() -> None:
    found = [
        f"{name_of(path)}: {one[:80]}"
        for path in files(".c", ".h", ".py")
        for one in comments_of(path)
        if FOREIGN_RHYTHM.search(one)
    ]
    assert not found, "name the subject first, write otherwise for else"


def test_nothing_is_left_for_later() -> None:
    assert not matches(UNFINISHED)


def test_no_path_of_one_machine() -> None:
    assert not matches(MACHINE_PATH)


def test_mutations_apply() -> None:
    """`make mutations` is not part of every run: code that moves must not leave them behind."""
    patches = sorted(ROOT.glob("tests/*/mutations/*.patch"))
    assert {patch.parts[-3] for patch in patches} == {"fault", "native"}
    for patch in patches:
        subprocess.run(
            ["git", "apply", "--unidiff-zero", "--check", patch], cwd=ROOT, check=True, timeout=30
        )


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> dict[str, set[str]]:
    """Module of the package -> those of the package that it imports: at its top, in functions and
    for type checking."""
    paths = [path for path in files(".py") if path.is_relative_to(ROOT / "raida_uring")]
    modules = {module_of(path) for path in paths}
    found: dict[str, set[str]] = {}
    for path in paths:
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name_of(path)}: a relative import"
                origin = node.module or ""
                for alias in node.names:
                    whole = f"{origin}.{alias.name}"
                    named.add(whole if whole in modules else origin)
        found[module_of(path)] = named & modules
    return found


def package_of(module: str) -> str:
    return f"{module}.".split(".")[1]


def test_every_package_has_its_layer() -> None:
    placed = [package for layer in LAYERS for package in layer]
    assert sorted(placed) == sorted({package_of(module) for module in imports()})


def test_imports_run_down() -> None:
    height = {package: -at for at, layer in enumerate(LAYERS) for package in layer}
    upward = {
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if package_of(module) != package_of(other)
        and height[package_of(module)] <= height[package_of(other)]
    }
    assert upward == UPWARD_IMPORTS


def test_imports_make_no_circle() -> None:
    assert circles(imports()) == CIRCLES


def test_files_are_short() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in files(".py", ".c", ".h", ".sh")
        if path.parts[len(ROOT.parts)] in ("raida_uring", "tests", "tools")
    }
    assert_listed(lengths, LINES_MAX, LONG_FILES)


def test_classes_are_short() -> None:
    lengths = {
        f"{name_of(path)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in files(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert_listed(lengths, CLASS_LINES_MAX, LONG_CLASSES)


def assert_listed(lengths: dict[str, int], most: int, listed: dict[str, int]) -> None:
    longer = {name: lines for name, lines in lengths.items() if lines > most}
    assert longer == listed, "split by what changes together, and tighten the list"
