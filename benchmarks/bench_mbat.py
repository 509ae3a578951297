"""MBAT: JSON documents to vectors (D = 2048, float32, l2, default options), parsing included, and binding by itself.

The documents are the 418 embedded patients, some 106 leaves each. "Warm": every leaf has been met before; leaves are
cached, whole documents never are. "New numbers": every number of every document is new, as in a stream of
measurements. What bounds the warm rate is the sum of the bound leaves, a gather from memory: its own rate and
bandwidth stand in the notes (the roofline), beside the rate at which one thread parses documents and finds rows.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from benchmarks.measure import THREADS, Measurement, compare, medians, optional
from linmap.data import EMBEDDED
from linmap.data.records import parse_json, read_records
from linmap.retrieve.mbat import Codebook, JSONVectorizer

torchhd: Any = optional("torchhd")

REPEAT = 10  # passes over the patients in one run
LINES = 1_000_000


def run() -> list[Measurement]:
    texts = [orjson.dumps(record.document) for record in read_records(EMBEDDED / "fhir_patients.jsonl")]
    return [*warm(texts), new_numbers(texts), binding(), whole_documents(texts), long_stream()]


def warm(texts: list[bytes]) -> Iterator[Measurement]:
    vectorizers = {threads: JSONVectorizer(n_jobs=threads) for threads in (THREADS, 1)}
    runs = [lambda v=v: encode(v, itertools.chain.from_iterable([texts] * REPEAT)) for v in vectorizers.values()]
    both, one = medians(*runs, *stages(texts, vectorizers[1]), repeats=7)[:2]
    items = REPEAT * len(texts)
    yield Measurement(
        f"encode patients, warm, n_jobs={THREADS}",
        both,
        items=items,
        unit="documents",
        least_rate=10_000,
        note=roofline(texts, vectorizers[1]),
    )
    yield Measurement("encode patients, warm, n_jobs=1", one, items=items, unit="documents")


def stages(texts: list[bytes], vectorizer: JSONVectorizer) -> list:
    """Parsing with finding the rows, and summing them, each alone."""
    table = vectorizer._state().bound_leaves
    sums = table.gather([parse_json(text) for text in texts])
    return [lambda: table.gather(map(parse_json, texts)), sums]


def roofline(texts: list[bytes], vectorizer: JSONVectorizer) -> str:
    gather, add = stages(texts, vectorizer)
    gather_seconds, add_seconds = medians(gather, add, repeats=7)
    leaves = len(vectorizer._state().bound_leaves._indices)
    gigabytes = leaves * vectorizer.dim * 4 / 1e9
    return (
        f"{leaves / len(texts):.0f} rows of {vectorizer.dim * 4} B a document; sums alone, {THREADS} threads: "
        f"{len(texts) / add_seconds:,.0f} documents/s = {gigabytes / add_seconds:.1f} GB/s; parsing and finding rows "
        f"alone, one thread: {len(texts) / gather_seconds:,.0f} documents/s"
    )


def new_numbers(texts: list[bytes]) -> Measurement:
    """Every number of every document replaced by one that was never seen."""
    rng, repeats = np.random.default_rng(0), 5
    vectorizer = JSONVectorizer(n_jobs=THREADS)
    encode(vectorizer, texts)
    fresh = iter([[perturbed(text, rng) for text in texts] for _ in range(repeats + 1)])
    (seconds,) = medians(lambda: encode(vectorizer, next(fresh)), repeats=repeats, warm_up=1)
    numbers = statistics.fmean(len(NUMBER.findall(text)) for text in texts)
    note = f"{numbers:.0f} new leaves a document: an atom, a level and a gather each"
    return Measurement("encode patients, all numbers new", seconds, items=len(texts), unit="documents", note=note)


NUMBER = re.compile(rb'(?<="value":)-?\d+(?:\.\d+)?')


def perturbed(text: bytes, rng: np.random.Generator) -> bytes:
    return NUMBER.sub(lambda match: b"%.6f" % (float(match[0]) * rng.uniform(0.9, 1.1)), text)


def binding() -> Measurement:
    """One key bound to a batch; MAP multiplies elementwise, and so cannot tell {"a": {"b": x}} from {"b": {"a": x}}."""
    D, batch = 10_000, 256
    operator = Codebook(D).operator("key", "a")
    x = np.random.default_rng(0).normal(size=(batch, D)).astype(np.float32)
    theirs, note = None, "a signed permutation, which does not commute"
    if torchhd is not None:
        a, b, c = torchhd.random(3, D, "MAP")
        same = torchhd.cosine_similarity(torchhd.bind(a, torchhd.bind(b, c)), torchhd.bind(b, torchhd.bind(a, c)))
        note += f"; in MAP the cosine of a.b = x and b.a = x is {float(same):.2f}"
        hypervectors = torchhd.ensure_vsa_tensor(torch.from_numpy(x), "MAP")
        theirs = lambda: torchhd.bind(a, hypervectors)  # noqa: E731
    return compare(f"bind one key, D = {D}, batch {batch}", lambda: operator.apply(x), "torchhd MAP", theirs, note=note)


def whole_documents(texts: list[bytes]) -> Measurement:
    """The same parsed documents, exact leaves, on one thread each.

    torchhd encodes no JSON, so what its users would write stands in: the hypervector of every path (its keys bound, its
    indices permuted) and of every value is there beforehand, and a document is the multiset of its paths bound to its
    values.
    """
    documents = [parse_json(text) for text in texts[:200]]
    vectorizer = JSONVectorizer(strings="exact", numbers="exact", normalize="none")
    theirs = None if torchhd is None else by_torchhd(documents, vectorizer.dim)
    note = "both look every leaf up anew, and both have met it before; torchhd's path vectors commute"
    return compare(
        f"encode {len(documents)} parsed patients, exact leaves, one thread",
        lambda: on_one_thread(lambda: vectorizer.transform(documents)),
        "torchhd MAP, bind and multiset",
        theirs and (lambda: on_one_thread(theirs)),
        note=note,
        repeats=7,
    )


def on_one_thread(function: Callable[[], object]) -> None:
    torch.set_num_threads(1)
    function()
    torch.set_num_threads(THREADS)


def by_torchhd(documents: list, dim: int) -> Callable[[], torch.Tensor]:
    known = [leaf for document in documents for leaf in leaves_of(document)]
    paths = {path: row for row, path in enumerate(dict.fromkeys(path for path, _ in known))}
    values = {value: row for row, value in enumerate(dict.fromkeys(value for _, value in known))}
    keys = {step: torchhd.random(1, dim, "MAP")[0] for path in paths for step in path if isinstance(step, str)}
    roles = torch.stack([role_of(path, keys, dim) for path in paths])
    fillers = torchhd.random(len(values), dim, "MAP")

    def encode_all() -> torch.Tensor:
        vectors = []
        for document in documents:
            rows = torch.tensor([(paths[path], values[value]) for path, value in leaves_of(document)])
            vectors.append(torchhd.multiset(torchhd.bind(roles[rows[:, 0]], fillers[rows[:, 1]])))
        return torch.stack(vectors)

    return encode_all


def role_of(path: tuple, keys: dict[str, torch.Tensor], dim: int) -> torch.Tensor:
    role = torchhd.identity(1, dim, "MAP")[0]
    for step in reversed(path):
        role = torchhd.permute(role, shifts=step + 1) if isinstance(step, int) else torchhd.bind(keys[step], role)
    return role


def leaves_of(value: object, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    if value and isinstance(value, dict | list):
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves_of(item, (*path, step))
    else:
        yield path, (type(value), value if not isinstance(value, dict | list) else None)


def long_stream() -> Measurement:
    """A million distinct lines in a process of its own, for its peak memory."""
    program = f"from benchmarks.bench_mbat import stream_lines; stream_lines({LINES})"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    result = json.loads(output)
    note = (
        f"peak resident memory {result['tenth'] / 1e6:.0f} MB after a tenth of the lines, "
        f"{result['peak'] / 1e6:.0f} MB at the end (of it {result['start'] / 1e6:.0f} MB before "
        "the first); cache bound 512 MiB"
    )
    return Measurement(
        f"stream of {LINES:,} distinct lines", result["seconds"], items=LINES, unit="documents", note=note
    )


def stream_lines(n: int) -> None:
    """Encode n patients, each with a serial number of its own; prints seconds and resident bytes as JSON."""
    texts = [orjson.dumps(record.document) for record in read_records(EMBEDDED / "fhir_patients.jsonl")]
    vectorizer = JSONVectorizer(n_jobs=THREADS)
    lines = (text[:-1] + b',"serial":%d}' % i for i, text in zip(range(n), itertools.cycle(texts), strict=False))
    start, done, tenth, began = peak_resident(), 0, 0, time.perf_counter()
    for block in vectorizer.transform_stream(lines, parse=True):
        done += len(block)
        if not tenth and done >= n // 10:
            tenth = peak_resident()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "start": start, "tenth": tenth, "peak": peak_resident()}))


def peak_resident() -> int:
    """Of this process's own memory; `getrusage` would count that of the process which started it as well."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def encode(vectorizer: JSONVectorizer, texts: object) -> int:
    return sum(len(block) for block in vectorizer.transform_stream(texts, parse=True))
