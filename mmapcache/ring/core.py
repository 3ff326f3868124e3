"""What an operation does, without doing any of it: which node is asked next, and is that final.

An operation is a generator. It yields what is to be sent, a tuple of `Ask`, and is sent the replies
in that order; or it yields a number, the seconds to wait. A reply is what the server said, an
exception that stands for an error reply, or `Lost`. Who drives it, blocking.py or aio.py or a test,
needs to know nothing about rings.

Reads ask the holders of the key one after the other, until one says something final. Nobody's "not
here" is a miss while a holder that may have the value has said nothing. Writes go to all holders at
once, with one version; whoever could not be reached, or had no memory, is written down beside a
copy that was taken (RING.OWE), and an agent brings it up to date.
"""

from __future__ import annotations

import enum
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mmapcache.ring import _ring
from mmapcache.ring._ring import Clock
from mmapcache.ring.errors import HoldersFull, NoHolderReachable, RingError
from mmapcache.ring.record import Member, Record
from mmapcache.ring.together import Steps, together
from mmapcache.ring.uptime import uptime
from mmapcache.ring.view import PROBE, Peer, View, compile_view
from mmapcache.ring.wire import Lost, pack, version_of

_VALUES: frozenset[object] = frozenset({bytes, type(None)})
METAS: frozenset[object] = frozenset({list, type(None)})
_MISSHAPEN = Lost("a reply of another shape")
_PAUSE = 0.002  # seconds until the first look for a newer ring, or the next try of all holders
_LONGEST_PAUSE = 0.05
# Seconds within which all holders take a write, or say that they have nothing: a node that has lost
# what it held is not filled so soon.
_TOGETHER = PROBE
_CONFIRMATIONS = 3  # how often it is sent again for that
# Seconds after which a copy is not sent any more: a deletion that came after it may be forgotten.
_TOO_LATE = 60.0


class Verdict(enum.Enum):
    """What an error is for the operation."""

    AWAY = enum.auto()  # this node does not serve now
    MAYBE = enum.auto()  # it is not filled yet: another holder may have it
    DROPPED = enum.auto()  # it is filled, but has dropped keys: another holder may have it
    AGAIN = enum.auto()  # the clock is above it now
    STALE = enum.auto()  # there is a newer ring
    BEHIND = enum.auto()  # the node has another ring, and one of both changes in a moment
    FULL = enum.auto()


@dataclass(slots=True)
class Counts:
    """What went otherwise than planned, in this process since the client was made."""

    degraded: int = 0  # writes that not all holders took
    unrecorded: int = 0  # of those, the ones that could not be written down for the agents
    failovers: int = 0  # reads that the first holder did not answer
    doubtful: int = 0  # misses that no holder called final
    clock_behind: int = 0  # writes sent again because a holder had a higher version

    def plain(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


class Source(Protocol):
    """Where the ring comes from: see published.Published."""

    path: str

    @property
    def generation(self) -> int: ...
    def read(self) -> tuple[int, Record, Mapping[str, Member]]: ...


class Core:
    """One client's knowledge; any thread.

    :param source: of the ring
    :param deadline: seconds after which an operation gives up
    :param timeout: seconds that a node which is behind is given to catch up
    :param discard: closes connections that are not to be used again
    """

    def __init__(
        self,
        source: Source,
        *,
        deadline: float,
        timeout: float,
        discard: Callable[[list[Any]], object],
        now: Callable[[], float] = uptime,
    ) -> None:
        self.counts = Counts()
        self.clock = Clock(os.urandom(8))
        self.now = now
        self._source = source
        self._deadline = deadline
        self._timeout = timeout
        self._discard = discard
        self._peers: dict[str, Peer] = {}
        self._view: View | None = None
        self._lock = threading.Lock()

    def after_fork(self) -> list[Any]:
        """In the child: a writer of its own; the connections, which are the parent's."""
        self.clock = Clock(os.urandom(8))
        self._lock = threading.Lock()
        return self.drop_pools()

    def drop_pools(self) -> list[Any]:
        """All idle connections, which are forgotten."""
        return [line for peer in self._peers.values() for line in peer.take_idle()]

    def view(self) -> View:
        """The ring as it is now: one load when nothing has changed.

        :raises RingNotReady: no ring is published
        """
        view = self._view
        if view is not None and view.generation == self._source.generation:
            return view
        with self._lock:
            generation, record, members = self._source.read()
            before = self._peers
            self._view, self._peers = compile_view(generation, record, members, before)
            kept = self._peers.values()
            for peer in before.values():
                if peer not in kept:
                    self._discard(peer.pool)
            return self._view

    def read_again(self) -> None:
        """The next `view` is compiled anew."""
        self._view = None

    # Reading.

    def read(
        self, name: bytes, key: bytes, shape: frozenset[object] = _VALUES
    ) -> Steps[tuple[Any, Peer]]:
        """The reply of the first holder that has a final one; None: a miss.

        :param shape: types that it may have
        :raises NoHolderReachable: none has answered within the deadline
        """
        view = self.view()
        peer = view.first(key)
        if not peer.good:
            return (yield from self._read(name, key, {}, shape))
        (reply,) = yield ((peer, pack((name, view.epoch_text, key)), 1),)
        if type(reply) not in shape:
            return (yield from self._read(name, key, {peer: reply}, shape))
        return reply, peer

    def _read(
        self,
        name: bytes,
        key: bytes,
        heard: dict[Peer, Any],
        shape: frozenset[object] = _VALUES,
    ) -> Steps[tuple[Any, Peer]]:
        """
        :param heard: replies that are here already
        """
        patience = _Patience(self)
        troubles: dict[Peer, Exception] = {}
        since = math.inf
        while True:
            began = math.inf if heard else self.now()
            view = self.view()
            pair = view.pair(key)
            missed: Peer | None = None
            stale = False
            verdicts: set[Verdict] = set()
            for peer in (*self._order(pair), *view.others(key)):
                reply = heard.pop(peer, None)
                if reply is None:
                    (reply,) = yield ((peer, pack((name, view.epoch_text, key)), 1),)
                if type(reply) in shape:
                    peer.answered()
                    self.counts.failovers += peer is not pair[0]
                    return reply, peer
                if not isinstance(reply, Exception):
                    reply = _MISSHAPEN
                verdict = self.judge(peer, reply, key)
                verdicts.add(verdict)
                troubles[peer] = reply
                if verdict in _MISSES:
                    missed = peer
                elif verdict is Verdict.STALE:
                    stale = True
                    break
            if missed is not None and not stale and not _is_open(verdicts):
                if self._is_sure(verdicts, since):
                    self.counts.doubtful += 1
                    return None, missed
                if since == math.inf or not patience.ended():
                    since = began
                    continue
            since = math.inf
            if patience.ended():
                raise self._failure(key, troubles)
            yield from patience.wait(view if stale else None)

    def _is_sure(self, verdicts: Iterable[Verdict], since: float) -> bool:
        """Whether nobody has it, as everybody has said. While one was asked after the other, the
        first may have been filled, and then the second lost what it held. So all are asked twice,
        in less time than a node takes to be filled.

        :param since: when they were asked for the first time
        """
        return Verdict.MAYBE not in verdicts or 0 <= self.now() - since < _TOGETHER

    def read_many(self, keys: Sequence[bytes]) -> Steps[list[bytes | None]]:
        """Values by RING.MGET, in groups by holder; what that leaves open one by one."""
        view = self.view()
        groups = self._grouped(view, keys)
        asks = tuple(
            (peer, pack((b"RING.MGET", view.epoch_text, *[keys[i] for i in members])), 1)
            for peer, members in groups.items()
        )
        found: list[Any] = [None] * len(keys)
        left: list[tuple[int, Peer, Any]] = []
        for (peer, members), reply in zip(groups.items(), (yield asks), strict=True):
            if isinstance(reply, list) and len(reply) == len(members):
                for index, value in zip(members, reply, strict=True):
                    found[index] = value
                if not _VALUES.issuperset(map(type, reply)):
                    left += [(i, peer, found[i]) for i in members if type(found[i]) not in _VALUES]
            else:
                error = reply if isinstance(reply, Exception) else _MISSHAPEN
                left += [(index, peer, error) for index in members]
        if left:
            steps = [self._read(b"RING.GET", keys[i], {peer: e}) for i, peer, e in left]
            values = yield from together(steps)
            for (index, _, _), (value, _) in zip(left, values, strict=True):
                found[index] = value
        return found

    def _grouped(self, view: View, keys: Sequence[bytes]) -> dict[Peer, list[int]]:
        """Indexes of the keys, by the node that is asked first."""
        groups: dict[Peer, list[int]] = {}
        for peer, members in zip(view.peers, view.primaries(keys), strict=True):
            if peer.good and members:
                groups[peer] = members
        placed = sum(map(len, groups.values()))
        if placed < len(keys):
            done = {index for members in groups.values() for index in members}
            for index, key in enumerate(keys):
                if index not in done:
                    groups.setdefault(self._order(view.pair(key))[0], []).append(index)
        return groups

    # Writing.

    def write(
        self, key: bytes, command: Callable[[bytes, bytes], bytes]
    ) -> Steps[tuple[int, bool, list[Any]]]:
        """To all holders at once; copies, whether a holder is without, and the replies.

        :param command: the bytes for an epoch and a version
        :raises NoHolderReachable: none has answered within the deadline
        :raises HoldersFull: none had memory for it
        """
        return (yield from self._spread(key, command, self.clock.next(), {}, self.now()))

    def copy(self, key: bytes, entry: bytes, source: Peer, since: float) -> Steps[tuple[int, bool]]:
        """An entry that `source` has made, to the other holders: copies, its own among them, and
        whether a holder is without.

        :param since: when it was asked for that
        """

        def command(epoch: bytes, version: bytes) -> bytes:
            return pack((b"RING.FILL", epoch, key, entry))

        copies, degraded, _ = yield from self._spread(
            key, command, version_of(entry), {source: 1}, since
        )
        return copies, degraded

    def _spread(
        self,
        key: bytes,
        command: Callable[[bytes, bytes], bytes],
        version: bytes,
        taken: dict[Peer, Any],
        since: float,
    ) -> Steps[tuple[int, bool, list[Any]]]:
        """
        Between two holders' answers this process may have stood still; the first one may have begun
        another life meanwhile, and have been filled from the second before that had the write. So
        when they lie far apart all are asked once more: a node is filled later than that.

        :param taken: by whom it is taken already, and with which reply
        :param since: when the first of these was asked
        """
        patience = _Patience(self)
        given = since if taken else math.inf  # then the version stays as it is
        said = list(taken.values())
        confirmations = 0
        while True:
            view = self.view()
            holders = view.holders(key)
            now = self.now()
            left = [peer for peer in holders if peer not in taken]
            asked = [peer for peer in left if peer.good or peer.admits(now)]
            if now - given > _TOO_LATE:  # an agent brings what is there by now
                asked = []
            elif not asked and not taken:
                asked = left
            data = command(view.epoch_text, version) if asked else b""
            replies = (yield tuple([(peer, data, 1) for peer in asked])) if asked else []
            troubles: dict[Peer, Exception] = {}
            seen: set[Verdict] = set()
            for peer, reply in zip(asked, replies, strict=True):
                if isinstance(reply, Exception):
                    troubles[peer] = reply
                    seen.add(self.judge(peer, reply, key))
                else:
                    taken[peer] = reply
                    said.append(reply)
                    if peer.failures:
                        peer.answered()
            missing = [peer for peer in left if peer not in taken]
            copies = len(holders) - len(missing)
            if not missing and copies > 1:
                if self.now() - since < _TOGETHER:
                    return copies, False, said
                if confirmations == _CONFIRMATIONS or self.now() - given > _TOO_LATE:
                    self.counts.degraded += 1
                    self.counts.unrecorded += 1
                    return copies, True, said
                confirmations += 1
                since = self.now()
                taken.clear()
                continue
            late = patience.ended()
            if Verdict.AGAIN in seen and given == math.inf and not late:
                self.counts.clock_behind += 1
                version = self.clock.next()
                since = self.now()
                taken.clear()
                continue
            if Verdict.STALE in seen and not late:
                yield from patience.wait(view)
                continue
            if Verdict.BEHIND in seen and patience.spent() < self._timeout:
                yield from patience.wait(None)
                continue
            if copies:
                if missing:
                    self.counts.degraded += 1
                    yield from self._owe(key, version, list(taken), missing, patience)
                return copies, True, said
            if late or seen <= {Verdict.FULL}:
                raise self._failure(key, troubles, full=Verdict.FULL in seen)
            yield from patience.wait(None)

    def _owe(
        self, key: bytes, version: bytes, taken: list[Peer], owed: list[Peer], patience: _Patience
    ) -> Steps[None]:
        """Writes down, beside each copy, who is without it. Where the ring has changed in between
        that is said again: who has noted it may be the one that leaves."""
        noted = False
        left = taken
        for again in (True, False):
            view = self.view()
            words = [(b"RING.OWE", view.epoch_text, peer.id, key, version) for peer in owed]
            data = b"".join(map(pack, words))
            replies = yield tuple([(peer, data, len(owed)) for peer in left])
            errors = dict(zip(left, map(_first_error, replies), strict=True))
            noted = noted or None in errors.values()
            stale = [peer for peer, error in errors.items() if str(error).startswith("EPOCH")]
            left = stale if noted else left
            if not left:
                return
            if again and stale:
                yield from patience.wait(view)
        self.counts.unrecorded += not noted

    # Changing what is there.

    def change(
        self, key: bytes, command: Callable[[bytes, bytes], bytes], *, create: bytes | None
    ) -> Steps[tuple[Any, bool, int]]:
        """On the first holder that is sure of what is there, whose result is copied: the reply's
        first item, whether a holder is without, and copies (0: nothing was changed).

        :param command: the bytes for an epoch and a version; its reply is `[item, entry or nil]`
        :param create: the entry to begin with when nobody has one; None: then there is nothing
        :raises NoHolderReachable: none has answered within the deadline
        :raises HoldersFull: none had memory for it
        """
        patience = _Patience(self)
        created = False
        since = math.inf
        while True:
            began = self.now()
            view = self.view()
            stale = False
            doubtful: Peer | None = None
            troubles: dict[Peer, Exception] = {}
            verdicts: list[Verdict] = []
            for peer in (*self._order(view.pair(key)), *view.others(key)):
                reply, verdict, asked = yield from self._change_on(
                    peer, view, key, command, patience
                )
                if verdict is None:
                    item, entry = reply
                    if entry is None:
                        return item, False, 0
                    self.clock.learn(version_of(entry))
                    copies, degraded = yield from self.copy(key, entry, peer, asked)
                    return item, degraded, copies
                troubles[peer] = reply
                verdicts.append(verdict)
                if verdict in _MISSES and doubtful is None:
                    doubtful = peer
                if verdict is Verdict.STALE:
                    stale = True
                    break
            if doubtful is not None and not stale and not _is_open(verdicts):
                if create is None and self._is_sure(verdicts, since):
                    return 0, False, 0
                if create is None and (since == math.inf or not patience.ended()):
                    since = began
                    continue
                if create is not None and not created:
                    # Whoever comes first makes it; then both count from there.
                    created = True
                    fill = pack((b"RING.FILL", view.epoch_text, key, create))
                    (reply,) = yield ((doubtful, fill, 1),)
                    if not isinstance(reply, Exception):
                        continue
                    verdicts.append(self.judge(doubtful, reply, key))
            if patience.ended() or (verdicts and set(verdicts) == {Verdict.FULL}):
                raise self._failure(key, troubles, full=Verdict.FULL in verdicts)
            created = False
            yield from patience.wait(view if stale else None)

    def _change_on(
        self,
        peer: Peer,
        view: View,
        key: bytes,
        command: Callable[[bytes, bytes], bytes],
        patience: _Patience,
    ) -> Steps[tuple[Any, Verdict | None, float]]:
        """The reply of one holder, what that is for the operation (None: the result), and when it
        was asked for that. With a higher version it is asked at once, and again when it is behind.
        """
        while True:
            version = self.clock.next()
            asked = self.now()
            (reply,) = yield ((peer, command(view.epoch_text, version), 1),)
            if _is_changed(reply):
                peer.answered()
                return reply, None, asked
            error = reply if isinstance(reply, Exception) else _MISSHAPEN
            verdict = self.judge(peer, error, key)
            if verdict is Verdict.BEHIND and patience.spent() < self._timeout:
                verdict = Verdict.AGAIN
                yield from patience.wait(None)
            if verdict is Verdict.AGAIN and patience.ended():
                verdict = Verdict.AWAY
            if verdict is not Verdict.AGAIN:
                return error, verdict, asked

    # What is common.

    def judge(self, peer: Peer, error: Exception, key: bytes) -> Verdict:
        """What an error is for the operation; the breaker and the clock learn from it.

        :raises RingError: it is the caller's
        """
        if isinstance(error, Lost):
            peer.failed(self.now(), slow=error.slow)
            return Verdict.AWAY
        text = str(error)
        word, _, rest = text.partition(" ")
        verdict = _VERDICTS.get(word)
        if verdict is Verdict.MAYBE and rest.startswith("dropped"):
            verdict = Verdict.DROPPED
        if verdict is None:
            if word == "CLOCK":
                raise RingError(
                    f"{peer}: this host's clock is far ahead of the server's, or the server's is "
                    f"behind ({text}); {_shown(key)} was not written"
                )
            if word == "TYPE":
                raise RingError(f"{peer}: {_shown(key)}: {rest or 'not a number'}")
            if type(error).__name__ == "OutOfMemoryError" or word == "OOM":
                return Verdict.FULL
            peer.failed(self.now(), slow=False)
            return Verdict.AWAY
        if verdict is Verdict.AWAY:  # the fence: connections begin anew
            self._discard(peer.take_idle())
            if "spare" in rest:  # it has left the ring: the next one is published in a moment
                return Verdict.BEHIND
            peer.failed(self.now(), slow=False)
            return verdict
        if peer.failures:
            peer.answered()
        if verdict is Verdict.AGAIN:
            self._learn(word, rest)
        return verdict

    def _learn(self, word: str, rest: str) -> None:
        first = rest.split(" ", 1)[0]
        try:
            self.clock.learn(int(first) if word == "LATE" else bytes.fromhex(first))
        except (ValueError, TypeError) as error:
            raise RingError(f"a server said {word} {rest!r}, which is none: {error}") from None

    def _order(self, pair: Sequence[Peer]) -> Sequence[Peer]:
        """Whom to ask, in order: ready nodes first; one whose breaker is open last, which is to be
        asked only when nobody else has said something final."""
        if pair[0].good:
            return pair
        now = self.now()
        return sorted(pair, key=lambda peer: peer.rank + (0 if peer.admits(now) else 10))

    def _failure(
        self, key: bytes, troubles: Mapping[Peer, Exception], *, full: bool = False
    ) -> RingError:
        """What an operation ends with for which no holder has done anything.

        :param full: one had no memory for it
        """
        each = [f"{peer}: {error}" for peer, error in troubles.items()]
        why = "; ".join(each) or "none was asked"
        if full:
            return HoldersFull(
                f"no memory for {_shown(key)}: {why}; give the servers more (maxmemory), add a "
                "node, or let values end sooner"
            )
        return NoHolderReachable(
            f"no holder of {_shown(key)} answered within {self._deadline:g} s: {why}"
        )


_MISSES = frozenset({Verdict.MAYBE, Verdict.DROPPED})


def _is_open(verdicts: Iterable[Verdict]) -> bool:
    """Whether a holder that said nothing may have what another one has not been filled with yet.
    Beside one that has dropped keys it may, too, but that those stay is not promised."""
    return Verdict.MAYBE in verdicts and not _MISSES.issuperset(verdicts)


def _is_changed(reply: object) -> bool:
    """Whether it is `[item, entry or nil]`."""
    if not isinstance(reply, list) or len(reply) != 2 or type(reply[0]) is not int:
        return False
    entry = reply[1]
    return entry is None or (type(entry) is bytes and len(entry) >= _ring.HEADER_BYTES)


def _first_error(reply: Any) -> Exception | None:
    """Of one reply, or of several."""
    replies = reply if isinstance(reply, list) else [reply]
    return next((each for each in replies if isinstance(each, Exception)), None)


class _Patience:
    """How long an operation has been tried, and how long it waits between two tries."""

    __slots__ = ("_began", "_core", "_pause")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._began = core.now()
        self._pause = _PAUSE

    def spent(self) -> float:
        return self._core.now() - self._began

    def ended(self) -> bool:
        return self.spent() >= self._core._deadline

    def wait(self, old: View | None) -> Steps[None]:
        """A little; or until there is another ring than `old`, or the end."""
        while True:
            yield self._pause
            self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
            if old is None or self.ended():
                return
            self._core.read_again()  # whatever the generation is: the file may be another one
            view = self._core.view()
            if (view.generation, view.record) != (old.generation, old.record):
                return


def _shown(key: bytes) -> str:
    """A key for a message: not the whole of a long one."""
    text = repr(key if len(key) <= 80 else key[:80] + b"...")
    return text[1:]


_VERDICTS = {
    "MAYBE": Verdict.MAYBE,
    "NEWER": Verdict.AGAIN,
    "LATE": Verdict.AGAIN,
    "EPOCH": Verdict.STALE,
    "NOTMINE": Verdict.STALE,
    "BEHIND": Verdict.BEHIND,
    "STOPPED": Verdict.AWAY,
    "FULL": Verdict.FULL,
}
