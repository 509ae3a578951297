"""Saved runs that are fed with one thing changed: how each is made, read and used."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

WRONG: tuple[Any, ...] = (None, True, -1, 0, 10**9, 10**30, 1.5, 1e308, "x", "", [], {}, [[1]], {"a": 1}, [None] * 3)
DTYPES = ("F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X")


@dataclass(frozen=True)
class SavedRun:
    """How a run is read, and used; which of its files are changed."""

    load: Callable[[Path], Any]
    use: Callable[[Any], Any] = lambda run: None
    settings: tuple[str, ...] = ("config.json",)
    weights: str = "model.safetensors"
    sign: Callable[[Any], Any] = lambda config: config
    """Makes a changed configuration say that it is whole, where it carries a sum."""
    optional: tuple[str, ...] = ()
    """Tensors without which it answers all the same."""


def s4(folder: Path) -> SavedRun:
    from linmap.sequence.s4.estimators import S4Classifier, load_estimator

    X = np.random.default_rng(0).normal(size=(4, 8, 1))
    S4Classifier(1, 4, 4, epochs=1, batch_size=4).fit(X, [0, 1, 0, 1]).save(folder)
    return SavedRun(load_estimator, lambda run: run.predict(X))


def bt2(folder: Path) -> SavedRun:
    from linmap.retrieve.bt2.upgrade import EmbeddingUpgrade

    X = np.random.default_rng(0).normal(size=(40, 4))
    EmbeddingUpgrade().fit(X, X[:, :3]).save(folder)
    return SavedRun(EmbeddingUpgrade.load, lambda run: (run.transform(X), run.transform_query(X), run.query_matrix()))


def gbwbn(folder: Path) -> SavedRun:
    from linmap.signals.gbwbn.classifier import SPDNetClassifier

    X = np.stack([np.eye(3) * (1 + i) for i in range(4)])
    SPDNetClassifier(epochs=1).fit(X, [0, 1, 0, 1]).save(folder)
    return SavedRun(SPDNetClassifier.load, lambda run: run.predict(X))


def acm(folder: Path) -> SavedRun:
    from linmap.signals.acm.classifier import ACMClassifier

    X = np.random.default_rng(0).normal(size=(12, 3, 64))
    ACMClassifier((2, 1), "mdm").fit(X, np.arange(12) % 2).save(folder)
    return SavedRun(ACMClassifier.load, lambda run: run.predict(X))


def lie_decomposition(folder: Path) -> SavedRun:
    from linmap.shapes.lie_decomposition.classifier import LieClassifier

    X = np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype(np.float32)
    LieClassifier(num_samples=1, channels=2, hidden=2, head=2, epochs=1).fit(X, [0, 1, 0, 1]).save(folder)
    return SavedRun(LieClassifier.load, lambda run: run.predict(X))


def tinvnn(folder: Path) -> SavedRun:
    from linmap.shapes.tinvnn.classifier import PointCloudClassifier

    X = np.random.default_rng(0).normal(size=(4, 16, 3)).astype(np.float32)
    PointCloudClassifier(epochs=1, batch_size=2).fit(X, [0, 1, 0, 1]).save(folder)
    return SavedRun(PointCloudClassifier.load, lambda run: run.predict(X))


def olinear(folder: Path) -> SavedRun:
    from linmap.sequence.olinear.forecaster import OLinearForecaster

    X = np.random.default_rng(0).normal(size=(60, 2))
    OLinearForecaster(2, 8, d_model=4, embed=2, layers=1, epochs=1).fit(X).save(folder)
    return SavedRun(OLinearForecaster.load, lambda run: run.predict(X))


def tooth_arrangement(folder: Path) -> SavedRun:
    from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator

    pairs = DentitionSimulator(points=8).sample(2, generator=torch.Generator().manual_seed(0))
    TADPM(points=8, width=8, blocks=1, epochs=1, batch_size=2, sampling_steps=2).fit(pairs).save(folder)
    return SavedRun(TADPM.load, lambda run: run.predict(pairs))


def segmenter(folder: Path) -> SavedRun:
    from functools import partial

    from linmap.adapt.segmentation import build_segmenter, load_segmenter, probabilities, put_salt, save_segmenter

    options = {"ratio": 0.1, "r": 2, "relu": "all", "train_norms": False}
    save_segmenter(folder, build_segmenter(partial(put_salt, **options), seed=0), 32, options)
    return SavedRun(load_segmenter, lambda run: probabilities(run[0], torch.zeros(1, 1, min(run[1]["size"], 64), 32)))


def projector(folder: Path) -> SavedRun:
    from linmap.interpret.householder_projector import runs
    from linmap.interpret.householder_projector.attributes import profiles, stroke_attributes
    from linmap.interpret.householder_projector.directions import find_directions
    from linmap.interpret.householder_projector.generators import draw_codes, slots_of
    from linmap.interpret.householder_projector.layers import named_directions, project_layers
    from linmap.interpret.householder_projector.stylegan2 import StyleGAN2Like

    generator = StyleGAN2Like(5, 7, 2, (6, 4), 1).eval()
    slots = slots_of(generator)
    project_layers(generator, list(slots), 3)
    found = find_directions(generator, named_directions(generator), slots)
    told = profiles(generator, found, stroke_attributes())
    runs.save_run(folder, generator, found, told, layers=slots, rank=3, n_reflectors="rank")

    def use(run: Any) -> None:
        w = run.generator.mapping(draw_codes(run.generator, 1, 0))
        for vector, slot, deviation in zip(
            run.directions.vectors, run.directions.slots, run.directions.deviations, strict=True
        ):
            w[:, slot] += deviation * vector
        run.generator.synthesis(w)
        assert len(run.profiles) == len(run.directions.layers) == len(run.directions.slots)
        assert all(sum(map(abs, one.effects.values())) + one.purity is not None for one in run.profiles)

    return SavedRun(runs.load_run, use)


def pool(folder: Path) -> SavedRun:
    from compress.learngene_pool.models import images, labelled, pool_of
    from linmap.compress.learngene_pool import LearngenePool
    from linmap.compress.learngene_pool.descendant import signed
    from linmap.compress.learngene_pool.storage import SIGNED

    made = pool_of((8, 12), 2)
    made.evaluate(labelled(4), ids=[0, 1])
    made.save(folder)

    def sign(config: Any) -> Any:  # whose sizes are None is a model of somebody else's, which `load` asks for
        return config if None in config["sizes"] else signed(config, SIGNED)

    return SavedRun(LearngenePool.load, lambda run: run(images(1)), sign=sign)


def descendant(folder: Path) -> SavedRun:
    from compress.learngene_pool.models import images, pool_of
    from linmap.compress.learngene_pool import Descendant
    from linmap.compress.learngene_pool.descendant import signed

    pool_of((8, 12), 2).build(3).save(folder)
    names = ("kind", "config", "members", "drop_path")
    return SavedRun(Descendant.load, lambda run: run(images(1)), sign=lambda config: signed(config, names))


def _tuned(folder: Path, adapter: Any, kind: str) -> SavedRun:
    from linmap.adapt.finetuning import FineTuned, fine_tune
    from linmap.data.text import read_prompts
    from linmap.training import TrainingConfig
    from recipes.finetuning.tiny import moods, save_encoder, save_llama, sums, write_jsonl

    base = folder.parent / "base"
    if kind == "language":
        model, data = save_llama(base), write_jsonl(folder.parent / "a.jsonl", sums(4))
    else:
        model, data = save_encoder(base), write_jsonl(folder.parent / "a.jsonl", moods(4))
    training = TrainingConfig(epochs=1, batch_size=4, lr=1e-2)
    fine_tune(data, adapter, training, model=str(model), validation=0.0).save(folder)
    records = read_prompts(data, "language" if kind == "language" else "classification")[:1]

    def use(run: Any) -> None:
        run.complete(records, max_new_tokens=1) if run.task == "language" else run.classify(records)

    return SavedRun(FineTuned.load, use, ("linmap.json", "adapter_config.json"), "adapter_model.safetensors")


def bone(folder: Path) -> SavedRun:
    from linmap.adapt import BoneConfig

    return _tuned(folder, BoneConfig(r=8, mode="add"), "language")


def salt(folder: Path) -> SavedRun:
    from linmap.adapt import SaltConfig

    return _tuned(folder, SaltConfig(r=2), "language")


def triadaptlora(folder: Path) -> SavedRun:
    from linmap.adapt import TriAdaptLoraConfig

    return _tuned(folder, lambda steps: TriAdaptLoraConfig(total_step=steps, reference_rank=2), "classification")


def flatquant(folder: Path) -> SavedRun:
    from compress.flatquant.models import tiny, tokens
    from compress.flatquant.students import config_for, merged, with_students
    from linmap.artifacts import SHARED, write_config
    from linmap.recipes.flatquant.apply import load_quantised

    model = tiny()
    bits = {"w_bits": 4, "a_bits": 4, "k_bits": 4, "v_bits": 4}
    model = merged(with_students(model, config_for(model, **bits)))
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    write_config(folder, "flatquant", {}, name=SHARED)
    return SavedRun(load_quantised, lambda run: run(tokens(1, 3)))


def acm_svm(folder: Path) -> SavedRun:
    from linmap.signals.acm.classifier import ACMClassifier

    X = np.random.default_rng(0).normal(size=(12, 3, 64))
    ACMClassifier((2, 1), "tgsp+svm").fit(X, np.arange(12) % 3).save(folder)
    return SavedRun(ACMClassifier.load, lambda run: run.predict(X))


def s4_regressor(folder: Path) -> SavedRun:
    from linmap.sequence.s4.estimators import S4Regressor, load_estimator

    X = np.random.default_rng(0).normal(size=(4, 8, 1))
    S4Regressor(1, 4, 4, epochs=1, batch_size=4).fit(X, [0.0, 1.0, 0.5, 2.0]).save(folder)
    return SavedRun(load_estimator, lambda run: run.predict(X))


def lie_drawing(folder: Path) -> SavedRun:
    from linmap.shapes.lie_decomposition.classifier import LieClassifier

    X = np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype(np.float32)
    made = LieClassifier(num_samples=2, channels=2, hidden=2, head=2, epochs=1, deterministic=False)
    made.fit(X, [0, 1, 0, 1]).save(folder)
    return SavedRun(LieClassifier.load, lambda run: run.predict(X))


RUNS = (
    acm, acm_svm, bone, bt2, descendant, flatquant, gbwbn, lie_decomposition, lie_drawing, olinear, pool, projector, s4,
    s4_regressor, salt, segmenter,
    tinvnn, tooth_arrangement, triadaptlora,
)  # fmt: skip


# -- what else is saved ------------------------------------------------------------------------------------------------


def result(folder: Path) -> SavedRun:
    from linmap.experiment.result import Result

    folder.mkdir()
    whole = {
        "system": "a", "task": "t", "metrics": [{"name": "m", "better": "lower", "unit": "", "digits": 3}],
        "rows": [{"name": "r", "kind": "system", "values": {"m": [1.0]}}], "shows": "", "limits": "",
        "checks": [{"statement": "c", "passed": True, "figures": "", "otherwise": ""}], "tables": [], "pictures": [],
        "versions": {"linmap": "1"}, "machine": "", "finished": "2026-01-01", "format": 1,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(whole))
    return SavedRun(Result.load, settings=("result.json",))


def failure(folder: Path) -> SavedRun:
    from linmap.experiment.result import Failure

    folder.mkdir()
    Failure("a", "b", "c").save(folder)
    return SavedRun(Failure.load, settings=("failure.json",))


def classes(folder: Path) -> SavedRun:
    from dataclasses import asdict

    from linmap.recipes.beside import write_beside
    from linmap.recipes.learngene_pool.images import PLAIN, saved

    folder.mkdir()
    write_beside(folder, {"classes": ["a", "b"], "grey": True, "preparation": asdict(PLAIN.at(8))})
    return SavedRun(saved, settings=("images.json",))


def _store(kind: str) -> Callable[[Path], SavedRun]:
    """Of a kind, with vectors in it."""

    def made(folder: Path) -> SavedRun:
        from linmap.data.vectors.opening import open_store

        X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        with open_store(f"{kind}:{folder}", 4) as store:
            store.upsert([f"a{i}" for i in range(6)], X)

        def load(place: Path) -> Any:
            with open_store(str(place)) as store:
                return store.search(X[:2], 2)

        return SavedRun(load, settings=("store.json",))

    made.__name__ = f"{kind}_store"
    return made


OTHERS = (result, failure, classes, *map(_store, ("array", "faiss", "usearch")))


# -- changes -----------------------------------------------------------------------------------------------------------


def changed(whole: Any) -> Iterator[tuple[str, Any]]:
    """Without each key, and with each value another: what was done, and what came of it."""
    for place in _places(whole):
        name = ".".join(map(str, place))
        yield f"without {name}", _with(whole, place, remove=True)
        for value in WRONG:
            yield f"{name} = {value!r:.20}", _with(whole, place, value)


def without(whole: Any, most: int = 40) -> Iterator[tuple[str, Any]]:
    """Without each key; of objects with more keys than so many, without some."""
    for place in _places(whole, most=most):
        yield ".".join(map(str, place)), _with(whole, place, remove=True)


def _places(value: Any, before: tuple[Any, ...] = (), most: int | None = None) -> Iterator[tuple[Any, ...]]:
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:2]
    for key, item in items[:: 1 if most is None else max(1, len(items) // most)]:
        yield (*before, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*before, key), most)


def _with(whole: Any, place: tuple[Any, ...], value: Any = None, remove: bool = False) -> Any:
    changed = copy.deepcopy(whole)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    if remove:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


def reshaped(data: bytes, most: int = 12) -> Iterator[tuple[str, bytes]]:
    """A file of safetensors with one tensor of its header turned, cut, of another type, of another name or gone."""
    header, body = unpacked(data)
    names = [name for name in header if name != "__metadata__"]
    for name in names[:: max(1, len(names) // most)]:
        one = header[name]
        n = int(np.prod(one["shape"], dtype=object))
        others: dict[str, Any] = {
            "gone": None,
            "turned": one | {"shape": one["shape"][::-1]},
            "flat": one | {"shape": [n]},
            "deep": one | {"shape": [1] * 20 + one["shape"]},
            "empty": one | {"shape": [0, *one["shape"][1:]]},
            "large": one | {"shape": [10**12, *one["shape"][1:]]},
            "negative": one | {"shape": [-1]},
            "words": one | {"shape": ["a"]},
            "elsewhere": one | {"data_offsets": [0, 4]},
        } | {f"of {kind}": one | {"dtype": kind} for kind in DTYPES}
        for what, other in others.items():
            rest = {key: value for key, value in header.items() if key != name}
            yield f"{name} {what}", packed(rest if other is None else rest | {name: other}, body)
        yield f"{name} renamed", packed({f"x{key}" if key == name else key: v for key, v in header.items()}, body)
        first, last = one["data_offsets"]
        for what, value in (("nan", b"\xff"), ("zero", b"\0"), ("huge", b"\x7e")):
            yield f"{name} all {what}", packed(header, body[:first] + value * (last - first) + body[last:])
    yield "cut", data[:-3]
    yield "no tensors", packed({}, b"")
    yield "half of the header", data[: (len(data) - len(body)) // 2]


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a file of safetensors, and what follows it."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def packed(header: dict[str, Any], body: bytes) -> bytes:
    """A file of safetensors."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
