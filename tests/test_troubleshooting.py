"""docs/troubleshooting.md has every message that there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import messages
import pytest

pytestmark = pytest.mark.once

PAGE = (messages.ROOT / messages.PAGE).read_text("utf-8")


def test_the_page_has_every_message_and_no_other() -> None:
    assert messages.differences(messages.ROOT, PAGE) == []
    assert len(messages.on_page(PAGE)) > 250, "the collector has gone blind"


def test_every_block_of_messages_has_a_cause_and_a_cure() -> None:
    blocks = PAGE.split("```message\n")[1:]
    assert len(blocks) > 30
    for block in blocks:
        text = block.split("```\n", 1)[1].split("\n#", 1)[0]
        assert re.search(r"^Cause: \S", text, re.MULTILINE), block
        assert re.search(r"^Cure: \S", text, re.MULTILINE), block


def test_its_links_lead_somewhere() -> None:
    for file, anchor in re.findall(r"\]\(([a-z]+\.md)(?:#([a-z-]+))?\)", PAGE):
        page = (messages.ROOT / "docs" / file).read_text("utf-8")
        titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}
        assert not anchor or anchor in anchors, f"{file}#{anchor}"


def test_the_incident_page_quotes_messages_that_there_are() -> None:
    page = (messages.ROOT / "docs/howto/incident.md").read_text("utf-8")
    section = page.split("## Degraded\n")[1].split("\n## ")[0]
    quoted = re.findall(r"^\d\. `([^`]+)`[:,]", section, re.MULTILINE)
    assert len(quoted) == 4
    assert [text for text in quoted if text not in PAGE] == []


C_SOURCE = r"""
    return mc_fail(err, MC_OS, /* why */ "a file of %llu bytes (%s)"
                   " is \"in\" the way: %.3f %%", size, strerror(errno), x);
    (void)mc_os_error(err, "cannot stat", path);
    mc_raise_text(m, S, self->used ? "this thing is used up" : "this thing is used with `with`");
    PyErr_Format(type, "%R", value);
    text = PyUnicode_FromFormat("no collection %R: there are %R", name, names);
    return never(err, MC_LIMIT, "no key is as long as this one"); /* "nor is it a comment's" */
    static const char why[] = "no number is exactly this one";
    return "make it larger, or load less";
    return PyUnicode_FromFormat("<mmapcache.Thing of %R that is shown>", name);
_Static_assert(sizeof(x) == 8, "nobody reads this one when it runs");
PyDoc_STRVAR(get_doc, "Whoever asks for help is given this.");
static const char open_doc[] = "open($module, path)\n--\n\nAnd this, too.";
static PyType_Slot slots[] = {{Py_tp_doc, (void *)"And what a class is."}};
static PyGetSetDef getset[] = {{"name", name, NULL, "And what a name is.", NULL}};
"""
C_HEADER = """#define WHY "a header is read by whom?"
static inline int wrong(void) { return mc_fail(err, MC_CORRUPT, "a header says that it is bad"); }
"""
PY_SOURCE = """
'What the module is, for whoever reads it.'
NEEDED = "this needs something: install it"
Answer: TypeAlias = "str | bytes | None, and a dict"
def run(self) -> None:
    "What the function does, for whoever reads it."
    parser.add_argument("--http", help="where somebody listens", metavar="ADDR or PORT")
    return refusal(BAD_REQUEST, "the address makes no sense")
    self._say(f"no status page yet: {address}")
    self._tell("a callback of somebody's failed", error)
    wrong("rules is an array of documents")
    why = "it is no replica set"
    assert ready, "this can be read by nobody"
    raise SyncError(f"no server {name} answers: {error}")
    raise mmapcache.CorruptError("a value is not {a document}") from None
    error = ValueError("two numbers of %", 5)
    log.warning("%s was lost (%d so far)", path, count)
    log.info("%s was lost and nobody cares", path)
    raise UsageError(text) if text else UsageError("neither this nor that" + (more or ""))
    raise AssertionError("this cannot happen at all")
"""


PAGE_SOURCE = """
    if (lost) return ["bad", "Unknown", `no answer for ${span(lost)}: is it running?`];
    if (problem) return ["bad", "Damaged", problem];
    if (none) return ["warn", "No loader", (error ? `It said: ${error}. ` : "It ended. ") + age];
    return ["good", "Live", "All of it is well, for a while."];
"""
# Of a file whose sentences are answers: what is said in spite of that.
ANSWERING = """
def run():
    emit("all is well with this file")
    lines = ["none: the last one closed it"]
    complain("stat", f"the data is {age} s old, which is too old")
    raise CommandError("there is no such file, or not yet")
"""


def tree(root: Path) -> Path:
    """A project with a source of each kind."""
    for path, text in (
        ("src/a/b.c", C_SOURCE),
        ("src/a/b.h", C_HEADER),
        ("mmapcache/c.py", PY_SOURCE),
        ("mmapcache/cli/stat.py", ANSWERING),
        (messages.STATUS_PAGE, PAGE_SOURCE),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_what_is_collected(tmp_path: Path) -> None:
    """By what is not known to be something else: whoever says it, and in whatever way."""
    assert list(messages.collected(tree(tmp_path))) == [
        'a file of … bytes (…) is "in" the way: … %',
        "cannot stat …",
        "this thing is used up",
        "this thing is used with `with`",
        "no collection …: there are …",
        "no key is as long as this one",
        "no number is exactly this one",
        "make it larger, or load less",
        "a header says that it is bad",
        "this needs something: install it",
        "it is no replica set",
        "the address makes no sense",
        "no status page yet: …",
        "a callback of somebody's failed",
        "rules is an array of documents",
        "no server … answers: …",
        "a value is not {a document}",
        "two numbers of %",
        "… was lost (… so far)",
        "neither this nor that…",
        "the data is … s old, which is too old",
        "there is no such file, or not yet",
        "Unknown: no answer for …: is it running?",
        "Damaged: …",
        "No loader: It said: ….",
        "No loader: It ended.",
    ]


def test_what_is_no_message_is_still_there() -> None:
    there = messages.strings(messages.ROOT)
    assert [text for text in messages.NO_MESSAGES if text not in there] == []
    assert [name for name in messages.ANSWERS if not (messages.ROOT / name).is_file()] == []


def test_a_page_that_differs_is_told_so(tmp_path: Path) -> None:
    said = list(messages.collected(tree(tmp_path)))
    page = "```message\n{}\n```\n"
    assert messages.differences(tmp_path, page.format("\n".join(said))) == []
    told = messages.differences(tmp_path, page.format("\n".join([*said[1:], said[1], "gone …"])))
    assert told == [f"missing: {said[0]}   (src/a/b.c)", "stale: gone …", f"twice: {said[1]}"]
    extra = "… was lost and nobody cares"  # not collected, but said
    assert messages.differences(tmp_path, page.format("\n".join([*said, extra]))) == []
