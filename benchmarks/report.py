"""The figures of a run: its JSON file, and a table of docs/performance.md between two markers.

python -m benchmarks --json FILE, and then python -m benchmarks.report FILE docs/performance.md
with the markers' name, where it is not `figures`, behind that.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, quantities


def markers(name: str) -> tuple[str, str]:
    """What stands before and after a table."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


BEGIN, END = markers("figures")


def dumps(report: dict[str, Any]) -> str:
    """The JSON text of a run, a line for each row: short, and two runs can be compared by line."""
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in report["rows"])
    rest = {name: value for name, value in report.items() if name != "rows"}
    head = json.dumps(rest, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{head},\n "rows": [\n  {rows}\n ]\n}}\n'


def _row(row: Row) -> str:
    ours, peer = quantities(row)
    sign = "≥" if row.at_least else "≤"
    cells = (
        row.measure + (f" ({row.note})" if row.note else ""),
        ours,
        peer,
        "" if row.ratio is None else f"{row.ratio:.3g}",
        "" if row.target is None else f"{sign} {row.target:.3g}",
        {None: "reported", True: "met", False: "**missed**"}[row.met],
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def markdown(report: dict[str, Any]) -> str:
    """The table and where it was taken."""
    environment = report["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items() if v != "absent")
    rows = []
    for values in report["rows"]:
        kept = {key: value for key, value in values.items() if key != "met"}
        rows.append(Row(**kept))
    lines = [
        f"`{environment['command']}` at {environment['time']}: {environment['cpu']},"
        f" {environment['cpus']} CPUs, {environment['memory'] / 2**30:.0f} GiB,"
        f" Linux {environment['kernel']}, CPython {environment['python']}, {versions}."
        f" {len(rows)} figures in {report['seconds']:.0f} s"
        + (", the small sizes of `--quick`." if report["quick"] else "."),
        "",
        "| measure | ours | peer | ratio | target | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *map(_row, rows),
        *(f"\nFailed: {failure}" for failure in report["failed"]),
    ]
    return "\n".join(lines)


def update(report: dict[str, Any], path: Path, name: str = "figures") -> None:
    """Replace what stands between the markers of the document."""
    begin, end = markers(name)
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    made = f"{before}{begin}\n\n{markdown(report)}\n\n{end}{after}"
    path.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    run = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    update(run, Path(sys.argv[2]), *sys.argv[3:])
