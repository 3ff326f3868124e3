"""`mmapcache ring agent`: publishes the ring into a file for all workers of a host.

The main thread reads ZooKeeper and writes the file; a thread of its own fills and brings what is
owed, in the one agent of all hosts that leads. Every fault of ZooKeeper leaves the file as it is,
and its age tells.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable

import mmapcache
from mmapcache.cli.output import DONE, FAILED, UsageError
from mmapcache.ring import published
from mmapcache.ring.commands.nodes import settings_of
from mmapcache.ring.connecting import Settings
from mmapcache.ring.fill import Doing, Filler, Known
from mmapcache.ring.fixed import Fixed
from mmapcache.ring.record import Member, Record, RecordError, parse_members
from mmapcache.ring.view import GONE
from mmapcache.ring.zookeeper import ZooKeeper, parse_place
from mmapcache.sync import logs
from mmapcache.sync.errors import StopError, SyncError
from mmapcache.sync.inbox import Inbox
from mmapcache.sync.logs import log
from mmapcache.sync.options import Options
from mmapcache.sync.parsing import mode as parse_mode
from mmapcache.sync.redaction import public_text
from mmapcache.sync.target import Target

TICK = 0.5  # seconds between two looks, when nothing happens
_LOCK = "locks/agent"
_CONNECTING = 3.0  # seconds that nothing is said of
_QUIET = 3.0  # seconds without an answer of any node of a fixed ring after which it is not current


def run(args: argparse.Namespace) -> int:
    """Runs the agent in this process's main thread; the exit status."""
    from mmapcache.sync import command
    from mmapcache.sync.service import Service

    inbox = Inbox(Service.of(os.environ))
    with inbox.signals():
        options = _options(args)
        settings = settings_of(args)
        try:
            place = None if args.zookeeper is None else parse_place(args.zookeeper)
            members = None if args.members is None else parse_members(args.members)
            if args.epoch < 1:
                raise RecordError("--epoch must be 1 or more")
        except RecordError as error:
            raise UsageError(str(error)) from None
        finish_log = logs.configure(args.log_level, args.log_format)
        try:
            pages = command.pages_of(options)
        except SyncError as error:
            raise UsageError(str(error)) from None
        try:
            if pages is not None:
                pages.start()
            source = (
                _Kept(ZooKeeper(place, lambda: inbox.post(None)))
                if place is not None
                else _Given(Fixed(members or (), args.epoch, settings, lambda: inbox.post(None)))
            )
            agent = Agent(options, source, inbox, settings, rate=args.fill_rate)
            if pages is not None:
                from mmapcache.ring.metrics import RingMetrics

                pages.add_metrics(RingMetrics(lambda: (agent.known, agent.doing)))
            return agent.run()
        except Exception:
            log.critical("the agent ended unexpectedly", exc_info=True)
            return FAILED
        finally:
            if pages is not None:
                pages.stop()
            finish_log()


def _options(args: argparse.Namespace) -> Options:
    """As the loader has them: for its file, its log and its pages.

    :raises UsageError: one is wrong
    """
    try:
        mode = parse_mode(args.mode)
    except (ValueError, SyncError) as error:
        raise UsageError(f"--mode: {error}") from None
    return Options(
        path=args.path,
        standby=args.standby,
        mode=mode,
        max_size=args.max_size or "16MiB",
        http=args.http,
        token_file=args.token_file,
        max_age=args.max_age,
        log_level=args.log_level,
        log_format=args.log_format,
    )


class _Kept:
    """The ring that ZooKeeper keeps."""

    def __init__(self, zookeeper: ZooKeeper) -> None:
        self._zookeeper = zookeeper
        self._name = f"{socket.gethostname()[:100]}-{os.getpid()}"
        self.label = f"zookeeper {zookeeper.place.text}"
        self.leads = False

    def start(self) -> None:
        self._zookeeper.start()

    def stop(self) -> None:
        self._zookeeper.stop()

    def look(self, doing: Callable[[], dict[str, object]]) -> str:
        """Reads what is new and says what this agent does; what is wrong, if something is."""
        zookeeper = self._zookeeper
        complete = zookeeper.refresh()
        if not zookeeper.connected:
            return f"ZooKeeper at {zookeeper.place.hosts} is away: the last known ring serves"
        # While ZooKeeper is away whoever led goes on: nothing that is done twice does harm.
        self.leads = zookeeper.keep(_LOCK, self._name.encode())
        text = {"name": self._name, "leads": self.leads, **doing()}
        zookeeper.keep(f"agents/{self._name}", json.dumps(text).encode())
        if wrong := zookeeper.seen.wrong:
            return "; ".join(f"{name}: {why}" for name, why in sorted(wrong.items()))
        return "" if complete else "ZooKeeper answers in part"

    @property
    def answers(self) -> bool:
        return self._zookeeper.connected

    @property
    def record(self) -> Record | None:
        return self._zookeeper.seen.record

    @property
    def members(self) -> dict[str, Member]:
        return dict(self._zookeeper.seen.members)

    def advance(self, old: Record, new: Record) -> bool:
        seen = self._zookeeper.seen
        version = seen.version  # first: another record may be read between these two lines
        return seen.record == old and self._zookeeper.replace(new, version)


