// What a layer of FlatQuant computes for tokens: x (L (x) R), its codes, and products with weights in packed codes.
//
// A weight is read as it is stored: row-major, byte j holds codes 2j (low nibble) and 2j + 1 (high), or one code of up
// to eight bits. Codes of a token are two streams, those of even and those of odd columns, so that nibbles are never
// interleaved. Sums of integers are exact: every path gives the same bits, in the order of operations of
// `kernels.integer_linear`. Sums of floats do not depend on how many tokens are computed at once.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "lanes.h"

namespace linmap {

struct Weight {
    const uint8_t* codes;
    const float* scale;  // (rows, groups)
    const float* zero;   // (rows, groups) or null; with zeros, codes are unsigned
    const float* bias;   // (rows) or null
    int64_t rows, cols, groups;
    int bits;
    int64_t row_bytes() const { return bits <= 4 ? (cols + 1) / 2 : cols; }
};

inline int64_t padded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Bytes of a stream of codes of n columns: with weights of up to four bits there are two, even and odd columns; with
// wider ones a single one (`odd` is null). Streams of consecutive tokens lie this far apart.
inline int64_t stream_bytes(int64_t n, bool two) { return padded(two ? (n + 1) / 2 : n); }

// -- activations -----------------------------------------------------------------------------------------------------

// C = A B for C of M x n: every number is summed over k in order, whatever the tile. A[i][k] is at a[i * a_row + k * a_k].
template <int M>
inline void tile_product(const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t ldb, float* c, int64_t ldc,
                         int64_t K, int64_t n) {
    constexpr int W = Floats::WIDTH;
    for (int64_t j = 0; j < n; j += 2 * W) {
        const int64_t left = n - j, second = left - W;
        Floats acc[M][2];
        for (int i = 0; i < M; ++i) acc[i][0] = acc[i][1] = Floats::all(0);
        if (left >= 2 * W) {
            for (int64_t k = 0; k < K; ++k) {
                const Floats b0 = Floats::load(b + k * ldb + j), b1 = Floats::load(b + k * ldb + j + W);
#pragma GCC unroll 8
                for (int i = 0; i < M; ++i) {
                    const Floats x = Floats::all(a[i * a_row + k * a_k]);
                    acc[i][0] = Floats::fma(x, b0, acc[i][0]);
                    acc[i][1] = Floats::fma(x, b1, acc[i][1]);
                }
            }
            for (int i = 0; i < M; ++i) acc[i][0].store(c + i * ldc + j), acc[i][1].store(c + i * ldc + j + W);
        } else if (second > 0) {
            for (int64_t k = 0; k < K; ++k) {
                const Floats b0 = Floats::load(b + k * ldb + j), b1 = Floats::load(b + k * ldb + j + W, second);
#pragma GCC unroll 8
                for (int i = 0; i < M; ++i) {
                    const Floats x = Floats::all(a[i * a_row + k * a_k]);
                    acc[i][0] = Floats::fma(x, b0, acc[i][0]);
                    acc[i][1] = Floats::fma(x, b1, acc[i][1]);
                }
            }
            for (int i = 0; i < M; ++i) acc[i][0].store(c + i * ldc + j), acc[i][1].store(c + i * ldc + j + W, second);
        } else {
            for (int64_t k = 0; k < K; ++k) {
                const Floats b0 = left == W ? Floats::load(b + k * ldb + j) : Floats::load(b + k * ldb + j, left);
#pragma GCC unroll 8
                for (int i = 0; i < M; ++i)
                    acc[i][0] = Floats::fma(Floats::all(a[i * a_row + k * a_k]), b0, acc[i][0]);
            }
            for (int i = 0; i < M; ++i)
                left == W ? acc[i][0].store(c + i * ldc + j) : acc[i][0].store(c + i * ldc + j, left);
        }
    }
}

inline void small_product(const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t ldb, float* c,
                          int64_t ldc, int64_t M, int64_t K, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= M; i += 8) tile_product<8>(a + i * a_row, a_row, a_k, b, ldb, c + i * ldc, ldc, K, n);
    for (; i + 4 <= M; i += 4) tile_product<4>(a + i * a_row, a_row, a_k, b, ldb, c + i * ldc, ldc, K, n);
    for (; i < M; ++i) tile_product<1>(a + i * a_row, a_row, a_k, b, ldb, c + i * ldc, ldc, K, n);
}

