"""The rules of the architecture that no linter knows, each a function that returns what breaks it.

    src/shm.h           alone knows <stdatomic.h>
    DOORS               the files of src/ that alone know the system's headers
    PARTS               each file of src/ is in the table below and includes only what is before it
    src/, src/writer/   the core: C without Python
    TWINS               who is for one kind of system has a twin for the others
    MUTEXES             each mutex of src/ is in the table below with what makes a fork safe
    counts              are touched under the GIL only, and nothing of Python's is called without it
    strings             strlen and its like only on those of UNBOUNDED, never on what a file holds
    mutants             each number of a deliberate fault is of one file
    docs/design.md      its table names each file of src/, module.h's map each one of the binding
    C files             open with a comment, < 600 lines, functions < 70 lines, 100 columns
    ring/               its core knows no Python, its ZooKeeper thread no Redis
    mmapcache/          never imports the GPL server of the tests, nor pickle
    every file          holds no path of a developer's machine, no registry's host, no leftover note

A rule takes the root of a tree, so that the tests can show it a tree that breaks it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Part(NamedTuple):
    """A folder of src/: its units in order, and the parts whose headers they may include.

    A unit is a file's name without suffix, or several that may include each other's headers (an
    inner header, or functions that call each other by nature). A header that stands lower than the
    file that keeps its word is a unit of its own, `writer.h`. A file may include the headers of its
    own unit, of the units before it, and of all units of the parts named in `uses`.
    """

    uses: tuple[str, ...]
    units: tuple[str, ...]


PARTS = {
    # The core that reads. It builds and is tested without Python, as does the one that writes.
    "src": Part(
        (),
        (
            "status mutant",
            "format",
            "shm",
            "hash",
            "bson bson_bytes bson_validate",
            "field_index",
            "key",
            "key_order",
            "os",
            "system system_linux system_posix",  # twins: a build has one of the sources
            "guard",
            "lock",
            "bell",
            "region",
            "buddy_words",
            "buddy buddy_state buddy_query buddy_check buddy_rebuild",
            "table table_ref",
            "counts",
            "slots",
            "users",
            "store",
            "index",
            "change_log",
            "history",
            "check",
            "words",
            "arena_site",
            "arena",
            "arena_queue",
            "table_page",
            "table_path",
            "table_write",
            "table_move",
        ),
    ),
    "src/writer": Part(
        ("src",),
        (
            "writer.h",  # both say what writer.c and batch.c do, by means of all that is between
            "batch.h",
            "writer_state",
            "batch_step.h",  # what raw needs of batch
            "place",
            "make_room",
            "changes",
            "publish",
            "rounds",
            "collections",
            "refusal",
            "indexes",
            "compact",
            "rebuild",
            "batch",
            "raw",
            "succession",
            "writer",
            "upkeep",
        ),
    ),
    "src/document": Part(
        ("src",),
        (
            "threads",
            "document",  # the header that the binding includes; document_type has the type
            "classes",
            "options",
            "object_id",
            "document_object memo",
            "decode decode_classes",  # a DBRef or code with scope holds a document, which holds ...
            "encode encode_classes encoder",  # likewise a document
            "fields",
            "compare",
            "document_views",
            "json",
            "array",
            "document_type",
            "document_state",
        ),
    ),
    "src/binding": Part(
        ("src", "src/document", "src/writer"),
        (
            "module",
            "errors",
            "not_ready",
            "arguments",
            "pykey",
            "front_cache",
            "vouch",
            "lane lane_owner",
            "reader",
            "mapping",
            "collection",
            "absent",
            "collection_get_many",
            "collection_views",
            "collection_map",
            "collection_map_type",
            "index_type",
            "collection_type",
            "cache",
            "cache_history",
            "cache_report",
            "cache_changes",
            "snapshot_type",
            "cache_type",
            "writer_object",
            "writer_report",
            "writer_upkeep",
            "batch_type",
            "replace_type",
            "writer_type",
            "replies",
        ),
    ),
    "src/_mmapcache.c": Part(("src/binding", "src/document", "src"), ("_mmapcache",)),
}
CORE = ("src", "src/writer")  # parts

# Files, mappings and clocks; locks; the bell; what these share; SIGBUS; what each system has.
DOORS = {
    "region.c",
    "lock.c",
    "bell.c",
    "os.c",
    "guard.c",
    "system_linux.c",
    "system_posix.c",
}
# The endings of twins: files that keep the word of one header, each for one kind of system.
TWINS = ("_linux", "_posix")
OS_HEADERS = re.compile(
    r"sys/(?!types\.h|cdefs\.h|param\.h).+\.h|linux/.+\.h|asm/.+\.h"
    r"|(fcntl|unistd|pthread|signal|semaphore|poll|dirent|spawn|sched|mqueue|ucontext)\.h"
)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.MULTILINE)
# Each mutex, and whatever else a thread may hold or be at when another one forks, with the file
# that registers its fork handlers: a child that inherits it locked would wait for ever.
MUTEXES = {("src/lock.c", "held_mutex"): "src/lock.c"}
MUTEX = re.compile(
    r"^[ \t]*(?:static[ \t]+)?(?:pthread_(?:mutex|rwlock|spinlock|cond|once)_t"
    r"|sem_t|mtx_t|once_flag|PyMutex|PyThread_type_lock)[ \t*]+(\w+)",
    re.MULTILINE,
)
PROCESS_ATOMICS = {"guard.c", "users.h", "threads.h"}
ATOMICS = re.compile(r"\b(_Atomic|__atomic_\w+|__sync_\w+|volatile)\b")

# Between these two others run: no plain count may change there, and nothing of Python's be called.
WITHOUT_GIL = re.compile(r"\bPy_BEGIN_ALLOW_THREADS\b(.*?)\bPy_END_ALLOW_THREADS\b", re.DOTALL)
UNDER_GIL = re.compile(
    r"\b(_?Py\w*|\w+_(?:retain|release|leave|lost)(?=\s*\()|references|users|busy|mc_raise\w*)\b"
)
# A deliberate fault: see src/mutant.h.
MUTANT = re.compile(r"\bMC_MUTANT_IS\((\d+)\)")
# What looks for a NUL that a file, or a copy of its bytes, need not have. memchr does it in bounds.
STRINGS = re.compile(
    r"\b(str(?:len|cpy|cat|cmp|chr|rchr|str|pbrk|spn|cspn|tok|tok_r|dup|coll)|v?sprintf|gets)\s*\("
)
UNBOUNDED = {
    "src/binding/pykey.c": {"strcmp"},  # the name of a type
    "src/document/classes.c": {"strcmp"},  # likewise
    "src/binding/reader.c": {"strlen"},  # a path
    "src/writer/publish.c": {"strlen"},  # what the caller reports
    "src/writer/writer.c": {"strlen"},  # a path
}

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
        if path.name in PROCESS_ATOMICS:
            continue  # what a signal handler and the threads of one process share is not the map
        code = without_comments(path)
        found += [f"{path.name} uses {word}: only shm.h may" for word in ATOMICS.findall(code)]
    return found


def system_has_one_door(root: Path) -> list[str]:
    """Headers of the operating system are in the files of DOORS alone."""
    return [
        f"{path.name} includes <{name}>: only {', '.join(sorted(DOORS))} may"
        for path in files(root / "src", ".c", ".h")
        for name in includes(path)
        if OS_HEADERS.fullmatch(name) and path.name not in DOORS
    ]


def mutexes_survive_forks(root: Path) -> list[str]:
    """Each mutex of src/ is in MUTEXES, and the file named there locks it around every fork."""
    found = []
    for path in files(root / "src", ".c", ".h"):
        name, code = str(path.relative_to(root)), path.read_text()
        for mutex in MUTEX.findall(re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)):
            handler = MUTEXES.get((name, mutex))
            if handler is None:
                found.append(f"{name}: name {mutex} in MUTEXES, tools/lint_architecture.py")
            elif "pthread_atfork(" not in (root / handler).read_text():
                found.append(f"{handler} registers no fork handlers for {mutex}")
    return found


def part_of(root: Path, path: Path) -> str:
    """The part whose table has to name the file: its folder, or its path where it is one itself."""
    name = str(path.relative_to(root))
    return name if name in PARTS else str(path.parent.relative_to(root))


def core_sources(root: Path, portable: bool = False) -> list[Path]:
    """The sources of the core, which build without Python; of twins the one that is wanted."""
    sources = (path for part in CORE for path in (root / part).glob("*.c"))
    other = TWINS[not portable]
    return sorted(
        path for path in sources if part_of(root, path) in CORE and not path.stem.endswith(other)
    )


def twins_are_two(root: Path) -> list[str]:
    """Each file that is for one kind of system has its twin beside it."""
    return [
        f"{path.relative_to(root)} has no twin {twin.name}"
        for path in files(root / "src", ".c")
        for mine, others in (TWINS, TWINS[::-1])
        if path.stem.endswith(mine)
        for twin in [path.with_name(path.stem.removesuffix(mine) + others + ".c")]
        if not twin.exists()
    ]


def core_knows_no_python(root: Path) -> list[str]:
    """No file of the core includes Python.h, and none of the binding, through which it would."""
    found = []
    for path in files(root / "src", ".c", ".h"):
        part = part_of(root, path)
        if part in CORE and "Python.h" in includes(path):
            found.append(f"{path.relative_to(root)} is of the core and includes Python.h")
    return found


def includes_point_one_way(root: Path) -> list[str]:
    """Each file of src/ is in PARTS and includes only what stands before it there."""
    found = []
    units = {
        (part, stem): number
        for part, table in PARTS.items()
        for number, unit in enumerate(table.units)
        for stem in unit.split()
    }
    headers = {str(path.relative_to(root / "src")): path for path in files(root / "src", ".h")}

    def unit_of(path: Path) -> int | None:
        part = part_of(root, path)
        return units.get((part, path.name), units.get((part, path.stem)))

    for path in files(root / "src", ".c", ".h"):
        part, name, unit = part_of(root, path), path.relative_to(root), unit_of(path)
        if unit is None:
            found.append(f"{name}: name it in PARTS, tools/lint_architecture.py")
            continue
        for include in includes(path):
            beside = str((path.parent / include).relative_to(root / "src"))
            header = headers.get(beside) or headers.get(include)
            if header is None:
                continue
            its = part_of(root, header)
            below = (unit_of(header) or 0) <= unit
            allowed = below if its == part else its in PARTS[part].uses
            if not allowed:
                found.append(f"{name} includes {include}, which stands above it in PARTS")
    return found


def without_comments(path: Path) -> str:
    """The text of a C file, its comments taken out."""
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


def counts_have_the_gil(root: Path) -> list[str]:
    """Where the GIL is given up (Py_BEGIN_ALLOW_THREADS) no count changes, no Py_ is called."""
    return [
        f"{path.relative_to(root)} uses {word} without the GIL"
        for path in files(root / "src", ".c", ".h")
        for part in WITHOUT_GIL.findall(without_comments(path))
        for word in UNDER_GIL.findall(part)
    ]


def strings_are_bounded(root: Path) -> list[str]:
    """No function that runs until a NUL, but for those of UNBOUNDED."""
    return [
        f"{name} calls {word}: bytes of a file may lack the NUL, use memchr or strnlen"
        for path in files(root / "src", ".c", ".h")
        for name in [str(path.relative_to(root))]
        for word in STRINGS.findall(without_comments(path))
        if word not in UNBOUNDED.get(name, set())
    ]


def mutants_are_of_one_file(root: Path) -> list[str]:
    """No two files have a fault of the same number: they would be tried at once."""
    owners: dict[str, str] = {}
    found = []
    for path in files(root / "src", ".c", ".h"):
        name = str(path.relative_to(root))
        for number in dict.fromkeys(MUTANT.findall(path.read_text())):
            first = owners.setdefault(number, name)
            if first != name:
                found.append(f"{name} has mutant {number}, which is one of {first}")
    return found


def files_have_a_line(root: Path) -> list[str]:
    """Each file of src/, a header with its source, is named where its one responsibility is told.

    That is the table of docs/design.md, for the binding the comment that module.h opens with; and
    the table names no other.
    """
    section = re.search(
        r"^## Files, and who may know what\n(.*?)(?=^## |\Z)",
        (root / "docs/design.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    told = set(re.findall(r"`(\w+\.[ch])`", section.group(1) if section else ""))
    mapped = re.findall(r"\w+\.[ch]", (root / "src/binding/module.h").read_text().split("*/")[0])
    found = []
    there = set()
    for path in files(root / "src", ".c", ".h"):
        there.add(path.name)
        if path.suffix == ".h" and path.with_suffix(".c").exists():
            continue
        binding = path.parent.name == "binding"
        if path.name not in (mapped if binding else told):
            where = "module.h" if binding else "docs/design.md"
            found.append(f"{where} does not say what {path.relative_to(root)} is for")
    return found + [f"docs/design.md names {name}, which is gone" for name in sorted(told - there)]


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
    for folder in ("src", "ring", "redis_module", "tests"):
        for path in files(root / folder, ".c", ".h") if (root / folder).is_dir() else ():
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


def ring_keeps_apart(root: Path) -> list[str]:
    """The ring's core knows neither Python nor a system, and its ZooKeeper thread no Redis."""
    found = []
    for name in ("ring.h", "ring.c", "entry.h", "entry.c"):
        path = root / "ring" / name
        for header in includes(path) if path.exists() else ():
            if header in ("Python.h", "redis_api.h") or OS_HEADERS.fullmatch(header):
                found.append(f"ring/{name} includes {header}: it is of the core")
    for name in ("membership.h", "membership.c"):
        path = root / "redis_module" / name
        found += [
            f"redis_module/{name} includes {header}: its threads call nothing of the server's"
            for header in (includes(path) if path.exists() else ())
            if (root / "redis_module" / header).exists()
            and header not in ("membership.h", "record.h", "fault.h")
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
    return [
        f"make help does not name {target}"
        for target in public
        if target != "help" and f'"make {target} ' not in text
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
    mutexes_survive_forks,
    core_knows_no_python,
    includes_point_one_way,
    twins_are_two,
    counts_have_the_gil,
    strings_are_bounded,
    mutants_are_of_one_file,
    files_have_a_line,
    c_files_are_small,
    ring_keeps_apart,
    package_imports_only_what_it_may,
    no_file_names_a_machine,
    help_names_every_target,
    changelog_names_the_version,
]


def main() -> None:
    """Prints every breach; exits with 1 when there is one.

    --core prints the core's sources instead; --core --portable those for other systems than Linux.
    """
    if sys.argv[1:2] == ["--core"]:
        print(*core_sources(ROOT, portable=sys.argv[2:] == ["--portable"]), sep="\n")
        return
    found = [f"{rule.__name__}: {breach}" for rule in RULES for breach in rule(ROOT)]
    print("\n".join([*found, f"architecture: {len(RULES)} rules, {len(found)} breaches"]))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
