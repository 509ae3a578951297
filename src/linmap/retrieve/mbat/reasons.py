"""Why a record matches, as plain JSON values."""

from __future__ import annotations

from typing import Any

from linmap.retrieve.mbat.record_index import RecordMatch
from linmap.retrieve.mbat.vectorizer import MISSING

SHOWN_VALUES = 3  # of one path


def explanation(match: RecordMatch, most: int = 6) -> dict[str, Any]:
    """Why a record was found: the paths that add most to the cosine, with the values of both records.

    Parameters
    ----------
    match
        From a `RecordIndex`.
    most
        How many paths.

    Returns
    -------
    dict[str, Any]
        `because`, a list of paths with what both records hold there, or a sentence; `other_paths` and `crosstalk`, the
        rest of the cosine. Empty where the record is not at hand.
    """
    if match.document is MISSING:
        return {}
    if match.values:
        return {"because": [{"path": value.path, "query": value.asked,
                             "match": "(not there)" if value.found is MISSING else value.found}
                            for value in match.values]}  # fmt: skip
    if match.breakdown is None:
        return {"because": "level_norm=unit is not linear in the leaves: its cosines have no exact breakdown"}
    cosine, parts, crosstalk = match.breakdown
    because = [
        {"path": part.path, "share": round(part.share, 4), "query": _short(part.left), "match": _short(part.right)}
        for part in parts[:most]
    ]
    rest = cosine - crosstalk - sum(part.share for part in parts[:most])
    return {"because": because, "other_paths": round(rest, 4), "crosstalk": round(crosstalk, 4)}


def _short(values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    return [*values[:SHOWN_VALUES], "..."] if len(values) > SHOWN_VALUES else values
