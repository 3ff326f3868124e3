"""What the file at a path says, for everybody who asks: it may not be there yet, or be damaged.

Nothing in here raises for the file's sake: what is wrong with it is a part of the answer.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Final

import mmapcache
from mmapcache.last_change import changed_before
from mmapcache.sync.redaction import public_text

_SHARE: Final = 20  # a survey may take so small a part of the time: one in so many
_PAUSE: Final = 5.0  # seconds between two surveys, at least
_TROUBLE: Final = (mmapcache.MmapCacheError, OSError, ValueError)


class Observer:
    """Reads one cache file; every method may be called by any thread.

    :param path: the cache file
    :param owner: see `mmapcache.open`
    """

    def __init__(self, path: str, owner: str | int | None = None) -> None:
        self._path = path
        self._owner = owner
        self._lock = threading.Lock()
        self._cache: mmapcache.Cache | None = None
        self._inode: tuple[int, int] | None = None  # of the file that was opened
        self._file_id = ""
        self._replaced_at: float | None = None
        self._problem: str | None = None
        self._survey: dict[str, Any] | None = None
        self._surveying: threading.Thread | None = None
        self._next_survey = 0.0  # by time.monotonic

    def cache(self) -> mmapcache.Cache | None:
        """The open file; None: `problem` says why."""
        with self._lock:
            inode = _inode(self._path)
            if self._cache is None or inode != self._inode:
                self._open(inode)
            return self._cache

    def _open(self, inode: tuple[int, int] | None) -> None:
        """What is at the path now; where that cannot be read, the file before is still shown."""
        try:
            self._cache = mmapcache.open(
                self._path, owner=self._owner, front_bytes=0, front_entries=0
            )
            self._inode = inode
            self._problem = None
        except _TROUBLE as error:
            self._problem = public_text(str(error))
            if self._cache is not None:
                self._problem += " (what is shown is the last content of the file before)"

    def _lost(self, error: Exception) -> dict[str, Any]:
        """The next look opens it again; what is to be said of it."""
        with self._lock:
            self._cache = None
            self._problem = text = public_text(str(error))
        return {"ready": False, "problem": text}

    def readable(self) -> mmapcache.Cache:
        """The open file, whose status could just be read.

        :raises mmapcache.MmapCacheError: there is none; the text says why
        """
        cache, facts = self._seen()
        if cache is None:
            raise mmapcache.MmapCacheError(facts["problem"])
        return cache

    def pulse(self) -> dict[str, Any]:
        """What changes all the time: few numbers, at the cost of no walk."""
        return self._seen()[1]

    def _seen(self) -> tuple[mmapcache.Cache | None, dict[str, Any]]:
        """The open file, if its status could just be read, and the pulse."""
        cache = self.cache()
        facts: dict[str, Any] = {"time": time.time(), "ready": False, "problem": self._problem}
        if cache is None:
            return None, facts
        try:
            status: dict[str, Any] = dict(cache.status())
        except _TROUBLE as error:
            return None, facts | self._lost(error)
        for name in ("state", "source", "error"):
            if status[name] is not None:
                status[name] = public_text(status[name])
        status["path"] = public_text(status["path"])
        facts |= {"ready": status["generation"] > 0, "status": status}
        if self._file_id and status["file_id"] != self._file_id:
            self._replaced_at = facts["time"]
        self._file_id = status["file_id"]
        return cache, facts | {"replaced_at": self._replaced_at}

    def status(self, *, patience: float = 0.0) -> dict[str, Any]:
        """Everything, for the page and for programs.

        :param patience: how long to wait for the first survey of the map, in seconds
        """
        cache, facts = self._seen()
        facts |= {"stats": None, "collections": {}, "history": [], "map": None}
        if cache is None:
            return facts
        try:
            entries = cache.catalogue()
            before = changed_before(cache, entries)
            collections = {n: {**e, "changed_before": before.get(n)} for n, e in entries.items()}
            facts |= {"stats": dict(cache.stats()), "collections": collections}
            history: list[dict[str, Any]] = [dict(past) for past in cache.history()]
        except _TROUBLE as error:
            return facts | self._lost(error)
        for past in history:
            past["reason"] = public_text(past["reason"])
            past["error"] = past["error"] and public_text(past["error"])
        facts["history"] = history
        facts["map"] = self._surveyed(cache, facts["status"]["generation"], patience)
        return facts

    def wait(self, generation: int | None, seconds: float) -> None:
        """Until there is another generation, or the time is over."""
        cache = self.cache()
        if cache is None or generation is None:
            time.sleep(seconds)
            return
        try:
            cache.wait(generation, timeout=seconds)
        except _TROUBLE as error:
            self._lost(error)
            time.sleep(seconds)

    # --- what needs a walk over the file ----------------------------------------------------------

    def _surveyed(
        self, cache: mmapcache.Cache, generation: int, patience: float
    ) -> dict[str, Any] | None:
        """The last survey; a new one is begun when it is time and there is something new."""
        with self._lock:
            last, running = self._survey, self._surveying
            due = time.monotonic() >= self._next_survey
            if running is None and due and (last is None or last["generation"] != generation):
                running = self._surveying = threading.Thread(
                    target=self._look, args=(cache,), name="mmapcache-survey", daemon=True
                )
                running.start()
        if running is not None and last is None:
            running.join(patience)
        return self._survey

    def _look(self, cache: mmapcache.Cache) -> None:
        began = time.monotonic()
        found: dict[str, Any] = {"time": time.time(), "problem": None}
        try:
            checked = cache.check()
            found |= {
                "generation": checked["generation"],
                "occupied": {n: part["occupied"] for n, part in checked["collections"].items()},
                "free_blocks": {str(size): n for size, n in sorted(checked["free_blocks"].items())},
            }
        except _TROUBLE as error:
            found |= {"generation": None, "problem": public_text(str(error))}
        with self._lock:
            self._survey = found
            self._surveying = None
            self._next_survey = time.monotonic() + max(_PAUSE, _SHARE * (time.monotonic() - began))


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def age_of(facts: dict[str, Any]) -> float | None:
    """Seconds since the data was last known to be current; None: there is no data."""
    status = facts.get("status")
    return status["age"] if status is not None and facts["ready"] else None