// y = vec(L^T X R) of X = (x * channel_scale) as n1 x n2. L (n1 x n1) or R (n2 x n2) may be null, for the identity;
// scratch: 2 n1 n2 floats; y may not be x or scratch.
inline void kronecker_row(const float* x, const float* L, int64_t n1, const float* R, int64_t n2,
                          const float* channel_scale, float* y, float* scratch) {
    const int64_t n = n1 * n2;
    if (channel_scale != nullptr) {
        float* scaled = scratch + n;
        for (int64_t i = 0; i < n; ++i) scaled[i] = x[i] * channel_scale[i];
        x = scaled;
    }
    if (R != nullptr) {
        float* out = L == nullptr ? y : scratch;
        small_product(x, n2, 1, R, n2, out, n2, n1, n2, n2);
        x = out;
    }
    if (L != nullptr) small_product(L, 1, n1, x, n2, y, n2, n1, n1, n2);
    if (L == nullptr && R == nullptr) std::memcpy(y, x, static_cast<size_t>(n) * sizeof(float));
}

// Symmetric codes of a token, as `quantizer.quantize` per token: s = max(clip_max max(y, 0), -clip_min min(y, 0)) /
// (2^(bits - 1) - 1), or 1 for a token of zeros; codes clamp(round(y / s)), half to even. `odd` null: one stream.
// Streams are filled up with zeros to `stream_bytes`. A token with a NaN or an infinite number has codes 0 and a scale
// that is none or infinite, so that all its outputs are NaN.
inline void quantise_row(const float* y, int64_t n, float clip_max, float clip_min, int bits, int8_t* even, int8_t* odd,
                         float* scale, int32_t* sum) {
    constexpr int W = Floats::WIDTH;
    const int64_t bytes = stream_bytes(n, odd != nullptr), full = n / W * W;
    Floats high = Floats::all(0), low = Floats::all(0), seen = Floats::all(0);
    for (int64_t i = 0; i < n; i += W) {
        const Floats x = i < full ? Floats::load(y + i) : Floats::load(y + i, n - i);
        high = Floats::larger(high, x), low = Floats::smaller(low, x);
        seen = Floats::fma(x, Floats::all(0), seen);  // NaN once a number is NaN or infinite
    }
    const float largest = static_cast<float>((1 << (bits - 1)) - 1);
    float s = std::max(high.largest() * clip_max, -(low.smallest() * clip_min)) / largest;
    if (seen.has_nan()) {
        bool nan = false;
        for (int64_t i = 0; i < n; ++i) nan |= y[i] != y[i];
        *scale = nan ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
        std::memset(even, 0, static_cast<size_t>(bytes));
        if (odd != nullptr) std::memset(odd, 0, static_cast<size_t>(bytes));
        *sum = 0;
        return;
    }
    if (!(s > 0)) s = 1;
    *scale = s;
    const Floats step = Floats::all(s), top = Floats::all(largest), bottom = Floats::all(-largest - 1);
    int32_t total = 0;
    constexpr int64_t BLOCK = 128;
    for (int64_t start = 0; start < n; start += BLOCK) {
        alignas(64) int8_t codes[BLOCK];
        const int64_t stop = std::min(n, start + BLOCK), count = stop - start;
        for (int64_t i = start; i < stop; i += W) {
            const Floats x = i < full ? Floats::load(y + i) : Floats::load(y + i, n - i);
            Floats::smaller(Floats::larger(x / step, bottom), top).store_rounded(codes + i - start);
        }
        for (int64_t i = 0; i < count; ++i) total += codes[i];
        if (odd == nullptr) {
            std::memcpy(even + start, codes, static_cast<size_t>(count));
        } else {
            const int64_t pairs = count / 2;
            int8_t *e = even + start / 2, *o = odd + start / 2;
            for (int64_t i = 0; i < pairs; ++i) e[i] = codes[2 * i], o[i] = codes[2 * i + 1];
            if (count % 2) e[pairs] = codes[count - 1], o[pairs] = 0;
        }
    }
    const int64_t used = odd == nullptr ? n : (n + 1) / 2;
    std::memset(even + used, 0, static_cast<size_t>(bytes - used));
    if (odd != nullptr) std::memset(odd + used, 0, static_cast<size_t>(bytes - used));
    *sum = total;
}

