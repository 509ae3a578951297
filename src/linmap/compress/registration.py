"""Transformers learns to load models that linmap has quantised, without `import linmap` importing Transformers.

Where Transformers is there already, its tables of quantizers get our entries at once; else right after its module of
those tables is imported. The entries are stand-ins, which import linmap's quantizer when a model asks for it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

METHOD = "linmap_flatquant"
TABLES = "transformers.quantizers.auto"


def register() -> None:
    """Add our quantizer now, or after the import of Transformers; calling it again changes nothing."""
    if TABLES in sys.modules:
        add_quantizer(sys.modules[TABLES])
    elif not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())


class AfterImport:
    """A finder that leaves the finding to the others, and has `add_quantizer` called after the import."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != TABLES:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                add_quantizer(module)

            spec.loader.exec_module = execute_and_add
        return spec


def add_quantizer(tables: Any) -> None:
    """Put stand-ins for the config and the quantizer into the tables of Transformers."""
    if METHOD in tables.AUTO_QUANTIZER_MAPPING:
        return

    class Config(tables.QuantizationConfigMixin):
        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            config = import_module("linmap.compress.flatquant.config")
            return config.ProvenConfig.from_dict(config_dict, *args, **kwargs)

    class Quantizer(tables.HfQuantizer):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return import_module("linmap.compress.flatquant.pretrained").FlatQuantizer(*args, **kwargs)

    tables.register_quantization_config(METHOD)(Config)
    tables.register_quantizer(METHOD)(Quantizer)
