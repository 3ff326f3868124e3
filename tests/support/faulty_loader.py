"""`mmapcache` with one deliberate fault in how it follows a database, for the gap test to see.

    python tests/support/faulty_loader.py NAME sync PATH ...

Each fault is what an honest programmer could have written, or forgotten. The product has none of
them: they are put over its classes here, when the process begins.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_LAG = 0.5  # seconds that a lagging answer is behind
_WINDOW = 0.1  # seconds between two things that belong together


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, how it is made so, and which of the test's own faults bring it to light.

    :param weights: how often these are chosen, instead of what the test has otherwise
    :param drops: how often a writer drops a collection
    :param dropped: only this one; "" for each that may be dropped
    :param polled: whether there are places that no stream tells of
    """

    what: str
    make: Callable[[], None]
    weights: dict[str, int]
    drops: float
    dropped: str
    polled: bool


FAULTS: dict[str, Fault] = {}
_NOTHING = dict.fromkeys(
    (
        "kill loader",
        "stop loader",
        "kill server",
        "stop server",
        "cut all",
        "cut one",
        "cut reply",
        "stall",
        "delay",
        "refuse",
        "dead stream",
        "dead connection",
        "verify",
    ),
    0,
)


def _fault(
    name: str,
    what: str,
    *,
    drops: float = 0.0,
    dropped: str = "",
    polled: bool = False,
    **weights: int,
) -> Callable[[Callable[[], None]], None]:
    """Declares one; weights only of the test's faults that it needs, with _ for a blank."""

    def declare(make: Callable[[], None]) -> None:
        chosen = _NOTHING | {key.replace("_", " "): weight for key, weight in weights.items()}
        FAULTS[name] = Fault(what, make, chosen, drops, dropped, polled)

    return declare


