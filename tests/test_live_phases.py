"""A loader that follows a change stream stands in each of its phases in turn, and there it is
ended, killed, or its disk is full.

    first load ─ loaded ─┐                      ┌─ a burst ─ within it ─ its commit ─┐
    resume ──────────────┴─ stream, quiet ──────┴──────────────── position <─────────┘
    take-over of a file whose loader was killed ┘

Whatever happens, the file holds the content before or the content after, whole, and whoever goes on
does so from the position in the file: nothing is loaded twice. The loader that polls, and what is
before a first load, has `test_sync_phases.py`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.hold import Hold
from support.live import FOLLOW, Content, content, equal, following, loads, truth, well
from support.loader import Loader, load_once, wait_for
from support.phases import at_each, fill, small_disk
from support.scripted_oplog import ReplicaSet

import mmapcache

pytest.importorskip("pymongo")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

BOTH = ["--collection=shop.a", "--collection=shop.b"]
FLAGS = [*BOTH, "--timeout=30", "--max-size=64MiB"]
OLD = {"shop.a": [{"_id": i, "v": 0} for i in range(35)], "shop.b": [{"_id": 1, "v": 0}]}
PAD = "x" * 20_000
LARGE = 150  # documents with a PAD, for which a full disk has no room


@dataclass(frozen=True)
class Phase:
    """Where the loader stands (see `Hold`), and what it is about to do.

    :param begins: without a file ("fresh"), with one ("resumes"), or beside a loader ("takes over")
    :param shows: what the file has then: "nothing", or what was before the change or after it
    """

    at: str
    when: str = "before"
    begins: str = "resumes"
    shows: str = "before"


SYNC = "mmapcache.sync."
FOLLOWING = SYNC + "following:Following."
PHASES = {
    "first load": Phase(SYNC + "progress:Progress.add", begins="fresh", shows="nothing"),
    "loaded": Phase(FOLLOWING + "follow", begins="fresh"),
    "resume": Phase(FOLLOWING + "follow"),
    "a burst": Phase(FOLLOWING + "_apply"),
    "within it": Phase(FOLLOWING + "_apply", "after"),
    "its commit": Phase(SYNC + "target:Target.note", "after"),
    "committed": Phase(SYNC + "shaping:Shaping.committed", shows="after"),
    "position": Phase(SYNC + "diary:Diary.followed", "after", shows="after"),
    "take-over": Phase(SYNC + "target:_say_taken_over", begins="takes over"),
}
# Where all the room that a burst needs is still to be taken.
WRITING = ("loaded", "resume", "a burst", "take-over")


class Stand:
    """A loader that stands in a phase, its server, and the change that it has not published yet.

    :param large: documents that the change adds, each with a PAD
    """

    def __init__(self, path: Path, phase: str, large: int = 0) -> None:
        self.path = path
        self.phase = PHASES[phase]
        self.server = ReplicaSet(OLD)
        self.large = large
        self.loader: Loader
        self.contents: dict[str, Content | None] = {"nothing": None}
        self._hold = Hold(path.with_name(path.name + ".hold"), self.phase.at, self.phase.when)

    @contextmanager
    def standing(self) -> Iterator[Stand]:
        """Within it the loader stands there."""
        with ExitStack() as stack:
            stack.enter_context(self.server)
            flags = ["--uri", self.server.uri, *FOLLOW, *FLAGS]
            before = None
            if self.phase.begins == "resumes":
                status, output = load_once(self.path, flags)
                assert status == 0, output
                self._change()
            elif self.phase.begins == "takes over":
                before, _ = stack.enter_context(following(self.path, self.server, *FLAGS))
                flags.append("--standby")
            self.loader = stack.enter_context(Loader(self.path, flags, self._hold.environment))
            if before is not None:
                self.loader.expect("standing by")
                before.signal(signal.SIGKILL)
                before.wait()
                self._change()
            wait_for(self._hold.arrived)
            if self.phase.begins == "fresh":
                self._change()
            assert self.loader.process.poll() is None
            yield self
            self.go()

    def _change(self) -> None:
        self.contents["before"] = truth(self.server)
        with self.server.transaction():
            for namespace in ("shop.a", "shop.b"):
                self.server.update(namespace, 1, {"v": 1})
            self.server.delete("shop.a", 3)
            self.server.insert("shop.a", *({"_id": 99 + n, "pad": PAD} for n in range(self.large)))
            self.server.insert("shop.b", {"_id": 99})
        self.contents["after"] = truth(self.server)

    def go(self) -> None:
        """Lets it go on."""
        self._hold.go()

    def there(self) -> Any:
        """What the file holds, which checks."""
        try:
            with mmapcache.open(self.path) as cache:
                cache.check()
                return content(cache)
        except (mmapcache.NotReadyError, FileNotFoundError):
            return None

    def goes_on(self) -> None:
        """Another loader brings the file to what the server has, and loads what nobody has."""
        with following(self.path, self.server, *FLAGS) as (_, cache):
            equal(cache, truth(self.server))
            assert loads(cache) == {"initial": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_ended(cache_path: Path, number: signal.Signals) -> None:
    def check(path: Path, phase: str) -> None:
        with Stand(path, phase).standing() as stand:
            stand.loader.signal(number)
            if number == signal.SIGTERM:
                stand.go()
            status = stand.loader.wait()
            assert "Traceback" not in stand.loader.output
            if number == signal.SIGTERM:  # what was begun may be done before it ends
                assert status == 0, stand.loader.output
                assert stand.there() in stand.contents.values()
            else:
                assert status == -signal.SIGKILL
                assert stand.there() == stand.contents[stand.phase.shows]
            stand.goes_on()

    at_each(cache_path.parent, PHASES, check)


def test_the_disk_is_full(tmp_path: Path) -> None:
    """The status has the sentence, the content stays, and with room it goes on by itself."""

    def check(beside: Path, phase: str) -> None:
        with (
            small_disk(beside.with_name("disk")) as disk,
            Stand(disk / "cache", phase, LARGE).standing() as stand,
            mmapcache.open(stand.path) as cache,
        ):
            fill(disk / "others")
            stand.go()
            wait_for(lambda: "the file system at" in str(cache.status()["error"]))
            assert cache.status()["state"] == "degraded"
            assert content(cache) == stand.contents["before"]
            (disk / "others").unlink()
            equal(cache, truth(stand.server))
            well(cache)
            assert loads(cache) == {"initial": 1}
            stand.loader.signal(signal.SIGTERM)
            assert stand.loader.wait() == 0
            assert "Traceback" not in stand.loader.output

    at_each(tmp_path, WRITING, check)
