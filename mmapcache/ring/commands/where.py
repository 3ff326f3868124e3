"""`mmapcache ring where`: who holds a key, and (`--copies`) what they have."""

from __future__ import annotations

import argparse
from typing import Any

from mmapcache.cli.output import DONE, emit, emit_json, moment_text, table
from mmapcache.ring import _ring
from mmapcache.ring.commands.nodes import ring_of, settings_of
from mmapcache.ring.link import Links, RefusedError
from mmapcache.ring.sweep import Whose
from mmapcache.ring.wire import Lost


def run(args: argparse.Namespace) -> int:
    """The exit status."""
    settings = settings_of(args)
    record, members, _ = ring_of(args)
    key = args.key.encode("utf-8", "surrogateescape")
    whose = Whose(record)
    pair = whose.pair(key)
    links = Links(settings)
    rows: list[dict[str, Any]] = []
    for name in whose.holders(key):
        member = members.get(name)
        row: dict[str, Any] = {
            "id": name,
            "role": ("primary" if name == pair[0] else "copy") if name in pair else "change",
            "address": member.address if member else None,
            "state": member.state if member else "gone",
        }
        if args.copies and member is not None:
            try:
                row |= _described(links.to(name, member.address).call("RING.DUMP", key)[0])
            except (Lost, RefusedError) as error:
                row["trouble"] = str(error)
        rows.append(row)
    links.close()
    if args.json:
        emit_json({"key": args.key, "epoch": record.epoch, "holders": rows})
        return DONE
    heads = ["id", "role", "address", "state"] + (["copy"] if args.copies else [])
    lines = [
        [row["id"], row["role"], row["address"] or "unknown", row["state"]]
        + ([_copy_text(row)] if args.copies else [])
        for row in rows
    ]
    for line in table(heads, lines):
        emit(line)
    return DONE


def _described(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, bytes):
        return {"kind": None}
    try:
        kind, version, end, value = _ring.decode(entry)
    except ValueError as error:
        return {"trouble": f"no value of the ring's: {error}"}
    return {
        "kind": "value" if kind == _ring.VALUE else "tombstone",
        "version": version.hex(),
        "written": int.from_bytes(version[:6], "big") / 1000,
        "ends": end / 1000 if end else None,
        "bytes": len(value),
    }


def _copy_text(row: dict[str, Any]) -> str:
    if "trouble" in row:
        return str(row["trouble"])
    if row.get("kind") is None:
        return "none"
    return f"{row['kind']} of {moment_text(row['written'])}, {row['bytes']} bytes"
