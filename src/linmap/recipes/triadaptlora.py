"""TriAdaptLoRA on files: fine-tune with ranks that grow where they help, and compare with fixed and random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.recipes import finetuning
from linmap.recipes.finetuning import Answering, FineTuning, Method
from linmap.recipes.finetuning.comparison import TRIADAPT_PRESETS as PRESETS
from linmap.recipes.finetuning.comparison import compare_triadaptlora as compare
from linmap.recipes.job import ApplyJob, FitJob

if TYPE_CHECKING:
    from linmap.adapt import RankAllocator, TriAdaptLoraConfig

__all__ = ["PRESETS", "ApplySettings", "Settings", "apply", "compare", "fit"]

ApplySettings = Answering
FLAG_OF = {"incre_interval": "growth_interval", "init_warmup": "growth_warmup", "orth_reg_weight": "orthogonality"}
ROOM = 2  # times the reference rank: the highest rank of a layer


@dataclass(frozen=True)
class Settings(FineTuning):
    __doc__ = FineTuning.__doc__

    lr: float = 2e-3
    """Learning rate of the adapters."""
    reference_rank: int = 8
    """Average rank of the layers in the end."""
    init_rank: int = 1
    """Rank of every layer at the start."""
    alpha: float = 16.0
    """Numerator of the scale of the adapters."""
    dropout: float = 0.0
    """Share of the adapters' inputs that training drops."""
    growth: Literal["linear", "nonlinear", "none"] = "linear"
    """How the number of layers that grow at a time rises; none keeps the ranks."""
    growth_warmup: float = 0.1
    """Share of the steps before the first growth."""
    growth_interval: int | None = None
    """Steps between two checks; a twentieth of all steps when left out."""
    scaling: Literal["fixed", "rank"] = "fixed"
    """fixed: by --reference-rank; rank: by the rank in use, as published, which disturbs the model at each growth."""
    orthogonality: float = 0.0
    """Weight of the penalty on rows of A and columns of B that are not orthonormal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.growth_warmup < 1:
            raise ArgumentError(f"--growth-warmup {self.growth_warmup} must be a share of the steps in [0, 1).")
        if self.orthogonality < 0:
            raise ArgumentError(f"--orthogonality {self.orthogonality} must not be negative.")

    def config(self, steps: int) -> TriAdaptLoraConfig:
        """The adapter's configuration for a run of this many steps."""
        from linmap.adapt import TriAdaptLoraConfig

        return TriAdaptLoraConfig(
            reference_rank=self.reference_rank, init_rank=self.init_rank, alpha=self.alpha, dropout=self.dropout,
            growth=self.growth, scaling=self.scaling, orth_reg_weight=self.orthogonality,
            total_step=steps, init_warmup=int(self.growth_warmup * steps), r_max=ROOM * self.reference_rank,
            incre_interval=max(1, steps // 20) if self.growth_interval is None else self.growth_interval,
        )  # fmt: skip

    def method(self) -> Method:
        penalty = partial(_penalty, weight=self.orthogonality) if self.orthogonality else None
        return Method("triadaptlora", "classification", self.config, _allocator, penalty, _ranks, FLAG_OF)


def fit(settings: Settings, job: FitJob) -> dict[str, Any]:
    """Fine-tune on a file of texts; on Banking77 without one."""
    return finetuning.fit(settings, job, settings.method())


def apply(settings: Answering, job: ApplyJob) -> dict[str, Any]:
    """Complete or classify the records of a file."""
    return finetuning.apply(settings, job, "triadaptlora")


def _allocator(adapted: Any) -> list[RankAllocator]:
    from linmap.adapt import RankAllocator

    return [RankAllocator(adapted, adapted.peft_config["default"])]


def _penalty(model: nn.Module, weight: float) -> Tensor:
    from linmap.adapt import triadapt_orthogonality

    return weight * triadapt_orthogonality(model)


def _ranks(adapted: Any, callbacks: Sequence[Any]) -> Mapping[str, Any]:
    """The ranks of the weights that are kept, which the saved configuration takes, and how they came about."""
    (allocator,) = callbacks
    adapted.peft_config["default"].rank_pattern = allocator.ranks()
    return {"ranks": allocator.ranks(), "growth": [asdict(event) for event in allocator.history]}
