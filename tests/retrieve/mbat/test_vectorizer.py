import datetime
import decimal
import hashlib
import itertools
import json
import os
import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from linmap.data import EMBEDDED
from linmap.data.records import read_records
from linmap.errors import DataError
from linmap.retrieve.mbat import MISSING, JSONVectorizer
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.options import Options
from linmap.retrieve.mbat.paths import format_path
from typed import cloned

EXACT: dict[str, Any] = {"strings": "exact", "numbers": "exact", "normalize": "none"}


@pytest.fixture(scope="module")
def patients() -> list:
    return [record.document for record in itertools.islice(read_records(EMBEDDED / "fhir_patients.jsonl"), 25)]


# -- one result whatever the way ---------------------------------------------------------------------------------------


def test_real_documents_follow_the_definition(patients: list) -> None:
    vectors = JSONVectorizer(256, dtype="float64", normalize="none").transform(patients)
    encoder = Encoder(Options(dim=256, dtype="float64"))
    np.testing.assert_allclose(vectors[:5], [encoder.encode(patient) for patient in patients[:5]], atol=1e-10)
    units = JSONVectorizer(256).transform(patients)
    assert units.dtype == np.float32
    np.testing.assert_allclose(units, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)


def test_batches_threads_and_parsing_change_no_bit(patients: list) -> None:
    expected = JSONVectorizer(256).transform(patients)
    texts = [orjson.dumps(patient) for patient in patients]
    for n_jobs, batch_size in itertools.product((1, 3), (1, 7, 256)):
        stream = JSONVectorizer(256, n_jobs=n_jobs).transform_stream(iter(texts), batch_size=batch_size, parse=True)
        blocks = list(stream)
        assert max(map(len, blocks)) <= batch_size
        assert np.array_equal(np.concatenate(blocks), expected)


@pytest.mark.parametrize("n_jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_small_cache_gives_the_same_vectors(patients: list, n_jobs: int) -> None:
    # the table has 192 rows here: it is emptied within documents as well as between them
    roomy = JSONVectorizer(1024, **EXACT)
    tight = JSONVectorizer(1024, **EXACT, cache_bytes=1 << 20, n_jobs=n_jobs)
    documents = [*patients, {"long": list(range(500)), "again": patients[:3]}]
    assert np.array_equal(tight.transform(documents), roomy.transform(documents))
    table = tight._state().bound_leaves
    assert len(table) <= table.capacity == 192
    assert len(roomy._state().bound_leaves) > 1500


@pytest.mark.parametrize("n_jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_bytes_of_soft_values_do_not_depend_on_what_was_met_before(n_jobs: int) -> None:
    numbers = np.random.default_rng(0).uniform(0, 100, (60, 40)).tolist()
    documents = [{"x": row, "t": f"word{i % 5} and {i}"} for i, row in enumerate(numbers)]
    roomy = JSONVectorizer(1024).transform(documents)
    tight = JSONVectorizer(1024, cache_bytes=1 << 20, n_jobs=n_jobs)  # 192 rows: emptied in every fourth document
    assert np.array_equal(np.concatenate(list(tight.transform_stream(documents, batch_size=10))), roomy)


def test_memory_of_a_stream_is_bounded() -> None:
    vectorizer = JSONVectorizer(64, cache_bytes=1 << 20)
    table = vectorizer._state().bound_leaves
    documents = ({f"k{i}": i, "x": {"y": f"v{i}"}} for i in range(3000))
    for _ in vectorizer.transform_stream(documents):
        assert len(table) <= table.capacity
        assert table._n_nodes <= table._max_nodes + 1
    assert sum(1 for _ in nodes(table.root)) <= table._max_nodes + 1


def nodes(node):
    yield node
    for child in node.children.values():
        yield from nodes(child)


@pytest.mark.slow  # a new interpreter, for Python's own hashes
def test_two_processes_give_the_same_bytes(patients: list) -> None:
    program = (
        "import sys, hashlib; from linmap.retrieve.mbat import JSONVectorizer\n"
        "texts = sys.stdin.buffer.read().splitlines()\n"
        "for options in ({}, {'strings': 'exact', 'numbers': 'exact', 'normalize': 'none'}):\n"
        "    vectorizer = JSONVectorizer(256, **options)\n"
        "    vectors = vectorizer.transform(texts, parse=True)\n"
        "    print(hashlib.sha256(vectors.tobytes()).hexdigest(), vectorizer.fingerprint_)"
    )
    texts = b"\n".join(orjson.dumps(patient) for patient in patients[:10])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, input=texts, capture_output=True, check=True, env=environment).stdout.split()
    for here in (JSONVectorizer(256), JSONVectorizer(256, **EXACT)):
        digest = hashlib.sha256(here.transform(patients[:10]).tobytes()).hexdigest()
        assert [there.pop(0).decode(), there.pop(0).decode()] == [digest, here.fingerprint_]


# -- scikit-learn ------------------------------------------------------------------------------------------------------


def test_works_in_pipelines_and_searches(patients: list) -> None:
    y = np.arange(len(patients)) % 2
    documents = [patient | {"mark": f"m{target}"} for patient, target in zip(patients, y, strict=True)]
    pipeline = make_pipeline(JSONVectorizer(256, weights={"mark": 30.0}), LogisticRegression(C=100))
    search = GridSearchCV(pipeline, {"jsonvectorizer__strings": ["exact", "mixed"]}, cv=2).fit(documents, y)
    assert search.best_score_ > 0.9
    vectorizer = JSONVectorizer(128, ignore=("**.id",), seed="s")
    assert cloned(vectorizer).get_params() == vectorizer.get_params()
    assert cloned(vectorizer).fingerprint_ == vectorizer.fingerprint_
    assert len(vectorizer.get_feature_names_out()) == 128


def test_changed_parameters_take_effect(patients: list) -> None:
    vectorizer = JSONVectorizer(128)
    before, fingerprint = vectorizer.transform(patients[:3]), vectorizer.fingerprint_
    vectorizer.set_params(seed="other")
    assert not np.allclose(vectorizer.transform(patients[:3]), before)
    assert vectorizer.fingerprint_ != fingerprint
    np.testing.assert_array_equal(vectorizer.set_params(seed="").transform(patients[:3]), before)


def test_pickled_copies_agree(patients: list) -> None:
    vectorizer = JSONVectorizer(128)
    expected = vectorizer.transform(patients[:3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vectorizer)).transform(patients[:3]), expected)


