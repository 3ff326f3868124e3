"""The acts of the demo, one after the other; each adds its figures to the page.

start          server, documents, loader, eight workers
compare        one document per request: shared mapping against one find per request
propagate      milliseconds from a write in MongoDB to all eight workers
kill_loader    SIGKILL to the loader under load, and a new one in its place, which goes on from the
               first one's position in the change stream
take_over      SIGKILL to the loader, with a standby beside it
kill_workers   SIGKILL to all workers under load, one by one and at once
weigh          memory of eight workers against one and against eight private dicts
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import mmapcache
from demo import tied
from demo.documents import DATABASE, SITES, TOTAL, insert, site_key
from demo.page import count, mebibytes, rate
from demo.processes import WORKERS, DemoError, Probes, directory, wait_until
from demo.story import Story, arguments, tell
from demo.world import World, load

_VISIBLE_SECONDS: Final = 20.0
_LIVE_SECONDS: Final = 0.5  # a poll would take longer, and so does no busy machine
_TAKEOVER_SECONDS: Final = 5.0
_GROUPS: Final = {
    "one": "1 worker",
    "eight": f"{WORKERS} workers",
    "bare": f"{WORKERS} workers, front cache off",
    "dicts": f"{WORKERS} workers, a private dict each",
}


class Pace(NamedTuple):
    """How long the acts take, in seconds, and how many writes are timed."""

    load: float
    writes: int
    dead: float
    gap: float
    after: float


_FULL: Final = Pace(load=6.0, writes=50, dead=3.0, gap=0.25, after=5.0)
_QUICK: Final = Pace(load=1.5, writes=5, dead=1.0, gap=0.05, after=2.0)


class Demo(Story):
    """One run: its world, its page and the port of the service that reads the cache."""

    def __init__(self, world: World, pace: Pace) -> None:
        super().__init__("mmapcache, from MongoDB to every forked worker: measured live")
        self.world = world
        self.pace = pace
        self.port = 0
        self.revision = 0

    # ---- acts ----

    def start(self) -> None:
        """Everything up, with documents in it."""
        world, page = self.world, self.page
        build = world.client.server_info()
        self.say(f"MongoDB server ready at {world.uri} (SecantusDB, speaks {build['version']})")
        documents = insert(world.uri)
        self.say(f"{documents:,} documents inserted into 3 collections")
        begin = time.monotonic()
        world.start_loader()
        self.wait_for_loader()
        took = time.monotonic() - begin
        self.say(f"first generation published by `mmapcache sync`, {took:.1f} s after its start")
        self.port = world.start_service("cache", ["--cache", str(world.cache_path)])
        self.say(f"{WORKERS} forked Tornado workers answer on http://127.0.0.1:{self.port}")
        page.line(
            f"{documents:,} documents in 3 collections, a loader that follows the change stream,"
        )
        page.line(
            f"{WORKERS} forked Tornado workers; server, loader, workers and 32 HTTP clients share"
        )
        page.line("the machine. The server is SecantusDB: a mongod would answer each find faster")
        page.promise(f"all {TOTAL:,} documents are in the cache", self.documents() == TOTAL)

    def compare(self) -> None:
        """The same question to both services; first the cache, then MongoDB without a loader."""
        self.say(f"{self.pace.load:g} s of load on the workers that read the mapping")
        cached, cached_operations = self.counted_load(self.port)
        self.say("the same on workers that ask MongoDB once per request (loader stopped)")
        self.stop_loader()
        port = self.world.start_service(
            "mongodb", ["--source", "mongodb", "--uri", self.world.uri, "--database", DATABASE]
        )
        found, found_operations = self.counted_load(port)
        self.world.stop_service()
        self.world.start_loader()
        self.wait_for_loader()
        page = self.page
        page.title("One document per request")
        shares = [cached["workers"].get(str(number), 0) for number in range(WORKERS)]
        page.table(
            [
                ("requests per worker", *(f"#{number}" for number in range(WORKERS))),
                ("", *(count(share) for share in shares)),
            ]
        )
        page.table(
            [
                ("", "shared mapping", "one find per request"),
                ("requests answered", count(cached["answered"]), count(found["answered"])),
                ("MongoDB operations", count(cached_operations), count(found_operations)),
                (
                    "MongoDB operations per request",
                    f"{cached_operations / cached['answered']:.4f}",
                    f"{found_operations / found['answered']:.4f}",
                ),
                ("requests per second", f"{rate(cached):,.0f}", f"{rate(found):,.0f}"),
                ("median", f"{cached['median_ms']:.1f} ms", f"{found['median_ms']:.1f} ms"),
                ("99th percentile", f"{cached['p99_ms']:.1f} ms", f"{found['p99_ms']:.1f} ms"),
                ("failed", count(cached["failed"]), count(found["failed"])),
            ]
        )
        page.line(f"throughput {rate(cached) / rate(found):.1f} times that of a find per request;")
        page.line(f"the {cached_operations} operations on the left keep the loader's stream open")
        page.promise("every worker answered requests", min(shares) > 0)
        per_second = cached_operations / float(cached["seconds"])
        page.promise(
            "MongoDB's load is the loader's open stream, however many requests come",
            per_second <= 10 and cached_operations * 100 < cached["answered"],
        )
        page.promise("no request failed", not cached["failed"] and not found["failed"])

    def propagate(self) -> None:
        """Writes at random moments, each watched until all workers show it."""
        writes = self.pace.writes
        self.say(f"{writes} writes in MongoDB, each timed until all {WORKERS} workers show it")
        loads = self.loads()
        with Probes(self.port) as probes:
            taken = [self.time_write(probes) for _ in range(writes)]
        self.page.title(f"From an acknowledged write in MongoDB to all {WORKERS} workers")
        half, slowest = statistics.median(taken), max(taken)
        self.say(f"a write is in all {WORKERS} workers after {half * 1e3:.0f} ms (median)")
        self.page.line(
            f"median {half * 1e3:.0f} ms, slowest {slowest * 1e3:.0f} ms of {writes} writes: from "
            "the change stream,"
        )
        self.page.line(f"and {WORKERS} HTTP requests, one after the other, to see it")
        self.page.promise(
            f"half of the writes are in all workers within {_LIVE_SECONDS * 1e3:.0f} ms",
            half < _LIVE_SECONDS,
        )
        self.page.promise("no collection was read for it", self.loads() == loads)
        self.page.promise(
            f"all workers show each within {_VISIBLE_SECONDS:g} s", slowest < _VISIBLE_SECONDS
        )

    def kill_loader(self) -> None:
        """The workers serve on while nobody loads; a new loader just goes on."""
        world, page, dead = self.world, self.page, self.pace.dead
        self.say(f"load; SIGKILL to the loader, a new one after {dead:g} s")
        seconds = 1.0 + dead + self.pace.after
        with load(self.port, "/v1/challenge/", seconds) as result, Probes(self.port) as probes:
            time.sleep(1.0)
            assert world.loader is not None
            world.loader.kill()
            loads = self.loads()
            before = world.operations()
            key, revision = self.write()
            time.sleep(dead)
            while_dead = world.operations() - before
            seen = {answer["loader"] for answer in probes.all("/healthz")}
            early = self.shown(probes, key, revision)
            begin = time.monotonic()
            world.start_loader()
            self.wait_shown(probes, key, revision)
            took = time.monotonic() - begin
            read_again = self.loads() != loads
            counts = result()
        page.title(f"The loader killed with SIGKILL under load, a new one started {dead:g} s later")
        page.line(
            f"{count(counts['requests'])} requests over three collections, "
            f"{counts['failed']} failed, {counts['resets']} connections reset"
        )
        page.line(
            f"{while_dead} MongoDB operations while no loader lived; workers said it was "
            f"{' or '.join(sorted(seen))}"
        )
        page.line(
            f"a write made meanwhile: in all workers {took:.2f} s after the new loader's start"
        )
        page.promise("no request failed, none was reset", not counts["failed"] + counts["resets"])
        page.promise("no worker asked MongoDB", while_dead == 0)
        page.promise("every worker's /healthz showed the dead loader", seen == {"dead"})
        page.promise(
            "what was written meanwhile came with the new loader",
            not early and took < _VISIBLE_SECONDS,
        )
        page.promise(
            "it went on from the position in the file: no collection was read again", not read_again
        )

    def take_over(self) -> None:
        """A second loader waits for the lock, and has it when the kernel takes it from the dead."""
        world, page = self.world, self.page
        self.say("SIGKILL to the loader, with a standby beside it")
        world.start_standby()
        loads = self.loads()
        with Probes(self.port) as probes:
            assert world.loader is not None
            begin = time.monotonic()
            world.loader.kill()
            key, revision = self.write()
            self.wait_shown(probes, key, revision)
            took = time.monotonic() - begin
        read_again = self.loads() != loads
        world.loader, world.standby = world.standby, None
        page.title("The loader killed with SIGKILL, with a standby beside it")
        page.line(f"a write right after the kill: in all workers {took * 1e3:.0f} ms after it")
        page.promise(
            f"the standby follows within {_TAKEOVER_SECONDS:g} s", took < _TAKEOVER_SECONDS
        )
        page.promise("from the position in the file: no collection was read again", not read_again)

    def kill_workers(self) -> None:
        """Each worker once, then all at once; Tornado forks new ones in their place."""
        self.say("load; SIGKILL to the workers one by one, then to all at once")
        killed: list[int] = []
        gap = self.pace.gap
        seconds = 1.0 + WORKERS * gap + self.pace.after
        with load(self.port, "/v1/challenge/", seconds) as result:
            time.sleep(1.0)
            for worker in range(WORKERS):
                with Probes(self.port) as probes:
                    killed.append(int(probes.ask(worker, "/healthz")["pid"]))
                os.kill(killed[-1], signal.SIGKILL)
                time.sleep(gap)
            with Probes(self.port) as probes:
                pids = [int(answer["pid"]) for answer in probes.all("/healthz")]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed += pids
            counts = result()
        with Probes(self.port) as probes:
            answers = list(probes.all("/healthz"))
        survivors = {int(answer["pid"]) for answer in answers} & set(killed)
        page = self.page
        page.title(f"{len(killed)} workers killed with SIGKILL under load and forked again")
        page.line(
            f"{count(counts['requests'])} requests, {counts['failed']} failed; "
            f"{counts['resets']} connections reset by the kills: their clients"
        )
        page.line("asked again on a new connection, as HTTP allows for GET, and were answered")
        page.promise("no request failed", not counts["failed"])
        page.promise(
            f"{WORKERS} new workers answer from the current generation",
            not survivors and all(answer["status"] == "ok" for answer in answers),
        )

    def weigh(self) -> None:
        """On a file of its own, since the service's workers share the pages of theirs."""
        self.say("memory: 1 worker, 8 workers and 8 private dicts, each in forked processes")
        path = self.world.root / "memory.mmc"
        arguments = ["mmapcache", "sync", str(path), "--uri", self.world.uri, "--once"]
        for name in ("sites", "limits", "flags"):
            arguments += ["--collection", f"{DATABASE}.{name}"]
        _run(arguments)
        figures = json.loads(_run(["demo.memory", "--cache", str(path)]))
        page = self.page
        page.title(f"Memory that {TOTAL:,} touched documents take (PSS)")
        rows: list[tuple[str, ...]] = [("", "mapping", "private", "together")]
        for name, title in _GROUPS.items():
            mapped, private = figures[name]["mapped"], figures[name]["private"]
            cells = map(mebibytes, (mapped, private, mapped + private))
            rows.append((title, *cells))
        page.table(rows)
        one, eight, dicts = (sum(figures[name].values()) for name in ("one", "eight", "dicts"))
        ratio = figures["eight"]["mapped"] / max(figures["one"]["mapped"], 1)
        page.line(
            f"the mapping of {WORKERS} workers weighs {ratio:.2f} times that of one; private is"
        )
        page.line("each worker's front cache of decoded documents, which is bounded and can be off")
        page.line(f"the {WORKERS} dicts weigh {dicts / eight:.1f} times as much as the workers")
        page.promise(
            f"{WORKERS} workers share one copy (at most 1.05 times one worker's mapping)",
            0 < figures["eight"]["mapped"] <= 1.05 * figures["one"]["mapped"],
        )
        page.promise(f"{WORKERS} private dicts weigh more", dicts > eight > one)

    # ---- steps ----

    def documents(self) -> int:
        """How many documents the cache holds now."""
        with mmapcache.open(str(self.world.cache_path)) as cache:
            return sum(len(cache[name]) for name in cache)

    def loads(self) -> dict[str, int]:
        """How often everything was read, by reason, over the file's life."""
        with mmapcache.open(str(self.world.cache_path)) as cache:
            return dict(cache.status()["loads"])

    def wait_for_loader(self) -> None:
        """Until the loader is alive and has confirmed the data."""
        world, begin = self.world, time.time()
        assert world.loader is not None

        def confirmed() -> bool:
            try:
                cache = mmapcache.open(str(world.cache_path))
            except mmapcache.NotReadyError:
                return False
            with cache:
                status = cache.status()
            return status["loader"] == "alive" and (status["confirmed_at"] or 0.0) >= begin

        wait_until("the loader's first load", confirmed, [world.loader])

    def stop_loader(self) -> None:
        """A proper end."""
        assert self.world.loader is not None
        self.world.loader.stop()

    def counted_load(self, port: int) -> tuple[dict[str, Any], int]:
        """Load on one service, and how many operations MongoDB counted meanwhile."""
        before = self.world.operations()
        with load(port, "/v1/sites/", self.pace.load) as result:
            counts = result()
        return counts, self.world.operations() - before

    def write(self) -> tuple[str, int]:
        """Changes one site in MongoDB; its key and its new revision."""
        self.revision += 1
        key = site_key(random.randrange(SITES))
        sites = self.world.client[DATABASE]["sites"]
        outcome = sites.update_one({"_id": key}, {"$set": {"revision": self.revision}})
        if outcome.modified_count != 1:
            raise DemoError(f"the write to {key} changed {outcome.modified_count} documents")
        return key, self.revision

    def time_write(self, probes: Probes) -> float:
        """Seconds from a write's acknowledgement until every worker shows it."""
        time.sleep(random.uniform(0, 0.1))
        key, revision = self.write()
        begin = time.monotonic()
        self.wait_shown(probes, key, revision)
        return time.monotonic() - begin

    def shown(self, probes: Probes, key: str, revision: int) -> bool:
        """Whether any worker shows the revision."""
        return any(answer["revision"] == revision for answer in probes.all(f"/v1/sites/{key}"))

    def wait_shown(self, probes: Probes, key: str, revision: int) -> None:
        """Until every worker has shown the revision; each is asked until it does."""
        waiting = set(range(WORKERS))
        end = time.monotonic() + _VISIBLE_SECONDS
        while waiting and time.monotonic() < end:
            for worker in sorted(waiting):
                if probes.ask(worker, f"/v1/sites/{key}")["revision"] == revision:
                    waiting.discard(worker)
            time.sleep(0.001)


