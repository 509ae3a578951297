"""Every trainer of linmap on tiny data; as a script, in one of the processes of a launcher.

They train by SGD with momentum in place of Adam, which divides by the size of a gradient: where that is near nothing,
the rounding of sums in another order becomes a step, and within ten steps of a network of maxima another run. Momentum
is a sum of gradients, so that a wrong gradient is seen as large as it is. Adam in several processes is tested in
`test_processes.py`.

`python trainers.py OUT NAME...` trains these, each in `OUT/NAME`. Batches are of four with a last one of three, so that
with two and four processes parts are unequal, and one has no sample of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType, PartialState
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from linmap.training import TrainingConfig, train
from two_processes import end

SAMPLES = 11
Y = np.arange(SAMPLES) % 2
EPOCHS = 2


def series() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((SAMPLES, 30, 2))


def spd(**options: Any) -> Callable:
    def fit(out: Path, **run: Any) -> nn.Module:
        from linmap.signals.gbwbn import SPDNetClassifier

        domains = np.arange(SAMPLES) % 3 if options.get("norm", "gbw") == "gbw" and options.pop("domained", 0) else None
        X = np.random.default_rng(0).standard_normal((SAMPLES, 4, 60))
        X = X if options.get("front") else X @ X.transpose(0, 2, 1) / 60
        return (
            SPDNetClassifier((3,), epochs=EPOCHS, batch_size=4, **options).fit(X, Y, domains, **run_of(out, run)).model_
        )

    return fit


def s4(norm: Any, ragged: bool = False) -> Callable:
    def fit(out: Path, **run: Any) -> nn.Module:
        from linmap.sequence.s4 import S4Classifier

        X: Any = series()
        X = [x[: 20 + i] for i, x in enumerate(X)] if ragged else X
        made: Any = S4Classifier(1, 4, 4, epochs=EPOCHS, batch_size=4, norm=norm, dropout=0.0)
        return made.fit(X, Y, **run_of(out, run)).model_

    return fit


def lie(out: Path, **run: Any) -> nn.Module:
    from linmap.shapes.lie_decomposition import LieClassifier

    X = np.random.default_rng(0).random((SAMPLES, 14, 14))
    made = LieClassifier(num_samples=2, channels=2, hidden=2, head=2, epochs=EPOCHS, batch_size=4, deterministic=False)
    return made.fit(X, Y, **run_of(out, run)).model_


def plain_cnn(out: Path, **run: Any) -> nn.Module:
    from linmap.recipes.lie_decomposition.making import cross_entropy
    from linmap.recipes.lie_decomposition.plain import PlainResNet

    torch.manual_seed(0)
    model = PlainResNet(1, 2, 2, kernel_size=5, head=2, dropout=0.0, early_pool=True)
    x = torch.rand(SAMPLES, 1, 14, 14)
    train(model, cross_entropy, TensorDataset(x, torch.from_numpy(Y)), config=TrainingConfig(epochs=2, batch_size=4),
          out=out, **run)  # fmt: skip
    return model


def clouds(network: Any, points: int | None = None, **options: Any) -> Callable:
    def fit(out: Path, **run: Any) -> nn.Module:
        from linmap.shapes.tinvnn import PointCloudClassifier

        rng = np.random.default_rng(0)
        X = [rng.standard_normal((6 if points else 6 + i % 3, 3)) for i in range(SAMPLES)]
        made: Any = PointCloudClassifier(network=network, epochs=EPOCHS, batch_size=4, n_points=points, dropout=0.0,
                                         validation_fraction=0.0, k=3, **options)  # fmt: skip
        return made.fit(X, Y, **run_of(out, run)).model_

    return fit


def tours(out: Path, **run: Any) -> nn.Module:
    from linmap.shapes.tinvnn import TourSolver

    made = TourSolver(n_cities=4, steps=3, batch_size=4, d_model=8, n_heads=2, n_layers=1, d_hidden=8)
    return made.fit(**run_of(out, run)).model_


def teeth(name: str) -> Callable:
    def fit(out: Path, **run: Any) -> nn.Module:
        from linmap.shapes import tooth_arrangement
        from linmap.shapes.tooth_arrangement import DentitionSimulator

        data: Any = DentitionSimulator(points=8).sample(7, 1.0, torch.Generator().manual_seed(0))
        data.mask[::2, 20:] = False
        made = getattr(tooth_arrangement, name)(points=8, width=16, blocks=1, epochs=EPOCHS, batch_size=4)
        return made.fit(data, **run_of(out, run)).model_

    return fit


def meshes(out: Path, **run: Any) -> nn.Module:
    from linmap.shapes.tooth_arrangement import MeshEncoder
    from linmap.shapes.tooth_arrangement.autoencoder import pretrain
    from shapes.tooth_arrangement.crowns import ball

    balls = [ball(0.1, level=2 + (i % 2)) for i in range(7)]
    found = [(torch.from_numpy(V).float() * (1 + i / 10), torch.from_numpy(F)) for i, (V, F) in enumerate(balls)]
    torch.manual_seed(0)
    encoder = MeshEncoder(16, 1, 2)
    pretrain(encoder, found, epochs=EPOCHS, batch_size=4, warmup_epochs=0, width=16, depth=1, heads=2,
             **run_of(out, run))  # fmt: skip
    return encoder


def olinear(out: Path, **run: Any) -> nn.Module:
    from linmap.sequence.olinear import OLinearForecaster

    table = np.cumsum(np.random.default_rng(0).standard_normal((60, 2)), 0)
    made = OLinearForecaster(h=2, lookback=6, d_model=8, embed=2, layers=1, epochs=EPOCHS, batch_size=4, dropout=0.0)
    return made.fit(table, **run_of(out, run)).model_


def fine_tuned(task: str) -> Callable:
    def fit(out: Path, **run: Any) -> nn.Module:
        from linmap.adapt import BoneConfig
        from linmap.adapt.finetuning import fine_tune
        from recipes.finetuning.tiny import moods, save_encoder, save_llama, sums, write_jsonl

        own, model = out.with_name(f"{out.name} data"), out.with_name(f"{out.name} data") / "model"
        texts = own / "texts.jsonl"
        if PartialState().is_main_process and not texts.exists():
            own.mkdir(parents=True, exist_ok=True)
            (save_llama if task == "language" else save_encoder)(model)
            told = json.loads((model / "config.json").read_text())
            undrawn = {name: 0.0 for name in told if "dropout" in name and isinstance(told[name], float)}
            (model / "config.json").write_text(json.dumps(told | undrawn))
            write_jsonl(texts, sums(SAMPLES + 2) if task == "language" else moods(SAMPLES + 2))
        PartialState().wait_for_everyone()
        config = TrainingConfig(epochs=EPOCHS, batch_size=4, lr=2e-2, optimizer="adamw")
        tuned: Any = fine_tune(texts, BoneConfig(r=8, mode="add"), config, model=str(model), **run_of(out, run))
        return tuned.model

    return fit


def segmenter(out: Path, **run: Any) -> nn.Module:
    from adapt.segmentation.test_training import OPTIONS, squares
    from linmap.adapt.segmentation import build_segmenter, put_salt, train_segmenter

    model = build_segmenter(partial(put_salt, **OPTIONS), seed=0)
    config = TrainingConfig(epochs=EPOCHS, batch_size=4, lr=1e-3)
    train_segmenter(model, squares(7), config, 1e-3, augment=False, out=out, **run)
    return model


def distilled(out: Path, **run: Any) -> nn.Module:
    from compress.learngene_pool.models import labelled, vit
    from linmap.compress.learngene_pool import distill

    student = vit(8, seed=1)
    distill(vit(16), student, labelled(SAMPLES), config=TrainingConfig(epochs=2, batch_size=4), out=out, **run)
    return student


def ancestry(out: Path, **run: Any) -> nn.Module:
    from compress.learngene_pool.models import labelled, vit
    from linmap.recipes.learngene_pool.making import cross_entropy

    model = vit(8, seed=1)
    train(model, cross_entropy, labelled(SAMPLES), config=TrainingConfig(epochs=2, batch_size=4), out=out, **run)
    return model


def pool(out: Path, **run: Any) -> nn.Module:
    from compress.learngene_pool.models import labelled, pool_of

    model = pool_of()
    model.fit(labelled(SAMPLES), config=TrainingConfig(epochs=2, batch_size=4), **run_of(out, run, "out"))
    return model


def bases(objective: Any) -> Callable:
    def fit(out: Path, **run: Any) -> nn.Module:
        from linmap.retrieve.bt2 import frozen

        rng = np.random.default_rng(0)
        X, Y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, SAMPLES, 6)))
        frozen.BATCH = 4
        fitted: Any = frozen.trained(X, Y, 2, 1.0, objective, 0, epochs=3)[0]
        model = nn.Module()
        model.A, model.B = nn.Parameter(torch.tensor(fitted.A)), nn.Parameter(torch.tensor(fitted.B))
        return model

    return fit


def shallow(out: Path, **run: Any) -> nn.Module:
    from linmap.signals.acm import shallow as room

    class Undrawn(room.ShallowNet):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.dropout.p = 0.0

    room.ShallowNet = Undrawn  # type: ignore[misc]
    X = np.random.default_rng(0).standard_normal((40, 4, 160))
    y = np.arange(40) % 2
    return room.ShallowNetClassifier(2).fit(X[:37], y[:37], (X[37:], y[37:]), out).model_


def generator(objective: str, shown: bool) -> Callable:
    def fit(out: Path, **run: Any) -> nn.Module:
        from interpret.householder_projector.test_finetuning import images, replaced, swapped
        from linmap.interpret.householder_projector import finetune

        student, teacher = swapped()
        finetune(student, teacher, images() if shown else None, settings=replaced(objective=objective), out=out, **run)
        return student

    return fit


def students(out: Path, **run: Any) -> nn.Module:
    from compress.flatquant.models import tiny
    from compress.flatquant.test_distillation import IDS, config
    from linmap.compress.flatquant.calibration import student_model
    from linmap.compress.flatquant.distillation import distil, teacher_of

    model: Any = student_model(tiny(), IDS, config(distil_steps=0))
    distil(model, teacher_of(tiny()), IDS, config(), out=out, **run)
    return model


def run_of(out: Path, run: dict[str, Any], name: str = "checkpoints") -> dict[str, Any]:
    return {name: out, **run}


TRAINERS: dict[str, Callable[..., nn.Module]] = {
    "lie": lie,
    "plain cnn": plain_cnn,
    "pointnet": clouds("pointnet"),
    "edgeconv": clouds("edgeconv"),
    "edgeconv drawn": clouds("edgeconv", 4, representation="random"),
    "raw turned": clouds("pointnet", 4, representation="raw", augment="so3"),
    "tours": tours,
    "diffusion": teeth("TADPM"),
    "meshes": meshes,
    "olinear": olinear,
    "s4": s4("layer"),
    "s4 batch": s4("batch"),
    "s4 ragged": s4("batch", ragged=True),
    "spd": spd(),
    "spd domains": spd(domained=True),
    "spd float32": spd(dtype="float32", theta=1.0),
    "spd front": spd(front="convolution"),
    "spd aim": spd(norm="aim"),
    "spd lem": spd(norm="lem"),
    "shallow": shallow,
    "language": fine_tuned("language"),
    "classification": fine_tuned("classification"),
    "segmenter": segmenter,
    "distilled": distilled,
    "ancestry": ancestry,
    "pool": pool,
    "bt2": bases("cosine and contrast"),
    "generator both": generator("both", False),
    "generator images": generator("adversarial", True),
    "students": students,
}


def train_one(name: str, out: Path, **run: Any) -> str:
    """Train, and let the main process write the weights in the end; what was refused, in words."""
    try:
        with warnings.catch_warnings(action="ignore"):
            model = TRAINERS[name](out / name, **run)
    except KeyboardInterrupt:
        return "stopped"
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return traceback.format_exc()
    state = model.state_dict()
    parts = any(isinstance(v, DTensor) for v in state.values())
    state = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}  # by all processes
    if PartialState().is_main_process:
        (out / "final").mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, out / "final" / f"{name}.safetensors")
    return "done, in parts" if parts else "done"


def stop_after_an_epoch() -> None:
    """Every run ends as by Ctrl-C when its first epoch is kept."""
    from linmap.training import loop

    whole = loop._Run.epoch

    def epoch(run: Any) -> None:
        whole(run)
        raise KeyboardInterrupt

    loop._Run.epoch = epoch  # pyright: ignore[reportAttributeAccessIssue]


def by_momentum() -> None:
    from linmap.training import loop

    usual = loop.make_optimizer
    loop.make_optimizer = lambda model, config, groups: usual(
        model, replace(config, optimizer="sgd", momentum=0.9), groups
    )


def main(out: Path, names: list[str]) -> None:
    by_momentum()
    if os.environ.get("STOP"):
        stop_after_an_epoch()
    if os.environ.get("ACCELERATE_USE_FSDP"):
        # Accelerate shards only on the devices of a list that lacks the CPU; PyTorch itself does it there with gloo
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    elif "WORLD_SIZE" in os.environ:
        PartialState(cpu=True)
    for name in names or TRAINERS:
        resume = {"resume": True} if os.environ.get("RESUME") else {}
        (out / f"{name} {os.environ.get('RANK', '0')}.txt").write_text(train_one(name, out, **resume))
    end()


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    main(Path(sys.argv[1]), sys.argv[2:])