def test_quantiles_are_learnt_for_each_path() -> None:
    documents = [{"small": i / 1000, "big": [1000.0 * i]} for i in range(200)]
    vectorizer = JSONVectorizer(4096, numbers="quantile", number_exact=0.0)
    with pytest.raises(ValueError, match="call fit"):
        vectorizer.transform(documents)
    vectors = vectorizer.fit(documents).transform(documents)
    assert set(vectorizer.quantiles_) == {"small", "big[*]"}
    # u = rank / n, and the cosine of two levels is 1 - |u - v|, for both paths alike
    assert vectors[20] @ vectors[120] == pytest.approx(0.5, abs=5 / 64)
    other = cloned(vectorizer).fit(documents[:100])
    assert other.fingerprint_ != vectorizer.fingerprint_
    assert np.abs(vectorizer.transform([{"new": 5.0}])).max() > 0  # a path never seen falls back on asinh


def test_rarity_is_counted_once_a_document_by_path() -> None:
    documents = [{"tags": ["red car", "car"], "n": 3, "birthDate": None}, {"tags": [], "n": 4}, {"birthDate": None}]
    options = {"idf": 1, "key_presence": 1.0, "soft_keys": 0.5}
    with pytest.raises(ValueError, match="idf how rare its values are: call fit"):
        JSONVectorizer(64, **options).transform(documents)
    counts = JSONVectorizer(64, **options).fit(documents).rarity_.counts
    assert counts["tags[*]", "word", "car"] == 1
    assert counts["n", "num", ""] == 2  # a soft code stands for all numbers
    top = format_path(())
    assert counts["birthDate", "lit", "null"] == counts[top, "has", "birthDate"] == counts[top, "has.word", "date"] == 2
    other = JSONVectorizer(64, **options).fit(documents[:2])
    assert other.fingerprint_ != JSONVectorizer(64, **options).fit(documents).fingerprint_