def _run(arguments: list[str]) -> str:
    done = subprocess.run(
        tied.command(arguments), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise DemoError(f"{' '.join(arguments[:2])} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def _world() -> Iterator[World]:
    world = World(directory())
    try:
        yield world
    finally:
        world.close()


def _keep_up(demo: Demo) -> None:
    """Leaves everything running until Ctrl-C."""
    world, site = demo.world, site_key(0)
    url = f"http://127.0.0.1:{demo.port}"
    tool = Path(sys.executable).with_name("mmapcache")
    lines = [
        f"service   {url}/v1/sites/{site}",
        f"          {url}/v1/challenge/{site}",
        f"          {url}/healthz   {url}/metrics",
        f"MongoDB   {world.uri}{DATABASE}",
        f"cache     {tool} stat {world.cache_path}",
        f"          {tool} watch {world.cache_path}",
        f"logs      {world.root}",
        "Ctrl-C ends it all.",
    ]
    with contextlib.suppress(KeyboardInterrupt):  # which may come as soon as the page is read
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        signal.pause()


def _tell(pace: Pace, readme: Path | None) -> int:
    """The acts in order; the exit status."""
    with _world() as world:
        demo = Demo(world, pace)
        demo.start()
        demo.compare()
        demo.propagate()
        demo.kill_loader()
        demo.take_over()
        demo.kill_workers()
        demo.weigh()
        status = demo.close(readme)
        if os.environ.get("KEEP", "") not in ("", "0"):
            _keep_up(demo)
        return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo: 0 when every promise was kept, 1 when one was broken or nothing could run."""
    parser = arguments("python -m demo", "KEEP=1 in the environment leaves everything up.")
    args = parser.parse_args(argv)
    return tell(lambda: _tell(_QUICK if args.quick else _FULL, args.readme))


if __name__ == "__main__":
    sys.exit(main())
