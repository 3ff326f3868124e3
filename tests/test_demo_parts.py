"""The demo's measuring parts: what counts as failed, how memory is added up, what a page says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tornado")
pytest.importorskip("bson")

from demo import documents, memory
from demo.load import Load
from demo.page import Page, replace_page

pytestmark = pytest.mark.once


async def _serve(behaviour: list[str], seconds: float) -> dict[str, Any]:
    """Load on a server that does one thing per connection, the last one for ever."""
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        what = behaviour[min(connections, len(behaviour) - 1)]
        connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if what == "reset":
                    writer.transport.abort()
                    return
                key = head.split(b" ", 2)[1].rsplit(b"/", 1)[1]
                body = b'{"site": "%b"}' % (b"another" if what == "wrong" else key)
                status = b"500 Oops" if what == "error" else b"200 OK"
                half = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nX-Worker: 3" % (status, len(body))
                writer.write(half)
                await asyncio.sleep(0)
                writer.write(b"\r\n\r\n" + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await Load(port, "/v1/sites/", clients=2).run(seconds)


def test_answers_are_counted_by_worker() -> None:
    counts = asyncio.run(_serve(["right"], 0.3))
    assert counts["failed"] == counts["resets"] == 0
    assert counts["answered"] == counts["requests"] == counts["workers"]["3"] > 0
    assert 0 < counts["median_ms"] <= counts["p99_ms"] <= counts["worst_ms"]


def test_a_reset_is_tried_again_and_counted() -> None:
    counts = asyncio.run(_serve(["reset", "reset", "reset", "right"], 0.5))
    assert counts["failed"] == 0
    assert counts["resets"] == 3
    assert counts["answered"] > 0


@pytest.mark.parametrize(("what", "why"), [("error", "500"), ("wrong", "200")])
def test_wrong_answers_fail(what: str, why: str) -> None:
    counts = asyncio.run(_serve([what], 0.1))
    assert counts["failed"] == counts["requests"] > 0
    assert counts["errors"] == {why: counts["failed"]}


def test_no_answer_at_all_fails() -> None:
    counts = asyncio.run(_serve(["reset"], 0.1))
    assert counts["failed"] > 0
    assert counts["answered"] == 0


def test_documents_are_the_same_on_every_run() -> None:
    first, second = documents.make(), documents.make()
    assert first == second
    assert sum(map(len, first.values())) == documents.TOTAL == 20_000
    assert len({site["_id"] for site in first["sites"]}) == documents.SITES
    numbers = {limit["_id"] for limit in first["limits"]}
    assert all(site["customer"] in numbers for site in first["sites"])


def test_pss_of_this_process_and_a_mapped_file(tmp_path: Path) -> None:
    import mmap

    path = tmp_path / "mapped"
    path.write_bytes(bytes(8 << 20))
    before = memory.pss([os.getpid()], str(path))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[at] for at in range(0, len(mapped), 4096)) == 0
        after = memory.pss([os.getpid()], str(path))
    assert before.mapped == 0
    assert after.mapped >= 8 << 20
    assert after.private < before.private + (4 << 20)


def test_a_broken_promise_is_on_the_page() -> None:
    page = Page("a demo: measured live")
    page.title("First")
    page.promise("water flows downhill", True)
    assert "Every promise was kept" in page.text(1.0)
    page.promise("two is three", False)
    assert page.broken == ["two is three"]
    assert "BROKEN: two is three" in page.text(1.0)


def test_the_page_goes_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- demo: begin -->\nold\n<!-- demo: end -->\nbelow\n")
    for _ in range(2):
        replace_page(readme, "\nnew page\n\n")
        assert readme.read_text() == (
            "above\n<!-- demo: begin -->\n```\nnew page\n```\n<!-- demo: end -->\nbelow\n"
        )
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="no demo markers"):
        replace_page(readme, "page")