// Codes of a row of keys or values as they are kept, two to a byte up to four bits: symmetric (`zero` null) as above, or
// s = (max(clip_max max y, 0) - min(clip_min min y, 0)) / (2^bits - 1), z = round(-min(...) / s), codes round(y / s) + z
// between 0 and 2^bits - 1, as `quantizer.quantize`. What is no number gives a scale that is none.
inline void encode_row(const float* y, int64_t n, float clip_max, float clip_min, int bits, uint8_t* codes, float* scale,
                       uint8_t* zero) {
    constexpr int W = Floats::WIDTH;
    const int64_t full = n / W * W;
    Floats high = Floats::all(0), low = Floats::all(0), seen = Floats::all(0);
    for (int64_t i = 0; i < n; i += W) {
        const Floats x = i < full ? Floats::load(y + i) : Floats::load(y + i, n - i);
        high = Floats::larger(high, x), low = Floats::smaller(low, x);
        seen = Floats::fma(x, Floats::all(0), seen);
    }
    const float largest = high.largest() * clip_max, smallest = low.smallest() * clip_min;
    const float top = static_cast<float>(zero == nullptr ? (1 << (bits - 1)) - 1 : (1 << bits) - 1);
    float s = (zero == nullptr ? std::max(largest, -smallest) : largest - smallest) / top;
    if (seen.has_nan()) {
        *scale = std::numeric_limits<float>::quiet_NaN();
        if (zero != nullptr) *zero = 0;
        std::memset(codes, 0, static_cast<size_t>(bits <= 4 ? (n + 1) / 2 : n));
        return;
    }
    if (!(s > 0)) s = 1;
    *scale = s;
    const float z = zero == nullptr ? 0.0f : std::nearbyint(-smallest / s), bottom = zero == nullptr ? -top - 1 : 0.0f;
    if (zero != nullptr) *zero = static_cast<uint8_t>(z);
    constexpr int64_t BLOCK = 128;
    for (int64_t start = 0; start < n; start += BLOCK) {
        uint8_t part[BLOCK] = {};
        const int64_t count = std::min(BLOCK, n - start);
        for (int64_t i = 0; i < count; ++i) {
            const float q = std::min(std::max(std::nearbyint(y[start + i] / s) + z, bottom), top);
            part[i] = static_cast<uint8_t>(static_cast<int32_t>(q));
        }
        if (bits > 4) {
            std::memcpy(codes + start, part, static_cast<size_t>(count));
        } else {
            for (int64_t i = 0; i < (count + 1) / 2; ++i)
                codes[start / 2 + i] = static_cast<uint8_t>((part[2 * i] & 15) | (part[2 * i + 1] << 4));
        }
    }
}

// -- products of codes -----------------------------------------------------------------------------------------------

// y = s_x s_w (q_x q_w) + b, in this order, of `rows` rows; `offset` is what the products are too large by.
LINMAP_INLINE inline void scaled_sums(const Weight& w, int64_t row, int64_t rows, const int32_t* found, uint32_t offset,
                                      float s_x, float* y) {
    const float* s_w = w.scale + row;
    for (int64_t r = 0; r < rows; ++r)
        y[r] = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(found[r]) - offset)) * s_x * s_w[r];
    if (w.bias != nullptr)
        for (int64_t r = 0; r < rows; ++r) y[r] += w.bias[row + r];
}

// Dots of R rows, each along its bytes, with T tokens: y[t * ldy + r].
template <int R, int T, bool NIBBLES>
inline void row_dots(const Weight& w, int64_t row, const int8_t* even, const int8_t* odd, int64_t stride,
                     const float* s, const int32_t* sum, float* y, int64_t ldy) {
    constexpr int W = Bytes::WIDTH, APART = T == 1 && NIBBLES ? 2 : 1;  // one token: two chains of sums a row
    const int64_t bytes = w.row_bytes(), full = bytes / W * W;
    const uint8_t* codes = w.codes + row * bytes;
    Bytes::Sums acc[T * APART][R];
    each<T * APART>([&](auto t) LINMAP_INLINE { each<R>([&](auto r) LINMAP_INLINE { acc[t][r] = Bytes::zero(); }); });
    auto step = [&](int64_t j, auto&& weight_at) LINMAP_INLINE {
        each<R>([&](auto r) LINMAP_INLINE {
            const Bytes q = weight_at(codes + r * bytes + j);
            if constexpr (NIBBLES) {
                const Bytes low = q.low(), high = q.high();
                each<T>([&](auto t) LINMAP_INLINE {
                    acc[t][r] = Bytes::dot4(acc[t][r], low, Bytes::load(even + t * stride + j));
                    acc[t + APART - 1][r] = Bytes::dot4(acc[t + APART - 1][r], high, Bytes::load(odd + t * stride + j));
                });
            } else {
                const Bytes wide = q.wide();
                each<T>([&](auto t) LINMAP_INLINE {
                    acc[t][r] = Bytes::dot8(acc[t][r], wide, Bytes::load(even + t * stride + j));
                });
            }
        });
    };
    for (int64_t j = 0; j < full; j += W) step(j, [](const uint8_t* p) LINMAP_INLINE { return Bytes::load(p); });
    if (full < bytes) step(full, [&](const uint8_t* p) LINMAP_INLINE { return Bytes::load(p, bytes - full); });
    constexpr uint32_t OFFSET = NIBBLES ? Bytes::OFFSET4 : Bytes::OFFSET8;
    each<T>([&](auto t) LINMAP_INLINE {
        int32_t found[R];
        if constexpr (APART == 2) each<R>([&](auto r) LINMAP_INLINE { acc[0][r] = Bytes::add(acc[0][r], acc[1][r]); });
        if constexpr (R % 4 == 0)
            each<R / 4>([&](auto r) LINMAP_INLINE {
                Bytes::totals(acc[t][4 * r], acc[t][4 * r + 1], acc[t][4 * r + 2], acc[t][4 * r + 3], found + 4 * r);
            });
        else
            each<R>([&](auto r) LINMAP_INLINE { found[r] = Bytes::total(acc[t][r]); });
        scaled_sums(w, row, R, found, OFFSET * static_cast<uint32_t>(sum[t]), s[t], y + t * ldy);
    });
}

