"""Types of the ring's C extension; its docstrings are in C, see help(mmapcache.ring._ring)."""

from collections.abc import Iterable
from typing import Final, final

HEADER_BYTES: Final[int]
MAX_ID_CHARACTERS: Final[int]
MAX_NODES: Final[int]
MAX_TIME: Final[int]  # ms since 1970
TOMBSTONE: Final[int]
TOMBSTONE_MS: Final[int]
VALUE: Final[int]
VERSION_BYTES: Final[int]

@final
class Placement:
    def __new__(cls, ids: Iterable[str], change_to: Iterable[str] | None = None) -> Placement: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    def holders(self, key: bytes | str, /) -> tuple[int, ...]: ...
    def pair(self, key: bytes | str, /) -> tuple[int, ...]: ...

@final
class Clock:
    def __new__(cls, writer: bytes | None = None) -> Clock: ...
    def next(self) -> bytes: ...
    def learn(self, what: bytes | int, /) -> None: ...

def encode(kind: int, version: bytes, end: int, value: bytes | str, /) -> bytes: ...
def decode(entry: bytes, /) -> tuple[int, bytes, int, bytes]: ...
