"""Operations that do what none may do when memory is short: test_nomemory.py has them found."""

from __future__ import annotations

import os
import signal

from nomemory.operations import Case, World, operation

KEPT: list[bytes] = []


@operation("broken: wrong answer")
def _wrong(world: World) -> Case:
    def call() -> int:
        try:
            return len(bytes(1000))
        except MemoryError:
            return 0

    return Case(call)


@operation("broken: leak")
def _leak(world: World) -> Case:
    def call() -> int:
        try:
            return len(bytes(1000))
        except MemoryError:
            KEPT.append(os.urandom(1000))
            return 1000

    return Case(call)


@operation("broken: another exception")
def _error(world: World) -> Case:
    def call() -> int:
        try:
            return len(bytes(1000))
        except MemoryError:
            raise ValueError from None

    return Case(call)


@operation("broken: crash")
def _crash(world: World) -> Case:
    def call() -> int:
        try:
            return len(bytes(1000))
        except MemoryError:
            os.kill(os.getpid(), signal.SIGSEGV)
            return 0

    return Case(call)


@operation("broken: useless afterwards")
def _useless(world: World) -> Case:
    state = {"length": 1000}

    def call() -> int:
        try:
            return len(bytes(state["length"]))
        except MemoryError:
            state["length"] = 5
            raise

    return Case(call)