// Asks for what is read soon: rows lie one behind the other, but each is too short for the processor to see that.
constexpr int64_t AHEAD = 1 << 14;
inline void ask_ahead(const uint8_t* codes, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(codes + AHEAD + i);
}

template <int T, bool NIBBLES>
inline void row_block(const Weight& w, int64_t first, int64_t last, const int8_t* even, const int8_t* odd,
                      int64_t stride, const float* s, const int32_t* sum, float* y, int64_t ldy) {
    constexpr int R = T == 1 ? 8 : 4;
    int64_t row = first;
    for (; row + R <= last; row += R) {
        ask_ahead(w.codes + row * w.row_bytes(), R * w.row_bytes());
        row_dots<R, T, NIBBLES>(w, row, even, odd, stride, s, sum, y + row, ldy);
    }
    for (; row < last; ++row) row_dots<1, T, NIBBLES>(w, row, even, odd, stride, s, sum, y + row, ldy);
}

template <bool NIBBLES>
inline void few_tokens(const Weight& w, int64_t first, int64_t last, const int8_t* even, const int8_t* odd,
                       int64_t stride, const float* s, const int32_t* sum, int64_t tokens, float* y, int64_t ldy) {
    constexpr int T = Bytes::WIDTH == 64 ? 4 : 2;
    // some rows stay in the cache for all tokens
    const int64_t block = std::max<int64_t>(16, (1 << 15) / std::max<int64_t>(1, w.row_bytes()) / 16 * 16);
    for (int64_t start = first; start < last; start += block) {
        const int64_t stop = std::min(last, start + block);
        int64_t t = 0;
        for (; t + T <= tokens; t += T)
            row_block<T, NIBBLES>(w, start, stop, even + t * stride, odd ? odd + t * stride : odd, stride, s + t,
                                  sum + t, y + t * ldy, ldy);
        for (; t < tokens; ++t)
            row_block<1, NIBBLES>(w, start, stop, even + t * stride, odd ? odd + t * stride : odd, stride, s + t,
                                  sum + t, y + t * ldy, ldy);
    }
}

// Some rows of a weight, unpacked for many tokens: word by word (four codes of a row), all rows of a vector side by side.
struct Panel {
    static constexpr int VECTORS = 2, ROWS = VECTORS * Bytes::LANES;
    static int64_t words(const Weight& w) { return (w.row_bytes() + 3) / 4; }
    static int64_t size(const Weight& w) { return words(w) * VECTORS * Bytes::WIDTH * (w.bits <= 4 ? 2 : 1); }

    template <bool NIBBLES>
    static void unpack(const Weight& w, int64_t row, uint8_t* panel) {
        const int64_t bytes = w.row_bytes(), n = words(w), rows = std::min<int64_t>(ROWS, w.rows - row);
        uint8_t* odd = panel + n * VECTORS * Bytes::WIDTH;
        for (int64_t word = 0; word < n; ++word) {
            alignas(64) uint32_t side_by_side[ROWS] = {};
            const uint8_t* p = w.codes + row * bytes + 4 * word;
            const int64_t left = bytes - 4 * word;
            if (rows == ROWS && left >= 4)
                for (int64_t r = 0; r < ROWS; ++r) std::memcpy(side_by_side + r, p + r * bytes, 4);
            else
                for (int64_t r = 0; r < rows; ++r)
                    std::memcpy(side_by_side + r, p + r * bytes, static_cast<size_t>(std::min<int64_t>(4, left)));
            for (int v = 0; v < VECTORS; ++v) {
                const Bytes q = Bytes::load(side_by_side + v * Bytes::LANES);
                const int64_t at = (word * VECTORS + v) * Bytes::WIDTH;
                if constexpr (NIBBLES) {
                    q.low().store(panel + at);
                    q.high().store(odd + at);
                } else {
                    q.wide().store(panel + at);
                }
            }
        }
    }
};

