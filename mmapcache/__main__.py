"""``python -m mmapcache``: the same command line as ``mmapcache``."""

from __future__ import annotations

import sys

from mmapcache.cli import main

if __name__ == "__main__":
    sys.exit(main())
