"""What the site makes out of the code: signatures from the stub, options from the parsers.

- The C types have no annotations: their signatures come from _mmapcache.pyi, each overload merged
  into one, and `name: text` in their docstrings becomes a list of parameters.
- ``{mmapcache-commands}`` is a section for each command of the command line.
- At the end every public name has to be on a page; a missing one is a warning, so that
  `make docs` fails.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import mmapcache
from mmapcache.cli import parser_for

PACKAGE = Path(mmapcache.__file__).parent
STUB = PACKAGE / "_mmapcache.pyi"
# Public as a whole, each by its own __all__; `changes` is reached through the cache.
MODULES = (
    "changes", "django", "fastapi", "flask", "openfeature", "prometheus", "starlette", "testing",
    "tornado", "types",
)  # fmt: skip
logger = logging.getLogger(__name__)
Function = ast.FunctionDef


class Stub:
    """The functions, methods and properties of the C extension, as the stub has them."""

    def __init__(self, path: Path) -> None:
        self.functions: dict[str, list[Function]] = {}
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef):
                        self.functions.setdefault(f"{node.name}.{member.name}", []).append(member)

    def public(self) -> set[str]:
        """`Class.method` and `function`, without what begins with an underscore."""
        names = {name for name in self.functions if not name.rpartition(".")[2].startswith("_")}
        return {name for name in names if name.split(".")[0] in mmapcache.__all__}

    def signature(self, name: str) -> tuple[str, str] | None:
        """Arguments and result of a function, or of a class's constructor."""
        found = self.functions.get(name) or self.functions.get(f"{name}.__new__")
        if not found:
            return None
        node = found[-1]  # of overloads the last takes the most
        arguments = node.args
        if "." in name or name not in self.functions:
            first = arguments.posonlyargs or arguments.args
            if first and first[0].arg in ("self", "cls"):
                del first[0]
        results = dict.fromkeys(part for f in found if f.returns for part in _union(f.returns))
        return f"({_plain(ast.unparse(arguments))})", _plain(" | ".join(results))


def _union(node: ast.expr) -> list[str]:
    if isinstance(node, ast.BinOp):
        return [*_union(node.left), *_union(node.right)]
    return [ast.unparse(node)]


def _plain(text: str) -> str:
    """Without the stub's own names for types."""
    text = re.sub(r"\b_Key\b|\b_CodecOptions\b", "Any", text)
    text = re.sub(r"\b_Size\b", "int | str", text)
    return re.sub(r"\b_(T|Built)\b", r"\1", text).lstrip("/, ") if text != "/" else ""


stub = Stub(STUB)


def _stub_name(name: str) -> str:
    return name.removeprefix("mmapcache.")


def process_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, result: str
) -> tuple[str, str] | None:
    """Of what the stub has."""
    found = stub.signature(_stub_name(name))
    if found is None:
        return ("", "") if what in ("class", "exception") and _is_extension(obj) else None
    return found if what != "class" else (found[0], "")


def _is_extension(obj: Any) -> bool:
    return getattr(mmapcache, getattr(obj, "__name__", ""), None) is obj


def process_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """`name: text` becomes a field; the type of a property is said."""
    key = _stub_name(name)
    if key not in stub.functions and f"{key}.__new__" not in stub.functions:
        return
    if what in ("attribute", "property"):
        returns = stub.functions[key][-1].returns
        if returns is not None:
            lines.append("")
            lines.append(f":type: ``{_plain(ast.unparse(returns))}``")
        return
    nodes_ = stub.functions.get(key) or stub.functions[f"{key}.__new__"]
    arguments = nodes_[-1].args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    lines[:] = fields(lines, {argument.arg for argument in every})


def fields(lines: list[str], parameters: set[str]) -> list[str]:
    """The lines with `a, b: text` written as `:param a, b: text`."""
    if not parameters:
        return lines
    name = "|".join(sorted(map(re.escape, parameters), key=len, reverse=True))
    head = re.compile(rf"(?:^|(?<=\. ))((?:{name})(?:, (?:{name}))*): ")
    made: list[str] = []
    inside = False
    for line in lines:
        if not line.strip() or line.startswith("Raises "):
            inside = False
            if line.startswith("Raises ") and made and made[-1].strip():
                made.append("")
        starts = list(head.finditer(line))
        if inside and (not starts or starts[0].start() > 0):
            end = starts[0].start() if starts else len(line)
            made.append(f"    {line[:end].strip()}")
        elif not starts or starts[0].start() > 0:
            made.append(line[: starts[0].start()] if starts else line)
        for here, following in zip(starts, [*starts[1:], None], strict=True):
            if not inside and made and made[-1].strip():
                made.append("")
            inside = True
            text = line[here.end() : following.start() if following else None].strip()
            made.append(f":param {here[1]}: {text}")
    return made


class Commands(SphinxDirective):
    """A section for each command: usage, what it does, its options."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """Parses what the parsers say, as Markdown."""
        os.environ["COLUMNS"] = "88"
        parser = parser_for(None, every=True)
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        lines: list[str] = []
        for name, command in commands.choices.items():
            lines += _command(name, command)
        container = nodes.section()
        container.document = self.state.document
        self.state.nested_parse(StringList(lines, "the parsers"), 0, container, match_titles=True)
        return list(container.children)


def _command(name: str, command: argparse.ArgumentParser) -> list[str]:
    usage = command.format_usage().removeprefix("usage: ").rstrip()
    lines = [f"## mmapcache {name}", "", _escape(command.description or ""), ""]
    lines += ["```text", *usage.splitlines(), "```", ""]
    for group in command._action_groups:
        actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
        if not actions:
            continue
        lines += [f"**{_escape((group.title or '').capitalize())}**", ""]
        for action in actions:
            lines += [_flags(action), f": {_escape(_help(command, action)) or '—'}", ""]
    if command.epilog:
        lines += [_escape(command.epilog), ""]
    return lines


def _flags(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(f"`{flag}{value}`" for flag in action.option_strings)


def _help(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": command.prog}
    return " ".join(text.split())


def _escape(text: str) -> str:
    return re.sub(r"([*_<>$\[\]\\`])", r"\\\1", text)


def wanted() -> set[str]:
    """Every public name, as the site's index has it."""
    names = {f"mmapcache.{name}" for name in mmapcache.__all__ if name != "__version__"}
    names |= {f"mmapcache.{name}" for name in stub.public()}
    for module in MODULES:
        there = _public_of(PACKAGE / f"{module}.py")
        names |= {f"mmapcache.{module}.{name}" for name in there}
    return names


def _public_of(path: Path) -> list[str]:
    """__all__ of a module, which may not be importable here."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    raise ValueError(f"{path} has no __all__")


def check_names(app: Sphinx, error: Exception | None) -> None:
    """Warns of each public name that is on no page."""
    if error is None:
        there = set(app.env.get_domain("py").objects)  # type: ignore[attr-defined]
        for name in sorted(wanted() - there):
            logger.warning("%s is public, and on no page: add it to docs/reference/", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    importlib.invalidate_caches()
    app.add_directive("mmapcache-commands", Commands)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("build-finished", check_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
