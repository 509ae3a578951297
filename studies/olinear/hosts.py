"""OrthoTrans and NormLin inside other forecasters: DLinear, iTransformer and PatchTST."""

from __future__ import annotations

from typing import Literal

from torch import nn

from linmap.experiment import Arm
from linmap.recipes.olinear.methods import Method, Task
from linmap.sequence.olinear import DLinear, OrthoTrans, OrthoTransWrapper, replace_attention
from linmap.training import TrainingConfig
from studies.olinear.plugins import itransformer, n_patches, patchtst
from studies.olinear.tasks import SETTING, run, small_parts
from studies.olinear.variants import variants_table
from studies.study import Findings, Job

Host = Literal["DLinear", "iTransformer", "PatchTST"]
HOSTS: tuple[Host, ...] = ("DLinear", "iTransformer", "PatchTST")
PATCH = 16


def hosts(job: Job) -> Findings:
    """Each forecaster as it is and with OLinear's parts in it."""
    arms = [arm for host in HOSTS for arm in with_and_without(host, job)]
    runs = run(job, "hosts", arms, small_parts(job))
    note = "Squared error. iTransformer and PatchTST are neuralforecast's; DLinear has no attention."
    table = variants_table("OrthoTrans and NormLin inside other forecasters", "forecaster", runs, note)
    return Findings(f"{SETTING.partition(', a small')[0]}.", [table])


def with_and_without(host: Host, job: Job) -> list[Arm]:
    """A forecaster bare, with OrthoTrans around it, with NormLin in it, and with both."""

    def training(task: Task) -> TrainingConfig:
        ili = task.name == "ILI"
        return TrainingConfig(
            epochs=1 if job.tiny else 8 if ili else 6,
            lr=5e-3 if host == "DLinear" else 5e-4,
            schedule="halving",
            batch_size=16 if ili else 32,
        )

    def arm(name: str, ortho: bool, normlin: bool) -> Arm:
        def build(task: Task, seed: int) -> nn.Module:
            model, tokens = bare(host, task, seed, normalise=not ortho)
            model = replace_attention(model, tokens) if normlin else model
            if not ortho:
                return model
            Q_in, Q_out = (OrthoTrans(t).fit(task.training_rows).Q_ for t in (task.lookback, task.horizon))
            return OrthoTransWrapper(model, Q_in, Q_out)

        return Method(build, training).arm(name, "ablation", job.resume, "squared error")

    plain = [arm(host, False, False), arm(f"{host} + OrthoTrans", True, False)]
    if host == "DLinear":
        return plain
    return [*plain, arm(f"{host} + NormLin", False, True), arm(f"{host} + OrthoTrans + NormLin", True, True)]


def bare(host: Host, task: Task, seed: int, normalise: bool) -> tuple[nn.Module, int]:
    """The forecaster and its number of tokens; its own normalisation is off where OrthoTrans brings one."""
    T, P, N = task.lookback, task.horizon, len(task.series.variates)
    if host == "DLinear":
        return DLinear(T, P), 0
    if host == "iTransformer":
        return itransformer(T, P, N, d_model=128, d_ff=128, heads=8, seed=seed, normalise=normalise), N
    patch = min(PATCH, T // 3)
    model = patchtst(T, P, d_model=32, d_ff=128, heads=4, patch=patch, seed=seed, normalise=normalise)
    return model, n_patches(T, patch)
