"""FlatQuant: learnt affine transforms that flatten weights and activations before they are rounded to few bits.

Sun et al., "FlatQuant: Flatness Matters for LLM Quantization", ICML 2025 (arXiv 2410.09426).
"""

from linmap.compress.flatquant.baselines import BASELINES, SETTINGS, rotated
from linmap.compress.flatquant.calibration import CalibrationReport, calibrate, merge_model, student_model
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.factors import cayley, kronecker_apply, kronecker_factors
from linmap.compress.flatquant.flatness import Flatness, flatness, smooth_scale
from linmap.compress.flatquant.gptq import gptq
from linmap.compress.flatquant.perplexity import perplexity
from linmap.compress.flatquant.pretrained import in_format
from linmap.compress.flatquant.quantized_linear import QuantizedLinear
from linmap.compress.flatquant.quantizer import dequantize, fake_quantize, pack_int4, quantize, unpack_int4
from linmap.compress.flatquant.streaming import calibrate_folder
from linmap.maps.hadamard import hadamard_factors

__all__ = [
    "BASELINES",
    "SETTINGS",
    "CalibrationReport",
    "FlatQuantConfig",
    "Flatness",
    "QuantizedLinear",
    "calibrate",
    "calibrate_folder",
    "cayley",
    "dequantize",
    "fake_quantize",
    "flatness",
    "gptq",
    "hadamard_factors",
    "in_format",
    "kronecker_apply",
    "kronecker_factors",
    "merge_model",
    "pack_int4",
    "perplexity",
    "quantize",
    "rotated",
    "smooth_scale",
    "student_model",
    "unpack_int4",
]
