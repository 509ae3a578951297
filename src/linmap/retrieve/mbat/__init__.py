"""MBAT for JSON: one vector per document by orthogonal binding, read back by path, the same on every machine."""

from linmap.data.vectors import VectorFile, VectorFileWriter
from linmap.data.vectors.faiss_store import pack_signs
from linmap.retrieve.mbat.capacity import capacity, dimension_for
from linmap.retrieve.mbat.codebook import FORMAT, Codebook
from linmap.retrieve.mbat.decoding import Breakdown, Contribution, Decoded
from linmap.retrieve.mbat.files import encode_files
from linmap.retrieve.mbat.module import JSONEncoder
from linmap.retrieve.mbat.operators import DenseOrthogonal, HadamardDiagonal, SignedPermutation
from linmap.retrieve.mbat.paths import format_path, parse_path
from linmap.retrieve.mbat.reasons import explanation
from linmap.retrieve.mbat.record_index import RecordIndex, RecordMatch, ValueAt
from linmap.retrieve.mbat.search import nearest, sign_cosine
from linmap.retrieve.mbat.vectorizer import MISSING, JSONVectorizer

__all__ = [
    "FORMAT",
    "MISSING",
    "Breakdown",
    "Codebook",
    "Contribution",
    "Decoded",
    "DenseOrthogonal",
    "HadamardDiagonal",
    "JSONEncoder",
    "JSONVectorizer",
    "RecordIndex",
    "RecordMatch",
    "SignedPermutation",
    "ValueAt",
    "VectorFile",
    "VectorFileWriter",
    "capacity",
    "dimension_for",
    "encode_files",
    "explanation",
    "format_path",
    "nearest",
    "pack_signs",
    "parse_path",
    "sign_cosine",
]
