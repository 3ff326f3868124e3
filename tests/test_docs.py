"""The documentation is whole: every public name is on a page, every page on the site, every link
leads somewhere, and the docstrings say what their reader has to know.

`make docs` builds the site from the same pages, where each warning is an error.
"""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pictures
import pytest

import mmapcache
import mmapcache.ring

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(mmapcache.__file__).parent
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "README.md", *PAGES]
# Of the names in the stub: what the stub itself needs, and what `sync` alone uses.
NOT_PUBLIC = {"cut_events", "cut_ids"}


def modules() -> dict[str, list[str]]:
    """Public modules, with their __all__, which may need a package that is not here."""
    found = {}
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[path.stem] = list(ast.literal_eval(node.value))
    return found


def stub() -> Iterator[tuple[str, ast.FunctionDef]]:
    """`open`, `Cache.get` and so on, each once."""
    tree = ast.parse((PACKAGE / "_mmapcache.pyi").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in NOT_PUBLIC:
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            members = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
            for name, member in members.items():
                if not name.startswith("_"):
                    yield f"{node.name}.{name}", member


def docstring(name: str) -> str:
    thing: object = mmapcache
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing.__doc__ or ""


CLASSES = [
    name
    for name in mmapcache.__all__
    if isinstance(getattr(mmapcache, name), type)
    and not issubclass(getattr(mmapcache, name), Exception)
]


DIRECTIVE = re.compile(
    r"^\.\. (mmapcache|autoclass|autofunction|autoexception|py:\w+|currentmodule):: ([\w.]+)",
    re.MULTILINE,
)


def described() -> list[str]:
    """The names that a directive of the reference describes, below the package."""
    names = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        module = ""
        for kind, name in DIRECTIVE.findall(page.read_text("utf-8")):
            if kind in ("py:module", "currentmodule"):
                module = name.partition(".")[2]
            elif kind.startswith("auto"):
                names.append(name.removeprefix("mmapcache."))
            elif kind == "mmapcache" or not module:
                names.append(name)
            else:
                names.append(f"{module}.{name}")
    return names


def test_every_public_name_is_on_a_page() -> None:
    """With the members of each: a directive has all of them, and `make docs` asks for each."""
    wanted = {name for name in mmapcache.__all__ if name != "__version__"}
    for module, public in modules().items():
        if module != "__init__":
            wanted |= {f"{module}.{name}" for name in public}
    wanted |= {f"ring.{name}" for name in mmapcache.ring.__all__}
    assert len(wanted) > 50
    assert sorted(described()) == sorted({*wanted, "testing.mmapcache_test"})


def test_every_method_of_the_stub_has_a_docstring() -> None:
    """The pages have the members that have one."""
    names = [name for name, _ in stub()]
    assert len(names) > 80
    assert [name for name in names if not docstring(name).strip()] == []


UNITS = {
    "timeout": "seconds", "retention": "seconds", "seconds": "seconds", "max_size": "bytes",
    "front_bytes": "bytes", "confirmed": "Unix seconds", "position_at": "Unix seconds",
    "max_age": "seconds",
}  # fmt: skip


def arguments(node: ast.FunctionDef) -> list[str]:
    """Their names."""
    every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return [argument.arg for argument in every]


def test_docstrings_state_units() -> None:
    elsewhere = {"reader": "open"}  # says that the arguments are those of open()
    asked = 0
    for name, node in stub():
        text = docstring(elsewhere.get(name.rpartition(".")[2], name))
        for argument in arguments(node):
            if argument in UNITS and f"{name}.{argument}" != "Writer.record.seconds":
                assert UNITS[argument] in text, f"{name}: {argument}"
                asked += 1
    assert asked >= 8


def of_modules() -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """The public functions and classes of the modules, each with its name below the package."""
    for module, public in modules().items():
        for node in ast.parse((PACKAGE / f"{module}.py").read_text("utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
                yield f"{module}.{node.name}", node


def test_docstrings_of_the_modules_state_units() -> None:
    """A class says them for its `__init__`; a stand-in for mmapcache.open names that."""
    asked = 0
    for name, node in of_modules():
        whole = ast.get_docstring(node) or ""
        functions = [part for part in (node, *node.body) if isinstance(part, ast.FunctionDef)]
        for function in functions:
            text = ast.get_docstring(function) or ""
            if function.name.startswith("_") and function.name != "__init__":
                continue
            for argument in arguments(function):
                if argument in UNITS and "`mmapcache.open`" not in text:
                    assert UNITS[argument] in text + whole, f"{name}: {argument}"
                    asked += 1
    assert asked >= 4


def test_functions_state_thread_and_fork_safety() -> None:
    """What the classes are asked, asked of the functions: of C, and of every module."""
    texts = {
        name: docstring(name) for name, _ in stub() if "." not in name and name in mmapcache.__all__
    }
    for name, node in of_modules():
        if isinstance(node, ast.FunctionDef):
            texts[name] = ast.get_docstring(node) or ""
    assert {"open", "json_default", "testing.cache", "tornado.json_encode"} <= texts.keys()
    assert "fastapi.register_encoders" in texts
    assert [name for name in texts if not re.search(r"\b[Tt]hreads?\b", texts[name])] == []
    assert [name for name in texts if not re.search(r"\bfork|\bworkers\b", texts[name])] == []


@pytest.mark.parametrize("name", CLASSES)
def test_docstrings_state_thread_and_fork_safety(name: str) -> None:
    text = docstring(name)
    assert re.search(r"\b[Tt]hreads?\b", text), f"{name}: what of threads?"
    assert re.search(r"\bfork|\bprocess of its Writer", text), f"{name}: what of forks?"


def test_classes_of_the_modules_state_thread_and_fork_safety() -> None:
    """But for plain data: the dicts of `types`, and a Change."""
    asked = 0
    for module, public in modules().items():
        if module in ("__init__", "types"):
            continue
        for node in ast.parse((PACKAGE / f"{module}.py").read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in public and node.name != "Change":
                text = ast.get_docstring(node) or ""
                assert re.search(r"\b[Tt]hreads?\b", text), f"{module}.{node.name}: threads?"
                assert re.search(r"\bfork|\bworkers\b", text), f"{module}.{node.name}: forks?"
                asked += 1
    assert asked > 6


QUIET = re.compile(  # cannot fail, or fails as its class says
    r"\.(keys|values|items|copy|close|closed|path|name|raw|count|to_dict|to_list|generation|state|"
    r"position|puts|deletes|unchanged|duplicates|binary)$"
)


def test_docstrings_state_errors() -> None:
    silent = [
        name
        for name, _ in stub()
        if not QUIET.search(name) and not re.search(r"\b[Rr]aise[sd]?\b", docstring(name))
    ]
    in_class = {"Snapshot.get", "Snapshot.collection", "Document.pluck", "CollectionMap.get"}
    assert set(silent) == in_class
    for name in silent:  # the class says it for them
        assert re.search(r"\b[Rr]aises\b", docstring(name.split(".")[0]))


def test_every_page_is_on_the_site() -> None:
    listed = set()
    for block in re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.S):
        listed |= {line for line in block.splitlines() if line and not line.startswith(":")}
    there = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES} - {"index"}
    assert listed == there


@cache
def anchors(page: Path) -> frozenset[str]:
    """The headings' names in links, as the repository's page and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```\w*\n.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"
    for target in re.findall(r"^```\{(?:literalinclude|include)\} (\S+)", text, re.MULTILINE):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_are_python(page: Path) -> None:
    for block in re.findall(r"^( *)```python\n(.*?)^ *```$", page.read_text("utf-8"), re.M | re.S):
        code = textwrap.dedent(block[1])
        compile(code, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_pictures_are_drawn_by_the_script_and_are_sound() -> None:
    drawn = {"one-map.svg": pictures.one_map(), "timeline.svg": pictures.timeline()}
    for name, content in drawn.items():
        file = DOCS / "pictures" / name
        assert file.read_text("utf-8") == content, "run `python tools/pictures.py`"
    recorded = (DOCS / "pictures" / "watch.svg").read_text("utf-8")
    for content in (*drawn.values(), recorded):
        root = ElementTree.fromstring(content)
        assert root.attrib["aria-label"]
        assert "://" not in content.replace("http://www.w3.org/2000/svg", ""), "an asset elsewhere"
    assert "generation 1" in recorded
    assert "loader dead" in recorded


def test_a_recording_shows_what_was_printed_and_obeys_nothing() -> None:
    lines = [pictures.Line(0.5, "generation 2"), pictures.Line(1.5, "  <b>&: +1 (a)")]
    root = ElementTree.fromstring(pictures.terminal(lines, "mmapcache watch <x>"))
    texts = [
        "".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert texts == ["$ mmapcache watch <x>", "generation 2", "  <b>&: +1 (a)"]


def test_modules_that_can_be_imported_have_what_they_say() -> None:
    for module in ("changes", "testing", "types"):
        public = importlib.import_module(f"mmapcache.{module}")
        assert [name for name in modules()[module] if not hasattr(public, name)] == []


def test_the_changelog_has_no_link_into_the_sources() -> None:
    """It lies at their top, and is a page of the site in another folder."""
    targets = re.findall(r"\]\(([^)]*)\)", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []
