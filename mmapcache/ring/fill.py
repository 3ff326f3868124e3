"""What an agent does for the ring: fills nodes that join, brings owed writes, finishes a change.

One thread of the agent that leads. Each round looks at all nodes. While a fill of many keys is
under way, owed writes are brought all the same, between two of its packets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from mmapcache.ring.connecting import SERVING, Settings
from mmapcache.ring.errors import RingError
from mmapcache.ring.link import Link, Links, RefusedError
from mmapcache.ring.record import Member, Record
from mmapcache.ring.sweep import Full, Owed, Pace, Sweep, TooSlowError, rest
from mmapcache.ring.view import GONE, PROBE
from mmapcache.ring.wire import Lost
from mmapcache.sync.logs import log

ROUND = 0.4  # seconds between two looks at all nodes
_COPIES = 2  # more holders than that a key has while a change is under way
_AGAIN = 3.0  # seconds until a node that was lost is tried again
_WAIT = 5.0  # seconds without an answer after which a node that is not registered is dead
_ROUNDS_AT_ONCE = 100  # how often more than can be brought at once is brought at once
_TELL = 10.0  # seconds between two lines that say how far a sweep is
# Seconds after which every client writes to a node that joins, and no write is under way that its
# last life has taken: only then it is filled.
_CLIENTS = PROBE + 0.3
_UNKNOWN = 15.0  # seconds that a node of which nothing was ever heard is waited for


@dataclass(frozen=True, slots=True)
class Known:
    """The ring as the agent's main thread sees it.

    :param leads: this agent is the one that fills
    :param current: ZooKeeper was heard a moment ago, so that who is not registered has gone
    """

    record: Record
    members: Mapping[str, Member]
    leads: bool
    current: bool


@dataclass(slots=True)
class Doing:
    """What the thread is doing, for status and metrics.

    :param task: in words; empty: nothing
    :param owed: keys that are noted for nodes and could not be brought yet
    :param lost: how often nodes began anew together, so that no holder of some keys was left
    """

    task: str = ""
    node: str = ""
    done: int = 0
    total: int = 0
    owed: int = 0
    paid: int = 0
    filled: int = 0
    lost: int = 0
    lag: float = 0.0  # seconds since all that is owed was brought

    def plain(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "lag": round(self.lag, 1)}


class StaleError(Exception):
    """What is being done is for another ring, or another life of a node, by now."""


@dataclass(slots=True)
class _Node:
    """A node as it said of itself in this round."""

    link: Link
    run_id: str
    state: str
    epoch: int


@dataclass(slots=True)
class _Trouble:
    """A node that did not answer: since when, and when it is asked again; by time.monotonic.

    :param member: as it was known; when it says something new of itself, it is asked at once
    """

    member: Member
    since: float
    again: float
    told: bool = False


_T = TypeVar("_T")


def _needed(record: Record, nodes: Mapping[str, _T]) -> dict[str, _T]:
    """Without the node of an `add` that is given up: nothing is read from it."""
    change = record.change
    gone = change is not None and change.abort and change.kind == "add" and change.node
    return {name: node for name, node in nodes.items() if name != gone}


class Filler:
    """
    :param known: the ring as it is now; None: none is known
    :param advance: compare-and-set of the record, the old one and the new one; whether it was set
    :param rate: keys a second that a fill moves at most; 0: no limit
    """

    def __init__(
        self,
        known: Callable[[], Known | None],
        advance: Callable[[Record, Record], bool],
        settings: Settings,
        *,
        rate: float,
    ) -> None:
        self.doing = Doing()
        self._known = known
        self._advance = advance
        self._links = Links(settings)
        self._rate = rate
        self._stop = threading.Event()
        self._troubles: dict[str, _Trouble] = {}
        self._joined: dict[tuple[str, str], float] = {}  # lives that join: since when
        self._unknown: dict[str, float] = {}  # nodes that were never registered: since when
        self._dead: dict[str, int] = {}  # nodes without which it went on: since which epoch
        self._back: set[str] = set()  # those that had only been cut off
        self._leveled: tuple[int, frozenset[tuple[str, str]]] | None = None
        self._next_round = 0.0
        self._rest = ROUND  # seconds until the next one
        self._paid_at = time.monotonic()
        self._full: dict[tuple[str, str], Full] = {}  # see Owed
        self._clean_at = 0.0  # when it is cleaned up again after a node had no memory
        self._said: dict[str, str] = {}
        self._served: set[str] = set()  # nodes that were seen ready
        self._lost: set[tuple[str, str]] = set()  # lives of which was said that data is lost
        self._thread = threading.Thread(target=self._run, name="mmapcache-ring-fill", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends soon; what is half done is begun again by whoever leads next."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stop.wait(self._rest):
            self._rest = ROUND
            try:
                self.round()
            except StaleError:
                continue
            except (Lost, RingError, TooSlowError) as error:
                self._say("round", f"{str(error) or type(error).__name__}; it is tried again")
            except Exception:
                log.error("the ring's fill ended unexpectedly; it is begun again", exc_info=True)
                self._links.close()
                self._stop.wait(1.0)
            finally:
                self.doing.task = self.doing.node = ""
        self._links.close()

    def round(self) -> None:
        """One look at all nodes, and what is to be done."""
        known = self._known()
        if known is None or not known.leads:
            return
        nodes = self._look(known)
        self._bring(known, nodes)
        nodes = _needed(known.record, nodes)
        if not self._agree(known, nodes):
            return
        joining, due = self._joining(nodes)
        self._welcome(known, nodes)
        if not due and (joining or known.record.change is None):
            return
        nodes = _needed(known.record, self._look(known, everybody=True))
        if not self._agree(known, nodes):
            return
        joining, due = self._joining(nodes)
        if due:
            self._fill(known, nodes, due)
        elif not joining and known.record.change is not None:
            self._change(known, nodes)

    def _joining(self, nodes: Mapping[str, _Node]) -> tuple[bool, dict[str, _Node]]:
        """Whether nodes join, and those of them that may be filled by now."""
        lives = {n: self._joined[n, at.run_id] for n, at in nodes.items() if at.state == "joining"}
        left = {name: since + _CLIENTS - time.monotonic() for name, since in lives.items()}
        self._rest = max(0.0, min([self._rest, *left.values()]))
        return bool(lives), {name: nodes[name] for name in lives if left[name] <= 0}

    # Looking.

    def _look(self, known: Known, *, everybody: bool = False) -> dict[str, _Node]:
        """The nodes that answer and serve.

        :param everybody: those that did not answer a moment ago are asked, too
        """
        found = {}
        now = time.monotonic()
        for name in known.record.everybody:
            member = known.members.get(name)
            trouble = self._troubles.get(name)
            if member is None:
                continue
            waits = trouble is not None and now < trouble.again and member == trouble.member
            if waits and not everybody:
                continue
            since = now if trouble is None else trouble.since
            link = self._links.to(name, member.address)
            try:
                said = link.hello()
            except (Lost, RefusedError) as error:
                self._troubles[name] = _Trouble(member, since, time.monotonic() + _AGAIN)
                self._say(name, str(error))
                continue
            epoch, state = said.get("epoch"), str(said.get("state"))
            if said.get("id") != name or not isinstance(epoch, int) or state not in SERVING:
                self._troubles[name] = _Trouble(member, since, now)
                self._say(name, f"{name} at {member.address}: {said.get('id')}, {state}")
                continue
            self._troubles.pop(name, None)
            self._said.pop(name, None)
            found[name] = _Node(link, str(said.get("run_id")), state, epoch)
        lives = {(name, node.run_id) for name, node in found.items() if node.state == "joining"}
        now = time.monotonic()  # while another node hung, one may have begun the life it is in
        self._joined = {life: self._joined.get(life, now) for life in lives}
        self._served.update(name for name, node in found.items() if node.state == "ready")
        return found

    def _agree(self, known: Known, nodes: Mapping[str, _Node]) -> bool:
        """Whether all nodes are at the record's epoch, but for those that are dead.

        A registered node that does not answer is waited for: it may have what a fill needs, and
        until that is copied nobody's miss may be final. One that is not registered, and has not
        answered for some time, stopped: it will begin anew.
        """
        if any(node.epoch != known.record.epoch for node in nodes.values()):
            return False
        now = time.monotonic()
        for name in _needed(known.record, dict.fromkeys(known.record.everybody)):
            member = known.members.get(name)
            if name in nodes:
                self._unknown.pop(name, None)
                if self._dead.pop(name, None) is not None:
                    self._back.add(name)
                continue
            if not known.current:
                return False
            if member is None:
                if now - self._unknown.setdefault(name, now) < _UNKNOWN:
                    self._say(name, f"{name} is not registered: it is waited for")
                    return False
                self._dead.setdefault(name, known.record.epoch)
                continue
            trouble = self._troubles.get(name)
            if member.state != GONE or trouble is None or now - trouble.since < _WAIT:
                return False
            self._dead.setdefault(name, known.record.epoch)
            if not trouble.told:
                trouble.told = True
                log.warning("%s is gone: what it held alone is lost", name)
        return bool(nodes)

    def _say(self, about: str, text: str) -> None:
        if self._said.get(about) != text:
            self._said[about] = text
            log.warning("%s", text)

    # Bringing what is owed.

    def _bring(self, known: Known, nodes: Mapping[str, _Node]) -> None:
        links = {
            name: node.link for name, node in nodes.items() if node.epoch == known.record.epoch
        }
        for _ in range(_ROUNDS_AT_ONCE):
            owed = Owed(known.record, links, self._full, time.monotonic)
            for name in links:
                try:
                    self.doing.paid += owed.apply(name)
                except (Lost, RefusedError) as error:
                    owed.left += 1
                    self._say("owed", str(error))
            if not owed.more or self._stop.is_set():
                break
        now = time.monotonic()
        if not owed.left:
            self._paid_at = now
            self._said.pop("owed", None)
        self.doing.owed = owed.left
        self.doing.lag = now - self._paid_at
        self._next_round = now + ROUND

    # Filling.

    def _pause(self, known: Known, lives: Mapping[str, str]) -> Callable[[float], None]:
        """What a sweep does between two packets.

        :param lives: run_ids of the nodes that are not to change meanwhile
        """

        def pause(seconds: float) -> None:
            if self._stop.wait(seconds) or self._stop.is_set():
                raise StaleError
            if time.monotonic() < self._next_round:
                return
            now_known = self._known()
            if now_known is None or not now_known.leads or now_known.record != known.record:
                raise StaleError
            self._bring(now_known, self._look(now_known))
            # Behind that, which may have lost a node without a word: the link to it would go on
            # with the life that has begun since, and bring it what is no news any more.
            nodes = self._look(now_known)
            for name, run_id in lives.items():
                if name not in nodes or nodes[name].run_id != run_id:
                    raise StaleError

        return pause

    def _begin(
        self, known: Known, nodes: Mapping[str, _Node], task: str, watched: Mapping[str, _Node]
    ) -> Sweep:
        lives = {name: node.run_id for name, node in watched.items()}
        links = {name: node.link for name, node in nodes.items()}
        self.doing.task, self.doing.node = task, ",".join(watched)
        self.doing.done = self.doing.total = 0
        for node in nodes.values():
            self.doing.total += int(node.link.call("DBSIZE"))
        pause = self._pause(known, lives)
        told = time.monotonic()

        def count(seconds: float) -> None:
            nonlocal told
            doing = self.doing
            doing.done = sweep.looked_at
            if time.monotonic() - told >= _TELL:
                told = time.monotonic()
                about = f"{doing.task} of {doing.node}"
                log.info("%s: %s of about %s keys", about, f"{doing.done:,}", f"{doing.total:,}")
            pause(seconds)

        sweep = Sweep(known.record, links, Pace(self._rate), count)
        return sweep

    def _fill(self, known: Known, nodes: Mapping[str, _Node], joining: Mapping[str, _Node]) -> None:
        """Brings nodes that join what they hold, and makes them ready."""
        began = time.monotonic()
        self._tell_lost(nodes)
        sweep = self._begin(known, nodes, "fill", joining)
        self._spread_to(sweep, nodes, joining, self._alike(known, joining))
        self._nobody_came(known, nodes)
        self._bring(known, nodes)
        for name, node in joining.items():
            node.link.call("RING.READY", node.run_id, known.record.epoch)
            log.info(
                "%s is ready: %s of %s keys were brought in %.1f s",
                name,
                f"{sweep.moved:,}",
                f"{sweep.looked_at:,}",
                time.monotonic() - began,
            )
        self.doing.filled += sweep.moved
        if sweep.refused:
            log.warning("%s: no memory for all of it", ", ".join(joining))

    def _alike(self, known: Known, joining: Iterable[str]) -> frozenset[str]:
        """Nodes that began anew while a change is under way: what they had noted is gone, and of
        three holders the other two may differ by that. Not who is added, and never had a note."""
        change = known.record.change
        if change is None:
            return frozenset()
        added = change.node if change.kind == "add" else ""
        return frozenset(name for name in joining if name != added or name in self._served)

    @staticmethod
    def _spread_to(
        sweep: Sweep, sources: Iterable[str], joining: Container[str], anew: frozenset[str]
    ) -> None:
        """What a key's holders have comes before what others have left of it, which may be older:
        a node that joins answers with what it has.

        :param anew: those of which all holders of a key are to be made alike
        """
        holders = sweep.whose.holders
        others = set()

        def wants(key: bytes, source: str, *, holds: bool) -> Iterable[str]:
            names = holders(key)
            targets = [name for name in names if name in joining]
            if (source in names) is holds:
                return names if len(names) > _COPIES and not anew.isdisjoint(names) else targets
            if targets and holds:
                others.add(source)
            return ()

        for source in sources:
            sweep.spread(source, partial(wants, source=source, holds=True))
        for source in sorted(others):
            sweep.spread(source, partial(wants, source=source, holds=False))

    def _welcome(self, known: Known, nodes: Mapping[str, _Node]) -> None:
        """Brings what nodes have that are back in the life they were in: others may have begun
        anew meanwhile, and were filled without it."""
        back = {n: at for n, at in nodes.items() if n in self._back and at.state == "ready"}
        if back:
            sweep = self._begin(known, nodes, "look through", back)
            for source in back:
                sweep.spread(source, sweep.whose.holders)
            self.doing.filled += sweep.moved
            names = ", ".join(back)
            log.info("%s: only cut off; %s copies were brought from it", names, f"{sweep.moved:,}")
        self._back -= nodes.keys()

    def _tell_lost(self, nodes: Mapping[str, _Node]) -> None:
        """Of nodes that began anew together, so that no holder of some keys is left."""
        anew = {(n, at.run_id) for n, at in nodes.items() if at.state == "joining"}
        anew = {(name, life) for name, life in anew if name in self._served}
        if len(anew) > 1 and anew - self._lost:
            names = ", ".join(sorted(name for name, _ in anew))
            self.doing.lost += 1
            log.warning("%s began anew at the same time: what they alone held is lost", names)
        self._lost = anew

    def _nobody_came(self, known: Known, nodes: Mapping[str, _Node]) -> None:
        """
        :raises StaleError: a node has come back that was not looked at
        """
        now_known = self._known()
        if now_known is None or now_known.record != known.record:
            raise StaleError
        found = self._look(now_known, everybody=True)
        if _needed(now_known.record, found).keys() - nodes.keys():
            raise StaleError

    # A change of the members.

    def _change(self, known: Known, nodes: Mapping[str, _Node]) -> None:
        """Takes the next step of the change, when it can be taken."""
        record, change = known.record, known.record.change
        assert change is not None
        step = record.step
        if step == "filling" and not self._is_level(known, nodes):
            return
        if step in ("filling", "switched") and self._owes(known, nodes):
            self._say(
                "drain", f"drain {change.node}: what is owed there is brought to others first"
            )
            return
        # A node that has only been cut off would keep what is to be removed. It begins anew when it
        # sees that the epoch has moved by two.
        away = [self._dead.get(name, 0) for name in record.everybody if name not in nodes]
        if step == "cleaning" and away and record.epoch < max(away) + 2:
            following = Record(record.epoch + 1, record.nodes, change)
        elif step == "cleaning" and not self._clean(known, nodes):
            return
        else:
            following = record.advance()
        if self._advance(record, following):
            log.info(
                "%s %s: %s, epoch %d", change.kind, change.node, following.step, following.epoch
            )

    def _is_level(self, known: Known, nodes: Mapping[str, _Node]) -> bool:
        """Whether those that will be read have all that they will be read for."""
        change = known.record.change
        assert change is not None
        if change.abort:  # the old pair is read on
            return True
        if change.kind == "add":  # it is ready: it was filled, at this epoch
            return change.node in nodes
        lives = frozenset((name, node.run_id) for name, node in nodes.items())
        if self._leveled != (known.record.epoch, lives):
            sweep = self._begin(known, nodes, f"drain {change.node}", nodes)
            whose = sweep.whose
            for source in nodes:
                sweep.spread(source, lambda key: whose.holders(key)[len(whose.pair(key)) :])
            self._nobody_came(known, nodes)
            self._leveled = (known.record.epoch, lives)
            self.doing.filled += sweep.moved
        return True

    def _owes(self, known: Known, nodes: Mapping[str, _Node]) -> bool:
        """Whether the node that is drained holds something that another one is without: it goes
        with all that it has, and with its notes."""
        change = known.record.change
        assert change is not None
        if change.kind != "drain" or change.abort or change.node not in nodes:
            return False
        others = [name for name in nodes if name != change.node]
        # Keys, or an overflow.
        return any(nodes[change.node].link.calls([("RING.OWED", name, 1) for name in others]))

    def _clean(self, known: Known, nodes: Mapping[str, _Node]) -> bool:
        """Removes from nodes what they hold no more, after its holders have it. False: a holder had
        no memory for all of it; it may have, when other nodes' leftovers are gone from it."""
        change = known.record.change
        assert change is not None
        began = time.monotonic()
        if began < self._clean_at:
            return False
        sweep = self._begin(known, nodes, f"clean up after {change.kind} {change.node}", nodes)
        holders = sweep.whose.holders
        dropped = 0
        for source in nodes:
            for keys in sweep.keys(source):
                entries = sweep.dump(source, [key for key in keys if source not in holders(key)])
                refused: set[bytes] = set()
                for name in nodes:
                    some = [(k, e) for k, e in entries.items() if name in holders(k)]
                    if not sweep.fill_what_fits(name, some):
                        refused.update(key for key, _ in some)
                there = {key: entry for key, entry in entries.items() if key not in refused}
                dropped += sweep.drop(source, there)
        self._nobody_came(known, nodes)
        what = f"{change.kind} {change.node}"
        if sweep.refused:
            self._clean_at = time.monotonic() + rest(time.monotonic() - began)
            self._say("clean", f"{what}: a node has no memory for what others are to drop")
            return False
        log.info("%s: %s copies were removed", what, f"{dropped:,}")
        return True
