"""Qdrant: the fields are named vectors of one collection, in a folder of this machine or on a server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from linmap.data.vectors.store import FIELD, DatabaseStore, Hit, agreed_fields
from linmap.errors import DataError

AT_ONCE = 1024  # points of one request
METADATA = "linmap"  # of a collection; Qdrant servers have it since 1.16
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "linmap")  # Qdrant's ids are UUIDs; the record's own name is in the payload


class QdrantStore(DatabaseStore):
    """Points with named vectors.

    Parameters
    ----------
    place
        A folder (Qdrant's local mode, exact), or the URL of a server: http://localhost:6333.
    fields
        As in `open_store`.
    collection
        Its name.
    api_key
        Of a server.
    """

    def __init__(
        self, place: str, fields: Mapping[str, int] | int | None = None, collection: str = "linmap",
        api_key: str | None = None,
    ) -> None:  # fmt: skip
        try:
            from qdrant_client import QdrantClient, models
            from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
        except ModuleNotFoundError:
            raise DataError("Qdrant's client is not installed: pip install 'linmap[stores]'.") from None
        self.collection, self._models = collection, models
        remote = place.startswith(("http://", "https://"))
        self.client = QdrantClient(url=place, api_key=api_key) if remote else QdrantClient(path=place)
        try:
            self.fields = agreed_fields(self._found(), fields, f"{place}, collection {collection!r},")
        except DataError:
            self.client.close()
            raise
        except (ResponseHandlingException, UnexpectedResponse) as error:
            self.client.close()
            raise DataError(f"no Qdrant answers at {place}: {str(error).strip().splitlines()[0]}") from None
        if not self.client.collection_exists(collection):
            dot = models.Distance.DOT
            sizes = {name: models.VectorParams(size=dim, distance=dot) for name, dim in self.fields.items()}
            self.client.create_collection(collection, vectors_config=sizes)
        kept = self.client.get_collection(collection).config.metadata or {}
        self._open_metadata(json.loads(kept.get(METADATA, "{}")))

    def _found(self) -> dict[str, int] | None:
        if not self.client.collection_exists(self.collection):
            return None
        vectors: Any = self.client.get_collection(self.collection).config.params.vectors
        return {name: params.size for name, params in vectors.items()}

    def _keep(self, metadata: dict[str, Any]) -> None:
        self.client.update_collection(self.collection, metadata={METADATA: json.dumps(metadata)})

    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None:
        models = self._models
        for first in range(0, len(ids), AT_ONCE):
            points = {_key(name): (name, v.tolist()) for name, v in
                      zip(ids[first : first + AT_ONCE], vectors[first : first + AT_ONCE], strict=True)}  # fmt: skip
            known = set()
            if len(self.fields) > 1:  # an upsert would take the other fields away
                there = self.client.retrieve(self.collection, list(points), with_payload=False)
                known = {str(record.id) for record in there}
            changed = [models.PointVectors(id=key, vector={field: points[key][1]}) for key in known]
            if changed:
                self.client.update_vectors(self.collection, changed, wait=True)
            fresh = [
                models.PointStruct(id=key, vector={field: vector}, payload={"id": name})
                for key, (name, vector) in points.items() if key not in known
            ]  # fmt: skip
            if fresh:
                self.client.upsert(self.collection, fresh, wait=True)

    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        requests = [
            self._models.QueryRequest(query=query.tolist(), using=field, limit=k, with_payload=True)
            for query in queries
        ]
        answers = self.client.query_batch_points(self.collection, requests)
        return [[Hit((point.payload or {})["id"], point.score) for point in answer.points] for answer in answers]

    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
        offset: Any = None
        while True:
            records, offset = self.client.scroll(
                self.collection, scroll_filter=self._having(field), limit=batch, offset=offset, with_vectors=[field]
            )
            if records:
                vectors: Any = [record.vector for record in records]
                ids = [(record.payload or {})["id"] for record in records]
                yield ids, np.array([vector[field] for vector in vectors], np.float32)
            if offset is None:
                return

    def count(self, field: str = FIELD) -> int:
        self._dim(field)
        return self.client.count(self.collection, count_filter=self._having(field), exact=True).count

    def _having(self, field: str) -> Any:
        return self._models.Filter(must=[self._models.HasVectorCondition(has_vector=field)])

    def close(self) -> None:
        self.client.close()


def _key(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, name))
