"""What the site makes out of the code: signatures from the stub, options from the parsers.

- ``.. mmapcache:: Cache`` is a C type or function: signatures from _mmapcache.pyi, texts from the
  extension, where `name: text` becomes a list. (autodoc knows no types of C.)
- ``{mmapcache-commands}`` is a section for each command of the command line.
- At the end every public name has to be on a page; a missing one is a warning, so that
  `make docs` fails.
"""

from __future__ import annotations

import argparse
import ast
import copy
import inspect
import os
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import mmapcache
from mmapcache.cli import parser_for

PACKAGE = Path(mmapcache.__file__).parent
STUB = PACKAGE / "_mmapcache.pyi"
ERRORS = re.compile(
    r"\b({})\b".format(
        "|".join(
            name
            for name in mmapcache.__all__
            if isinstance(getattr(mmapcache, name), type)
            and issubclass(getattr(mmapcache, name), Exception)
        )
    )
)
logger = logging.getLogger(__name__)


class Stub:
    """What the C extension has, as its stub says."""

    def __init__(self, path: Path) -> None:
        self.functions: dict[str, list[ast.FunctionDef]] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = node

    def methods(self, name: str) -> dict[str, list[ast.FunctionDef]]:
        """Of a class: its constructor, methods and properties, the overloads of each together."""
        found: dict[str, list[ast.FunctionDef]] = {}
        for node in self.classes[name].body:
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append(node)
        return found

    def attributes(self, name: str) -> dict[str, str]:
        """Of a class: what has a type and no more."""
        return {
            ast.unparse(node.target): ast.unparse(node.annotation)
            for node in self.classes[name].body
            if isinstance(node, ast.AnnAssign)
        }

    def public(self) -> set[str]:
        """`Class.member`, without what begins with an underscore."""
        return {
            f"{name}.{member}"
            for name in self.classes
            if name in mmapcache.__all__
            for member in (*self.methods(name), *self.attributes(name))
            if not member.startswith("_")
        }


def _signature(name: str, node: ast.FunctionDef, *, bound: bool) -> str:
    arguments = copy.deepcopy(node.args)
    if bound:
        del (arguments.posonlyargs or arguments.args)[0]
    result = "" if node.returns is None else f" -> {_plain(ast.unparse(node.returns))}"
    return f"{name}({_plain(ast.unparse(arguments))}){result}"


def _plain(text: str) -> str:
    """Without the stub's own names for types."""
    text = re.sub(r"\b_Key\b|\b_CodecOptions\b", "Any", text)
    text = re.sub(r"\b_Size\b", "int | str", text)
    text = re.sub(r"\b_(T|Built|Found)\b", r"\1", text)
    text = text.replace("mode: int=416", "mode: int=0o640")  # as the stub has it
    return re.sub(r"^/(, )?", "", text)


stub = Stub(STUB)


class Described(SphinxDirective):  # type: ignore[misc]
    """``.. mmapcache:: NAME``: a class, exception or function of the extension, all of it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Writes it as a page would, and has that parsed."""
        name = self.arguments[0]
        described = _class(name) if name in stub.classes else _function(name)
        container = nodes.container()
        self.state.nested_parse(
            StringList(described, f"{name} of the stub"), self.content_offset, container
        )
        return list(container.children)


def _function(name: str) -> list[str]:
    overloads = stub.functions[name]
    lines = _directive("function", [_signature(name, node, bound=False) for node in overloads])
    return lines + _indented(_text(getattr(mmapcache, name), overloads[-1]))


def _class(name: str) -> list[str]:
    thing = getattr(mmapcache, name)
    methods, attributes = stub.methods(name), stub.attributes(name)
    made = methods.get("__new__")
    signature = _signature(name, made[-1], bound=True).partition(" -> ")[0] if made else name
    exception = issubclass(thing, BaseException)
    lines = _directive("exception" if exception else "class", [signature])
    inner = (
        [f"Bases: {', '.join(_base(base) for base in thing.__bases__)}", ""] if exception else []
    )
    said = list(
        parts(inspect.cleandoc(thing.__doc__ or ""), set(attributes) if exception else set())
    )
    if exception:
        for _, words in said[:1]:
            inner += [*map(_linked, words.splitlines()), ""]
    else:
        inner += _text(thing, made[-1] if made else None)
    for member, overloads in methods.items():
        if not member.startswith("_"):
            inner += _member(getattr(thing, member), member, overloads)
    for member, kind in attributes.items():
        inner += _directive("attribute", [member], type=_plain(kind))
        if exception:
            inner += _indented([_linked(words) for names, words in said if member in names])
        else:
            inner += _indented(_text(getattr(thing, member), None))
    return lines + _indented(inner)


def _base(base: type) -> str:
    module = "" if base.__module__ == "builtins" else f"{base.__module__}."
    return f":py:exc:`{module}{base.__name__}`"


