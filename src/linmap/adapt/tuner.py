"""The methods of this room as PEFT methods: configuration, injection into a model, registration."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper, register_peft_method
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from linmap.adapt.layer import AdapterLayer
from linmap.adapt.weights import holds_numbers
from linmap.errors import ArgumentError, ArgumentTypeError

BASE = "__base__"  # in adapter_names: no adapter


@dataclass
class AdapterConfig(PeftConfig):
    """What the configurations of this room share; the fields are PEFT's.

    Parameters
    ----------
    target_modules
        Names (ends of names) of the layers to adapt, a regular expression, or "all-linear"; PEFT's choice for the
        architecture when None.
    exclude_modules
        Names, or a regular expression, to leave out.
    modules_to_save
        Further modules to train and to save whole, such as a classification head.
    layers_to_transform, layers_pattern
        Indices of the blocks to adapt, and the name of the list of blocks.
    bias
        "none", or "all": train every bias too.
    """

    method: ClassVar[str]  # the name in PEFT, lower case

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: Literal["none", "all"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(self.method.upper())
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list | tuple):
                setattr(self, name, set(getattr(self, name)))
        if self.bias not in ("none", "all"):
            raise ArgumentError(f"bias must be 'none' or 'all', got {self.bias!r}.")
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise ArgumentError(
                        f"{name} cannot be given when target_modules is a regular expression; write the layers into "
                        "the expression, or give target_modules as a list of names."
                    )

    def layer_options(self, path: str) -> dict[str, Any]:
        """The keyword arguments of the method's layers, for the layer at this path in the model."""
        raise NotImplementedError


