"""`mmapcache ring agent …` with the deliberate fault that the first argument names."""

from __future__ import annotations

import sys

from mmapcache.cli import main
from ring import faulty

if __name__ == "__main__":
    faulty.begin(sys.argv[1], "agent")
    sys.exit(main(["ring", "agent", *sys.argv[2:]]))
