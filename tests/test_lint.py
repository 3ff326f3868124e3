"""The architecture's rules hold here, and each rule is seen to catch a tree that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lint_architecture as lint
import pytest

pytestmark = pytest.mark.once

LONG_FUNCTION = "/* hash.c - h */\nint f(void)\n{\n" + "    f();\n" * 68 + "}\n"

# What runs while others have the GIL.
UNLOCKED = "Py_BEGIN_ALLOW_THREADS\nwait(map);\n{};\nPy_END_ALLOW_THREADS\n"
WAITING, RAISING = UNLOCKED.format("mc_map_release(map)"), UNLOCKED.format("Py_DECREF(map)")

TABLE = """## Files, and who may know what

| file | its one responsibility |
| --- | --- |
| `shm.h`, `region.c`, `hash.c` | the core that reads |
| `collections.h`, `publish.c`, `writer.c` | the core that writes |
| `document.h`, `fields.h`, `decode.c` | documents |
"""

# rule, file of the tree that is changed, its new text, what is said
BREACHES = [
    (lint.shared_memory_has_one_funnel, "src/hash.c", "#include <stdatomic.h>\n", "stdatomic.h"),
    (lint.shared_memory_has_one_funnel, "src/hash.c", "volatile int x;\n", "volatile"),
    (lint.system_has_one_door, "src/hash.c", "#include <sys/mman.h>\n", "sys/mman.h"),
    (lint.system_has_one_door, "src/hash.c", "  #  include <fcntl.h>\n", "fcntl.h"),
    (lint.mutexes_survive_forks, "src/hash.c", "static pthread_mutex_t m;\n", "name m in MUTEXES"),
    (lint.mutexes_survive_forks, "src/hash.c", "  pthread_once_t once = X;\n", "name once in"),
    (
        lint.mutexes_survive_forks,
        "src/lock.c",
        "static pthread_mutex_t held_mutex;\n",
        "no fork handlers for held_mutex",
    ),
    (lint.twins_are_two, "src/hash_posix.c", "int x;\n", "no twin hash_linux.c"),
    (lint.core_knows_no_python, "src/hash.c", "#include <Python.h>\n", "hash.c is of the core"),
    (lint.includes_point_one_way, "src/hash.h", '#include "binding/module.h"\n', "hash.h includes"),
    (lint.includes_point_one_way, "src/shm.h", '#include "hash.h"\n', "shm.h includes hash.h"),
    (lint.includes_point_one_way, "src/stray.c", "int x;\n", "stray.c: name it in PARTS"),
    (
        lint.includes_point_one_way,
        "src/writer/writer.c",
        '#include "document/document.h"\n',
        "writer",
    ),
    # within a part: what stands above in its table
    (
        lint.includes_point_one_way,
        "src/document/decode.c",
        '#include "fields.h"\n',
        "decode.c includes fields.h",
    ),
    (
        lint.includes_point_one_way,
        "src/binding/reader.c",
        '#include "cache_type.h"\n',
        "reader.c includes cache_type.h",
    ),
    (
        lint.includes_point_one_way,
        "src/writer/publish.c",
        '#include "collections.h"\n',
        "publish.c includes collections.h",
    ),
    (lint.counts_have_the_gil, "src/binding/cache_type.c", WAITING, "uses mc_map_release without"),
    (lint.counts_have_the_gil, "src/binding/cache_type.c", RAISING, "uses Py_DECREF without"),
    (lint.strings_are_bounded, "src/hash.c", "n = strlen(value);\n", "hash.c calls strlen"),
    (lint.strings_are_bounded, "src/binding/reader.c", "strcpy (a, b);\n", "reader.c calls strcpy"),
    (lint.mutants_are_of_one_file, "src/hash.c", "MC_MUTANT_IS(7);\n", "which is one of"),
    (lint.files_have_a_line, "src/hash_more.h", "int x;\n", "what src/hash_more.h is for"),
    (lint.files_have_a_line, "src/binding/more.c", "int x;\n", "module.h does not say what src"),
    (lint.files_have_a_line, "docs/design.md", "`hash.c`\n", "what src/shm.h is for"),
    (lint.files_have_a_line, "docs/design.md", f"{TABLE}| `gone.c` | x |\n", "names gone.c, which"),
    (lint.c_files_are_small, "src/hash.c", "/* hash.c - h */\n" * 600, "hash.c has 600 lines"),
    (lint.c_files_are_small, "src/hash.c", LONG_FUNCTION, "hash.c:2: a function of 71 lines"),
    (lint.c_files_are_small, "src/hash.c", "/* hash.c - " + "x" * 90, "hash.c:1: 102 columns"),
    (lint.c_files_are_small, "tests/core/test_a.c", "int x;\n", "test_a.c does not open with"),
    (lint.package_imports_only_what_it_may, "mmapcache/a.py", "import pickle\n", "pickle"),
    (lint.ring_keeps_apart, "ring/ring.c", "#include <Python.h>\n", "ring.c includes Python.h"),
    (lint.ring_keeps_apart, "ring/entry.c", "#include <unistd.h>\n", "entry.c includes unistd.h"),
    (
        lint.ring_keeps_apart,
        "redis_module/membership.c",
        '#include "node.h"\n',
        "membership.c includes node.h",
    ),
    (
        lint.package_imports_only_what_it_may,
        "mmapcache/a.py",
        " from secantus import X",
        "secantus",
    ),
    (lint.no_file_names_a_machine, "docs/a.md", "see /" + "work/main", "docs/a.md holds"),
    (lint.no_file_names_a_machine, ".ci/run", "curl " + "pypi" + ".org", ".ci/run holds"),
    (lint.help_names_every_target, "Makefile", "new: all\n\techo\n", "does not name new"),
    (lint.changelog_names_the_version, "pyproject.toml", 'version = "9.9.9"\n', "[9.9.9]"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree that keeps every rule."""
    for name, text in {
        "src/shm.h": "/* shm.h - s */\n#include <stdatomic.h>\n",
        "src/region.c": "/* region.c - r */\n#include <sys/mman.h>\n#include <sys/types.h>\n",
        "src/hash.h": "/* hash.h - h */\n#include <stdint.h>\n",
        "src/hash.c": '/* hash.c - volatile */\n#include "hash.h"\n#include "shm.h"\n',
        "src/binding/module.h": "/* module.h - m: cache_type.c, reader.c */\n#include <Python.h>\n",
        "src/binding/cache_type.c": '/* cache_type.c - c */\n#include "module.h"\n',
        "src/binding/cache_type.h": "/* cache_type.h - c */\n",
        "src/binding/reader.c": "/* reader.c - r */\nMC_MUTANT_IS(7);\n",
        "src/document/document.h": "/* document.h - d */\n",
        "src/document/fields.h": "/* fields.h - f */\n",
        "src/document/decode.c": '/* decode.c - d */\n#include "document.h"\n',
        "src/writer/collections.h": "/* collections.h - c */\n",
        "src/writer/publish.c": "/* publish.c - p */\n",
        "src/writer/writer.c": '/* writer.c - w */\n#include "hash.h"\n',
        "ring/ring.c": "/* ring.c - r */\n#include <string.h>\n",
        "ring/entry.c": "/* entry.c - e */\n",
        "redis_module/node.h": "/* node.h - n */\n",
        "redis_module/membership.c": '/* membership.c - m */\n#include "record.h"\n',
        "tests/core/test_hash.c": "/* test_hash.c - t */\n",
        "mmapcache/__init__.py": "import struct\n",
        "docs/a.md": "text\n",
        "docs/design.md": TABLE,
        ".ci/run": "make test\n",
        "Makefile": 'help:\n\t@echo "make test  runs"\ntest: all\n',
        "pyproject.toml": 'version = "1.2.3"\n',
        "CHANGELOG.md": "## [1.2.3] - 2026-01-01\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Path], list[str]]) -> None:
    assert rule(lint.ROOT) == []


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_right_tree(rule: Callable[[Path], list[str]], tree: Path) -> None:
    assert rule(tree) == []


@pytest.mark.parametrize(("rule", "name", "text", "said"), BREACHES)
def test_rule_catches(
    rule: Callable[[Path], list[str]], name: str, text: str, said: str, tree: Path
) -> None:
    (tree / name).write_text(text)
    assert any(said in breach for breach in rule(tree)), rule(tree)


def test_every_rule_has_a_breach() -> None:
    assert {rule for rule, *_ in BREACHES} == set(lint.RULES)


def test_made_files_are_not_looked_at(tree: Path) -> None:
    for name in ("build/a.txt", ".venv/a.txt", "x.egg-info/a.txt", "docs/__pycache__/a.txt"):
        path = tree / name
        path.parent.mkdir(parents=True)
        path.write_text("/" + "work/")
    assert lint.no_file_names_a_machine(tree) == []


def test_format_configuration_matches_the_rule() -> None:
    assert f"ColumnLimit: {lint.MAX_COLUMNS}\n" in (lint.ROOT / ".clang-format").read_text()
    assert f"line-length = {lint.MAX_COLUMNS}\n" in (lint.ROOT / "pyproject.toml").read_text()


def test_ci_script_can_be_executed() -> None:
    assert (lint.ROOT / ".ci/run").stat().st_mode & 0o111
