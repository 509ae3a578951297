"""Operations without a frozen form, by the reason why: what an error says where the output depends on one."""

from __future__ import annotations

import re

REASONS: tuple[tuple[str, str], ...] = (
    (
        "its gradient is not part of a forward pass",
        r".*_backward.*|.*_jvp|_fw_primal.*|_make_dual.*|_masked_scale|_standard_gamma_grad|_dirichlet_grad|slice_inverse",
    ),
    ("it updates parameters", r"_foreach.*|_fused_(adam|adamw|sgd|adagrad|muon|lion).*|_amp_.*|embedding_renorm"),
    (
        "it draws random numbers; make the model deterministic",
        r"bernoulli|binomial|cauchy|exponential|geometric|log_normal|multinomial|normal.*|poisson|uniform|random|rand.*|"
        r"native_dropout|_standard_gamma|_sample_dirichlet|fractional_max_pool[23]d|rrelu_with_noise.*|_philox.*|"
        r"_fill_mem_eff_dropout_mask",
    ),
    (
        "complex numbers are not followed",
        r"_?fft_.*|view_as_(real|complex).*|complex|polar|angle|_?conj.*|_?linalg_(eig|eigvals)|_spectral.*",
    ),
    (
        "it computes in a layout or a number format other than plain tensors",
        r".*quantize.*|.*sparse.*|.*nested.*|.*jagged.*|.*mkldnn.*|_cslt.*|.*int[48]pack.*|_dyn_quant.*|int_repr|"
        r"q_per_channel.*|_?values.*|_?(crow|ccol|row|col|)_?indices.*|_coalesced?|hspmm|_spdiags|_spsolve|_to_dense|"
        r"_convert_indices.*|to_padded_tensor|_scaled_(mm|grouped_mm).*|_mixed_dtypes_linear|_int_mm|"
        r"_pack_dense.*|_nnpack.*|_wrapped.*|_weight_int.*|_make_per.*|_empty_.*quantized|sspaddmm|smm",
    ),
    (
        "it is a fused kernel that hides its parts; call the function of torch.nn that it stands for",
        r".*attention.*|_transformer_encoder.*|_transform_bias.*|.*(cudnn|miopen|mps).*|.*_rnn.*|_thnn_.*|slow_conv.*|"
        r"_slow_conv.*|.*conv_depthwise.*|_convolution|convolution_overrideable|_add_relu|_addmm_activation|batch_norm_.*|"
        r"_batch_norm.*|_grid_sampler_2d_cpu_fallback|_triton.*|_fused.*|_weight_norm_interface|_embedding_bag.*|_grouped.*",
    ),
    (
        "it reads or changes memory in ways that hide which elements it means",
        r"set|resize.*|_resize.*|_copy_from.*|_new_zeros.*|_reshape_copy|_chunk_cat|.*unsafe_masked_index.*|segment_reduce|"
        r"_segment_reduce.*|to_padded.*|_shape_as_tensor",
    ),
    (
        "its output has no slope to hold, or none that is agreed on",
        r"hist.*|_hist.*|bincount|unique.*|_unique.*|nonzero.*|linspace|logspace|range|arange|tril_indices|nextafter|frexp|"
        r"hash_tensor|_functional.*|_(is_all|is_any)_true|gcd|lcm|__[il]?shift__|__.*shift__?|_foobar|_test_.*|_aminmax|"
        r"_compute_linear_combination|_has_.*|cartesian.*|eye|repeat_interleave|triu_indices",
    ),
    (
        "it is a loss, a smooth function of two arguments",
        r".*_loss.*|binary_cross_entropy.*|dist|_?cdist.*|_?pdist.*|_euclidean_dist|hypot|atan2|logaddexp2?|renorm|"
        r"native_norm|_ctc.*|igammac?",
    ),
    (
        "it is a product of many elements or a sum of exponentials, with no agreed affine form",
        r"prod|cumprod|_?logcumsumexp|logsumexp|linalg__powsum",
    ),
    (
        "it factorises or inverts a matrix, which no affine form replaces",
        r"_?linalg_.*|cholesky.*|_cholesky.*|geqrf|ormqr|triangular_solve|lu_unpack",
    ),
    (
        "it is a smooth function without an agreed affine form",
        r"a?(sin|cos|tan)h?|sinc|erf|erfc|erfinv|digamma|lgamma|mvlgamma|polygamma|i0|logit|special_.*",
    ),
)

_COMPILED = tuple((reason, re.compile(pattern)) for reason, pattern in REASONS)


def reason_to_refuse(name: str) -> str | None:
    """Why the operation `name` has no frozen form; None if nobody has thought about it."""
    return next((reason for reason, pattern in _COMPILED if pattern.fullmatch(name)), None)
