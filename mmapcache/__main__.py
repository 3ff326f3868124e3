"""``python -m mmapcache`` and the command ``mmapcache``: where the process begins.

Signals first: what is imported after that takes a tenth of a second, in which a SIGHUP would end
the loader and Ctrl-C print a traceback.
"""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """The command line's exit status."""
    if next((word for word in sys.argv[1:] if not word.startswith("-")), None) == "sync":
        from mmapcache.sync import early

        early.hold()
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mmapcache.cli import main, streams

    streams.occupy()
    return main()


if __name__ == "__main__":
    sys.exit(main())