# -- the fingerprint ---------------------------------------------------------------------------------------------------


def test_fingerprint_tells_all_options_apart() -> None:
    changes = [
        {}, {"dim": 64}, {"strings": "exact"}, {"numbers": "exact"}, {"arrays": "bag"}, {"level_norm": "unit"},
        {"normalize": "none"}, {"ignore": ("a",)}, {"weights": {"a": 2.0}}, {"dates": True}, {"seed": "s"},
        {"number_exact": 0.1}, {"key_presence": 1.0}, {"path_backoff": 1.0}, {"number_scale": (0.0, 1.0)},
        {"operators": "hadamard"}, {"key_presence": 1.0, "soft_keys": 0.5},
    ]  # fmt: skip
    prints = {JSONVectorizer(**({"dim": 128} | change)).fingerprint_ for change in changes}
    assert len(prints) == len(changes)
    assert JSONVectorizer(128, n_jobs=2).fingerprint_ == JSONVectorizer(128).fingerprint_
    with pytest.raises(DataError, match="other options or another codebook"):
        JSONVectorizer(128).check_fingerprint(JSONVectorizer(128, seed="s").fingerprint_)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ignore": ("a", ("b", "c.d")), "weights": {("x", "y"): 2.0}, "number_scale": (0.0, 2.0)},
        {"numbers": "quantile"},
        {"idf": 0.5, "numbers": "quantile"},
        {"idf": 1, "key_presence": 0.5, "soft_keys": 0.5},
    ],
)
def test_options_are_written_down_and_read_back(options: dict) -> None:
    documents = [{"a": i, "b": [i / 3]} for i in range(5)]
    vectorizer = JSONVectorizer(64, **options).fit(documents)
    written = json.loads(json.dumps(vectorizer.as_json()))
    again = JSONVectorizer.from_json(written)
    assert again.fingerprint_ == vectorizer.fingerprint_
    assert np.array_equal(again.transform(documents), vectorizer.transform(documents))
    with pytest.raises(DataError, match="cannot be read back"):
        JSONVectorizer.from_json(JSONVectorizer(64, strings=len).as_json())


# -- updates -----------------------------------------------------------------------------------------------------------


@given(st.integers(-5, 5), st.one_of(st.text("ab", max_size=2), st.integers(-5, 5), st.lists(st.integers(0, 3))))
def test_update_equals_encoding_again(old, new) -> None:
    document = {"a": {"b": [1, old, "x"]}, "c": None}
    changed = {"a": {"b": [1, new, "x"]}, "c": None}
    weighted = {"key_presence": 2.0, "path_backoff": 3.0, "weights": {"a": 2.0}}
    cases: list[dict[str, Any]] = [{}, weighted, {"arrays": "bag"}]
    for options in cases:
        vectorizer = JSONVectorizer(64, **EXACT, **options)
        before, after = vectorizer.transform([document, changed])
        assert np.array_equal(vectorizer.update(before, "a.b[1]", old, new), after)


def test_fields_come_and_go() -> None:
    for presence in (0.0, 2.0):
        vectorizer = JSONVectorizer(64, **EXACT, key_presence=presence)
        without, having = vectorizer.transform([{"a": 1}, {"a": 1, "b": {"c": 2}}])
        assert np.array_equal(vectorizer.update(without, "b", MISSING, {"c": 2}), having)
        assert np.array_equal(vectorizer.update(having, "b", {"c": 2}, MISSING), without)


def test_update_refuses_unit_vectors() -> None:
    vectorizer = JSONVectorizer(64)
    with pytest.raises(ValueError, match="needs normalize='none'"):
        vectorizer.update(vectorizer.transform([{"a": 1}])[0], "a", 1, 2)


def test_feature_paths() -> None:
    paths = JSONVectorizer(64, ignore=["c"]).get_feature_paths([{"a": [1, {"b": 2}]}, {"a": [3], "c": 4, "d": {}}])
    assert paths == ["a[*]", "a[*].b", "d"]


