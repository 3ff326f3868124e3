"""--hold-while: a marker document in MongoDB says that its data is half changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmapcache.sync.errors import HeldError
from mmapcache.sync.mongo.query import checked
from mmapcache.sync.names import split_namespace
from mmapcache.sync.parsing import Marker

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mmapcache.sync.mongo.client import Client


class Hold:
    """The marker.

    :raises UsageError: its namespace cannot be one, or its filter is no Extended JSON
    """

    def __init__(self, marker: Marker) -> None:
        self.database, self.collection = split_namespace(marker.origin, "DB.COLL:FILTER")
        self._filter = checked(marker.filter, "--hold-while")
        self.why = f"publication is held while a document of {marker.origin} is {marker.filter}"

    def present(
        self, client: Client, session: ClientSession | None, patience: int | None = None
    ) -> bool:
        """Whether there is a marker; in a session, not earlier than what it has read.

        :param patience: milliseconds after which the server says that it cannot answer
        """
        from pymongo.read_concern import ReadConcern

        concern = None if session is None else ReadConcern("majority")
        collection = client[self.database].get_collection(self.collection, read_concern=concern)
        found = collection.find_one(self._filter, {"_id": 1}, session=session, max_time_ms=patience)
        return found is not None

    def refuse(self, client: Client, session: ClientSession | None) -> None:
        """:raises HeldError: there is a marker"""
        if self.present(client, session):
            raise HeldError(self.why)
