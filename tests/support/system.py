"""Which kind of system the extension was built for: see docs/macos.md."""

from __future__ import annotations

import pytest

from mmapcache import _mmapcache


def only_linux(what: str) -> pytest.MarkDecorator:
    """Skips a test of what other systems do not promise, where the build is for one of them."""
    return pytest.mark.skipif(
        _mmapcache.SYSTEM != "linux", reason=f"the build is for {_mmapcache.SYSTEM}: {what}"
    )
