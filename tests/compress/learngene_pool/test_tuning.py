"""Pool tuning: what a step moves, the losses, and runs that broke off."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from compress.learngene_pool.models import images, labelled, pool_of, vit
from linmap.compress.learngene_pool import (
    LearngenePool,
    ancestry,
    draw,
    kd_loss,
    record_teacher,
    starting,
    tuning,
)
from linmap.compress.vision_transformer import VisionTransformer
from linmap.training import TrainingConfig
from typed import of_class

ONE_STEP = TrainingConfig(epochs=1, batch_size=24, lr=1e-2, optimizer="adamw", weight_decay=0.1)
ADAMW = TrainingConfig(epochs=2, batch_size=4, lr=1e-3, optimizer="adamw", weight_decay=0.1, checkpoint_every=2)


def snapshot(pool: LearngenePool) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in pool.named_parameters()}


def on_path(pool: LearngenePool, id: int) -> set[str]:
    """Names by the definition of a configuration, not by the code that runs it."""
    config, names = pool.configs[id], set()
    first, last = config.members[0], config.members[-1]
    names |= {f"members.{first}.{name}" for name in ("cls_token", "pos_embed")}
    names |= {f"members.{first}.patch_embed.proj.{kind}" for kind in ("weight", "bias")}
    names |= {f"members.{last}.{part}.{kind}" for part in ("norm", "head") for kind in ("weight", "bias")}
    begin, every = 0, dict(pool.named_parameters())
    for number, member in enumerate(config.members):
        depth = len(of_class(VisionTransformer, pool.members[member]).blocks)
        end = config.points[number][0] if number < len(config.points) else depth - 1
        for j in range(begin, end + 1):
            names |= {name for name in every if name.startswith(f"members.{member}.blocks.{j}.")}
        if number < len(config.points):
            begin = config.points[number][1]
            pair = f"{member}-{config.members[number + 1]}"
            names |= {f"stitches.{pair}.{config.layers[number]}.{kind}" for kind in ("weight", "bias")}
    return names


@pytest.mark.parametrize("id", [0, 2, 4, 15, 30, 56])
def test_a_step_moves_the_drawn_path_and_nothing_else(id):
    pool = pool_of()
    before = snapshot(pool)
    pool.fit(labelled(), config=ONE_STEP, ids=[id])
    moved = {name for name, p in pool.named_parameters() if not torch.equal(p, before[name])}
    assert moved == on_path(pool, id)


def test_two_steps_move_nothing_outside_their_paths():
    pool = pool_of()
    before = snapshot(pool)
    config = TrainingConfig(epochs=3, batch_size=24, lr=1e-2, optimizer="adamw", weight_decay=0.5, seed=4)
    pool.fit(labelled(), config=config)
    drawn = {draw(step, 57, seed=4)[0] for step in range(3)}
    paths = set().union(*(on_path(pool, id) for id in drawn))
    assert len(drawn) == 3
    assert {name for name, p in pool.named_parameters() if not torch.equal(p, before[name])} == paths


@pytest.mark.parametrize("sampler", ["uniform", "sandwich", "budget"])
def test_steps_are_those_of_the_loss_written_out(sampler):
    pool, expected, data, teacher = pool_of(), pool_of(), labelled(), vit(16, 4, seed=9)
    config = TrainingConfig(epochs=3, batch_size=24, lr=1e-2, optimizer="sgd", weight_decay=0.1, seed=1)
    ids = [3, 7, 12, 20, 40]
    history = pool.fit(data, config=config, sampler=sampler, ids=ids, teacher=teacher, kd_weight=0.7, T=2.0)
    x, y = data.tensors
    with torch.no_grad():
        target = teacher(x)
    optimizer = torch.optim.SGD(expected.parameters(), lr=1e-2, weight_decay=0.1)
    macs, losses = [expected.cost(id).macs for id in ids], []
    for step in range(3):
        optimizer.zero_grad()
        drawn = [ids[k] for k in draw(step, 5, sampler=sampler, seed=1, macs=macs)]
        terms = []
        for id in drawn:
            logits = expected(x, config=id)
            terms.append(F.cross_entropy(logits, y) + 0.7 * kd_loss(logits, target, 2.0))
        loss = torch.stack(terms).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [epoch.loss for epoch in history.epochs] == pytest.approx(losses, rel=1e-4)
    for (name, p), q in zip(pool.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=name)


def test_the_pool_comes_back_in_evaluation_mode_without_gradients():
    pool = pool_of().train()
    state = torch.get_rng_state()
    pool.fit(labelled(), config=ADAMW)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in pool.modules())
    assert all(p.grad is None and p.requires_grad for p in pool.parameters())


def test_frozen_members_stay_and_have_no_drop_path():
    pool = LearngenePool([vit(8, drop_path=0.9), vit(12, seed=1)])
    before = snapshot(pool)
    modes = []
    block = pool.members[0].get_submodule("blocks.2")
    drop = block.get_submodule("drop_path1")
    block.register_forward_hook(lambda m, i, o: modes.append(drop.training))
    pool.fit(labelled(), config=ADAMW, freeze=[0])
    moved = {name for name, p in pool.named_parameters() if not torch.equal(p, before[name])}
    assert not [name for name in moved if name.startswith("members.0.")]
    assert [name for name in moved if name.startswith("members.1.")]
    assert modes
    assert not any(modes)
    assert all(p.requires_grad for p in pool.parameters())


def test_a_teacher_in_training_mode_is_switched():
    teacher = vit(16, drop_path=0.5).train()
    with pytest.warns(UserWarning, match="teacher is in training mode"):
        pool_of().fit(labelled(), config=ONE_STEP, teacher=teacher)
    assert not teacher.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool_of().fit(labelled(), config=ONE_STEP, teacher=teacher)


def test_recorded_logits_stand_for_the_teacher():
    teacher, data = vit(16, 4, seed=9), labelled()
    one, two = pool_of(), pool_of()
    config = replace(ADAMW, optimizer="sgd")  # AdamW makes a step of the rounding of a gradient that is zero
    one.fit(data, config=config, teacher=teacher)
    two.fit(record_teacher(teacher, data), config=config, teacher=teacher)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_soft_labels_are_taken():
    x, y = labelled().tensors
    soft = torch.utils.data.TensorDataset(x, F.one_hot(y, 3).float())
    one, two = pool_of(), pool_of()
    assert one.fit(soft, config=ONE_STEP).epochs[0].loss == pytest.approx(
        two.fit(labelled(), config=ONE_STEP).epochs[0].loss
    )


def test_accuracies_of_other_weights_are_forgotten():
    pool = pool_of()
    pool.evaluate(labelled(), ids=[0])
    pool.fit(labelled(), config=ONE_STEP)
    assert pool.accuracy == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "best"}, "sampler='best'"),
        ({"ids": []}, "ids is empty"),
        ({"ids": [57]}, r"0\.\.56"),
        ({"freeze": [3]}, "freeze names member 3"),
        ({"freeze": [0], "ids": [0, 1]}, "config 0 has nothing to train"),
        ({"kd_weight": -1.0}, "kd_weight=-1.0"),
        ({"kd_weight": 0.7}, "of the term to the teacher's logits"),
        ({"T": 2.0}, "of the term to the teacher's logits"),
        ({"data": torch.utils.data.TensorDataset(images(0), torch.zeros(0))}, "data is empty"),
        ({"resume": True}, "resume=True needs `out`"),
    ],
)
def test_bad_arguments_are_refused(options, words):
    pool = pool_of()
    with pytest.raises(ValueError, match=words):
        pool.fit(**({"data": labelled(), "config": ONE_STEP} | options))
    assert all(p.requires_grad for p in pool.parameters())


def test_the_parts_of_a_batch_train_one_draw():
    from dataclasses import replace

    one, two = pool_of(), pool_of()
    config = TrainingConfig(epochs=3, batch_size=24, lr=1e-2, optimizer="sgd")
    one.fit(labelled(), config=config)
    two.fit(labelled(), config=replace(config, accumulation=3))
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in one process"):
        pool_of().fit(labelled(), config=ONE_STEP)


# -- runs that broke off -----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from compress.learngene_pool import test_tuning
from linmap.compress.learngene_pool import ancestry, starting, tuning

HOOKED = {
    "distilled": (ancestry.Ancestry, "features"), "stitched": (starting, "_tokens"), "tuned": (tuning.Draws, "now"),
}
starting.SAVE_EVERY = 2
ends = []
for what, (owner, name) in HOOKED.items():
    if not (child := os.fork()):
        calls, before = [], getattr(owner, name)

        def counted(*args):
            calls.append(1)
            if len(calls) == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return before(*args)

        setattr(owner, name, counted)
        getattr(test_tuning, what)(Path(sys.argv[1]) / what, False)
        os._exit(1)
    ends.append(os.waitpid(child, 0)[1])
assert ends == [signal.SIGKILL] * 3, ends
"""


