"""Qdrant: the fields are named vectors of one collection, in a folder of this machine or on a server."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from linmap.data.vectors.qdrant_folder import open_folder
from linmap.data.vectors.store import FIELD, DatabaseStore, Hit, agreed_fields
from linmap.errors import DataError

AT_ONCE = 1024  # points of one request
DOT, COSINE = "Dot", "Cosine"  # Qdrant's names
UNIT = 0.01  # how far a length may be from 1
METADATA = "linmap"  # of a collection; Qdrant servers have it since 1.16
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "linmap")  # Qdrant's ids are UUIDs; the record's own name is in the payload


@contextmanager
def told() -> Iterator[None]:
    """What SQLite says in the local mode of a disk that is full or may only be read."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(f"Qdrant cannot write ({error}); make room there, or write elsewhere.") from None


class QdrantStore(DatabaseStore):
    """Points with named vectors.

    In a collection of other programs the record's id must be the payload's `id`. Scores are inner products whatever the
    collection compares by: of vectors of length 1 where that is the cosine; where it is a distance, every search goes
    through all vectors.

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

    @told()
    def __init__(
        self,
        place: str,
        fields: Mapping[str, int] | int | None = None,
        collection: str = "linmap",
        api_key: str | None = None,
    ) -> None:
        try:
            from qdrant_client import QdrantClient, models
            from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
        except ModuleNotFoundError:
            raise DataError("Qdrant's client is not installed: pip install 'linmap[stores]'.") from None
        self.collection, self._models = collection, models
        remote = place.startswith(("http://", "https://"))
        self.client = QdrantClient(url=place, api_key=api_key) if remote else open_folder(place)
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
        config: Any = self.client.get_collection(collection).config
        self._metrics = {name: params.distance.value for name, params in config.params.vectors.items()}
        self._open_metadata((config.metadata or {}).get(METADATA, "{}"), place)
        self._own: bool | None = None  # whether its points are called as linmap calls them; None: not looked yet

    def _found(self) -> dict[str, int] | None:
        """Fields of a collection that is there.

        Raises
        ------
        DataError
            If its vectors have no names, or a point has several of one name.
        """
        if not self.client.collection_exists(self.collection):
            return None
        vectors: Any = self.client.get_collection(self.collection).config.params.vectors
        if not isinstance(vectors, Mapping) or not vectors:
            raise DataError(
                f"the collection {self.collection!r} keeps vectors without a name, and fields are named vectors; "
                "choose another collection, or make one with vectors_config={'vector': VectorParams(...)}."
            )
        several = next((name for name, params in vectors.items() if params.multivector_config is not None), None)
        if several is not None:
            raise DataError(
                f"the collection {self.collection!r} keeps several vectors of each point as {several!r}; choose "
                "another collection."
            )
        return {name: params.size for name, params in vectors.items()}

    @told()
    def _keep(self, metadata: dict[str, Any]) -> None:
        self.client.update_collection(self.collection, metadata={METADATA: json.dumps(metadata)})

    @told()
    def _upsert(self, ids: list[str], vectors: np.ndarray, field: str) -> None:
        self._require_own()
        if self._metrics[field] == COSINE and (np.abs(np.linalg.norm(vectors, axis=1) - 1) > UNIT).any():
            raise DataError(
                f"the collection {self.collection!r} compares {field!r} by cosine and keeps no lengths, and these "
                "vectors are not of length 1; normalise them, or choose another collection."
            )
        models = self._models
        for first in range(0, len(ids), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            points = {_key(name): (name, v.tolist()) for name, v in zip(ids[some], vectors[some], strict=True)}
            known = set()
            if len(self.fields) > 1:  # an upsert would take the other fields away
                there = self.client.retrieve(self.collection, list(points), with_payload=False)
                known = {str(record.id) for record in there}
            changed = [models.PointVectors(id=key, vector={field: points[key][1]}) for key in known]
            if changed:
                self.client.update_vectors(self.collection, changed, wait=True)
            fresh = [
                models.PointStruct(id=key, vector={field: vector}, payload={"id": name})
                for key, (name, vector) in points.items()
                if key not in known
            ]
            if fresh:
                self.client.upsert(self.collection, fresh, wait=True)

    def _require_own(self) -> None:
        """Refuse to write where a record's point may be there under another id, beside which linmap's would stand."""
        if self._own is None:
            points, _ = self.client.scroll(self.collection, limit=1)
            self._own = all(str(point.id) == _key(self._name(point)) for point in points)
        if not self._own:
            raise DataError(
                f"the collection {self.collection!r} was filled by another program, whose points have other ids; "
                "choose another collection to write in. This one can be searched."
            )

    def _name(self, point: Any) -> str:
        """The record of a point."""
        name = (point.payload or {}).get("id")
        if name is None:
            raise DataError(
                f"the point {point.id} of the collection {self.collection!r} has no `id` in its payload, where linmap "
                "keeps the record's; set it, or choose another collection."
            )
        return str(name)

    def _search(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        metric = self._metrics[field]
        if metric not in (DOT, COSINE):
            return self._compared(queries, k, field)
        requests = [
            self._models.QueryRequest(query=query.tolist(), using=field, limit=k, with_payload=True)
            for query in queries
        ]
        answers = self.client.query_batch_points(self.collection, requests)
        lengths = np.linalg.norm(queries, axis=1) if metric == COSINE else np.ones(len(queries))
        return [
            [Hit(self._name(point), point.score * float(length)) for point in answer.points]
            for answer, length in zip(answers, lengths, strict=True)
        ]

    def _compared(self, queries: np.ndarray, k: int, field: str) -> list[list[Hit]]:
        """By inner products with all vectors, which a collection that compares by distances does not rank by."""
        best: list[list[Hit]] = [[] for _ in queries]
        for ids, vectors in self._iterate(field, AT_ONCE):
            scores = queries @ vectors.T
            for line, row in zip(best, scores, strict=True):
                line += [Hit(ids[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:k]]
                line.sort(key=lambda hit: -hit.score)
                del line[k:]
        return best

    def _get(self, ids: list[str], field: str) -> dict[str, np.ndarray]:
        """By the points' own ids, and in collections of other programs by the payload's."""
        points: list[Any] = []
        for first in range(0, len(ids), AT_ONCE):
            part = ids[first : first + AT_ONCE]
            there = self.client.retrieve(self.collection, list(map(_key, part)), with_vectors=[field])
            points += there
            rest = sorted(set(part) - set(map(self._name, there)))
            if rest:
                points += self._named(rest, field)
        vectors = {self._name(point): (point.vector or {}).get(field) for point in points}
        return {name: np.array(vector, np.float32) for name, vector in vectors.items() if vector is not None}

    def _named(self, names: list[str], field: str) -> list[Any]:
        """Points whose payload has one of the names as a text or a number."""
        models = self._models
        numbers = [int(name) for name in names if name.isascii() and name.removeprefix("-").isdecimal()]
        texts = models.FieldCondition(key="id", match=models.MatchAny(any=names))
        wanted = [texts, models.FieldCondition(key="id", match=models.MatchAny(any=numbers))] if numbers else [texts]
        points, _ = self.client.scroll(
            self.collection, scroll_filter=models.Filter(should=wanted), limit=2 * len(names), with_vectors=[field]
        )
        return points

    def _iterate(self, field: str, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
        offset: Any = None
        while True:
            records, offset = self.client.scroll(
                self.collection, scroll_filter=self._having(field), limit=batch, offset=offset, with_vectors=[field]
            )
            if records:
                vectors: Any = [record.vector for record in records]
                yield list(map(self._name, records)), np.array([vector[field] for vector in vectors], np.float32)
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