// Products of a panel with T tokens.
template <int T, bool NIBBLES>
inline void panel_tile(const Weight& w, int64_t row, const uint8_t* panel, const int8_t* even, const int8_t* odd,
                       int64_t stride, const float* s, const int32_t* sum, float* y, int64_t ldy) {
    constexpr int V = Panel::VECTORS, W = Bytes::WIDTH;
    const int64_t words = Panel::words(w), rows = std::min<int64_t>(Panel::ROWS, w.rows - row);
    Bytes::Sums acc[T][V];
    each<T>([&](auto t) LINMAP_INLINE { each<V>([&](auto v) LINMAP_INLINE { acc[t][v] = Bytes::zero(); }); });
    auto multiply = [&](const int8_t* x) LINMAP_INLINE {
        for (int64_t word = 0; word < words; ++word, panel += V * W, x += 4) {
            Bytes q[V];
            each<V>([&](auto v) LINMAP_INLINE { q[v] = Bytes::load(panel + v * W); });
            each<T>([&](auto t) LINMAP_INLINE {
                const Bytes four = Bytes::four(x + t * stride);
                each<V>([&](auto v) LINMAP_INLINE {
                    acc[t][v] = NIBBLES ? Bytes::dot4(acc[t][v], q[v], four) : Bytes::dot8(acc[t][v], q[v], four);
                });
            });
        }
    };
    multiply(even);
    if (NIBBLES) multiply(odd);
    constexpr uint32_t OFFSET = NIBBLES ? Bytes::OFFSET4 : Bytes::OFFSET8;
    each<T>([&](auto t) LINMAP_INLINE {
        alignas(64) int32_t found[Panel::ROWS];
        each<V>([&](auto v) LINMAP_INLINE { Bytes::store(found + v * Bytes::LANES, acc[t][v]); });
        scaled_sums(w, row, rows, found, OFFSET * static_cast<uint32_t>(sum[t]), s[t], y + t * ldy);
    });
}

template <bool NIBBLES>
inline void many_tokens(const Weight& w, int64_t row, uint8_t* panel, const int8_t* even, const int8_t* odd,
                        int64_t stride, const float* s, const int32_t* sum, int64_t tokens, float* y, int64_t ldy) {
    constexpr int T = Bytes::WIDTH == 64 ? 12 : 4;
    Panel::unpack<NIBBLES>(w, row, panel);
    const int8_t* o = NIBBLES ? odd : even;
    int64_t t = 0;
    for (; t + T <= tokens; t += T)
        panel_tile<T, NIBBLES>(w, row, panel, even + t * stride, o + t * stride, stride, s + t, sum + t,
                               y + t * ldy + row, ldy);
    for (; t + 4 <= tokens; t += 4)
        panel_tile<4, NIBBLES>(w, row, panel, even + t * stride, o + t * stride, stride, s + t, sum + t,
                               y + t * ldy + row, ldy);
    for (; t < tokens; ++t)
        panel_tile<1, NIBBLES>(w, row, panel, even + t * stride, o + t * stride, stride, s + t, sum + t,
                               y + t * ldy + row, ldy);
}

constexpr int64_t SMALL = 1 << 17;  // products of codes that one thread computes faster than two start
#ifndef LINMAP_FEW
#define LINMAP_FEW 16
#endif
constexpr int64_t FEW_TOKENS = LINMAP_FEW;  // up to here, unpacking a panel would take longer than it saves

inline int threads_for(int64_t work, int threads) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, work / SMALL)));
}

template <bool NIBBLES>
inline void code_product_of(const Weight& w, const int8_t* even, const int8_t* odd, const float* s, const int32_t* sum,
                            int64_t tokens, float* y, int64_t ldy, int threads) {
    const int64_t stride = stream_bytes(w.cols, NIBBLES), blocks = (w.rows + 15) / 16;
    threads = threads_for(w.rows * w.cols * tokens, threads);
    if (tokens <= FEW_TOKENS) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
        for (int part = 0; part < threads; ++part)
            few_tokens<NIBBLES>(w, blocks * part / threads * 16, std::min(w.rows, blocks * (part + 1) / threads * 16),
                                even, odd, stride, s, sum, tokens, y, ldy);
        return;
    }
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        static thread_local std::vector<uint8_t> panel;
        panel.resize(static_cast<size_t>(Panel::size(w)));
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < w.rows; row += Panel::ROWS)
            many_tokens<NIBBLES>(w, row, panel.data(), even, odd, stride, s, sum, tokens, y, ldy);
    }
}

