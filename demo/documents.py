"""The captcha company's settings: 20,000 documents in three collections, the same on every run."""

from __future__ import annotations

import random
from typing import Any, Final

DATABASE: Final = "captcha"
SITES: Final = 12_000
CUSTOMERS: Final = 7_900
FLAGS: Final = 100
TOTAL: Final = SITES + CUSTOMERS + FLAGS
_BATCH: Final = 2_000

_THEMES: Final = ("light", "dark", "contrast")
_PLANS: Final = {"free": 5, "team": 50, "business": 500}


def site_key(number: int) -> str:
    """The public key of one site, as it stands in that site's pages."""
    return f"6L{random.Random(number).getrandbits(64):016x}"


def make() -> dict[str, list[dict[str, Any]]]:
    """All documents by collection."""
    chance = random.Random(1)
    flags = [f"flag-{number:03d}" for number in range(FLAGS)]
    return {
        "sites": [_site(number, flags, chance) for number in range(SITES)],
        "limits": [_limits(number, chance) for number in range(CUSTOMERS)],
        "flags": [
            {"_id": name, "on": chance.random() < 0.7, "percent": chance.choice((5, 25, 50, 100))}
            for name in flags
        ],
    }


def _site(number: int, flags: list[str], chance: random.Random) -> dict[str, Any]:
    qps = chance.choice((1, 5, 20, 100))
    return {
        "_id": site_key(number),
        "customer": number % CUSTOMERS,
        "difficulty": chance.randint(1, 9),
        "theme": chance.choice(_THEMES),
        "domains": [f"shop-{number}.example", f"www.shop-{number}.example"],
        "limits": {"qps": qps, "burst": qps * 4, "window": 60},
        "flags": chance.sample(flags, 4),
        "texts": {"title": "Please confirm", "retry": "Once more, please", "language": "en"},
        "revision": 0,
    }


def _limits(number: int, chance: random.Random) -> dict[str, Any]:
    plan = chance.choice(list(_PLANS))
    qps = _PLANS[plan]
    return {
        "_id": number,
        "plan": plan,
        "per_site_qps": qps,
        "daily": qps * 20_000,
        "blocked_networks": [f"203.0.113.{chance.randrange(256)}" for _ in range(3)],
        "contact": f"ops-{number}@customer.example",
    }


def insert(uri: str) -> int:
    """Puts all documents into the server at `uri`; returns how many."""
    from pymongo import MongoClient

    documents = make()
    with MongoClient[dict[str, Any]](uri) as client:
        for name, batch in documents.items():
            for start in range(0, len(batch), _BATCH):
                client[DATABASE][name].insert_many(batch[start : start + _BATCH])
    return sum(map(len, documents.values()))
