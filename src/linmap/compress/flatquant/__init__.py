"""FlatQuant: learnt affine transforms that flatten weights and activations before they are rounded to few bits.

Sun et al., "FlatQuant: Flatness Matters for LLM Quantization", ICML 2025 (arXiv 2410.09426).

Read in this order. What rounding is: `quantizer`, and `passes` for its gradients. What flattens: `transforms`
(Kronecker products of small matrices, Cayley's map). What a model consists of, while it is trained and after: `linear`
(a layer), `attention` (queries, keys, values and their cache), `block` (a decoder block, whose parts
`linmap.compress.architecture` finds). How it is calibrated: `config`, `teacher` (windows of text and what the original
makes of them), `proof`, `blockwise` (one block), `parallel` (all of them), `distillation`, `rounding`; `calibration`
puts these together, and `streaming` does so for a folder. What comes out: `pretrained` (in Transformers), `kernels` and
`triton_kernel` (what it runs), `native` (on a CPU), `decoding` and `llama` (a whole block for few tokens, and which
blocks). What it is judged by: `measures`, `baselines`.
"""

from linmap.compress.flatquant.baselines import BASELINES, SETTINGS, rotated
from linmap.compress.flatquant.calibration import CalibrationReport, calibrate, merge_model, student_model
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.measures import Flatness, flatness, perplexity, smooth_scale
from linmap.compress.flatquant.pretrained import in_format
from linmap.compress.flatquant.quantizer import dequantize, fake_quantize, pack_int4, quantize, unpack_int4
from linmap.compress.flatquant.rounding import gptq
from linmap.compress.flatquant.streaming import calibrate_folder
from linmap.compress.flatquant.transforms import cayley, kronecker_apply, kronecker_factors
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
