"""SALT as a PEFT method."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from peft import PeftConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linmap.adapt.salt.layer import Init, SaltConv2d, SaltLayer, SaltLinear, check_options
from linmap.adapt.salt.weight import Relu
from linmap.adapt.tuner import AdapterConfig, AdapterTuner
from linmap.errors import ArgumentError

NORMS = "norm"  # in also_train: every normalisation layer


@dataclass
class SaltConfig(AdapterConfig):
    """Adapt layers through their singular values; see `linmap.adapt.SaltLayer`.

    Parameters
    ----------
    ratio
        Share of the singular values of a weight that are scaled and shifted, at least one of them; 0.1 where neither
        it nor k is given.
    k
        How many are, the same in every layer; in place of ratio.
    r
        Rank of the update of the other singular values.
    relu
        What keeps singular values from turning negative: "all" (the paper) acts on the whole core, "diag" on its
        diagonal alone, so that the update keeps its low rank, which is several times faster; "none" lets them.
    init
        "zero" (no change at the start) or "gauss".
    save_basis
        Store the singular basis in the file: large, but the adapter then loads where another one would be found.
    save
        "adapter", or "delta": store the change of every weight, which loads anywhere and is not trained on.
    also_train
        Further modules that are trained and saved whole: "norm" stands for all normalisation layers, other entries for
        modules by the ends of their names.
    target_modules, exclude_modules, modules_to_save, layers_to_transform, layers_pattern, bias
        PEFT's, as of `AdapterConfig`.

    Raises
    ------
    ValueError
        If a field is out of its range, or two of them do not go together.
    """

    method: ClassVar[str] = "linmap_salt"

    ratio: float | None = None
    k: int | None = None
    r: int = 8
    relu: Relu = "all"
    init: Init = "zero"
    save_basis: bool = False
    save: Literal["adapter", "delta"] = "adapter"
    also_train: Sequence[str] = (NORMS,)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self.ratio, self.k, self.r, self.relu, self.init)
        if self.ratio is None and self.k is None:
            self.ratio = 0.1
        if self.r < 1 and self.ratio is not None and self.ratio < 1:
            raise ArgumentError(f"r={self.r} must be at least 1 where ratio={self.ratio} leaves singular values.")
        if self.save not in ("adapter", "delta"):
            raise ArgumentError(f"save={self.save!r} must be 'adapter' or 'delta'.")
        if self.save == "delta" and self.save_basis:
            raise ArgumentError("save='delta' stores the change of the weights and no basis; drop save_basis=True.")
        if isinstance(self.also_train, str):
            raise ArgumentError(f"also_train must be a sequence of names, got {self.also_train!r}; add a comma.")
        self.also_train = tuple(self.also_train)

    def layer_options(self, path: str) -> dict[str, Any]:
        names = ("ratio", "k", "r", "relu", "init", "save_basis")
        options = {name: getattr(self, name) for name in names}
        return options | {"fixed": self.save == "delta" and self.inference_mode}


class SaltModel(AdapterTuner):
    """A model with SALT layers; made by `peft.get_peft_model(model, SaltConfig(...))`."""

    prefix = "linmap_salt_"
    tuner_layer_cls = SaltLayer
    layer_classes: ClassVar = {nn.Linear: SaltLinear, Conv1D: SaltLinear, nn.Conv2d: SaltConv2d}

    def _prepare_model(self, peft_config: SaltConfig, model: nn.Module) -> None:
        """Hand the modules of `also_train` to PEFT's modules_to_save."""
        found = modules_to_train(model, peft_config.also_train)
        if found:
            kept = peft_config.modules_to_save or []
            peft_config.modules_to_save = [*kept, *(name for name in found if name not in kept)]

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters: changes of weights add up; of a module trained whole, the last copy among them is used."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        super().set_adapter(names[-1:], inference_mode=inference_mode)
        if len(names) > 1:
            if contested := self.use_whole_modules(names, inference_mode):
                used = " and ".join(sorted({repr(name) for name in contested.values()}))
                warnings.warn(
                    f"modules trained whole (also_train, modules_to_save) do not add up: those of {used} are used "
                    f"where several adapters have trained one ({', '.join(list(contested)[:3])}).",
                    stacklevel=2,
                )
            for layer in self._layers():
                layer.set_adapter(names, inference_mode=inference_mode)
            self.active_adapter = names

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        found = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        if cast(SaltConfig, config).save == "delta":
            for path, layer in model.named_modules():
                if isinstance(layer, SaltLayer) and adapter_name in layer.adapters:
                    start = f"{path}.{layer.adapters_name}.{adapter_name}."
                    found = {name: value for name, value in found.items() if not name.startswith(start)}
                    found[start + "change"] = layer.delta_matrix(adapter_name)
        return found

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        fixed = any(name.endswith(f".{SaltLayer.adapters_name}.change") for name in state_dict)
        if fixed and not config.inference_mode:
            raise ArgumentError(
                "the adapter was saved with save='delta': it is a change of the weights, not an adapter that can be "
                "trained on; load it with is_trainable=False."
            )
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def modules_to_train(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The names of the modules that `also_train` means.

    Raises
    ------
    ValueError
        If a name other than "norm" fits no module.
    """
    modules = {
        name.removesuffix(".original_module"): module  # where PEFT trains a copy already
        for name, module in model.named_modules()
        if not _of_an_adapter(name)
    }
    found: list[str] = []
    for wanted in names:
        if wanted == NORMS:
            found += [name for name, module in modules.items() if is_norm(module)]
            continue
        fitting = [name for name in modules if name == wanted or name.endswith(f".{wanted}")]
        if not fitting:
            raise ArgumentError(f"also_train names {wanted!r}, and the model has no such module.")
        found += fitting
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises and has weights: LayerNorm, RMSNorm, BatchNorm2d and what is named like them."""
    kind = type(module).__name__
    named = kind.endswith(("Norm", "Norm1d", "Norm2d", "Norm3d"))
    return named and any(True for _ in module.parameters(recurse=False))


def _of_an_adapter(name: str) -> bool:
    """Whether a module is a part of an adapter, or one of the copies that PEFT trains."""
    return f".{SaltLayer.adapters_name}." in f".{name}." or ".modules_to_save." in f".{name}."
