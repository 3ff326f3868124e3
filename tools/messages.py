"""Every message that mmapcache can fail or warn with, and docs/troubleshooting.md, kept together.

    python3 tools/messages.py          what the page lacks, and what it has that nobody says
    python3 tools/messages.py --list   every message with where it is made

A message is written as a pattern: what varies in it is `…`. Each sentence in the sources is taken
for one, whatever says it, so that a new way to say something is not overlooked. Not collected are

    docstrings, help, metavars, types     what somebody reads who asks for it
    calls of NEWS and QUIET, assertions   what is well, or an answer; no text that is shown
    ANSWERS                               files that say answers and figures; of these only
                                          what becomes an exception, a warning or a complaint
    NO_MESSAGES                           single sentences, each with its reason
    `<mmapcache.Cache ...>`               what repr() gives
    the status page's labels              of it, only its verdicts other than good ones
    what has less than SENTENCE letters   parts of other messages, and names
    what other software says              a server, PyMongo, the operating system

The page has its messages in fenced blocks marked `message`, one pattern a line. It may have more
than what is collected (of the files of ANSWERS, say), as long as some source has the string.
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

CALL = re.compile(r"\b(mc_os_error|PyDoc_STRVAR|_Static_assert|static_assert)\(")
COMMENTS = re.compile(r'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/|^#.*?(?<!\\)$', re.MULTILINE | re.DOTALL)
# What stands before a docstring in a slot, or in a row of a table of members or exceptions.
BEFORE_A_DOCSTRING = re.compile(r'(Py_tp_doc, *(\(void \*\))?|\{"[\w.]+",[^;{}]*,)\s*$')
LITERALS = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*')
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
SPEC = re.compile(r"%[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|z|j|t)?[a-zA-Z]")
ESCAPES = {r"\"": '"', r"\\": "\\", r"\n": "\n", r"\t": "\t"}
SENTENCE = 16  # characters without gaps: what is shorter is a part of a message, or a name
# Of mmapcache/: calls that say what is well, give an answer, or need a text for programs.
NEWS = frozenset({"info", "debug", "emit", "waits"})
QUIET = frozenset({"compile", "cast", "add_argument_group", "AssertionError"})
# What is said in spite of the file that it is in.
SAYING = frozenset({"warning", "error", "critical", "level", "complain", "_complain", "makeRecord"})
ANSWERS = frozenset({
    "mmapcache/cli/__init__.py", "mmapcache/cli/check.py", "mmapcache/cli/stat.py",
    "mmapcache/cli/watch.py", "mmapcache/cli/extjson.py", "mmapcache/prometheus.py",
    "mmapcache/printing.py", "mmapcache/ring/commands/__init__.py",
    "mmapcache/ring/commands/change.py", "mmapcache/ring/commands/status.py",
    "mmapcache/ring/metrics.py",
    "mmapcache/ring/refused.py", "mmapcache/sync/parsing.py", "mmapcache/sync/plan.py",
    "mmapcache/sync/progress.py",
})  # fmt: skip
UNREAD = frozenset({"help", "description", "epilog", "metavar"})  # arguments
NO_MESSAGES = {
    "an anonymous file": "in the place of a path",
    f"; not compared, as it is stale: {GAP}": "a part of one",
    "failed without saying why": "in the place of an exception's text that is empty",
    "the name of a collection": "in the place of what a cache file contradicts itself in",
    "DB.COLL or DB.COLL=NAME": "what a text should look like",
    'from = "DB.COLL"': "what a text should look like",
    f"[[collection]] in {GAP}": "where an option comes from",
    f"[[collection]] # {GAP}": "the same, in --print-config",
    "; user, password and options are not shown": "a comment in --print-config",
    "(configured timeouts": "what PyMongo says",
    "max message size": "what PyMongo says",
    "the cache is full": "with what a message begins",
    'Bearer realm="mmapcache"': "a header",
    f"generation {GAP}, {GAP} s old": "what a probe answers when all is well",
    f"the status page is at {GAP}": "news",
    f"nothing changed: {GAP} documents in {GAP} s": "news",
    "gone from the source": "a part of news",
    "no longer asked for": "a part of news",
    f"field {GAP}: {GAP}": "the field that the message is about",
    f"mmapcache field names {GAP}": "a key of an interpreter's own dict",
    f"module {GAP} has no attribute {GAP}": "what Python says",
    "the record of the ring": "what the message is about",
    f"what node {GAP} says of itself": "the same",
    f"{GAP} (no address known)": "a node in a message",
    f"<mmapcache.ring.{GAP} {GAP}>": "what repr() gives",
    f"{GAP}/mmapcache-{GAP}": "a path",
}
# Exceptions whose text completes another sentence, and with what it begins.
COMPLETED = {"mmapcache/sync/parsing.py": f"{GAP} must be "}
FOR_PROGRAMS = re.compile(r"[a-z]+/[\w-]+; |default-src ")  # types of content, a policy
STATUS_PAGE = "mmapcache/serve/page.html"
VERDICT = re.compile(r'return \["(?:bad|warn)", "([^"]+)", (.*)\];$', re.MULTILINE)
JS_TEXT = re.compile(r'"([^"]*)"|`([^`]*)`')


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
    if len(plain) < SENTENCE or " " not in plain or pattern in NO_MESSAGES:
        return False
    return not FOR_PROGRAMS.match(pattern)


# ---- C ----


def c_calls(source: str) -> Iterator[tuple[str, range]]:
    """Name and place of each call whose texts are not messages as they stand."""
    for call in CALL.finditer(source):
        depth, at = 1, call.end()
        while depth and at < len(source):
            literal = LITERAL.match(source, at)
            if literal is not None:
                at = literal.end()
                continue
            depth += {"(": 1, ")": -1}.get(source[at], 0)
            at += 1
        yield call[1], range(call.end(), at)


def c_texts(source: str) -> Iterator[str]:
    """Each literal, with its neighbours that the compiler joins to it."""
    for group in LITERALS.finditer(source):
        text = "".join(LITERAL.findall(group[0]))
        yield re.sub(r"\\.", lambda found: ESCAPES.get(found[0], found[0]), text)


def c_messages(root: Path) -> Iterator[Message]:
    """The messages of the extension."""
    for path in sorted((root / "src").rglob("*.[ch]")):
        where = str(path.relative_to(root))
        text = path.read_text("utf-8")
        source = COMMENTS.sub(lambda found: found[0] if found[0][0] == '"' else "", text)
        calls = list(c_calls(source))
        for literal in LITERALS.finditer(source):
            (text,) = c_texts(literal[0])
            pattern = pattern_of(text)
            name = next((name for name, place in calls if literal.start() in place), None)
            if name == "mc_os_error" and pattern:
                yield Message(f"{pattern} {GAP}", where)
            elif (
                name is None
                and is_message(pattern)
                and not pattern.startswith("<")
                and "\n--\n" not in text  # between a docstring's signature and its sentences
                and not BEFORE_A_DOCSTRING.search(source, 0, literal.start())
            ):
                yield Message(pattern, where)


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


def called(node: ast.AST) -> str:
    """The name of what is called; empty when this is no call of a name."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def unread(tree: ast.Module) -> Iterator[ast.AST]:
    """Expressions whose texts are no messages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value  # a docstring
        elif isinstance(node, ast.keyword) and node.arg in UNREAD:
            yield node.value
        elif (
            isinstance(node, ast.Assert)
            or called(node) in NEWS | QUIET
            or (isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias")
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EPILOG")
        ):
            yield node


def py_sayings(tree: ast.Module, *, answers: bool) -> Iterator[ast.expr]:
    """The expressions that may become messages.

    :param answers: the file's sentences are answers, if they are not said as a message is
    """
    done: set[ast.AST] = set()
    if answers:
        for node in ast.walk(tree):
            name = called(node)
            if isinstance(node, ast.Call) and (
                name in SAYING
                or (name.endswith(("Error", "InvalidDocument")) and name != "AssertionError")
            ):
                yield from node.args
        return
    for node in unread(tree):
        done.update(ast.walk(node))
    for node in ast.walk(tree):  # the outer ones first
        if isinstance(node, ast.expr) and node not in done and py_texts(node):
            done.update(ast.walk(node))
            yield node


def py_messages(root: Path) -> Iterator[Message]:
    """The messages of the Python code."""
    for path in sorted((root / "mmapcache").rglob("*.py")):
        where = str(path.relative_to(root))
        tree = ast.parse(path.read_text("utf-8"))
        for said in py_sayings(tree, answers=where in ANSWERS):
            for text in py_texts(said):
                pattern = pattern_of(text)
                if where in COMPLETED:
                    yield Message(COMPLETED[where] + pattern, where)
                elif is_message(pattern):
                    yield Message(pattern, where)


def page_messages(root: Path) -> Iterator[Message]:
    """What the status page says when it does not say that all is well."""
    path = root / STATUS_PAGE
    for word, sentence in VERDICT.findall(path.read_text("utf-8") if path.exists() else ""):
        texts = [plain or template for plain, template in JS_TEXT.findall(sentence)]
        texts = list(filter(None, texts))
        for text in texts or [GAP]:
            pattern = pattern_of(re.sub(r"\$\{[^{}]*\}", GAP, text))
            yield Message(pattern_of(f"{word}: {pattern}"), STATUS_PAGE)


# ---- the two together ----


def collected(root: Path) -> dict[str, str]:
    """Every message, with where it is made."""
    found: dict[str, str] = {}
    for message in (*c_messages(root), *py_messages(root), *page_messages(root)):
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
