"""Line and branch coverage of the C core from gcov's JSON: fails on what no test executed.

    coverage.py BUILD_DIR [NAME...]

BUILD_DIR holds the .gcda files of one run of all tests; NAMEs such as `buddy` limit the report to
sources whose name starts so. What cannot be executed is excused in uncovered.txt beside this file,
one line each:

    source.c | the source line, stripped | why no test can get there

The text of the line stands there, not its number, so that an edit elsewhere moves nothing. An
excuse that excuses nothing any more is an error as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SRC = HERE.parent.parent / "src"


class Line:
    """Counts of one source line, summed over the objects that contain it."""

    def __init__(self) -> None:
        self.count = 0
        self.branches: list[int] = []

    def add(self, record: dict[str, Any]) -> None:
        """Adds gcov's record of the line in one object."""
        self.count += record["count"]
        counts = [branch["count"] for branch in record["branches"]]
        if len(counts) > len(self.branches):
            self.branches += [0] * (len(counts) - len(self.branches))
        for index, count in enumerate(counts):
            self.branches[index] += count

    def missing(self) -> str:
        """What was not executed, in words; empty when nothing is missing."""
        if self.count == 0:
            return "never executed"
        untaken = sum(1 for count in self.branches if count == 0)
        return f"{untaken} of {len(self.branches)} branches not taken" if untaken else ""


def measure(build: Path) -> dict[str, dict[int, Line]]:
    """Source name -> line number -> counts, for the files of src/."""
    lines: dict[str, dict[int, Line]] = defaultdict(lambda: defaultdict(Line))
    data = sorted(build.rglob("*.gcda"))
    if not data:
        raise SystemExit(f"{build} holds no .gcda files: run make coverage")
    output = subprocess.run(
        ["gcov", "--json-format", "--branch-probabilities", "--stdout", *map(str, data)],
        check=True,
        capture_output=True,
        text=True,
        cwd=build,
    ).stdout
    for document in output.splitlines():
        for file in json.loads(document)["files"]:
            path = Path(file["file"])
            if SRC in path.parents and path.suffix == ".c":
                for record in file["lines"]:
                    lines[str(path.relative_to(SRC))][record["line_number"]].add(record)
    return lines


def excuses() -> dict[tuple[str, str], str]:
    """(source, stripped line) -> reason, from uncovered.txt."""
    found = {}
    for number, line in enumerate((HERE / "uncovered.txt").read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        # The line itself may hold `||`; the reason may not.
        source, _, rest = line.partition(" | ")
        text, _, reason = rest.rpartition(" | ")
        if not text or not reason.strip():
            raise SystemExit(f"uncovered.txt:{number}: want `source | line | reason`")
        found[source.strip(), text.strip()] = reason.strip()
    return found


def main() -> int:
    """Prints a line per source and per miss; 1 when something is not excused."""
    build, only = Path(sys.argv[1]), tuple(sys.argv[2:])
    excused, used, failures = excuses(), set(), 0
    for name, lines in sorted(measure(build).items()):
        if only and not name.startswith(only):
            continue
        text = (SRC / name).read_text().splitlines()
        branches = sum(len(line.branches) for line in lines.values())
        taken = sum(count > 0 for line in lines.values() for count in line.branches)
        hit = sum(line.count > 0 for line in lines.values())
        print(f"{name}: {hit} of {len(lines)} lines, {taken} of {branches} branches")
        for number, line in sorted(lines.items()):
            key = (name, text[number - 1].strip())
            if missing := line.missing():
                if key in excused:
                    used.add(key)
                else:
                    failures += 1
                    print(f"  {name}:{number}: {missing}: {key[1]}")
    for key in excused.keys() - used:
        if not only or key[0].startswith(only):
            failures += 1
            print(f"uncovered.txt excuses what is executed: {key[0]} | {key[1]}")
    print(f"coverage: {failures} not executed and not excused, {len(used)} excused")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