class AdapterTuner(BaseTuner):
    """Puts the layers of one method into a model; PEFT does the matching, the saving and the loading."""

    tuner_layer_cls: type[AdapterLayer]
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    model: Any
    layer_classes: ClassVar[dict[type[nn.Module], type[AdapterLayer]]]  # for each kind of base layer

    def _create_and_replace(
        self,
        peft_config: AdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        options = peft_config.layer_options(current_key)
        if isinstance(target, AdapterLayer):
            target.add_adapter(adapter_name, inference_mode=peft_config.inference_mode, **options)
            return
        if isinstance(parent, nn.MultiheadAttention):
            raise ArgumentTypeError(
                f"{current_key} belongs to a torch.nn.MultiheadAttention, which reads the weight past the layer, so "
                "that an adapter would have no effect; exclude it (exclude_modules), or use a model with separate "
                "projections."
            )
        try:
            layer = self._new_layer(target, adapter_name, options)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{current_key}: {str(error).removeprefix(f'{type(target).__name__}: ')}") from None
        layer.path = current_key
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        setattr(parent, target_name, layer)  # it is where the layer computes already

    def _new_layer(self, target: nn.Module, adapter_name: str, options: dict[str, Any]) -> AdapterLayer:
        for kind, layer_class in self.layer_classes.items():
            if isinstance(target, kind):
                return layer_class(target, adapter_name=adapter_name, **options)
        kinds = ", ".join(kind.__name__ for kind in self.layer_classes)
        raise ArgumentTypeError(
            f"a {type(target).__name__} cannot be adapted by {type(self).__name__}; {kinds} can. Name such modules in "
            "target_modules."
        )

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Adapters are born in float32; PEFT's autocast_adapter_dtype=False asks for the base layer's dtype."""
        if autocast_adapter_dtype:
            return
        for layer in self._layers():
            base = layer.get_base_layer().weight
            if adapter_name in layer.adapters and holds_numbers(base):  # quantised ones have no such dtype
                layer.adapters[adapter_name].to(base.dtype)  # with its buffers, which meet its parameters in products

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The key in the file; PEFT's own rule reaches parameters of an adapter, not those of its parts."""
        container = f".{cls.tuner_layer_cls.adapters_name}."
        layer, found, parameter = key.rpartition(container)
        if found and parameter.startswith(f"{adapter_name}."):
            return layer + container + parameter.removeprefix(f"{adapter_name}.")
        return super()._remove_adapter_name_from_key(key, adapter_name)

    def _layers(self) -> list[AdapterLayer]:
        return [module for module in self.model.modules() if isinstance(module, AdapterLayer)]

    # -- modules trained whole, one copy for each adapter --------------------------------------------------------------

    def _whole_modules(self) -> dict[str, ModulesToSaveWrapper]:
        return {name: part for name, part in self.model.named_modules() if isinstance(part, ModulesToSaveWrapper)}

    def use_whole_modules(self, adapter_names: list[str], inference_mode: bool = False) -> dict[str, str]:
        """Of every module trained whole, use the copy of the last of these adapters that has one.

        Returns
        -------
        dict of str
            The modules of which several of the adapters have a copy, and the adapter whose copy is used: copies do not
            add up as changes of weights do.
        """
        contested = {}
        for path, module in self._whole_modules().items():
            owners = [name for name in adapter_names if name in module.modules_to_save]
            if owners[-1:] != module.active_adapters:
                module.set_adapter(owners[-1:], inference_mode=inference_mode)
            if len(owners) > 1:
                contested[path] = owners[-1]
        return contested

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; the other active ones stay so, with their modules trained whole."""
        remaining = [name for name in self.active_adapters if name != adapter_name]
        merged = any(adapter_name in layer.merged_adapters for layer in self._layers())
        if len(remaining) > 1 and not merged:  # PEFT's own way takes one active adapter for granted
            for module in self._whole_modules().values():
                owners = [name for name in remaining if name in module.modules_to_save]
                module.delete_adapter(adapter_name, owners[-1:])
        super().delete_adapter(adapter_name)

    # -- batches whose rows have adapters of their own -----------------------------------------------------------------

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand PEFT's `adapter_names`, one for each row of the batch, to all layers while the model is called."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        self._check_names(names)
        beams = kwargs.get("num_beams") or 1  # generate() repeats the rows, but not before the encoder
        repeated = [name for name in names for _ in range(beams)]
        encoder = self.model.get_encoder() if hasattr(self.model, "get_encoder") else None
        encoding = set() if encoder is None or encoder is self.model else set(encoder.modules())
        hooks = []
        for module in self.model.modules():
            if isinstance(module, AdapterLayer | AuxiliaryTrainingWrapper):
                own = partial(_with_names, names if module in encoding else repeated, threading.get_ident())
                hooks.append(module.register_forward_pre_hook(own, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _check_names(self, names: Any) -> None:
        if self.training:
            raise ArgumentError("adapter_names is for inference; call model.eval() first.")
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ArgumentTypeError(
                f"adapter_names must be a list of names, one for each row of the batch, got {names!r}."
            )
        known = sorted({name for layer in self._layers() for name in layer.adapters})
        unknown = sorted(set(names) - {*known, BASE})
        if unknown:
            has = ", ".join(map(repr, known))
            raise ArgumentError(
                f"adapter_names has {', '.join(map(repr, unknown))}, and the model has {has} and {BASE!r} for none."
            )

    # -- merging -------------------------------------------------------------------------------------------------------

    def merge_adapter(
        self,
        adapter_names: list[str] | None = None,
        safe_merge: bool = False,
        *,
        keep_base: bool = True,
        untie: bool = False,
    ) -> None:
        """Put the adapters into the base weights; see `AdapterLayer.merge` and `check_untied`.

        Modules trained whole are not merged: those of the active adapter stay in use, with a warning where they are
        not those of `adapter_names`.
        """
        self._check_mergeable(adapter_names, untie)
        if adapter_names is not None:
            self._warn_of_other_modules(adapter_names)
        for layer in self._layers():
            layer.merge(safe_merge, adapter_names, keep_base=keep_base)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
        *,
        untie: bool = False,
    ) -> nn.Module:
        """The model with the adapters in its weights and without any of ours in it; see `check_untied`.

        Modules trained whole are those of `adapter_names`, as `use_whole_modules` chooses them.
        """
        self._check_mergeable(adapter_names, untie)
        if adapter_names is not None:
            self.use_whole_modules(adapter_names)
        return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def _warn_of_other_modules(self, adapter_names: list[str]) -> None:
        for path, module in self._whole_modules().items():
            owners = [name for name in adapter_names if name in module.modules_to_save]
            if owners[-1:] != module.active_adapters:
                used = ", ".join(map(repr, module.active_adapters)) or "no adapter"
                warnings.warn(
                    f"{path} is trained whole and stays that of {used}, not what was trained with the adapters that "
                    f"are merged; set_adapter({adapter_names[-1]!r}) first.",
                    stacklevel=3,
                )
                return

    def _check_mergeable(self, adapter_names: list[str] | None, untie: bool) -> None:
        """Refuse before any layer is merged."""
        for layer in self._layers():
            if any(name in layer.adapters for name in adapter_names or layer.active_adapters):
                layer.check_mergeable()
        self.check_untied(untie)

    def check_untied(self, untie: bool) -> None:
        """Refuse to merge into a weight that another module shares, or give the layer its own copy if `untie`.

        Raises
        ------
        ValueError
            If an adapted weight is tied (as an embedding and an output head often are) and `untie` is False.
        """
        owners: dict[int, list[str]] = {}
        for name, module in self.model.named_modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    owners.setdefault(id(parameter), []).append(name.removesuffix(".base_layer"))
        for layer in self._layers():
            base = layer.get_base_layer()
            names = owners.get(id(base.weight), [])
            if len(names) < 2:
                continue
            if not untie:
                raise ArgumentError(
                    f"{layer.path}: its weight is shared by {' and '.join(names)}, so that a merge would change them "
                    "all; merge with untie=True to give the adapted layer a weight of its own."
                )
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)
            if getattr(getattr(self.model, "config", None), "tie_word_embeddings", False):
                self.model.config.tie_word_embeddings = False


def _with_names(
    names: list[str], thread: int, module: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """The arguments of a layer with the names of this call; other threads call the model with names of their own."""
    return (args, kwargs | {"adapter_names": names}) if threading.get_ident() == thread else None


def register_with_peft(config: type[AdapterConfig], tuner: type[AdapterTuner]) -> None:
    """Make a method known to PEFT: `get_peft_model`, `save_pretrained` and `from_pretrained` take it from there.

    PEFT registers only members of its enumeration `PeftType`, so the method is first made one. Doing it again changes
    nothing.
    """
    name = config.method.upper()
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_, member._value_ = name, name
        type.__setattr__(PeftType, name, member)
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
    if PeftType[name] not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name=config.method, config_cls=config, model_cls=tuner)