def test_describe_warns_of_documents_that_are_too_full() -> None:
    vectorizer = JSONVectorizer(512, **EXACT)
    full = {f"k{i}": i for i in range(120)}
    with pytest.warns(UserWarning, match="120 leaves in 512 dimensions"):
        assert vectorizer.describe(full, candidates=100)["probability"] < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vectorizer.describe({"a": [{"b": 1}]}, candidates=100) | {"probability": 1} == {
            "dim": 512,
            "leaves": 1,
            "depth": 3,
            "candidates": 100,
            "probability": 1,
        }
        assert vectorizer.describe(vectorizer.transform([[1, 2, 3]])[0], candidates=2)["leaves"] == 3


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False], ids=["fast path", "definition"])
@pytest.mark.parametrize(
    ("document", "error", "message"),
    [
        ({"a": [1, {2, 3}]}, TypeError, r"document 1, at a\[1\]: builtins.set is not a JSON type.*default="),
        ({"t": datetime.datetime(2020, 1, 1)}, TypeError, "at t: datetime.datetime is not"),
        ({"t": decimal.Decimal(1)}, TypeError, "at t: decimal.Decimal is not"),
        ({"t": b"x"}, TypeError, "at t: builtins.bytes is not"),
        ({"t": np.zeros(3)}, TypeError, "at t: numpy.ndarray is not"),
        ({1: 2}, TypeError, r"at \$: the key 1 has type int; JSON keys are texts"),
        ({"a": {"n": float("nan")}}, DataError, "at a.n: the number nan is not JSON"),
        ([float("inf")], DataError, r"at \[0\]: the number inf is not JSON"),
        ({"s": "\ud800"}, DataError, "at s: .*lone surrogate"),
        ({"\ud800": 1}, DataError, "the key .* lone surrogate"),
        ({"é": 1, "e\u0301": 2}, DataError, "comes twice once written in Unicode form NFC"),
        ({"a.b": {"c d": {1}}}, TypeError, r'at \["a.b"\].c d: builtins.set'),
    ],
    ids=repr,
)
def test_values_that_are_not_json_are_named_with_their_place(document, error, message, fast: bool) -> None:
    vectorizer = JSONVectorizer(64, level_norm="none" if fast else "unit")
    with pytest.raises(error, match=message):
        vectorizer.transform([{"fine": 1}, document])
    assert np.isfinite(vectorizer.transform([{"a": [1, {"n": 2}], "s": "x", "t": 0}])).all()  # the caches are whole


JSON = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)


def values_of(document: object) -> int:
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return sum(1 + values_of(item) for item in inner)


@given(document=JSON)
@pytest.mark.parametrize("options", [{}, {"level_norm": "unit"}, {"idf": 1.0}], ids=["fast path", "definition", "fit"])
def test_a_document_may_have_so_many_values_and_no_more(options: dict, document: Any) -> None:
    def transform(most: int, **more: Any) -> np.ndarray:
        return JSONVectorizer(64, max_values=most, **options, **more).fit_transform([1, document], parse=False)

    count = values_of(document)
    assert np.isfinite(transform(max(1, count))).all()
    if count > 1:
        with pytest.raises(DataError, match=f"^document 1, it has more than max_values={count - 1} values"):
            transform(count - 1)
        assert np.isfinite(transform(count - 1, ignore=["**"])).all()  # what is ignored does not count


@pytest.mark.parametrize("fast", [True, False], ids=["fast path", "definition"])
def test_nesting_is_limited_and_cycles_are_named(fast: bool) -> None:
    vectorizer = JSONVectorizer(64, level_norm="none" if fast else "unit", max_depth=50)
    deep: object = 1
    for _ in range(50):
        deep = [deep]
    assert np.isfinite(vectorizer.transform([deep])).all()
    with pytest.raises(DataError, match="deeper than max_depth=50; raise max_depth"):
        vectorizer.transform([[deep]])
    cycle: dict = {"a": [1, {}]}
    cycle["a"][1]["back"] = cycle
    with pytest.raises(DataError, match=r"at a\[1\].back: a container holds itself"):
        vectorizer.transform([cycle])
    shared = {"x": 1}
    vectorizer.transform([{"one": shared, "two": shared}])