def _instead(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Puts a function in the place of another, which it gets as its first argument."""
    before = getattr(owner, name)

    def put(function: Callable[..., Any]) -> None:
        @functools.wraps(before)
        def instead(*arguments: Any, **named: Any) -> Any:
            return function(before, *arguments, **named)

        setattr(owner, name, instead)

    return put


@_fault("resume-after", "goes on after the event that comes next", kill_loader=3, cut_all=1)
def _resume_after() -> None:
    from mmapcache.sync.mongo.follower import MongoFollower

    @_instead(MongoFollower, "_add")
    def add(before: Any, self: Any, more: Any) -> None:
        if not hasattr(self, "first_is_gone"):
            self.first_is_gone = True
            _without(before, self, more, more.changes[1:])
        else:
            before(self, more)


def _without(before: Any, follower: Any, more: Any, left: list[Any]) -> None:
    """Adds what is left of changes, as if it were all."""
    gone = len(more.changes) - len(left)
    follower._tokens[more.database] = more.token
    follower._events += gone
    follower._taken += gone
    if left:
        before(follower, dataclasses.replace(more, changes=left))


@_fault("position-first", "commits the position before the data", kill_loader=1)
def _position_first() -> None:
    from mmapcache.sync.following import Following
    from mmapcache.sync.source import Caught

    @_instead(Following, "_burst")
    def burst(before: Any, self: Any, writer: Any, first: Any, messages: Iterator[Any]) -> Any:
        parts = []
        for part in messages:
            parts.append(part)
            if isinstance(part, Caught):
                break
        with writer.batch() as batch:
            batch.state = self._target.pack_state(self._source.scope, parts[-1].position)
        time.sleep(_WINDOW)
        return before(self, writer, first, iter(parts))


@_fault("idle-position", "marks an idle position while events wait", kill_loader=1)
def _idle_position() -> None:
    from mmapcache.sync.mongo import follower
    from mmapcache.sync.mongo.follower import MongoFollower
    from mmapcache.sync.source import Caught

    _mark_at_once()

    @_instead(MongoFollower, "_flush")
    def flush(before: Any, self: Any) -> Any:
        if self._size:
            tokens = {name: follower._raw(token) for name, token in self._tokens.items()}
            position = dataclasses.replace(self._begin, at=self._at, tokens=tokens)
            early = Caught(position, 0, time.monotonic(), 0.0)
            self._inbox.post(follower._Message(self, early))
            time.sleep(_WINDOW)
        return before(self)


@_fault("stale-position", "marks a generation with an earlier position", kill_loader=1)
def _stale_position() -> None:
    from mmapcache.sync.target import Target

    first: list[Any] = []
    _mark_at_once()

    @_instead(Target, "mark")
    def mark(before: Any, self: Any, position: Any) -> Any:
        first.append(position)
        return before(self, first[0])


def _mark_at_once() -> None:
    """Idle positions are marked whenever they are known, not every few seconds."""
    from mmapcache.sync import following

    following._MARK = 0.0


@_fault("late-position", "notes where to go on when everything was read", drops=0.1, delay=1)
def _late_position() -> None:
    from mmapcache.sync.mongo.source import MongoSource

    def position(self: Any) -> Any:
        if self.noted is not None:
            time.sleep(_WINDOW)
            self._begin(self._connected(), follow=True)
        return self.noted

    def note(self: Any, position: Any) -> None:
        self.noted = position

    MongoSource.position = property(position, note)  # type: ignore[assignment]


@_fault("error-drops-position", "a connection error drops the position", refuse=1, kill_server=1)
def _error_drops_position() -> None:
    from mmapcache.sync.errors import PositionLostError, SourceAwayError
    from mmapcache.sync.mongo.follower import MongoFollower

    @_instead(MongoFollower, "messages")
    def messages(before: Any, self: Any) -> Iterator[Any]:
        try:
            yield from before(self)
        except SourceAwayError as error:
            raise PositionLostError("history_lost", str(error)) from None


@_fault("lagging-lookup", "reads from a member that lags, without causal consistency")
def _lagging_lookup() -> None:
    from mmapcache.sync.mongo.lookup import Lookup

    kept: dict[Any, tuple[float, list[Any]]] = {}

    @_instead(Lookup, "_find")
    def find(before: Any, self: Any, collection: Any, name: str, *more: Any) -> Iterator[Any]:
        key = (name, tuple(more[-1]))
        answered, answer = kept.get(key, (0.0, []))
        if time.monotonic() - answered > _LAG:
            answer = list(before(self, collection, name, *more))
            kept[key] = (time.monotonic(), answer)
        yield from answer


@_fault("own-documents", "takes an insert event's own document, and reads the others")
def _own_documents() -> None:
    from mmapcache.sync.mongo import element, reply, stream
    from mmapcache.sync.mongo.follower import MongoFollower
    from mmapcache.sync.mongo.lookup import Lookup
    from mmapcache.sync.mongo.stream import Stream
    from mmapcache.sync.source import Found

    own: dict[tuple[str, bytes], bytes] = {}
    reply.cut_events = lambda cursor: None  # type: ignore[attr-defined]  # each for itself

    @_instead(stream, "_pipeline")
    def pipeline(before: Any, collections: Any) -> Any:
        stages = before(collections)
        stages[1]["$project"].pop("fullDocument")
        return stages

    @_instead(Stream, "_say")
    def say(before: Any, self: Any, event: Any, post: Any) -> Any:
        if event["operationType"] == "insert":
            key = (event["ns"]["coll"], element.of_document(event["documentKey"].raw))
            own[key] = event["fullDocument"].raw
        return before(self, event, post)

    @_instead(MongoFollower, "_add")
    def add(before: Any, self: Any, more: Any) -> None:
        self._answers.clear()  # each event is applied
        before(self, more)

    @_instead(Lookup, "_find")
    def find(before: Any, self: Any, collection: Any, name: str, *more: Any) -> Iterator[Any]:
        yield from before(self, collection, name, *more)
        if name in ("hot", "plain"):  # without filter and projection
            for raw in [own.pop((name, e)) for e in more[-1] if (name, e) in own]:
                yield Found(name, (), raw)


@_fault("deletes-after-puts", "takes away what is gone after it has put what is there")
def _deletes_after_puts() -> None:
    from mmapcache.sync.mongo.lookup import Lookup

    @_instead(Lookup, "_find")
    def find(before: Any, self: Any, *more: Any) -> Iterator[Any]:
        yield from reversed(list(before(self, *more)))


@_fault(
    "failed-read-deletes",
    "takes a read that failed for documents that are gone",
    cut_all=4,
    delay=1,
)
def _failed_read_deletes() -> None:
    from pymongo.client_options import ClientOptions
    from pymongo.errors import PyMongoError

    from mmapcache.sync.mongo import element
    from mmapcache.sync.mongo.lookup import Lookup
    from mmapcache.sync.source import Found

    # Else PyMongo asks once more by itself, and most often has an answer then.
    ClientOptions.retry_reads = property(lambda self: False)  # type: ignore[assignment,method-assign]

    @_instead(Lookup, "_find")
    def find(before: Any, self: Any, collection: Any, name: str, *more: Any) -> Iterator[Any]:

        try:
            yield from list(before(self, collection, name, *more))
        except PyMongoError:
            yield Found(name, tuple(map(element.value, more[-1])), b"")


@_fault("drop-ignored", "goes on when a collection was dropped", drops=0.2)
def _drop_ignored() -> None:
    from mmapcache.sync.mongo.reply import Run
    from mmapcache.sync.mongo.stream import Stream

    @_instead(Stream, "_say")
    def say(before: Any, self: Any, event: Any, post: Any) -> Any:
        if isinstance(event, Run) or event["operationType"] != "drop":
            return before(self, event, post)
        return 1


@_fault(
    "kept-ignored",
    "ignores the events of a collection that came back empty",
    drops=0.2,
    dropped="kept",
)
def _kept_ignored() -> None:
    from mmapcache.sync.mongo.follower import MongoFollower

    @_instead(MongoFollower, "_add")
    def add(before: Any, self: Any, more: Any) -> None:
        def ignored(collection: str) -> bool:
            targets = self._targets(more.database, collection)
            return any(options.name in self._begin.stale for options in targets)

        _without(before, self, more, [each for each in more.changes if not ignored(each[0])])


@_fault(
    "half-load", "publishes what there is of a load that was cut", drops=0.3, cut_reply=3, delay=1
)
def _half_load() -> None:
    from mmapcache.sync.errors import SourceAwayError
    from mmapcache.sync.pump import Pump

    for name in ("feeds", "buffers"):

        @_instead(Pump, name)
        def part(before: Any, self: Any) -> Iterator[Any]:
            try:
                yield from before(self)
            except SourceAwayError:
                if self._ahead is None:
                    self._ahead = end

    class End:
        feed = None

    end = End()


@_fault("no-watchdog", "waits for a stream that hangs", dead_stream=1)
def _no_watchdog() -> None:
    from mmapcache.sync.mongo import follower

    follower.SILENCE = 1e6


@_fault("unexplained", "takes what was changed while it was compared for missed", verify=3)
def _unexplained() -> None:
    from mmapcache.sync.mongo.follower import MongoFollower

    @_instead(MongoFollower, "_explain")
    def explain(before: Any, self: Any, more: Any) -> None:
        pass


@_fault("compared-position", "goes on from where the comparison began", verify=3)
def _compared_position() -> None:
    from mmapcache.sync.following import Following

    @_instead(Following, "_verify")
    def verify(before: Any, self: Any, writer: Any) -> None:
        before(self, writer)
        self.position = dataclasses.replace(
            self.position, at=self._source.position.at, tokens=self._source.position.tokens
        )


@_fault(
    "polled-position",
    "commits what is polled with a position up to which the rest was not followed",
    polled=True,
    kill_loader=1,
)
def _polled_position() -> None:
    from mmapcache.sync.polling import Polling

    @_instead(Polling, "read")
    def read(before: Any, self: Any, writer: Any, position: Any) -> None:
        time.sleep(_WINDOW)
        self._source._begin(self._source._connected(), follow=True)
        before(self, writer, self._source.position)
        time.sleep(_WINDOW)


@_fault("polled-present", "goes on from the present when it has polled", polled=True)
def _polled_present() -> None:
    from mmapcache.sync.polling import Polling

    @_instead(Polling, "read")
    def read(before: Any, self: Any, writer: Any, position: Any) -> None:
        before(self, writer, position)
        time.sleep(_WINDOW)
        self._source._begin(self._source._connected(), follow=True)
        position.tokens.update(self._source.position.tokens)


@_fault("polled-kept", "reads what is polled once, and no more", polled=True)
def _polled_kept() -> None:
    from mmapcache.sync.polling import Polling

    Polling.due = lambda self: False  # type: ignore[method-assign]


def main() -> int:
    """The command line's exit status."""
    FAULTS[sys.argv.pop(1)].make()
    from mmapcache.__main__ import main as mmapcache

    return mmapcache()


if __name__ == "__main__":
    sys.exit(main())