// y[t * ldy + r] = s[t] s_w[r] (q_x q_w) + b[r]; `even` and `odd` hold the streams of all tokens, `stream_bytes` apart.
// One scale a row, no zeros. `odd` is not read for weights of more than four bits.
inline void code_product(const Weight& w, const int8_t* even, const int8_t* odd, const float* s, const int32_t* sum,
                         int64_t tokens, float* y, int64_t ldy, int threads) {
    if (w.bits <= 4)
        code_product_of<true>(w, even, odd, s, sum, tokens, y, ldy, threads);
    else
        code_product_of<false>(w, even, nullptr, s, sum, tokens, y, ldy, threads);
}

// -- products of floats with codes -----------------------------------------------------------------------------------

// Codes become numbers in registers. A step is CHUNK columns, in the order in which the codes of four bytes, a word, lie in
// the lanes of a vector: number i of lane l is column l * PER + i of the step (PER = 8 nibbles or 4 bytes of a word). The
// tokens are put in this order once. Groups of a multiple of PER columns have lanes of their own.
struct Order {
    static constexpr int LANES = Floats::WIDTH;
    int64_t per, chunk, steps;
    explicit Order(const Weight& w) : per(w.bits <= 4 ? 8 : 4), chunk(per * LANES), steps((w.cols + chunk - 1) / chunk) {}
    int64_t numbers() const { return steps * chunk; }

    void put(const float* x, int64_t n, float* out) const {
        for (int64_t step = 0; step < steps; ++step, x += chunk, out += chunk, n -= chunk) {
            if (n >= chunk) {
                for (int64_t i = 0; i < per; ++i)
                    for (int64_t l = 0; l < LANES; ++l) out[i * LANES + l] = x[l * per + i];
            } else {
                for (int64_t i = 0; i < per; ++i)
                    for (int64_t l = 0; l < LANES; ++l)
                        out[i * LANES + l] = l * per + i < n ? x[l * per + i] : 0.0f;
            }
        }
    }
};

// Products of R rows with T tokens, summed lane by lane in the order of the steps, then over the lanes: the same for any T.
// GROUPS: each step's sums take the scales of their lanes; otherwise there is one scale a row, and no zeros.
template <int R, int T, int BITS, bool SIGNED, bool GROUPS>
inline void float_tile(const Weight& w, int64_t row, const float* x, int64_t stride, const float* lanes, float* y,
                       int64_t ldy) {
    constexpr int W = Floats::WIDTH, PER = BITS == 4 ? 8 : 4, CHUNK = PER * W;
    const int64_t bytes = w.row_bytes(), n = w.cols, of_row = (n + CHUNK - 1) / CHUNK * 2 * W;
    const uint8_t* codes = w.codes + row * bytes;
    static_assert(SIGNED || GROUPS);
    Floats acc[T][R];
    each<T>([&](auto t) LINMAP_INLINE { each<R>([&](auto r) LINMAP_INLINE { acc[t][r] = Floats::all(0); }); });
    for (int64_t at = 0; at < n; at += CHUNK) {
        Words words[R];
        const int64_t first = BITS == 4 ? at / 2 : at;
        each<R>([&](auto r) LINMAP_INLINE {
            const uint8_t* p = codes + r * bytes + first;
            words[r] = bytes - first >= 4 * W ? Words::load(p) : Words::load(p, bytes - first);
        });
        Floats part[T][R], ones[T];
        each<T>([&](auto t) LINMAP_INLINE {
            ones[t] = Floats::all(0);
            each<R>([&](auto r) LINMAP_INLINE { part[t][r] = GROUPS ? Floats::all(0) : acc[t][r]; });
        });
        each<PER>([&](auto i) LINMAP_INLINE {
            Floats number[T];
            each<T>([&](auto t) LINMAP_INLINE {
                number[t] = Floats::load(x + t * stride + at + i * W);
                if (!SIGNED) ones[t] = ones[t] + number[t];
            });
            each<R>([&](auto r) LINMAP_INLINE {
                const Floats q = words[r].template number<i, BITS, SIGNED>();
                each<T>([&](auto t) LINMAP_INLINE { part[t][r] = Floats::fma(q, number[t], part[t][r]); });
            });
        });
        each<R>([&](auto r) LINMAP_INLINE {
            if constexpr (GROUPS) {
                const float* l = lanes + r * of_row + at / CHUNK * 2 * W;
                const Floats scale = Floats::load(l), shift = Floats::load(l + W);
                each<T>([&](auto t) LINMAP_INLINE {
                    acc[t][r] = Floats::fma(part[t][r], scale, acc[t][r]);
                    if (!SIGNED) acc[t][r] = Floats::fma(ones[t], shift, acc[t][r]);
                });
            } else {
                each<T>([&](auto t) LINMAP_INLINE { acc[t][r] = part[t][r]; });
            }
        });
    }
    each<T>([&](auto t) LINMAP_INLINE {
        each<R>([&](auto r) LINMAP_INLINE {
            float sum = acc[t][r].sum();
            if (!GROUPS) sum *= w.scale[row + r];
            y[t * ldy + r] = w.bias == nullptr ? sum : sum + w.bias[row + r];
        });
    });
}

