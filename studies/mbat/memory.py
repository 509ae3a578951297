"""What one vector holds: depth without loss, capacity, and reading real records back."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from linmap.data.records import Record, read_records
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Picture, Runs, Table, Trial, draw_all
from linmap.pictures import INK, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.mbat.apply import PATIENTS
from linmap.retrieve.mbat import JSONVectorizer
from linmap.retrieve.mbat import capacity as formula
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.operators import DenseOrthogonal
from linmap.retrieve.mbat.options import Options
from studies.study import Findings, Job

ALWAYS = 1e9  # false alarms: the formula speaks of the best candidate, whatever its score
EXACT: dict[str, Any] = {"strings": "exact", "numbers": "exact", "normalize": "none"}
KINDS = ("signed permutation", "Haar orthogonal", "Gaussian")
DEPTH_DIM, DEEPEST, TRIALS = 512, 16, 6
DIMS, LEAVES, CANDIDATES, RECORDS, QUESTIONS = (256, 512, 1024, 2048), (5, 15, 30, 60, 120, 240), 100, 40, 20
DECODING_DIMS, DECODED, ASKED = (1000, 10_000), 418, 5
SURE = 4  # standard errors


# -- protocols ---------------------------------------------------------------------------------------------------------


def depth(job: Job) -> Findings:
    """Bind a vector under k keys and unbind it by the transposes."""
    dim, deepest = (64, 4) if job.tiny else (DEPTH_DIM, DEEPEST)
    arms = [Arm(kind, "system", bound(kind, dim, deepest)) for kind in KINDS]
    runs = Experiment("mbat depth", job.out / "runs", {"dim": dim, "deepest": deepest}, job.resume).run(
        arms, [Part("", None)], range(2 if job.tiny else TRIALS)
    )
    norms, cosines = (
        {kind: np.array([run.details[what] for run in runs.of(kind)]) for kind in KINDS}
        for what in ("norms", "cosines")
    )
    theory = 1 / np.sqrt(1 + np.arange(1, deepest + 1))
    found = cosines["Gaussian"].mean(0)
    findings = Findings(f"D = {dim}, {len(runs.of(KINDS[0]))} trials", [_depth_table(norms, cosines)])
    findings.checks.append(
        Check(
            "unbinding by the transpose is exact at every depth; with Gaussian matrices it leaves 1/sqrt(1 + k)",
            bool(np.allclose(cosines[KINDS[0]], 1) and np.allclose(found, theory, atol=0.05)),
            f"depth {deepest}: {cosines[KINDS[0]][:, -1].mean():.3f} and {found[-1]:.3f} (theory {theory[-1]:.3f})",
            "the algebra is wrong, and nothing else here can be trusted",
        )
    )
    return _with(findings, job.out / "depth.svg", lambda path: draw_depths(path, norms, cosines))


def capacity(job: Job) -> Findings:
    """Flat random records, against the formula."""
    dims, leaves, records = ((256,), (5, 30), 3) if job.tiny else (DIMS, LEAVES, RECORDS)
    arms = [
        Arm(f"D = {dim}, {n} leaves", "system", _random_recall(dim, n, records))
        for dim, n in itertools.product(dims, leaves)
    ]
    runs = Experiment("mbat capacity", job.out / "runs", {"records": records}, job.resume).run(
        arms, [Part("", None)], [0]
    )
    recalls = _recalls(runs)
    findings = Findings(
        f"{records} random records for each setting, {QUESTIONS} questions of each, {CANDIDATES} candidates",
        [_recall_table("Values of random records read back", recalls)],
    )
    findings.checks.append(_predicted("random records", recalls))
    return _with(findings, job.out / "capacity.svg", lambda path: draw_capacity(path, recalls))


def decoding(job: Job) -> Findings:
    """The embedded patients, asked for values at random paths."""
    dims, number = ((256,), 10) if job.tiny else (DECODING_DIMS, DECODED)
    records = list(itertools.islice(read_records(PATIENTS), 20 if job.tiny else None))
    arms = [Arm(f"D = {dim}", "system", _real_recall(dim, number)) for dim in dims]
    runs = Experiment("mbat decoding", job.out / "runs", {"records": number}, job.resume).run(
        arms, [Part("", records)], [0]
    )
    recalls = _recalls(runs)
    findings = Findings(f"{number} patients, {ASKED} questions of each; candidates are all values seen at the path")
    findings.tables.append(
        _recall_table(
            "Values of fhir_patients read back",
            recalls,
            "Quarters of the questions by the number of leaves of their record.",
        )
    )
    findings.checks.append(_predicted("real records", recalls))
    for dim in dims:
        found = [recall for recall in recalls if recall.dim == dim]
        asked = sum(recall.asked for recall in found)
        right, predicted = (sum(getattr(r, name) * r.asked for r in found) / asked for name in ("right", "predicted"))
        findings.sentences.append(
            f"Of {asked} values asked of vectors of length {dim} alone, {right:.1%} came back "
            f"right (the formula says {predicted:.1%})."
        )
    return _with(findings, job.out / "decoding.svg", lambda path: draw_decoding(path, recalls))


def _with(findings: Findings, path: Path, draw: Callable[[Path], Picture]) -> Findings:
    pictures, notes = draw_all([(path, draw)])
    findings.pictures += pictures
    findings.sentences += notes
    return findings


# -- what is measured --------------------------------------------------------------------------------------------------


def bound(kind: str, dim: int, deepest: int) -> Callable[[Trial], Outcome]:
    """|M_1 ... M_k x| / |x| and cos(x, M_k^T ... M_1^T M_1 ... M_k x) at every depth k."""

    def run(trial: Trial) -> Outcome:
        x = np.random.default_rng(trial.seed).choice([-1.0, 1.0], dim)
        norms, cosines, vector = [], [], x
        chain = _operators(kind, dim, deepest, trial.seed)
        for level, operator in enumerate(chain):
            vector = operator.apply(vector)
            back = vector
            for inner in reversed(chain[: level + 1]):
                back = inner.transpose(back)
            norms.append(float(np.linalg.norm(vector) / np.sqrt(dim)))
            cosines.append(float(back @ x / np.linalg.norm(back) / np.sqrt(dim)))
        return Outcome({"cosine": cosines[-1]}, details={"norms": norms, "cosines": cosines})

    return run


def _operators(kind: str, dim: int, number: int, seed: int) -> list[Any]:
    """Matrices of a kind, for `number` keys."""
    if kind == "signed permutation":
        encoder = Encoder(Options(dim=dim, seed=str(seed)))
        return [encoder.key_operator(f"k{level}") for level in range(number)]
    gaussians = np.random.default_rng(seed).normal(size=(number, dim, dim)) / np.sqrt(dim)
    return [DenseOrthogonal.haar(g) if kind == "Haar orthogonal" else DenseOrthogonal(g) for g in gaussians]


@dataclass(frozen=True)
class Recall:
    """Questions asked of vectors that hold `leaves` leaves, and what came back."""

    dim: int
    leaves: float | int
    asked: int
    right: float
    predicted: float


def _random_recall(dim: int, n_leaves: int, records: int) -> Callable[[Trial], Outcome]:
    def run(trial: Trial) -> Outcome:
        rng = np.random.default_rng((trial.seed, dim, n_leaves))
        values = [f"value {i}" for i in range(CANDIDATES)]
        vectorizer, right = JSONVectorizer(dim, **EXACT), 0
        for _ in range(records):
            record = {f"key {i}": values[rng.integers(CANDIDATES)] for i in range(n_leaves)}
            vector = vectorizer.transform([record])[0]
            for key in rng.choice(list(record), min(QUESTIONS, n_leaves), replace=False):
                answer = vectorizer.get(vector, (str(key),), values, false_alarms=ALWAYS)
                right += answer is not None and answer.value == record[str(key)]
        asked = records * min(QUESTIONS, n_leaves)
        return _outcome([Recall(dim, n_leaves, asked, right / asked, formula(dim, n_leaves, CANDIDATES))])

    return run


def _real_recall(dim: int, number: int) -> Callable[[Trial], Outcome]:
    return lambda trial: _outcome(decoding_protocol(trial.data, dim, ASKED, number, trial.seed))


def _outcome(recalls: list[Recall]) -> Outcome:
    return Outcome(
        {"right": float(np.mean([r.right for r in recalls]))},
        details={"recalls": [asdict(recall) for recall in recalls]},
    )


def _recalls(runs: Runs) -> list[Recall]:
    return [Recall(**recall) for arm in runs.arms for run in runs.of(arm.name) for recall in run.details["recalls"]]


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
            answers.append((len(paths), right, formula(dim, len(paths), len(candidates))))
    return _by_quarters(dim, np.array(answers, np.float64))


def _by_quarters(dim: int, answers: Float[np.ndarray, "questions 3"]) -> list[Recall]:
    order = np.argsort(answers[:, 0], kind="stable")
    means = [(len(part), *answers[part].mean(0)) for part in np.array_split(order, 4) if len(part)]
    return [Recall(dim, float(n), asked, float(right), float(predicted)) for asked, n, right, predicted in means]


# -- what was found ----------------------------------------------------------------------------------------------------


def _predicted(what: str, recalls: list[Recall]) -> Check:
    off = [
        abs(r.right - r.predicted) / max(np.sqrt(r.predicted * (1 - r.predicted) / r.asked), 0.5 / r.asked)
        for r in recalls
    ]
    return Check(
        f"the capacity formula predicts what is read back from {what} (within {SURE} standard errors)",
        bool(max(off) < SURE),
        f"largest deviation {max(off):.1f} standard errors over {len(off)} settings",
        "dim cannot be chosen by the formula; measure on your records",
    )


def _recall_table(title: str, recalls: list[Recall], note: str = "") -> Table:
    rows: list[list[str | float | int]] = [
        [r.dim, round(r.leaves, 1), r.asked, round(r.right, 4), round(r.predicted, 4)] for r in recalls
    ]
    return Table(title, ["D", "leaves (mean)", "questions", "right", "formula"], rows, note)


def _depth_table(norms: dict[str, np.ndarray], cosines: dict[str, np.ndarray]) -> Table:
    rows: list[list[str | float | int]] = []
    deepest = norms[KINDS[0]].shape[1]
    for level in sorted({level for level in (1, 2, 4, 8, deepest) if level <= deepest}):
        pairs = (
            f"{norms[kind][:, level - 1].mean():.3f} ± {norms[kind][:, level - 1].std(ddof=1):.3f}, "
            f"{cosines[kind][:, level - 1].mean():.3f}"
            for kind in KINDS
        )
        rows.append([level, *pairs])
    return Table("Length of the bound vector (mean ± std), and cosine after unbinding", ["depth", *KINDS], rows)


def draw_depths(path: Path, norms: dict[str, np.ndarray], cosines: dict[str, np.ndarray]) -> Picture:
    """By kind of matrix, (trials, depths)."""
    levels = np.arange(1, norms[KINDS[0]].shape[1] + 1)
    with figure(7.2, 3.2, ncols=2) as (fig, (left, right)):
        for colour, kind in zip((SYSTEM, SERIES[2], SERIES[1]), KINDS, strict=True):
            style: dict[str, Any] = {"color": colour, "linestyle": "--" if kind.startswith("Haar") else "-"}
            mean, std = norms[kind].mean(0), norms[kind].std(0, ddof=1)
            left.plot(levels, mean, label=kind, **style)
            left.fill_between(levels, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
            right.plot(levels, cosines[kind].mean(0), label=kind, **style)
        right.plot(levels, 1 / np.sqrt(1 + levels), ":", color=INK, label="1/√(1+k)")
        for ax in (left, right):
            ax.set_xticks(np.unique(np.linspace(1, levels[-1], 6).round().astype(int)))
        left.set(title="length after binding, relative", xlabel="levels of nesting", ylabel="|M…Mx| / |x|")
        right.set(title="cosine after unbinding", xlabel="levels of nesting", ylim=(0, 1.05))
        right.legend()
        save_svg(fig, path)
    return Picture(
        path.name,
        "Binding through many levels",
        "Length of a bound vector, and what unbinding gives "
        "back, by depth: orthogonal matrices stay at 1, Gaussian ones lose the value.",
    )


def draw_capacity(path: Path, recalls: list[Recall]) -> Picture:
    """Against the formula."""
    with figure(4.4, 3.2) as (fig, ax):
        grid = np.unique(np.geomspace(4, 300, 60).round().astype(int))
        for colour, dim in zip(SERIES, sorted({r.dim for r in recalls}), strict=False):
            ax.plot(grid, [formula(dim, int(n), CANDIDATES) for n in grid], color=colour)
            points = [r for r in recalls if r.dim == dim]
            ax.plot([r.leaves for r in points], [r.right for r in points], "o", color=colour, label=f"D = {dim}")
        ax.set(
            xscale="log",
            xlabel="leaves of the record",
            ylabel="share of values read back",
            title=f"random records, {CANDIDATES} candidates",
        )
        ax.legend()
        save_svg(fig, path)
    return Picture(
        path.name,
        "How much one vector holds",
        f"Share of values read back among {CANDIDATES} candidates; lines are the formula, dots are measured.",
    )


def draw_decoding(path: Path, recalls: list[Recall]) -> Picture:
    """With standard errors."""
    with figure(4.4, 3.2) as (fig, ax):
        for colour, dim in zip((SYSTEM, SERIES[2]), sorted({r.dim for r in recalls}), strict=False):
            found = [r for r in recalls if r.dim == dim]
            x, errors = [r.leaves for r in found], [np.sqrt(r.right * (1 - r.right) / r.asked) for r in found]
            ax.errorbar(x, [r.right for r in found], errors, fmt="o", color=colour, label=f"D = {dim:,}")
            ax.plot(x, [r.predicted for r in found], "-", color=colour)
        ax.set(
            title="real records",
            xlabel="leaves (means of quarters)",
            ylabel="share of values read back",
            ylim=(min(min(r.right, r.predicted) for r in recalls) - 0.05, 1.02),
        )
        ax.legend(loc="lower left")
        save_svg(fig, path)
    return Picture(
        path.name,
        "Patients read back from their vectors",
        "Share of five values of each that came back right; lines are the formula, dots are measured.",
    )
