"""gunicorn --config: what the sums of a worker that ended have to leave out."""

from __future__ import annotations

from typing import Any

from prometheus_client import multiprocess


def child_exit(server: Any, worker: Any) -> None:
    """Called in the master: entries and bytes of that front cache are gone, its counts are not."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
