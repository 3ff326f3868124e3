"""``python -m demo.ring``."""

from __future__ import annotations

import sys

from demo.ring.run import main

if __name__ == "__main__":
    sys.exit(main())
