"""What may be passed as documents: a list of JSON values, or of JSON texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from linmap.data.records import parse_json
from linmap.errors import ArgumentTypeError, DataError


def iterate_documents(documents: Any, parse: bool | None) -> Iterator[Any]:
    """The documents one by one, texts parsed if `parse`.

    Raises
    ------
    TypeError
        If `documents` is a single document or a table, or `parse` is None and one of them may be JSON text as well as a
        string.
    DataError
        If a text is not JSON.
    """
    if isinstance(documents, Mapping):
        raise ArgumentTypeError("documents must be a list of documents, got a single dict; write [document].")
    if isinstance(documents, str | bytes):
        raise ArgumentTypeError(
            f"documents must be a list of documents, got a single {type(documents).__name__}; write [text] with "
            "parse=True for JSON text, with parse=False for a string value."
        )
    if hasattr(documents, "columns"):  # which would give the names of its columns
        raise ArgumentTypeError(
            f"documents must be a list of documents, got a {type(documents).__name__}; write table.to_dict('records')."
        )
    if not isinstance(documents, Iterable):
        raise ArgumentTypeError(f"documents must be a list of documents, got {type(documents).__name__}.")
    if parse:
        return _parsed(documents)
    return iter(documents) if parse is False else _not_texts(documents)


def _parsed(texts: Iterable[Any]) -> Iterator[Any]:
    for number, text in enumerate(texts):
        if not isinstance(text, str | bytes):
            raise ArgumentTypeError(f"document {number}: parse=True takes JSON texts, got {type(text).__name__}.")
        try:
            yield parse_json(text)
        except DataError as error:
            raise DataError(f"document {number}, {error}") from None


def _not_texts(documents: Iterable[Any]) -> Iterator[Any]:
    for number, document in enumerate(documents):
        if isinstance(document, str) and document.lstrip()[:1] in ("{", "["):
            raise ArgumentTypeError(
                f"document {number} is the text {document!r:.40}: is it JSON text or a string value? Pass parse=True "
                "to parse it, parse=False to take it as a string."
            )
        yield document