class _Given:
    """The ring of --members."""

    leads = True

    def __init__(self, fixed: Fixed) -> None:
        self._fixed = fixed
        self.label = "members " + ",".join(fixed.members)
        self.record: Record | None = fixed.record

    def start(self) -> None:
        self._fixed.start()

    def stop(self) -> None:
        self._fixed.stop()

    def look(self, doing: Callable[[], dict[str, object]]) -> str:
        """What is wrong, if something is."""
        quiet = time.monotonic() - self._fixed.heard
        return "" if quiet < _QUIET else "no node of the ring answers"

    @property
    def answers(self) -> bool:
        return self._fixed.heard > 0

    @property
    def members(self) -> dict[str, Member]:
        return dict(self._fixed.members)

    def advance(self, old: Record, new: Record) -> bool:
        return False


class Agent:
    """
    :param source: of the ring
    :param rate: see `Filler`
    """

    def __init__(
        self,
        options: Options,
        source: _Kept | _Given,
        inbox: Inbox,
        settings: Settings,
        *,
        rate: float,
    ) -> None:
        self._options = options
        self._source = source
        self._inbox = inbox
        self._target = Target(options, inbox)
        self._known: Known | None = None
        self._filler = Filler(lambda: self._known, source.advance, settings, rate=rate)
        self._told = ""
        self._last: dict[str, Member] = {}
        self._published: tuple[Record, dict[str, Member]] | None = None

    @property
    def known(self) -> Known | None:
        """The ring as it is published; any thread."""
        return self._known

    @property
    def doing(self) -> Doing:
        """What is being done for it; any thread."""
        return self._filler.doing

    def run(self) -> int:
        """Until stopped; the exit status."""
        log.info("%s -> %s", self._source.label, self._options.path)
        self._inbox.service.beat()
        self._source.start()
        try:
            self._recall()
            self._report(state="starting", source=self._source.label)
            self._filler.start()
            end = time.monotonic() + _CONNECTING
            while not self._source.answers and time.monotonic() < end:
                self._inbox.receive(0.05)
            while True:
                self._round()
                self._inbox.receive(TICK)
                self._inbox.clear()
        except StopError as stop:
            log.info("%s", stop)
            return DONE
        except (SyncError, mmapcache.MmapCacheError, OSError) as error:
            self._report(state="degraded", error=public_text(str(error)))
            log.error("%s", error)
            return FAILED
        finally:
            self._inbox.service.ends()
            self._known = None
            self._target.close()  # who stands by has it at once
            self._filler.stop()
            self._source.stop()

    def _round(self) -> None:
        source = self._source
        trouble = source.look(self._filler.doing.plain)
        record = source.record
        if record is not None:
            members = self._remembered(record, source.members)
            self._known = Known(record, members, source.leads, source.answers)
            self._publish(record, members)
        if trouble != self._told:
            self._told = trouble
            if trouble:
                log.warning("%s", trouble)
            else:
                log.info("the ring is current")
        if trouble:
            self._report(state="degraded", error=public_text(trouble))
        else:
            self._report(state="streaming", error="", confirmed=True, following=True)

    def _remembered(self, record: Record, members: dict[str, Member]) -> dict[str, Member]:
        """With those of the ring that are not registered, where they were last: perhaps it is only
        ZooKeeper that does not hear of them."""
        for name in record.everybody:
            last = self._last.get(name)
            if name not in members and last is not None:
                if last.state != GONE:
                    now = time.time_ns() // 1_000_000
                    last = Member(last.id, last.address, last.run_id, GONE, now)
                members[name] = last
        self._last = members
        return members

    def _recall(self) -> None:
        """What the agent before has left in the file."""
        with contextlib.suppress(mmapcache.MmapCacheError), self._target.writer().reader() as cache:
            found = published.read(cache)
            if found is not None:
                self._last = found[1]

    def _publish(self, record: Record, members: dict[str, Member]) -> None:
        """Into the file, if it says something else."""
        writer = self._target.writer()
        if self._published == (record, members) and writer.generation:
            return
        before = None if self._published is None else self._published[0]
        if published.publish(writer, record, members.values()):
            states = ", ".join(f"{m.id} {m.state}" for m in members.values())
            log.info("generation %d: epoch %d, %s", writer.generation, record.epoch, states)
        if before is not None and before.epoch != record.epoch:
            log.info("epoch %d -> %d: %s", before.epoch, record.epoch, record.step)
        self._published = (record, members)

    def _report(self, **values: object) -> None:
        self._target.report(**values)
        self._inbox.service.tell(values, self._target.generation)
