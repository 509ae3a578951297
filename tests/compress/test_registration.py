"""Transformers knows linmap's quantizer, whichever is imported first."""

import subprocess
import sys

import pytest

from linmap.compress.flatquant.config import METHOD
from linmap.compress.registration import METHOD as REGISTERED

KNOWN = """
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING, AutoHfQuantizer
from transformers.quantizers.auto import AutoQuantizationConfig
settings = {"quant_method": "linmap_flatquant", "w_bits": 3, "linmap_format": 1}
config = AutoQuantizationConfig.from_dict(settings)
quantizer = AutoHfQuantizer.from_config(settings)
from linmap.compress.flatquant.config import ProvenConfig
from linmap.compress.flatquant.pretrained import FlatQuantizer
assert type(config) is ProvenConfig and config.w_bits == 3
assert type(quantizer) is FlatQuantizer and quantizer.quantization_config == config
"""


KEEPS_ITS_LOADER = """
import inspect, sys
import transformers.quantizers.auto as auto
assert "AUTO_QUANTIZER_MAPPING" in inspect.getsource(auto)
assert sum(type(finder).__name__ == "AfterImport" for finder in sys.meta_path) == 1
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "first",
    [
        pytest.param("import linmap, transformers", marks=pytest.mark.slow),
        pytest.param("import transformers, linmap", marks=pytest.mark.slow),
        pytest.param("import transformers.quantizers.auto, linmap", marks=pytest.mark.slow),
        pytest.param("import linmap\nfrom transformers import AutoModelForCausalLM", marks=pytest.mark.slow),
        pytest.param("from transformers import AutoModelForCausalLM\nimport linmap", marks=pytest.mark.slow),
        pytest.param("from linmap.compress.registration import register\nregister()", marks=pytest.mark.slow),
        pytest.param(
            "import transformers as t\nfrom linmap.compress.registration import register\n_ = t.AutoModel\nregister()",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_quantizer_is_known(first: str) -> None:
    """The one order that is not slow, linmap first, is in test_a_fresh_process_gives_the_same."""
    run(first + KNOWN + (KEEPS_ITS_LOADER if first.startswith("import linmap, transformers") else ""))


def test_importing_linmap_imports_nothing_heavy() -> None:
    run("import sys, linmap\nassert not {'torch', 'transformers', 'numpy'} & set(sys.modules), set(sys.modules)")


def test_the_names_agree() -> None:
    assert METHOD == REGISTERED
