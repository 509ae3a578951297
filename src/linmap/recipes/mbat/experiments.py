"""What the method claims, measured: depth without loss, capacity, and reading real records back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from linmap.data.records import Record
from linmap.retrieve.mbat import JSONVectorizer, capacity
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.operators import DenseOrthogonal
from linmap.retrieve.mbat.options import Options

ALWAYS = 1e9  # false alarms: the formula speaks of the best candidate, whatever its score
EXACT: dict[str, Any] = {"strings": "exact", "numbers": "exact", "normalize": "none"}


@dataclass(frozen=True)
class Depths:
    """One row per kind of matrix, one column per depth."""

    depths: list[int]
    norms: dict[str, np.ndarray]
    """|M_1 ... M_k x| / |x|, (trials, depths)."""
    cosines: dict[str, np.ndarray]
    """cos(x, M_k^T ... M_1^T M_1 ... M_k x), (trials, depths)."""


def depth_experiment(dim: int, deepest: int, trials: int, seed: int) -> Depths:
    """Bind a vector under k keys and unbind it by the transposes: orthogonal matrices against Gaussian ones."""
    rng = np.random.default_rng(seed)
    kinds = ("signed permutation", "Haar orthogonal", "Gaussian")
    norms, cosines = ({kind: np.empty((trials, deepest)) for kind in kinds} for _ in range(2))
    for trial in range(trials):
        encoder = Encoder(Options(dim=dim, seed=f"{seed}/{trial}"))
        gaussians = rng.normal(size=(deepest, dim, dim)) / np.sqrt(dim)
        operators = {
            "signed permutation": [encoder.key_operator(f"k{level}") for level in range(deepest)],
            "Haar orthogonal": [DenseOrthogonal.haar(gaussian) for gaussian in gaussians],
            "Gaussian": [DenseOrthogonal(gaussian) for gaussian in gaussians],
        }
        x = rng.choice([-1.0, 1.0], dim)
        for kind, chain in operators.items():
            bound = x
            for depth, operator in enumerate(chain):
                bound = operator.apply(bound)
                norms[kind][trial, depth] = np.linalg.norm(bound) / np.sqrt(dim)
                back = bound
                for inner in reversed(chain[: depth + 1]):
                    back = inner.transpose(back)
                cosines[kind][trial, depth] = back @ x / np.linalg.norm(back) / np.sqrt(dim)
    return Depths(list(range(1, deepest + 1)), norms, cosines)


@dataclass(frozen=True)
class Recall:
    """Questions asked of vectors that hold `leaves` leaves, and what came back."""

    dim: int
    leaves: float | int
    asked: int
    right: float
    predicted: float


def capacity_experiment(
    dims: Sequence[int], leaves: Sequence[int], candidates: int, documents: int, questions: int, seed: int
) -> list[Recall]:
    """Flat random records: the share of values read back, beside the formula."""
    rng = np.random.default_rng(seed)
    values = [f"value {i}" for i in range(candidates)]
    results = []
    for dim in dims:
        vectorizer = JSONVectorizer(dim, **EXACT)
        for n_leaves in leaves:
            right = 0
            for _ in range(documents):
                record = {f"key {i}": values[rng.integers(candidates)] for i in range(n_leaves)}
                vector = vectorizer.transform([record])[0]
                for key in rng.choice(list(record), min(questions, n_leaves), replace=False):
                    answer = vectorizer.get(vector, (str(key),), values, false_alarms=ALWAYS)
                    right += answer is not None and answer.value == record[str(key)]
            asked = documents * min(questions, n_leaves)
            results.append(Recall(dim, n_leaves, asked, right / asked, capacity(dim, n_leaves, candidates)))
    return results


def decoding_protocol(records: Sequence[Record], dim: int, questions: int, n_records: int, seed: int) -> list[Recall]:
    """Ask real records for the values at random paths, among all values seen at the path; by quarters of leaves."""
    rng = np.random.default_rng(seed)
    vectorizer = JSONVectorizer(dim, **EXACT)
    encoder = Encoder(Options(dim=dim, **EXACT))
    leaves = [{place.path(): value for place, value in encoder.walk(record.document)} for record in records]
    seen: dict[tuple, dict[tuple, Any]] = defaultdict(dict)  # path -> its values; 1, 1.0 and True are equal in Python
    for document in leaves:
        for path, value in document.items():
            seen[path][type(value), str(value)] = value
    chosen = rng.permutation(len(records))[:n_records]
    answers: list[tuple[int, bool, float]] = []
    for number in chosen:
        vector = vectorizer.transform([records[number].document])[0]
        paths = list(leaves[number])
        for index in rng.choice(len(paths), min(questions, len(paths)), replace=False):
            path, candidates = paths[index], list(seen[paths[index]].values())
            answer = vectorizer.get(vector, path, candidates, false_alarms=ALWAYS)
            right = answer is not None and str(answer.value) == str(leaves[number][path])
            answers.append((len(paths), right, capacity(dim, len(paths), len(candidates))))
    return _by_quarters(dim, np.array(answers, np.float64))


def _by_quarters(dim: int, answers: Float[np.ndarray, "questions 3"]) -> list[Recall]:
    order = np.argsort(answers[:, 0], kind="stable")
    means = [(len(part), *answers[part].mean(0)) for part in np.array_split(order, 4) if len(part)]
    return [Recall(dim, float(n), asked, float(right), float(predicted)) for asked, n, right, predicted in means]