def test_numpy_scalars_tuples_and_subclasses_are_converted() -> None:
    class Name(str):
        pass

    vectorizer = JSONVectorizer(64, **EXACT)
    odd = {"i": np.int64(3), "f": np.float64(1.5), "b": np.bool_(True), "s": np.str_("x"), "t": (1, 2), "n": Name("y")}
    plain = {"i": 3, "f": 1.5, "b": True, "s": "x", "t": [1, 2], "n": "y"}
    for parts in (odd, plain), (plain, odd):
        a, b = vectorizer.transform(parts)
        assert np.array_equal(a, b)


def test_default_converts_the_rest() -> None:
    moment = datetime.datetime(2020, 1, 1)
    vectorizer = JSONVectorizer(64, default=lambda value: value.isoformat())
    a, b = vectorizer.transform([{"t": moment}, {"t": moment.isoformat()}])
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"a": 1}, r"a single dict; write \[document\]"),
        (pd.DataFrame({"a": [1, 2]}), r"a DataFrame; write table.to_dict\('records'\)"),
        ('{"a": 1}', "a single str; write .* parse=True"),
        (b"{}", "a single bytes"),
        (5, "documents must be a list"),
        (['{"a": 1}'], "is it JSON text or a string value"),
        ([b"{}"], "bytes is not a JSON type"),
    ],
)
def test_what_is_no_list_of_documents_is_refused(documents, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        JSONVectorizer(64).transform(documents)


def test_texts_are_strings_or_parsed_as_asked() -> None:
    vectorizer = JSONVectorizer(64, **EXACT)
    as_string, as_value = (
        vectorizer.transform(['{"a": 1}'], parse=False),
        vectorizer.transform(['{"a": 1}'], parse=True),
    )
    assert np.array_equal(as_value, vectorizer.transform([{"a": 1}]))
    assert not np.array_equal(as_value, as_string)
    with pytest.raises(DataError, match="document 1, line 1, column 7"):
        vectorizer.transform(["{}", '{"a": }'], parse=True)
    with pytest.raises(TypeError, match="parse=True takes JSON texts"):
        vectorizer.transform([{}], parse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 32}, "dim must be an integer of at least 64"),
        ({"dim": 1000, "operators": "hadamard"}, "pad to dim=1024"),
        ({"strings": "callable"}, "or a function from a string to a vector"),
        ({"numbers": "log"}, "numbers must be one of"),
        ({"number_exact": 2.0}, "share between 0 and 1"),
        ({"number_scale": (1.0, 0.0)}, "low < high"),
        ({"key_presence": -1.0}, "key_presence is a weight"),
        ({"n_jobs": 0}, "n_jobs=0 must be at least 1, or -1 for all cores"),
        ({"n_jobs": 10**9}, "n_jobs=1000000000 is too much for this machine"),
        ({"n_jobs": 1.5}, "n_jobs=1.5 must be a whole number"),
        ({"dtype": "int32"}, "needs vectors of integers"),
        ({"ignore": ["a..b"]}, "cannot be read at position"),
        ({"codebook": type("C", (), {"dim": 99})()}, "the codebook has dim=99"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_wrong_parameters_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JSONVectorizer(**options).transform([{}])


def test_empty_lists_give_empty_arrays() -> None:
    assert JSONVectorizer(64).transform([]).shape == (0, 64)


@pytest.mark.slow
def test_resident_memory_stays_bounded_on_a_long_stream_of_distinct_documents() -> None:
    program = (
        "import json, re; from linmap.retrieve.mbat import JSONVectorizer\n"
        "def peak(): return int(re.findall(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[0])\n"
        "vectorizer = JSONVectorizer(1024, cache_bytes=32 << 20, n_jobs=2)\n"
        "lines = (json.dumps({'id': i, 'name': f'n{i}', 'x': [i / 7, {f'k{i % 5000}': i}]}) for i in range(50_000))\n"
        "peaks = []\n"
        "for n, block in enumerate(vectorizer.transform_stream(lines, parse=True)):\n"
        "    peaks.append(peak())\n"
        "print(json.dumps([peaks[len(peaks) // 4], peaks[-1]]))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    quarter, full = json.loads(output)
    assert full < quarter * 1.15