def _member(thing: Any, name: str, overloads: list[ast.FunctionDef]) -> list[str]:
    decorators = {ast.unparse(node) for node in overloads[-1].decorator_list}
    if "property" in decorators:
        returns = overloads[-1].returns
        kind = "" if returns is None else _plain(ast.unparse(returns))
        return _directive("property", [name], type=kind) + _indented(_text(thing, None))
    flags = {"classmethod": ""} if "classmethod" in decorators else {}
    signatures = [_signature(name, node, bound=True) for node in overloads]
    lines = _directive("method", signatures, **flags)
    return lines + _indented(_text(thing, overloads[-1]))


def _directive(kind: str, signatures: list[str], **options: str) -> list[str]:
    first, *more = signatures
    lines = [f".. py:{kind}:: {first}", *(" " * (len(kind) + 10) + each for each in more)]
    return [*lines, *(f"   :{key}: {value}".rstrip() for key, value in options.items()), ""]


def _indented(lines: list[str]) -> list[str]:
    return [*(f"   {line}".rstrip() for line in lines), ""]


def _text(thing: Any, node: ast.FunctionDef | None) -> list[str]:
    """The docstring, with `name: text` as a list and the names of errors as links."""
    parameters = set()
    if node is not None:
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        parameters = {argument.arg for argument in every}
    lines: list[str] = []
    for names, words in parts(inspect.cleandoc(thing.__doc__ or ""), parameters):
        if names:
            lines.append(f"* {', '.join(f'**{name}**' for name in names)}: {_linked(words)}")
        else:
            lines += ["", *map(_linked, words.splitlines()), ""]
    return [*lines, ""]


def _linked(line: str) -> str:
    line = re.sub(r"(?<=\w)_(?!\w)|(?<!:)\*", r"\\\g<0>", line.replace("`", "``"))
    return ERRORS.sub(r":py:exc:`\1`", line)


def parts(text: str, known: set[str]) -> Iterator[tuple[list[str], str]]:
    """A docstring cut up: ([], a paragraph), or (names, what is said of them) for `a, b: text`,
    which goes on until the next one, a blank line, or "Raises"."""
    name = "|".join(sorted(map(re.escape, known), key=len, reverse=True)) or "(?!)"
    head = re.compile(rf"(?:^|(?<=[.;] ))((?:{name})(?:, (?:{name}))*): ", re.MULTILINE)
    for paragraph in re.split(r"\n\n|\n(?=Raises )", text):
        found = list(head.finditer(paragraph))
        before = paragraph[: found[0].start()] if found else paragraph
        if before.strip():
            yield [], before
        for here, following in zip_longest(found, found[1:]):
            words = paragraph[here.end() : following.start() if following else None]
            yield here[1].split(", "), " ".join(words.split())


class Commands(SphinxDirective):  # type: ignore[misc]
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
            for action in command._actions:
                if isinstance(action, argparse._SubParsersAction):
                    for below, its in action.choices.items():
                        lines += _command(f"{name} {below}", its, "###")
        container = nodes.section()
        container.document = self.state.document
        self.state.nested_parse(StringList(lines, "the parsers"), 0, container, match_titles=True)
        return list(container.children)


def _command(name: str, command: argparse.ArgumentParser, level: str = "##") -> list[str]:
    usage = re.sub(r"^(usage: | {7})", "", command.format_usage().rstrip(), flags=re.MULTILINE)
    lines = [f"{level} mmapcache {name}", "", _escape(command.description or ""), ""]
    lines += ["```text", *usage.splitlines(), "```", ""]
    for group in command._action_groups:
        actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
        if not actions:
            continue
        lines += [f"**{_escape((group.title or '').capitalize())}**", ""]
        for action in actions:
            lines += [_flags(action), f": {_escape(_help(command, action)) or '—'}", ""]
    ending = command.epilog or ""
    if "\n" in ending.strip():  # a table, in which lines and columns count
        lines += ["```text", *(ending % {"prog": command.prog}).strip().splitlines(), "```", ""]
    elif ending:
        lines += [_escape(ending), ""]
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
    for module in PACKAGE.glob("[!_]*.py"):
        names |= {f"mmapcache.{module.stem}.{name}" for name in _public_of(module)}
    ring = PACKAGE / "ring" / "__init__.py"
    names |= {f"mmapcache.ring.{name}" for name in _public_of(ring)}
    return names


def _public_of(path: Path) -> list[str]:
    """__all__ of a module, which may not be importable here; one without is not public."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def check_names(app: Sphinx, environment: BuildEnvironment) -> None:
    """Warns of each public name that is on no page."""
    objects = environment.domaindata["py"]["objects"]
    there = set(objects)
    # The fields of a TypedDict are no types: a signature's `bytes` is no link to one of that name.
    for name in there:
        if name.startswith("mmapcache.types.") and name.count(".") == 3:
            del objects[name]
    for name in sorted(wanted() - there):
        logger.warning("%s is public, and on no page: add it to docs/reference/", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("mmapcache-commands", Commands)
    app.add_lexer("message", TextLexer)  # of docs/troubleshooting.md
    app.add_directive("mmapcache", Described)
    app.connect("env-check-consistency", check_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
