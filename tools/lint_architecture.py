"""The rules of the architecture that no linter knows, each a function that returns what breaks it.

    src/shm.h           alone knows <stdatomic.h>
    src/region.c        and src/guard.c (its SIGBUS handler) alone know the system's headers
    CORE                is C without Python; everything else in src/ is the binding
    C files             open with a comment, < 600 lines, functions < 70 lines, 100 columns
    mmapcache/          never imports the GPL server of the tests, nor pickle
    every file          holds no path of a developer's machine, no registry's host, no leftover note

A rule takes the root of a tree, so that the tests can show it a tree that breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The C core: builds and is tested without Python.
CORE = {
    "arena",
    "batch",
    "bson",
    "buddy",
    "buddy_check",
    "buddy_state",
    "buddy_words",
    "check",
    "format",
    "guard",
    "hash",
    "key",
    "mutant",
    "region",
    "report",
    "room",
    "shm",
    "status",
    "store",
    "table",
    "table_ref",
    "table_write",
    "work",
    "writer",
    "writer_state",
}
OS_HEADERS = re.compile(
    r"sys/(?!types\.h|cdefs\.h|param\.h).+\.h|linux/.+\.h|asm/.+\.h"
    r"|(fcntl|unistd|pthread|signal|semaphore|poll|dirent|spawn|sched|mqueue|ucontext)\.h"
)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.MULTILINE)
ATOMICS = re.compile(r"\b(_Atomic|__atomic_\w+|__sync_\w+|volatile)\b")

MAX_FILE_LINES = 600  # exclusive
MAX_FUNCTION_LINES = 70  # exclusive
MAX_COLUMNS = 100  # inclusive

# Put together here, so that this file does not break its own rule.
FORBIDDEN = [
    "/" + "work/",
    ".." + "/shared",
    "/" + "root/",
    "TO" + "DO",
    "FIX" + "ME",
    *(
        ".".join(host)
        for host in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("crates", "io"),
            ("npmjs", "org"),
            ("debian", "org"),
            ("maven", "org"),
            ("golang", "org"),
        ]
    ),
]
# Made, not written; nothing in them is in the repository.
MADE = {"__pycache__", "build", "dist", "results"}


def files(root: Path, *suffixes: str) -> Iterator[Path]:
    """Files below root that people wrote, with one of the suffixes (all when there is none)."""
    for path in sorted(root.iterdir()):
        if path.is_dir():
            hidden = path.name.startswith(".") and path.name != ".ci"
            if not (hidden or path.name in MADE or path.name.endswith(".egg-info")):
                yield from files(path, *suffixes)
        elif path.name != ".git" and (not suffixes or path.suffix in suffixes):
            yield path  # .git is a file where the tree is one of several of a repository


def includes(path: Path) -> list[str]:
    """Names of the headers that a C file includes, in order."""
    return INCLUDE.findall(path.read_text())


def shared_memory_has_one_funnel(root: Path) -> list[str]:
    """Atomics, by header, keyword or builtin, are in src/shm.h alone."""
    found = []
    for path in files(root / "src", ".c", ".h"):
        if path.name == "shm.h":
            continue
        if "stdatomic.h" in includes(path):
            found.append(f"{path.name} includes <stdatomic.h>: only shm.h may")
        if path.name == "guard.c":
            continue  # what a signal handler and the threads of one process share is not the map
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        found += [f"{path.name} uses {word}: only shm.h may" for word in ATOMICS.findall(code)]
    return found


def system_has_one_door(root: Path) -> list[str]:
    """Headers of the operating system are in src/region.c and src/guard.c alone."""
    return [
        f"{path.name} includes <{name}>: only region.c and guard.c may"
        for path in files(root / "src", ".c", ".h")
        for name in includes(path)
        if OS_HEADERS.fullmatch(name) and path.name not in {"region.c", "guard.c"}
    ]


def core_knows_no_python(root: Path) -> list[str]:
    """Each file of src/ is either in CORE and includes only CORE, or belongs to the binding."""
    found = []
    paths = {path.name: path for path in files(root / "src", ".c", ".h")}
    binding = {name for name, path in paths.items() if "Python.h" in includes(path)}
    grown = True
    while grown:
        more = {n for n, path in paths.items() if binding.intersection(includes(path))} - binding
        binding |= more
        grown = bool(more)
    for name, path in paths.items():
        if path.stem in CORE and name in binding:
            found.append(f"{name} is of the core and includes Python.h, itself or through others")
        if path.stem not in CORE and name not in binding:
            found.append(f"{name} does without Python: name it in CORE, tools/lint_architecture.py")
    return found


def functions(text: str) -> Iterator[tuple[int, int]]:
    """First line (from 1) and number of lines of each C function, by where braces stand."""
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line == "{":
            start = number - 1
        elif line == "}" and start:
            yield start, number - start + 1
            start = 0


def c_files_are_small(root: Path) -> list[str]:
    """C files open with a comment and stay within lines, lines per function and columns."""
    found = []
    for folder in ("src", "tests"):
        for path in files(root / folder, ".c", ".h"):
            name = path.relative_to(root)
            text = path.read_text()
            if not text.startswith(f"/* {path.name} - "):
                found.append(f"{name} does not open with `/* {path.name} - what it is`")
            if text.count("\n") >= MAX_FILE_LINES:
                found.append(f"{name} has {text.count(chr(10))} lines")
            found += [
                f"{name}:{start}: a function of {lines} lines"
                for start, lines in functions(text)
                if lines >= MAX_FUNCTION_LINES
            ]
            found += [
                f"{name}:{number}: {len(line)} columns"
                for number, line in enumerate(text.splitlines(), 1)
                if len(line) > MAX_COLUMNS
            ]
    return found


def package_imports_only_what_it_may(root: Path) -> list[str]:
    """No file of the package imports the GPL server of the tests, or pickle."""
    forbidden = re.compile(r"^\s*(?:import|from)\s+(secantus\w*|pickle)\b", re.MULTILINE)
    return [
        f"{path.relative_to(root)} imports {name}"
        for path in files(root / "mmapcache", ".py", ".pyi")
        for name in forbidden.findall(path.read_text())
    ]


def no_file_names_a_machine(root: Path) -> list[str]:
    """No file holds a word of FORBIDDEN. Files that are not text are passed over."""
    found = []
    for path in files(root):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(root)} holds {word!r}" for word in FORBIDDEN if word in text]
    return found


def help_names_every_target(root: Path) -> list[str]:
    """`make help` has a line for each public target of the Makefile."""
    text = (root / "Makefile").read_text()
    public = re.findall(r"^(\w[\w-]*):", text, re.MULTILINE)
    parts = {"help", "core-test", "pytest"}
    return [
        f"make help does not name {target}"
        for target in public
        if target not in parts and f'"make {target} ' not in text
    ]


def changelog_names_the_version(root: Path) -> list[str]:
    """CHANGELOG.md has a section for the version of pyproject.toml."""
    found = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text(), re.MULTILINE)
    version = found.group(1) if found else "(none)"
    changelog = (root / "CHANGELOG.md").read_text()
    return [] if f"## [{version}]" in changelog else [f"CHANGELOG.md has no section [{version}]"]


RULES = [
    shared_memory_has_one_funnel,
    system_has_one_door,
    core_knows_no_python,
    c_files_are_small,
    package_imports_only_what_it_may,
    no_file_names_a_machine,
    help_names_every_target,
    changelog_names_the_version,
]


def main() -> None:
    """Prints every breach; exits with 1 when there is one."""
    found = [f"{rule.__name__}: {breach}" for rule in RULES for breach in rule(ROOT)]
    print("\n".join([*found, f"architecture: {len(RULES)} rules, {len(found)} breaches"]))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
