"""What the quantised model runs: transform, quantise and pack in one pass, and products with packed 4-bit weights.

References
----------
Sun et al., "FlatQuant: Flatness Matters for LLM Quantization", ICML 2025, section 3.3 and appendix B.
"""

from linmap.compress.flatquant.kernels.activations import quantize_pack, transform_quantize_pack
from linmap.compress.flatquant.kernels.products import int4_linear, integer_linear, weight_only_linear

__all__ = ["int4_linear", "integer_linear", "quantize_pack", "transform_quantize_pack", "weight_only_linear"]