// The scale and -scale zero of each lane of each step of a row.
inline void scales_of_lanes(const Weight& w, int64_t row, int64_t per, float* out) {
    constexpr int W = Floats::WIDTH;
    const int64_t size = w.cols / w.groups;
    const float *scale = w.scale + row * w.groups, *zero = w.zero == nullptr ? nullptr : w.zero + row * w.groups;
    int64_t g = 0;
    for (int64_t at = 0; at < w.cols; at += per * W, out += 2 * W)
        for (int64_t l = 0; l < W; ++l) {
            while (g + 1 < w.groups && at + l * per >= (g + 1) * size) ++g;
            out[l] = scale[g];
            out[W + l] = zero == nullptr ? 0.0f : -scale[g] * zero[g];
        }
}

template <int BITS, bool SIGNED, bool GROUPS>
inline void float_rows(const Weight& w, int64_t first, int64_t last, const float* x, int64_t stride, int64_t tokens,
                       float* y, int64_t ldy) {
    constexpr int R = Floats::WIDTH == 16 && !GROUPS ? 4 : 2, T = 4, PER = BITS == 4 ? 8 : 4;
    constexpr int64_t CHUNK = PER * Floats::WIDTH;
    const int64_t of_row = (w.cols + CHUNK - 1) / CHUNK * 2 * Floats::WIDTH;
    static thread_local std::vector<float> lanes;
    const int64_t block = std::max<int64_t>(R, (1 << 15) / std::max<int64_t>(1, w.row_bytes()) / R * R);
    for (int64_t start = first; start < last; start += block) {
        const int64_t stop = std::min(last, start + block);
        const int64_t even = start + (stop - start) / R * R, full = tokens / T * T;
        if (GROUPS) {
            lanes.resize(static_cast<size_t>((stop - start) * of_row));
            for (int64_t r = start; r < stop; ++r) scales_of_lanes(w, r, PER, lanes.data() + (r - start) * of_row);
        }
        const float* scales = lanes.data();
        const auto of = [=](int64_t r) { return GROUPS ? scales + (r - start) * of_row : nullptr; };
        for (int64_t t = 0; t < full; t += T)
            for (int64_t r = start; r < even; r += R)
                float_tile<R, T, BITS, SIGNED, GROUPS>(w, r, x + t * stride, stride, of(r), y + t * ldy + r, ldy);
        for (int64_t t = full; t < tokens; ++t)
            for (int64_t r = start; r < even; r += R) {
                ask_ahead(w.codes + r * w.row_bytes(), R * w.row_bytes());
                float_tile<R, 1, BITS, SIGNED, GROUPS>(w, r, x + t * stride, stride, of(r), y + t * ldy + r, ldy);
            }
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t r = even; r < stop; ++r)
                float_tile<1, 1, BITS, SIGNED, GROUPS>(w, r, x + t * stride, stride, of(r), y + t * ldy + r, ldy);
    }
}

// -- products of floats with codes of eight bits ---------------------------------------------------------------------

// A number as three digits of eight bits, which products of codes take: x = s (2^16 d_0 + 2^8 d_1 + d_2), with s such that
// the largest number of a token has 23 bits. That is as exact as sums in floats, and takes a third of their time.
struct Digits {
    static constexpr int COUNT = 3;
    static constexpr float MOST = 127 * 65536;  // what rounding adds to it has a first digit of 127 still
    std::vector<int8_t> digits;  // [token][digit][stride]
    std::vector<float> scale;    // [token][digit]
    std::vector<int32_t> sum;
    int64_t stride = 0;

    void resize(int64_t tokens, int64_t n) {
        stride = stream_bytes(n, false);
        digits.assign(static_cast<size_t>(tokens * COUNT * stride), 0);
        scale.resize(static_cast<size_t>(tokens * COUNT));
        sum.resize(static_cast<size_t>(tokens * COUNT));
    }

    void put(const float* x, int64_t n, int64_t t) {  // a number that is none makes all products so
        float largest = 0, seen = 0;
        for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i])), seen += x[i] * 0;
        const float s = std::max(largest / MOST, std::numeric_limits<float>::min());
        int8_t *first = digits.data() + t * COUNT * stride, *second = first + stride, *third = second + stride;
        int32_t sums[COUNT] = {};
        for (int64_t i = 0; i < n && seen == 0; ++i) {
            int32_t q = static_cast<int32_t>(std::nearbyint(x[i] / s));
            third[i] = static_cast<int8_t>(q), q = (q - third[i]) >> 8;
            second[i] = static_cast<int8_t>(q), q = (q - second[i]) >> 8;
            first[i] = static_cast<int8_t>(q);
            sums[0] += first[i], sums[1] += second[i], sums[2] += third[i];
        }
        for (int d = 0; d < COUNT; ++d) {
            scale[t * COUNT + d] = (seen == 0 ? s : seen) * static_cast<float>(1 << 8 * (COUNT - 1 - d));
            sum[t * COUNT + d] = sums[d];
        }
    }
};

