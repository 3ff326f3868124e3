"""``python -m mmapcache`` and the command ``mmapcache``: where the process begins.

Signals first: what is imported after that takes a tenth of a second, in which a SIGHUP would end
the loader and Ctrl-C print a traceback.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> int:
    """The command line's exit status."""
    if next((word for word in sys.argv[1:] if not word.startswith("-")), None) == "sync":
        _load()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _run()


def _load() -> NoReturn:
    from mmapcache.sync import early

    early.hold()
    early.leave(_run())


def _run() -> int:
    from mmapcache.cli import main, streams

    streams.occupy()
    return main()


if __name__ == "__main__":
    sys.exit(main())
