"""Every message that mmapcache can fail or warn with, and docs/troubleshooting.md, kept together.

    python3 tools/messages.py          what the page lacks, and what it has that nobody says
    python3 tools/messages.py --list   every message with where it is made

A message is written as a pattern: what varies in it is `…`. Collected are

    C         the texts of mc_fail, mc_os_error, mc_raise_text, PyErr_Format, PyErr_SetString
    Python    what `raise` gives an exception, the log's lines from warning on, what commands
              complain of

The page has its messages in fenced blocks marked `message`, one pattern a line. It may have more
than what is collected (texts that are put together elsewhere), as long as some source has the
string.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/troubleshooting.md"
GAP = "…"

CALLS = re.compile(r"\b(mc_fail|mc_os_error|mc_raise_text|mc_unfit|PyErr_Format|PyErr_SetString)\(")
LITERALS = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*')
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
SPEC = re.compile(r"%[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t)?[a-zA-Z]")
ESCAPES = {r"\"": '"', r"\\": "\\", r"\n": "\n", r"\t": "\t"}
SENTENCE = 16  # characters without gaps: what is shorter is a part of a message, or a name
# Parts of messages.
PARTS = frozenset({"an anonymous file", f"; not compared, as it is stale: {GAP}"})
# Functions of mmapcache/ that make a message of their text, besides exceptions.
SAYING = frozenset({"warning", "error", "critical", "level", "complain", "_complain", "makeRecord"})
# Exceptions whose text completes another sentence, and with what it begins.
COMPLETED = {"mmapcache/sync/parsing.py": f"{GAP} must be "}


class Message(NamedTuple):
    """A pattern and the source that makes it."""

    pattern: str
    where: str


def pattern_of(text: str) -> str:
    """A format string as a pattern: gaps for what varies, single spaces."""
    text = SPEC.sub(GAP, text.replace("%%", "\0")).replace("\0", "%")
    return re.sub(rf"{GAP}+", GAP, re.sub(r"\s+", " ", text)).strip()


def is_message(pattern: str) -> bool:
    """Whether it is a message, and not a name or a gap that another text fills."""
    plain = pattern.replace(GAP, "").strip(" :;,.()")
    return len(plain) >= SENTENCE and " " in plain and pattern not in PARTS


# ---- C ----


def c_calls(source: str) -> Iterator[tuple[str, str]]:
    """Name and arguments of each call that makes a message."""
    for call in CALLS.finditer(source):
        depth, at = 1, call.end()
        while depth and at < len(source):
            literal = LITERAL.match(source, at)
            if literal is not None:
                at = literal.end()
                continue
            depth += {"(": 1, ")": -1}.get(source[at], 0)
            at += 1
        yield call[1], source[call.end() : at - 1]


def c_texts(source: str) -> Iterator[str]:
    """Each literal, with its neighbours that the compiler joins to it."""
    for group in LITERALS.finditer(source):
        text = "".join(LITERAL.findall(group[0]))
        yield re.sub(r"\\.", lambda found: ESCAPES.get(found[0], found[0]), text)


def c_messages(root: Path) -> Iterator[Message]:
    """The messages of the extension."""
    for path in sorted((root / "src").rglob("*.c")):
        for name, arguments in c_calls(path.read_text("utf-8")):
            for text in c_texts(arguments):
                pattern = pattern_of(text)
                if name == "mc_os_error" and pattern:
                    yield Message(f"{pattern} {GAP}", str(path.relative_to(root)))
                elif is_message(pattern):
                    yield Message(pattern, str(path.relative_to(root)))


# ---- Python ----


def py_texts(node: ast.expr) -> list[str]:
    """The format strings that an expression may give; none when it is no text of ours."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = (
            str(part.value).replace("%", "%%") if isinstance(part, ast.Constant) else GAP
            for part in node.values
        )
        return ["".join(parts)]
    if isinstance(node, ast.IfExp):
        return py_texts(node.body) + py_texts(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = py_texts(node.left) or [GAP], py_texts(node.right) or [GAP]
        return [left[0] + (right[0] if len(right) == 1 else GAP)]
    return []


def py_sayings(tree: ast.Module) -> Iterator[ast.expr]:
    """The expressions that become messages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = function.id if isinstance(function, ast.Name) else name
            made = name.endswith(("Error", "InvalidDocument")) and name != "AssertionError"
            if made or name in SAYING:
                yield from node.args


def py_messages(root: Path) -> Iterator[Message]:
    """The messages of the Python code."""
    for path in sorted((root / "mmapcache").rglob("*.py")):
        where = str(path.relative_to(root))
        for said in py_sayings(ast.parse(path.read_text("utf-8"))):
            for text in py_texts(said):
                pattern = pattern_of(text)
                if where in COMPLETED:
                    yield Message(COMPLETED[where] + pattern, where)
                elif is_message(pattern):
                    yield Message(pattern, where)


# ---- the two together ----


def collected(root: Path) -> dict[str, str]:
    """Every message, with where it is made."""
    found: dict[str, str] = {}
    for message in (*c_messages(root), *py_messages(root)):
        found.setdefault(message.pattern, message.where)
    return found


def strings(root: Path) -> set[str]:
    """Every string of the sources as a pattern, whatever becomes of it."""
    found: set[str] = set()
    for path in (root / "src").rglob("*.[ch]"):
        found.update(map(pattern_of, c_texts(path.read_text("utf-8"))))
    for path in (root / "mmapcache").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
                found.update(map(pattern_of, py_texts(node)))
    return found


def on_page(text: str) -> list[str]:
    """The patterns of the page, in its order."""
    blocks = re.findall(r"^```message\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def differences(root: Path, page: str) -> list[str]:
    """What is to be done about the page, a line each."""
    said, shown = collected(root), on_page(page)
    others = strings(root)
    found = [f"missing: {pattern}   ({said[pattern]})" for pattern in said if pattern not in shown]
    found += [
        f"stale: {pattern}" for pattern in shown if pattern not in said and pattern not in others
    ]
    return found + [f"twice: {p}" for i, p in enumerate(shown) if p in shown[:i]]


def main() -> int:
    """The exit status: 1 when the page and the sources differ."""
    if sys.argv[1:] == ["--list"]:
        for pattern, where in collected(ROOT).items():
            print(f"{where:40} {pattern}")
        return 0
    found = differences(ROOT, (ROOT / PAGE).read_text("utf-8"))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
