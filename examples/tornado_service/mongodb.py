"""Settings straight from MongoDB, one or more finds per request: what the cache replaces.

A client cannot cross a fork, so each worker makes its own, in its own event loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymongo import AsyncMongoClient

from examples.tornado_service.settings import Challenge, Document, Health, make_health


class MongoSettings:
    """Settings from MongoDB, asked on every request."""

    def __init__(self, uri: str, database: str) -> None:
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
        self._database = self._client[database]

    async def site(self, key: str) -> tuple[int, Document | None]:
        """One find."""
        return 0, await self._database["sites"].find_one({"_id": key})

    async def challenge(self, key: str) -> tuple[int, Challenge | None]:
        """Three finds, each of which may see another state of the database."""
        site = await self._database["sites"].find_one({"_id": key})
        if site is None:
            return 0, None
        limits = await self._database["limits"].find_one({"_id": site["customer"]})
        if limits is None:
            return 0, None
        flags = self._database["flags"].find({"_id": {"$in": site["flags"]}})
        return 0, Challenge(site, limits, {flag["_id"]: flag async for flag in flags})

    def health(self) -> Health:
        """MongoDB itself is not asked here."""
        return make_health("ok", "mongodb")

    def metrics(self) -> Iterable[tuple[str, float]]:
        """Nothing of its own."""
        return ()