def distilled(out: Path | None, resume: bool) -> list[torch.Tensor]:
    from linmap.compress.learngene_pool import distill

    student, transforms = distill(
        vit(16, 6), vit(8, seed=1, drop_path=0.3), labelled(), config=ADAMW, out=out, resume=resume
    )
    return [*student.parameters(), *transforms.parameters()]


def stitched(out: Path | None, resume: bool) -> list[torch.Tensor]:
    pool = pool_of((8, 12))
    pool.init_stitches("lstsq", data=[images(8, seed) for seed in range(10)], out=out, resume=resume)
    return list(pool.parameters())


def tuned(out: Path | None, resume: bool) -> list[torch.Tensor]:
    pool = LearngenePool([vit(8, drop_path=0.3), vit(12, seed=1)])
    pool.fit(labelled(), config=ADAMW, sampler="budget", out=out, resume=resume)
    return list(pool.parameters())


class Breaks(Exception):
    pass


@pytest.mark.parametrize("what", ["distilled", "stitched", "tuned"])
def test_a_run_that_breaks_off_resumes_to_the_same_weights(what, tmp_path, monkeypatch):
    owner, name = {
        "distilled": (ancestry.Ancestry, "features"),
        "stitched": (starting, "_tokens"),
        "tuned": (tuning.Draws, "now"),
    }[what]
    calls, before, run = [], getattr(owner, name), globals()[what]
    monkeypatch.setattr(starting, "SAVE_EVERY", 2)

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise Breaks
        return before(*arguments)

    monkeypatch.setattr(owner, name, counted)
    with pytest.raises(Breaks):
        run(tmp_path, False)
    monkeypatch.setattr(owner, name, before)
    assert list(tmp_path.iterdir())
    for found, expected in zip(run(tmp_path, True), run(None, False), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.slow
def test_killed_processes_resume_to_the_same_weights(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.run(command, check=False, capture_output=True, timeout=120, env=environment)
    assert process.returncode == 0, process.stderr.decode()[-2000:]
    for what in (distilled, stitched, tuned):
        assert list((tmp_path / what.__name__).iterdir())
        for found, expected in zip(what(tmp_path / what.__name__, True), what(None, False), strict=True):
            assert torch.equal(found, expected), what.__name__


def test_another_sampler_cannot_resume(tmp_path):
    pool_of().fit(labelled(), config=ADAMW, out=tmp_path)
    with pytest.raises(ValueError, match="started with sampler=uniform"):
        pool_of().fit(labelled(), config=ADAMW, out=tmp_path, resume=True, sampler="budget")
