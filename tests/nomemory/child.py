"""Fails each allocation of one operation in turn: `child.py MODULE OPERATION DIRECTORY PASSES`.

Started by run.py; MODULE enters the operation into operations.OPERATIONS.

Prints one line of JSON: how many allocations failed, and what was wrong. The file `progress` in the
directory says what was tried last, for whoever finds this process dead.

Each case is judged: the right answer, or MemoryError, or what the operation itself allows; then the
same must work, and give the right answer, with memory. An operation that learns something for the
whole process at its first use (a class imported late) has each case in a forked child that has not
yet learned it. All others go through the enumeration again and again, PASSES times at most: what is
allocated and not freed, and the references to what was handed in, must not grow with each pass.
They may with some, as caches and lists come to their size.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import sys
import traceback
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nomemory import operations

PYTHON, CORE = 0, 1
KINDS = {"python": PYTHON, "core": CORE}
# Not for ever: unwinding an exception, CPython up to 3.13 tries again and again to make an int of
# the position (https://github.com/python/cpython/issues/134163).
BURST = 1000  # allocations that fail, where it is not one alone
DENSE = 1500  # numbers of which each is tried; beyond, every fiftieth
# CPython 3.10 gives a function a cache at its 1,024th call, and forgets the MemoryError when there
# is none for it: _PyCode_InitOpcache (https://github.com/python/cpython/pull/19691) sets none. So
# what an operation runs is called as often before; what only a failure runs may still come to it.
# No fault of an extension reads so: its function would be named.
OPCACHE = "_PyEval_EvalFrameDefault returned NULL without setting an exception"
CALLS_TO_OPCACHE = 1024 if sys.version_info[:2] == (3, 10) else 0

hook: Any = importlib.import_module("hook")


def no_memory(error: BaseException | None) -> bool:
    """MemoryError, or what CPython itself made of it."""
    forgot = isinstance(error, SystemError) and str(error) == OPCACHE
    return (forgot and CALLS_TO_OPCACHE > 0) or isinstance(error, MemoryError)


class Enumeration:
    """All failures of one operation, and what was wrong with them."""

    def __init__(self, operation: operations.Operation, directory: Path, passes: int) -> None:
        self.operation = operation
        self.directory = directory
        self.progress = os.open(directory / "progress", os.O_CREAT | os.O_RDWR, 0o600)
        self.faults: list[str] = []
        self.cases = dict.fromkeys(KINDS, 0)
        self.world = operations.World(directory)
        places = 1 + len(self.world.watched)
        self.history = [array("q", bytes(8 * places)) for _ in range(passes)]
        self.expected = "" if operation.first_use else self.right_answer()

    def right_answer(self) -> str:
        """What the operation gives when nothing fails."""
        case = self.operation.make(self.world)
        shown = case.right_answer()
        case.after(True)
        return shown

    def warm(self) -> None:
        """Calls the operation as often as CPython counts calls of a function."""
        for _ in range(CALLS_TO_OPCACHE):
            self.right_answer()

    def judge(self, kind: int, first: int, last: int) -> tuple[int, str]:
        """One case: allocations that failed, and what was wrong, if anything."""
        os.pwrite(self.progress, f"{kind} {first} {last}".ljust(60).encode(), 0)
        case = self.operation.make(self.world)
        result, error, _, failed = hook.run(kind, first, last, gc.collect, case.call)
        wrong = ""
        try:
            answer = case.answer(result, error)
            if answer is not None and answer != self.expected:
                wrong = f"the answer {answer}"
            elif answer is None and not (no_memory(error) or case.allowed(error)):
                wrong = "".join(traceback.format_exception(error))
            result = error = None
            case.after(answer is not None)
            again = case.right_answer() if case.repeat else self.expected
            if again != self.expected:
                wrong += f" and afterwards, with memory, the answer {again}"
        except BaseException:
            wrong += f" and afterwards, with memory, {traceback.format_exc()}"
        return failed, wrong

    def in_child(self, kind: int, first: int, last: int) -> tuple[int, str]:
        """The same in a forked child, which also finds the right answer."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read)
                answer = self.judge(kind, first, last)
                os.write(write, json.dumps([answer[0], answer[1][:4000]]).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if not said:
            return 1, f"the process ended with status {status}"
        failed, wrong = json.loads(said)
        return failed, wrong

    def one_pass(self) -> None:
        """Every failure once: this allocation alone, and as the first of many."""
        attempt = self.in_child if self.operation.first_use else self.judge
        for name, kind in KINDS.items():
            for count in (1, BURST):
                for first in numbers():
                    failed, wrong = attempt(kind, first, first + count)
                    if wrong:
                        which = "alone" if count == 1 else f"and {count - 1} after it"
                        self.faults.append(f"{name} allocation {first} {which}: {wrong}")
                    if failed == 0 or len(self.faults) > 5:
                        break
                    self.cases[name] += 1

    def expect_in_child(self) -> None:
        """The right answer, learned where it leaves nothing behind."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, self.right_answer().encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            self.expected = pipe.read().decode()
        os.waitpid(child, 0)

    def note(self, number: int) -> None:
        """Notes what must not grow from pass to pass, in memory that is there already."""
        held = self.history[number]
        sys._clear_type_cache()
        gc.collect()
        held[0] = hook.blocks()
        for place, watched in enumerate(self.world.watched.values(), 1):
            held[place] = sys.getrefcount(watched)

    def run(self) -> None:
        """All of it."""
        sys._clear_type_cache()
        gc.collect()
        gc.freeze()
        if self.operation.first_use:
            self.expect_in_child()
            self.one_pass()
            return
        self.warm()
        names = ["blocks", *self.world.watched]
        growing = list(range(len(names)))
        for number, held in enumerate(self.history):
            self.one_pass()
            self.note(number)
            if number > 0:
                before = self.history[number - 1]
                growing = [place for place in growing if held[place] > before[place]]
            if self.faults or not growing:
                return
        if len(self.history) > 1:
            for place in growing:
                counts = [held[place] for held in self.history]
                self.faults.append(f"{names[place]}: more after each pass: {counts}")


def numbers() -> Iterator[int]:
    """Which allocation is to fail: 0, 1, 2, ..., and from DENSE on every fiftieth."""
    number = 0
    while True:
        yield number
        number += 1 if number < DENSE else 50


def main() -> None:
    """Runs the operation that the command line names."""
    faulthandler.enable()
    gc.disable()
    module, name, directory, passes = sys.argv[1:]
    importlib.import_module(module)
    hook.watch(operations.extension_path())
    enumeration = Enumeration(operations.OPERATIONS[name], Path(directory), int(passes))
    enumeration.run()
    enumeration.world.close()
    print(json.dumps({"cases": enumeration.cases, "faults": enumeration.faults}))


if __name__ == "__main__":
    main()
