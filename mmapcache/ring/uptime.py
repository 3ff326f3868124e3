"""A clock that goes on while this machine sleeps, as the servers' do meanwhile."""

from __future__ import annotations

import functools
import sys
import time

if sys.platform == "linux":
    _CLOCK = time.CLOCK_BOOTTIME
else:
    _CLOCK = time.CLOCK_MONOTONIC  # macOS counts in it what the machine slept

uptime = functools.partial(time.clock_gettime, _CLOCK)  # its seconds