template <int R>
inline void digit_dots(const Weight& w, int64_t row, const Digits& x, int64_t t, float* y) {
    constexpr int D = Digits::COUNT;
    float parts[D * R];
    row_dots<R, D, false>(w, row, x.digits.data() + t * D * x.stride, nullptr, x.stride, x.scale.data() + t * D,
                          x.sum.data() + t * D, parts, R);
    for (int r = 0; r < R; ++r) y[r] = parts[r] + (parts[R + r] + parts[2 * R + r]);
}

inline void digit_rows(const Weight& w, int64_t first, int64_t last, const Digits& x, int64_t tokens, float* y,
                       int64_t ldy) {
    constexpr int R = 4;
    Weight plain = w;
    plain.bias = nullptr;
    const int64_t block = std::max<int64_t>(R, (1 << 14) / std::max<int64_t>(1, w.row_bytes()) / R * R);
    for (int64_t start = first; start < last; start += block) {
        const int64_t stop = std::min(last, start + block);  // some rows stay in the cache for all tokens
        for (int64_t t = 0; t < tokens; ++t) {
            float* out = y + t * ldy;
            int64_t row = start;
            for (; row + R <= stop; row += R) {
                if (t == 0) ask_ahead(w.codes + row * w.row_bytes(), R * w.row_bytes());
                digit_dots<R>(plain, row, x, t, out + row);
            }
            for (; row < stop; ++row) digit_dots<1>(plain, row, x, t, out + row);
            for (row = start; row < stop && w.bias != nullptr; ++row) out[row] += w.bias[row];
        }
    }
}

inline void digit_product(const Weight& w, const float* x, int64_t tokens, float* y, int64_t ldy, int threads) {
    static thread_local Digits kept;
    Digits& digits = kept;
    digits.resize(tokens, w.cols);
    threads = threads_for(3 * w.rows * w.cols * tokens, threads);
    const int64_t blocks = (w.rows + 15) / 16;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; ++t) digits.put(x + t * w.cols, w.cols, t);
#pragma omp for schedule(static)
        for (int part = 0; part < threads; ++part)
            digit_rows(w, blocks * part / threads * 16, std::min(w.rows, blocks * (part + 1) / threads * 16), digits,
                       tokens, y, ldy);
    }
}

// Whether groups of columns have lanes of their own.
inline bool groups_fit(const Weight& w) { return w.groups == 1 || (w.cols / w.groups) % (w.bits <= 4 ? 8 : 4) == 0; }

// y[t * ldy + r] = x_t . s_w (q_w - z_w) + b[r] for tokens x of w.cols floats each; `groups_fit(w)` must hold.
inline void float_product(const Weight& w, const float* x, int64_t tokens, float* y, int64_t ldy, int threads) {
    if (w.bits > 4 && w.zero == nullptr && w.groups == 1) return digit_product(w, x, tokens, y, ldy, threads);
    static thread_local std::vector<float> kept;
    const Order order(w);
    const int64_t stride = order.numbers(), blocks = (w.rows + 3) / 4;
    kept.resize(static_cast<size_t>(tokens * stride));
    float* ordered = kept.data();
    threads = threads_for(4 * w.rows * w.cols * tokens, threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; ++t) order.put(x + t * w.cols, w.cols, ordered + t * stride);
#pragma omp for schedule(static)
        for (int part = 0; part < threads; ++part) {
            const int64_t first = blocks * part / threads * 4, last = std::min(w.rows, blocks * (part + 1) / threads * 4);
            auto run = [&](auto bits, auto is_signed, auto groups) {
                float_rows<bits, is_signed, groups>(w, first, last, ordered, stride, tokens, y, ldy);
            };
            auto sizes = [&](auto bits) {
                if (w.zero != nullptr)
                    run(bits, std::false_type{}, std::true_type{});
                else if (w.groups > 1)
                    run(bits, std::true_type{}, std::true_type{});
                else
                    run(bits, std::true_type{}, std::false_type{});
            };
            if (w.bits <= 4)
                sizes(std::integral_constant<int, 4>{});
            else
                sizes(std::integral_constant<int, 8>{});
        }
    }
}

}  // namespace linmap
