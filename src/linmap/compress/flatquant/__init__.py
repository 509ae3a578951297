"""FlatQuant: learnt affine transforms that flatten weights and activations before they are rounded to few bits.

Sun et al., "FlatQuant: Flatness Matters for LLM Quantization", ICML 2025 (arXiv 2410.09426).
"""
