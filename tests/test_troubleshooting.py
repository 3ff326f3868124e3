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


C_SOURCE = r"""
    return mc_fail(err, MC_OS, /* why */ "a file of %llu bytes (%s)"
                   " is \"in\" the way: %.3f %%", size, strerror(errno), x);
    (void)mc_os_error(err, "cannot stat", path);
    mc_raise_text(m, S, self->used ? "this thing is used up" : "this thing is used with `with`");
    PyErr_Format(type, "%R", value);
"""
PY_SOURCE = """
def run(self):
    raise SyncError(f"no server {name} answers: {error}")
    raise mmapcache.CorruptError("a value is not {a document}") from None
    error = ValueError("two numbers of %", 5)
    log.warning("%s was lost (%d so far)", path, count)
    log.info("%s was lost and nobody cares", path)
    raise UsageError(text) if text else UsageError("neither this nor that" + (more or ""))
    raise AssertionError("this cannot happen at all")
"""


def tree(root: Path) -> Path:
    """A project with one source of each language."""
    for path, text in (("src/a/b.c", C_SOURCE), ("mmapcache/c.py", PY_SOURCE)):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(text)
    return root


def test_what_is_collected(tmp_path: Path) -> None:
    assert list(messages.collected(tree(tmp_path))) == [
        'a file of … bytes (…) is "in" the way: … %',
        "cannot stat …",
        "this thing is used up",
        "this thing is used with `with`",
        "no server … answers: …",
        "a value is not {a document}",
        "two numbers of %",
        "… was lost (… so far)",
        "neither this nor that…",
    ]


def test_a_page_that_differs_is_told_so(tmp_path: Path) -> None:
    said = list(messages.collected(tree(tmp_path)))
    page = "```message\n{}\n```\n"
    assert messages.differences(tmp_path, page.format("\n".join(said))) == []
    told = messages.differences(tmp_path, page.format("\n".join([*said[1:], said[1], "gone …"])))
    assert told == [f"missing: {said[0]}   (src/a/b.c)", "stale: gone …", f"twice: {said[1]}"]
    extra = "… was lost and nobody cares"  # not collected, but said
    assert messages.differences(tmp_path, page.format("\n".join([*said, extra]))) == []
