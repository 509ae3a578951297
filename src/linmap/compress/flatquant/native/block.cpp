// Decoder blocks of a quantised model for few tokens: norms, transforms, products of codes, rotary embedding, the cache
// and attention over it. `linmap.compress.flatquant.decoding` fills the structures below and checks them.
//
// Sections 3.2 and 3.3 of Sun et al., "FlatQuant: Flatness Matters for LLM Quantization", ICML 2025.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "codes.h"
#include "team.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace linmap {
namespace {

// -- what Python fills -----------------------------------------------------------------------------------------------

struct Transform {  // x -> vec(L^T X R) of x * scale as left x right; a null matrix is the identity
    const float* scale;
    const float* left_matrix;
    const float* right_matrix;
    int64_t left, right;
};

struct Rounding {  // with a scale for each token (and head); 16 bits: none
    const float* max_logit;  // of the clipping; null: none
    const float* min_logit;
    int64_t bits, symmetric;
};

struct Linear {
    Weight weight;
    Rounding input;
    int64_t multiplies_codes;  // else numbers are multiplied, rounded before
};

struct Norm {
    const float* gain;  // null: there is none
    double epsilon;
};

}  // namespace

struct Block {
    int64_t hidden, heads, kv_heads, head_dim, intermediate;
    double scaling;
    Norm attention_norm, mlp_norm, query_norm, key_norm;
    Transform attention, output, mlp, down;
    Linear q, k, v, o, gate, up, down_projection;
    const float* key_matrix;  // P_h
    const float* query_matrix;  // P_h^-T
    Rounding query, key, value;
};

struct Part {  // of a cache: (batch, heads, room, last), its last two dimensions without gaps
    void* data;
    int64_t batch_stride, head_stride;
};

struct Store {  // `attention.Tokens`
    Part codes, scale, zero;
    int64_t start, stop;  // of the tokens before this step
};

enum MaskKind : int64_t { NONE = 0, BOOLEAN = 1, ADDED = 2 };

struct Step {
    const float* x;  // (batch, tokens, hidden)
    float* y;
    int64_t batch, tokens, threads;
    const float* cosine;  // (batch or 1, tokens, head_dim)
    const float* sine;
    int64_t cosine_batch_stride, sine_batch_stride;
    const void* mask;  // (batch or 1, 1, tokens, all tokens)
    int64_t mask_kind, mask_batch_stride, mask_row_stride, mask_column_stride;
    Store keys, values;
};

struct Half {  // numbers in bfloat16 or float16, which blocks read in float32
    const uint16_t* from;
    float* to;
    int64_t count, is_float16;
};

struct Stack {  // blocks one behind the other, and the norm behind them, if it has a gain
    const Block* const* blocks;
    int64_t count;
    Norm norm;
    const Half* halves;
    int64_t halves_count;
};

namespace {

constexpr int64_t CHUNK = 64;  // tokens of the cache that are decoded at once
constexpr int64_t ROWS = Panel::ROWS;  // of a weight, that a thread takes at least
constexpr int64_t QUERIES = 96;  // that go through a chunk together, where there are many tokens

// -- small functions -------------------------------------------------------------------------------------------------

inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
inline float share(const float* logit) { return logit ? sigmoid(*logit) : 1.0f; }

// e^x to a unit in the last place or two; loops over it become vector instructions
inline float exponential(float x) {
    x = x > 88.7f ? 88.7f : x;
    x = x < -87.3f ? -87.3f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // its low bits hold round(x / log 2)
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    const int32_t exponent = static_cast<int32_t>(static_cast<uint32_t>(bits) << 23) + 0x3f800000;
    float power;
    std::memcpy(&power, &exponent, 4);
    return p * power;
}

void silu_times(float* gate, const float* up, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const float e = exponential(-gate[i]);
        gate[i] = gate[i] / (1.0f + e) * up[i];
    }
}

inline float dot(const float* a, const float* b, int64_t n) {
    constexpr int W = Floats::WIDTH;
    Floats sum = Floats::all(0);
    int64_t i = 0;
    for (; i + W <= n; i += W) sum = Floats::fma(Floats::load(a + i), Floats::load(b + i), sum);
    if (i < n) sum = Floats::fma(Floats::load(a + i, n - i), Floats::load(b + i, n - i), sum);
    return sum.sum();
}

inline float total(const float* x, int64_t n) {
    constexpr int W = Floats::WIDTH;
    Floats sum = Floats::all(0);
    int64_t i = 0;
    for (; i + W <= n; i += W) sum = sum + Floats::load(x + i);
    if (i < n) sum = sum + Floats::load(x + i, n - i);
    return sum.sum();
}

// As `torch.amax`: a number that is none stays
inline float largest_of(const float* x, int64_t n) {
    constexpr int LANES = 16;
    float best[LANES];
    std::fill(best, best + LANES, -INFINITY);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; ++l) best[l] = x[i + l] > best[l] || x[i + l] != x[i + l] ? x[i + l] : best[l];
    for (; i < n; ++i) best[0] = x[i] > best[0] || x[i] != x[i] ? x[i] : best[0];
    for (int l = 1; l < LANES; ++l) best[0] = best[l] > best[0] || best[l] != best[l] ? best[l] : best[0];
    return best[0];
}

// y += sum_m a[m] x_m for M rows x_m that lie `stride` apart
template <int M>
inline void add_rows(const float* a, const float* x, int64_t stride, int64_t n, float* y) {
    constexpr int W = Floats::WIDTH;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        Floats sum = Floats::load(y + i);
        for (int m = 0; m < M; ++m) sum = Floats::fma(Floats::all(a[m]), Floats::load(x + m * stride + i), sum);
        sum.store(y + i);
    }
    if (i == n) return;
    Floats sum = Floats::load(y + i, n - i);
    for (int m = 0; m < M; ++m) sum = Floats::fma(Floats::all(a[m]), Floats::load(x + m * stride + i, n - i), sum);
    sum.store(y + i, n - i);
}

// y = sum_m a[m] x_m
void weighted_sum(const float* a, const float* x, int64_t count, int64_t n, float* y) {
    std::fill(y, y + n, 0.0f);
    int64_t m = 0;
    for (; m + 8 <= count; m += 8) add_rows<8>(a + m, x + m * n, n, n, y);
    for (; m < count; ++m) add_rows<1>(a + m, x + m * n, n, n, y);
}

void normalise(const float* x, const Norm& norm, int64_t n, float* y) {
    const float factor = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + static_cast<float>(norm.epsilon));
    for (int64_t i = 0; i < n; ++i) y[i] = norm.gain[i] * (x[i] * factor);
}

// `scratch` holds twice as many numbers as x
inline void transform(const float* x, const Transform& t, float* y, float* scratch) {
    kronecker_row(x, t.left_matrix, t.left, t.right_matrix, t.right, t.scale, y, scratch);
}

// -- rounding of queries, keys and values: `quantizer.quantize` of a token -------------------------------------------

struct Grid {
    float scale, zero, first, last;
};

Grid grid_of(const float* x, int64_t n, const Rounding& rounding) {
    float smallest = INFINITY;
    for (int64_t i = 0; i < n; ++i) smallest = x[i] < smallest || x[i] != x[i] ? x[i] : smallest;
    float largest = largest_of(x, n) * share(rounding.max_logit);
    smallest *= share(rounding.min_logit);
    largest = largest < 0.0f ? 0.0f : largest;
    smallest = smallest > 0.0f ? 0.0f : smallest;
    const int64_t levels = int64_t{1} << rounding.bits;
    Grid grid;
    if (rounding.symmetric) {
        const float span = largest < -smallest || smallest != smallest ? -smallest : largest;
        grid.scale = span / static_cast<float>(levels / 2 - 1);
        grid.first = -static_cast<float>(levels / 2);
        grid.last = static_cast<float>(levels / 2 - 1);
    } else {
        grid.scale = (largest - smallest) / static_cast<float>(levels - 1);
        grid.first = 0.0f;
        grid.last = static_cast<float>(levels - 1);
    }
    grid.scale = grid.scale > 0.0f ? grid.scale : 1.0f;
    grid.zero = rounding.symmetric ? 0.0f : std::nearbyint(-smallest / grid.scale);
    return grid;
}

inline int32_t code_of(float x, const Grid& grid) {
    const float q = std::nearbyint(x / grid.scale) + grid.zero;
    if (!(q >= grid.first)) return static_cast<int32_t>(q != q ? 0.0f : grid.first);
    return static_cast<int32_t>(q > grid.last ? grid.last : q);
}

void store_row(const float* x, int64_t n, const Rounding& rounding, const Store& store, int64_t b, int64_t head,
               int64_t at) {
    const int64_t bytes = rounding.bits <= 4 ? (n + 1) / 2 : n;
    auto place = [&](const Part& part, int64_t size) {
        return static_cast<uint8_t*>(part.data) + (b * part.batch_stride + head * part.head_stride + at * size);
    };
    float* scale = static_cast<float*>(store.scale.data) + b * store.scale.batch_stride +
                   head * store.scale.head_stride + at;
    encode_row(x, n, share(rounding.max_logit), share(rounding.min_logit), static_cast<int>(rounding.bits),
               place(store.codes, bytes), scale, store.zero.data ? place(store.zero, 1) : nullptr);
}

void round_row(float* x, int64_t n, const Rounding& rounding) {
    const Grid grid = grid_of(x, n, rounding);
    for (int64_t i = 0; i < n; ++i) x[i] = (static_cast<float>(code_of(x[i], grid)) - grid.zero) * grid.scale;
}

// -- attention over codes --------------------------------------------------------------------------------------------

// Codes of up to four bits are two planes of a tile, the even channels and the odd ones; wider codes are one. A plane
// holds `half` channels of each token.
struct Planes {
    int64_t count, half;
    int64_t length() const { return count * half; }
};

inline Planes planes_of(int64_t n, const Rounding& rounding) {
    return rounding.bits <= 4 ? Planes{2, (n + 1) / 2} : Planes{1, n};
}

// Codes of `count` tokens as numbers that are not negative, CHUNK tokens a plane, with scales and zero points
void decode(const Store& store, const Rounding& rounding, int64_t n, int64_t b, int64_t head, int64_t from,
            int64_t count, float* codes, float* scales, float* zeros) {
    const Planes planes = planes_of(n, rounding);
    const int64_t first = store.start + from, length = count * planes.half;
    const float* scale =
        static_cast<const float*>(store.scale.data) + b * store.scale.batch_stride + head * store.scale.head_stride;
    const uint8_t* zero = static_cast<const uint8_t*>(store.zero.data);
    if (zero) zero += b * store.zero.batch_stride + head * store.zero.head_stride;
    const uint8_t* packed = static_cast<const uint8_t*>(store.codes.data) + b * store.codes.batch_stride +
                            head * store.codes.head_stride + first * planes.half;
    const int32_t sign = planes.count == 2 ? 8 : 128;  // of a symmetric code; added, it leaves none
    for (int64_t t = 0; t < count; ++t) {
        scales[t] = scale[first + t];
        zeros[t] = static_cast<float>(zero ? zero[first + t] : sign);
    }
    const int32_t flip = zero ? 0 : sign;
    if (planes.count == 1) {
        for (int64_t i = 0; i < length; ++i) codes[i] = static_cast<float>(packed[i] ^ flip);
        return;
    }
    float* odd = codes + CHUNK * planes.half;
    for (int64_t i = 0; i < length; ++i) {
        codes[i] = static_cast<float>((packed[i] & 15) ^ flip);
        odd[i] = static_cast<float>((packed[i] >> 4) ^ flip);
    }
}

// Channels by planes; an odd number of channels is filled up
void in_planes(const float* x, int64_t n, const Planes& planes, float* y) {
    if (planes.count == 1) {
        std::copy(x, x + n, y);
        return;
    }
    for (int64_t i = 0; i < planes.half; ++i) y[i] = x[2 * i];
    for (int64_t i = 0; i < planes.half; ++i) y[planes.half + i] = 2 * i + 1 < n ? x[2 * i + 1] : 0.0f;
}

void out_of_planes(const float* x, int64_t n, const Planes& planes, float* y) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = planes.count == 1 ? x[i] : x[(i % 2) * planes.half + i / 2];
}

// The products of a query with four keys of a tile, from key t on
inline void tile_dots(const float* query, const float* tile, const Planes& planes, int64_t t, float* out) {
    constexpr int W = Floats::WIDTH;
    Floats sums[4];
    each<4>([&](auto k) LINMAP_INLINE { sums[k] = Floats::all(0); });
    for (int64_t p = 0; p < planes.count; ++p) {
        const float *a = query + p * planes.half, *b = tile + (p * CHUNK + t) * planes.half;
        int64_t i = 0;
        for (; i + W <= planes.half; i += W) {
            const Floats x = Floats::load(a + i);
            each<4>([&](auto k) LINMAP_INLINE { sums[k] = Floats::fma(x, Floats::load(b + k * planes.half + i), sums[k]); });
        }
        const int64_t rest = planes.half - i;
        if (rest == 0) continue;
        const Floats x = Floats::load(a + i, rest);
        each<4>([&](auto k) LINMAP_INLINE {
            sums[k] = Floats::fma(x, Floats::load(b + k * planes.half + i, rest), sums[k]);
        });
    }
    Floats::sums(sums, out);
}

struct Sizes {
    int64_t batch, tokens, all_tokens, chunks, group, query_length, value_length, width, key_width, widest, stream;
    int64_t query_tokens;  // of a sequence, whose queries go through a chunk together
    bool many() const { return tokens > FEW_TOKENS; }
    // What the layers get of one token each thread computes for itself: that is faster than to wait for another one
    bool single() const { return tokens == 1; }
    Range mine(const Member& member) const { return single() ? Range{0, 1} : member.part(tokens); }
};

struct Scratch {  // of one thread in a step, in one piece of memory; what no thread has for itself is the same for all
    float *product, *queries, *partial, *middle, *wide;
    float *sum, *numbers, *scales;  // a thread has them for itself if there is one token
    float* temporary;               // a thread has it for itself
    float *all_keys, *all_values;  // of many tokens: chunk by chunk, channels x tokens and tokens x channels
    int32_t* sums;  // as `sum`
    int8_t *even, *odd;
};

// What token t of sequence b does not see of a chunk becomes -infinity
void hide(const Step& step, const Sizes& sizes, int64_t b, int64_t t, int64_t from, int64_t count, float* scores) {
    const int64_t first = b * step.mask_batch_stride + t * step.mask_row_stride;
    if (step.mask_kind == BOOLEAN) {
        const bool* mask = static_cast<const bool*>(step.mask) + first;
        for (int64_t s = 0; s < count; ++s)
            if (!mask[(from + s) * step.mask_column_stride]) scores[s] = -INFINITY;
    } else if (step.mask_kind == ADDED) {
        const float* mask = static_cast<const float*>(step.mask) + first;
        for (int64_t s = 0; s < count; ++s) scores[s] += mask[(from + s) * step.mask_column_stride];
    } else {  // none: each token sees itself and those before
        const int64_t seen = sizes.all_tokens - step.tokens + t + 1 - from;
        for (int64_t s = std::max<int64_t>(0, seen); s < count; ++s) scores[s] = -INFINITY;
    }
}

// Partial softmax of the queries of one head of keys over one chunk: per query the maximum, the sum and the weighted
// sum of values.
void attend(const Block& block, const Step& step, const Sizes& sizes, const Scratch& scratch, int64_t b, int64_t head,
            int64_t chunk) {
    const int64_t e = block.head_dim, from = chunk * CHUNK;
    const int64_t count = std::min(CHUNK, sizes.all_tokens - from);
    const int64_t kl = sizes.query_length, vl = sizes.value_length;
    const Planes key_planes = planes_of(e, block.key), value_planes = planes_of(e, block.value);
    float* keys = scratch.temporary;
    float* values = keys + CHUNK * kl;
    float* key_scales = values + CHUNK * vl;
    float *key_zeros = key_scales + CHUNK, *value_scales = key_zeros + CHUNK, *value_zeros = value_scales + CHUNK;
    float* scores = value_zeros + CHUNK;
    decode(step.keys, block.key, e, b, head, from, count, keys, key_scales, key_zeros);
    decode(step.values, block.value, e, b, head, from, count, values, value_scales, value_zeros);
    const float scaling = static_cast<float>(block.scaling);
    for (int64_t t = 0; t < step.tokens; ++t) {
        for (int64_t g = 0; g < sizes.group; ++g) {
            const int64_t query_head = head * sizes.group + g;
            const int64_t row = (b * step.tokens + t) * block.heads + query_head;
            const float* query = scratch.queries + row * kl;
            const float of_zero = total(query, kl);
            for (int64_t s = 0; s < count; s += 4) tile_dots(query, keys, key_planes, s, scores + s);
            for (int64_t s = 0; s < count; ++s)
                scores[s] = (scores[s] - of_zero * key_zeros[s]) * key_scales[s] * scaling;
            hide(step, sizes, b, t, from, count, scores);
            const float largest = largest_of(scores, count);
            float* partial = scratch.partial + (row * sizes.chunks + chunk) * (vl + 2);
            float* sum_of_values = partial + 2;
            partial[0] = largest;
            partial[1] = 0.0f;
            if (largest == -INFINITY) continue;  // nothing of this chunk is seen
            for (int64_t s = 0; s < count; ++s)
                scores[s] = scores[s] == -INFINITY ? 0.0f : exponential(scores[s] - largest);
            partial[1] = total(scores, count);
            for (int64_t s = 0; s < count; ++s) scores[s] *= value_scales[s];
            const float of_zeros = dot(scores, value_zeros, count);
            for (int64_t p = 0; p < value_planes.count; ++p)
                weighted_sum(scores, values + p * CHUNK * value_planes.half, count, value_planes.half,
                             sum_of_values + p * value_planes.half);
            for (int64_t i = 0; i < vl; ++i) sum_of_values[i] -= of_zeros;
        }
    }
}

// -- attention of many tokens ----------------------------------------------------------------------------------------

// A chunk of keys or values as numbers; `of_token` and `of_channel` lie between two of them
void unpack(const Store& store, const Rounding& rounding, int64_t n, int64_t b, int64_t head, int64_t from,
            int64_t count, int64_t of_token, int64_t of_channel, float* numbers) {
    const Planes planes = planes_of(n, rounding);
    const int64_t first = store.start + from;
    const float* scale = static_cast<const float*>(store.scale.data) + b * store.scale.batch_stride +
                         head * store.scale.head_stride + first;
    const uint8_t* zero = static_cast<const uint8_t*>(store.zero.data);
    if (zero) zero += b * store.zero.batch_stride + head * store.zero.head_stride + first;
    const uint8_t* packed = static_cast<const uint8_t*>(store.codes.data) + b * store.codes.batch_stride +
                            head * store.codes.head_stride + first * planes.half;
    const int32_t sign = planes.count == 2 ? 8 : 128, flip = zero ? 0 : sign;  // as `decode`
    for (int64_t t = 0; t < count; ++t, packed += planes.half) {
        const float s = scale[t], z = static_cast<float>(zero ? zero[t] : sign);
        float* of_t = numbers + t * of_token;
        auto number = [&](int32_t code) { return (static_cast<float>(code ^ flip) - z) * s; };
        if (planes.count == 1) {
            for (int64_t i = 0; i < n; ++i) of_t[i * of_channel] = number(packed[i]);
            continue;
        }
        for (int64_t i = 0; i < n / 2; ++i) {
            of_t[2 * i * of_channel] = number(packed[i] & 15);
            of_t[(2 * i + 1) * of_channel] = number(packed[i] >> 4);
        }
        if (n % 2) of_t[(n - 1) * of_channel] = number(packed[n / 2] & 15);
    }
}

// Tokens from `first` to `last` of a sequence, their queries of one head of keys: a running softmax over the chunks
void attend_many(const Block& block, const Step& step, const Sizes& sizes, const Scratch& scratch, int64_t b,
                 int64_t head, int64_t first, int64_t last, float* temporary) {
    const int64_t e = block.head_dim, group = sizes.group, n = last - first, rows = n * group;
    const int64_t of_token = block.heads * sizes.query_length, row_length = sizes.width + 2 * sizes.key_width;
    float *scores = temporary, *part = scores + rows * CHUNK, *sums = part + rows * e, *largest = sums + rows * e;
    float* weights = largest + rows;
    std::fill(sums, sums + rows * e, 0.0f);
    std::fill(largest, largest + rows, -INFINITY);
    std::fill(weights, weights + rows, 0.0f);
    const float scaling = static_cast<float>(block.scaling);
    const int64_t seen = step.mask_kind == NONE ? sizes.all_tokens - step.tokens + last : sizes.all_tokens;
    for (int64_t chunk = 0; chunk * CHUNK < seen; ++chunk) {
        const int64_t from = chunk * CHUNK, count = std::min(CHUNK, sizes.all_tokens - from);
        const int64_t place = ((b * block.kv_heads + head) * sizes.chunks + chunk) * CHUNK * e;
        for (int64_t g = 0; g < group; ++g) {
            const float* queries =
                scratch.queries + (b * step.tokens + first) * of_token + (head * group + g) * sizes.query_length;
            small_product(queries, of_token, 1, scratch.all_keys + place, CHUNK, scores + g * n * CHUNK, CHUNK, n, e,
                          count);
        }
        for (int64_t r = 0; r < rows; ++r) {
            float* of_row = scores + r * CHUNK;
            for (int64_t s = 0; s < count; ++s) of_row[s] *= scaling;
            hide(step, sizes, b, first + r % n, from, count, of_row);
            const float found = largest_of(of_row, count), before = largest[r];
            const float most = found > before || found != found ? found : before;
            if (most == -INFINITY) {  // nothing is seen yet
                std::fill(of_row, of_row + count, 0.0f);
                continue;
            }
            for (int64_t s = 0; s < count; ++s)
                of_row[s] = of_row[s] == -INFINITY ? 0.0f : exponential(of_row[s] - most);
            const float factor = exponential(before - most);
            weights[r] = weights[r] * factor + total(of_row, count);
            for (int64_t i = 0; i < e; ++i) sums[r * e + i] *= factor;
            largest[r] = most;
        }
        small_product(scores, CHUNK, 1, scratch.all_values + place, e, part, e, rows, count, e);
        for (int64_t i = 0; i < rows * e; ++i) sums[i] += part[i];
    }
    for (int64_t r = 0; r < rows; ++r) {
        const float share_of = largest[r] == -INFINITY ? 0.0f : 1.0f / weights[r];
        float* out = scratch.product + (b * step.tokens + first + r % n) * row_length + (head * group + r / n) * e;
        for (int64_t i = 0; i < e; ++i) out[i] = sums[r * e + i] * share_of;
    }
}

// The chunks of one query together
void join_chunks(const Block& block, const Sizes& sizes, const Scratch& scratch, int64_t row, float* ordered,
                 float* out) {
    const int64_t vl = sizes.value_length;
    const float* partial = scratch.partial + row * sizes.chunks * (vl + 2);
    float largest = -INFINITY;
    for (int64_t c = 0; c < sizes.chunks; ++c) {
        const float m = partial[c * (vl + 2)];
        largest = m > largest || m != m ? m : largest;
    }
    std::fill(ordered, ordered + vl, 0.0f);
    float sum = 0.0f;
    for (int64_t c = 0; c < sizes.chunks; ++c) {
        const float* of_chunk = partial + c * (vl + 2);
        if (of_chunk[0] == -INFINITY) continue;
        const float factor = exponential(of_chunk[0] - largest);
        sum += factor * of_chunk[1];
        for (int64_t i = 0; i < vl; ++i) ordered[i] += factor * of_chunk[2 + i];
    }
    const float share_of = largest == -INFINITY ? 0.0f : 1.0f / sum;  // a token that sees nothing gets zeros
    for (int64_t i = 0; i < vl; ++i) ordered[i] *= share_of;
    out_of_planes(ordered, block.head_dim, planes_of(block.head_dim, block.value), out);
}

// -- products --------------------------------------------------------------------------------------------------------

// What one token gives to one layer: codes, or numbers where it does not multiply codes. A slot holds all tokens.
void give(const Linear& linear, const float* x, const Scratch& scratch, int64_t slot, int64_t t, const Sizes& sizes) {
    const int64_t place = slot * sizes.tokens + t, n = linear.weight.cols;
    if (linear.multiplies_codes) {
        const bool two = linear.weight.bits <= 4;
        const int64_t first = slot * sizes.tokens * sizes.stream + t * stream_bytes(n, two);
        quantise_row(x, n, share(linear.input.max_logit), share(linear.input.min_logit),
                     static_cast<int>(linear.input.bits), scratch.even + first, two ? scratch.odd + first : nullptr,
                     scratch.scales + place, scratch.sums + place);
        return;
    }
    float* numbers = scratch.numbers + slot * sizes.tokens * sizes.widest + t * n;
    std::copy(x, x + n, numbers);
    if (linear.input.bits < 16) round_row(numbers, n, linear.input);
}

// Rows from `first` to `last` of a product with all tokens
void multiply(const Linear& linear, const Scratch& scratch, int64_t slot, const Sizes& sizes, int64_t first,
              int64_t last, float* y, int64_t ldy) {
    if (first >= last) return;
    Weight part = linear.weight;
    if (linear.multiplies_codes) {
        const int64_t codes = slot * sizes.tokens * sizes.stream, place = slot * sizes.tokens;
        const bool two = part.bits <= 4;
        const int64_t stride = stream_bytes(part.cols, two);
        const int8_t *even = scratch.even + codes, *odd = two ? scratch.odd + codes : nullptr;
        const float* s = scratch.scales + place;
        const int32_t* sums = scratch.sums + place;
        if (!sizes.many()) {
            const auto product = two ? few_tokens<true> : few_tokens<false>;
            return product(part, first, last, even, odd, stride, s, sums, sizes.tokens, y, ldy);
        }
        part.rows = last;
        const auto product = two ? many_tokens<true> : many_tokens<false>;
        for (int64_t row = first; row < last; row += Panel::ROWS)
            product(part, row, reinterpret_cast<uint8_t*>(scratch.temporary), even, odd, stride, s, sums, sizes.tokens, y, ldy);
        return;
    }
    part.codes += first * part.row_bytes();
    part.scale += first * part.groups;
    if (part.zero) part.zero += first * part.groups;
    if (part.bias) part.bias += first;
    part.rows = last - first;
    float_product(part, scratch.numbers + slot * sizes.tokens * sizes.widest, sizes.tokens, y + first, ldy, 1);
}

// The rows that a thread takes of `rows`
inline Range rows_of(int64_t rows, const Member& member) {
    const Range pieces = member.part((rows + ROWS - 1) / ROWS);
    return {std::min(rows, pieces.first * ROWS), std::min(rows, pieces.last * ROWS)};
}

inline void reads_next(const Weight& weight, int64_t first, Member& member) {
    if (first < weight.rows)
        member.reads_next(weight.codes + first * weight.row_bytes(), (weight.rows - first) * weight.row_bytes());
}

// -- the block -------------------------------------------------------------------------------------------------------

// The norm and the transform in front of some layers, for one token
const float* enter(const Norm& norm, const Transform& before, int64_t n, const float* x, const Scratch& scratch) {
    float *normed = scratch.temporary, *out = normed + n;
    normalise(x, norm, n, normed);
    transform(normed, before, out, out + n);
    return out;
}

// Query, key or value number `item` of token t: norm, rotary embedding, P_h, and keys and values into the cache
void prepare(const Block& block, const Step& step, const Sizes& sizes, const Scratch& scratch, int64_t t, int64_t item,
             float* temporary) {
    const int64_t e = block.head_dim, b = t / step.tokens, at = t % step.tokens;
    const float* x = scratch.product + t * (sizes.width + 2 * sizes.key_width) + item * e;
    const bool is_query = item < block.heads, is_value = item >= block.heads + block.kv_heads;
    if (is_value) {
        const int64_t head = item - block.heads - block.kv_heads;
        store_row(x, e, block.value, step.values, b, head, step.values.stop + at);
        return;
    }
    const Norm& norm = is_query ? block.query_norm : block.key_norm;
    float *normed = temporary, *turned = temporary + e, *moved = temporary + 2 * e;
    if (norm.gain) normalise(x, norm, e, normed);
    else std::copy(x, x + e, normed);
    const float* cosine = step.cosine + b * step.cosine_batch_stride + at * e;
    const float* sine = step.sine + b * step.sine_batch_stride + at * e;
    const int64_t half = e / 2;
    for (int64_t i = 0; i < half; ++i) turned[i] = normed[i] * cosine[i] - normed[half + i] * sine[i];
    for (int64_t i = half; i < e; ++i) turned[i] = normed[i] * cosine[i] + normed[i - half] * sine[i];
    const float* P = is_query ? block.query_matrix : block.key_matrix;
    if (P) weighted_sum(turned, P, e, e, moved);
    else moved = turned;
    if (is_query) {
        if (block.query.bits < 16) round_row(moved, e, block.query);
        float* query = scratch.queries + (t * block.heads + item) * sizes.query_length;
        if (sizes.many()) std::copy(moved, moved + e, query);
        else in_planes(moved, e, planes_of(e, block.key), query);
    } else {
        store_row(moved, e, block.key, step.keys, b, item - block.heads, step.keys.stop + at);
    }
}

// Of all heads, by all threads, which meet before
void attention(const Block& block, const Step& step, const Sizes& sizes, const Scratch& scratch, Member& member) {
    const int64_t e = block.head_dim, heads = step.batch * block.kv_heads, items = heads * sizes.chunks;
    if (!sizes.many()) {
        for (int64_t i = member.take(); i < items; i = member.take())
            attend(block, step, sizes, scratch, i / sizes.chunks / block.kv_heads,
                   i / sizes.chunks % block.kv_heads, i % sizes.chunks);
        return;
    }
    const Range own = member.part(items);
    for (int64_t i = own.first; i < own.last; ++i) {
        const int64_t from = i % sizes.chunks * CHUNK, count = std::min(CHUNK, sizes.all_tokens - from);
        const int64_t b = i / sizes.chunks / block.kv_heads, head = i / sizes.chunks % block.kv_heads;
        unpack(step.keys, block.key, e, b, head, from, count, 1, CHUNK, scratch.all_keys + i * CHUNK * e);
        unpack(step.values, block.value, e, b, head, from, count, e, 1, scratch.all_values + i * CHUNK * e);
    }
    member.meet();
    const int64_t at_once = sizes.query_tokens, pieces = (step.tokens + at_once - 1) / at_once;
    for (int64_t i = member.take(); i < heads * pieces; i = member.take()) {
        const int64_t piece = pieces - 1 - i / heads, first = piece * at_once;  // the longest first
        attend_many(block, step, sizes, scratch, i % heads / block.kv_heads, i % block.kv_heads, first,
                    std::min(step.tokens, first + at_once), scratch.temporary);
    }
}

// Query, key and value of all tokens, and what was asked of keys and values before, through attention
void attend_all(const Block& block, const Step& step, const Sizes& sizes, const Scratch& scratch, Member& member) {
    const int64_t T = sizes.tokens, row = sizes.width + 2 * sizes.key_width, hidden = block.hidden;
    const int64_t all_heads = block.heads + 2 * block.kv_heads;
    const Linear* inputs[3] = {&block.q, &block.k, &block.v};
    const Range rows = rows_of(row, member), tokens = sizes.mine(member);
    for (int64_t t = tokens.first; t < tokens.last; ++t) {
        const float* entered = enter(block.attention_norm, block.attention, hidden, step.x + t * hidden, scratch);
        for (int64_t part = 0; part < 3; ++part) give(*inputs[part], entered, scratch, part, t, sizes);
    }
    if (!sizes.single()) member.meet();
    for (int64_t part = 0, offset = 0; part < 3; offset += inputs[part++]->weight.rows) {
        const int64_t last = inputs[part]->weight.rows;
        multiply(*inputs[part], scratch, part, sizes, std::clamp<int64_t>(rows.first - offset, 0, last),
                 std::clamp<int64_t>(rows.last - offset, 0, last), scratch.product + offset, row);
    }
    reads_next(block.o.weight, rows_of(hidden, member).first, member);
    member.meet();
    const Range heads = member.part(T * all_heads);
    for (int64_t i = heads.first; i < heads.last; ++i)
        prepare(block, step, sizes, scratch, i / all_heads, i % all_heads, scratch.temporary);
    member.meet();
    attention(block, step, sizes, scratch, member);
    member.meet();
}

void run(const Block& block, const Step& step, const Sizes& sizes, const Scratch& scratch, Member& member) {
    const int64_t T = sizes.tokens, hidden = block.hidden, wide = block.intermediate, width = sizes.width;
    const int64_t e = block.head_dim, row = width + 2 * sizes.key_width;
    const Range outputs = rows_of(hidden, member), inner = rows_of(wide, member), tokens = sizes.mine(member);
    float* temporary = scratch.temporary;
    attend_all(block, step, sizes, scratch, member);
    for (int64_t t = tokens.first; t < tokens.last; ++t) {
        const float* attended = sizes.many() ? scratch.product + t * row : temporary;
        for (int64_t head = 0; head < block.heads && !sizes.many(); ++head)
            join_chunks(block, sizes, scratch, t * block.heads + head, temporary + width, temporary + head * e);
        transform(attended, block.output, temporary + width, temporary + 2 * width);
        give(block.o, temporary + width, scratch, 0, t, sizes);
    }
    if (!sizes.single()) member.meet();
    multiply(block.o, scratch, 0, sizes, outputs.first, outputs.last, scratch.middle, hidden);
    reads_next(block.gate.weight, inner.first, member);
    member.meet();
    for (int64_t t = tokens.first; t < tokens.last; ++t) {
        float* middle = scratch.sum + t * hidden;
        for (int64_t i = 0; i < hidden; ++i) middle[i] = step.x[t * hidden + i] + scratch.middle[t * hidden + i];
        const float* entered = enter(block.mlp_norm, block.mlp, hidden, middle, scratch);
        give(block.gate, entered, scratch, 0, t, sizes);
        give(block.up, entered, scratch, 1, t, sizes);
    }
    if (!sizes.single()) member.meet();
    multiply(block.gate, scratch, 0, sizes, inner.first, inner.last, scratch.wide, 2 * wide);
    multiply(block.up, scratch, 1, sizes, inner.first, inner.last, scratch.wide + wide, 2 * wide);
    for (int64_t t = 0; t < T; ++t) {
        float* gate = scratch.wide + t * 2 * wide;
        silu_times(gate + inner.first, gate + wide + inner.first, inner.last - inner.first);
    }
    reads_next(block.down_projection.weight, outputs.first, member);
    member.meet();
    for (int64_t t = tokens.first; t < tokens.last; ++t) {
        transform(scratch.wide + t * 2 * wide, block.down, temporary, temporary + wide);
        give(block.down_projection, temporary, scratch, 0, t, sizes);
    }
    if (!sizes.single()) member.meet();
    multiply(block.down_projection, scratch, 0, sizes, outputs.first, outputs.last, step.y, hidden);
    for (int64_t t = 0; t < T; ++t)
        for (int64_t i = outputs.first; i < outputs.last; ++i)
            step.y[t * hidden + i] = scratch.sum[t * hidden + i] + step.y[t * hidden + i];
}

// Of queries, keys and values
void reads_inputs(const Block& block, const Sizes& sizes, Member& member) {
    int64_t first = rows_of(sizes.width + 2 * sizes.key_width, member).first;
    for (const Linear* input : {&block.q, &block.k, &block.v}) {
        if (first < input->weight.rows) return reads_next(input->weight, first, member);
        first -= input->weight.rows;
    }
}

// A buffer of the calling thread at a multiple of 64 bytes, which grows, and shrinks behind a long prompt; null where there
// is no memory
char* buffer_of(int64_t bytes) {
    thread_local std::unique_ptr<char[]> buffer;
    thread_local int64_t room = 0;
    if (bytes + 64 > room || room > 4 * bytes + (int64_t{1} << 24)) {
        buffer.reset(new (std::nothrow) char[static_cast<size_t>(bytes + bytes / 4 + 64)]);
        room = buffer ? bytes + bytes / 4 + 64 : 0;
    }
    if (!buffer) return nullptr;
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(buffer.get()) + 63) / 64 * 64);
}

// Pieces of a buffer one behind the other, each at a multiple of 64 bytes
class Pieces {
  public:
    explicit Pieces(char* base) : base_(base) {}
    // Number `copy` of so many `copies` of a piece
    template <class T>
    T* next(int64_t count, int64_t copies = 1, int64_t copy = 0) {
        const int64_t size = (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
        T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_ + copy * size);
        used_ += copies * size;
        return piece;
    }
    int64_t used() const { return used_; }

  private:
    char* base_;
    int64_t used_ = 0;
};

Sizes sizes_of(const Block& block, const Step& step) {
    Sizes sizes;
    sizes.batch = step.batch;
    sizes.tokens = step.batch * step.tokens;
    sizes.all_tokens = step.keys.stop - step.keys.start + step.tokens;
    sizes.chunks = (sizes.all_tokens + CHUNK - 1) / CHUNK;
    sizes.group = block.heads / block.kv_heads;
    sizes.query_length = planes_of(block.head_dim, block.key).length();
    sizes.value_length = planes_of(block.head_dim, block.value).length();
    sizes.width = block.heads * block.head_dim;
    sizes.key_width = block.kv_heads * block.head_dim;
    sizes.widest = std::max({block.hidden, block.intermediate, sizes.width});
    sizes.stream = stream_bytes(sizes.widest, false);
    sizes.query_tokens = std::max<int64_t>(1, QUERIES / sizes.group);
    return sizes;
}

// The pieces of a step's memory, from the start of a buffer
Scratch scratch_of(const Block& block, const Sizes& sizes, int64_t thread, int64_t threads, Pieces& pieces) {
    const int64_t T = sizes.tokens, e = block.head_dim, many = sizes.many(), copies = sizes.single() ? threads : 1;
    const int64_t rows = sizes.query_tokens * sizes.group, copy = sizes.single() ? thread : 0;
    int64_t panel = 0;
    bool only_codes = true;
    for (const Linear* linear :
         {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down_projection}) {
        panel = std::max(panel, many * Panel::size(linear->weight) / static_cast<int64_t>(sizeof(float)));
        only_codes = only_codes && linear->multiplies_codes;
    }
    const int64_t temporary = std::max({5 * sizes.widest + 4 * e, CHUNK * (sizes.query_length + sizes.value_length + 5), panel,
                                        many * rows * (CHUNK + 2 * e + 2)});
    const int64_t cached = many * sizes.batch * block.kv_heads * sizes.chunks * CHUNK * e;
    Scratch scratch;
    scratch.product = pieces.next<float>(T * (sizes.width + 2 * sizes.key_width));
    scratch.queries = pieces.next<float>(T * block.heads * sizes.query_length);
    scratch.partial = pieces.next<float>((1 - many) * T * block.heads * sizes.chunks * (sizes.value_length + 2));
    scratch.middle = pieces.next<float>(T * block.hidden);
    scratch.wide = pieces.next<float>(T * 2 * block.intermediate);
    scratch.all_keys = pieces.next<float>(cached);
    scratch.all_values = pieces.next<float>(cached);
    scratch.sum = pieces.next<float>(T * block.hidden, copies, copy);
    scratch.numbers = pieces.next<float>(only_codes ? 0 : 3 * T * sizes.widest, copies, copy);
    scratch.scales = pieces.next<float>(3 * T, copies, copy);
    scratch.sums = pieces.next<int32_t>(3 * T, copies, copy);
    scratch.even = pieces.next<int8_t>(3 * T * sizes.stream, copies, copy);
    scratch.odd = pieces.next<int8_t>(3 * T * sizes.stream, copies, copy);
    scratch.temporary = pieces.next<float>(temporary, threads, thread);
    return scratch;
}

// A half-precision number as a float
inline float widened(uint16_t half, bool is_float16) {
    uint32_t bits = static_cast<uint32_t>(half) << 16;
    if (is_float16) {  // five bits of exponent, ten of fraction
        const uint32_t sign = bits & 0x80000000u, exponent = half >> 10 & 31, fraction = half & 1023;
        if (exponent == 0) {
            const float small = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
            return sign ? -small : small;
        }
        bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    }
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

// Blocks one behind the other, each of its own step but for the number of threads
int64_t run_all(const Stack& stack, Step* steps) {
    const int64_t threads = std::max<int64_t>(1, steps[0].threads);
    for (int64_t i = 0; i < stack.halves_count; ++i) {
        const Half& half = stack.halves[i];
        for (int64_t j = 0; j < half.count; ++j) half.to[j] = widened(half.from[j], half.is_float16 != 0);
    }
    int64_t room = 0;
    for (int64_t i = 0; i < stack.count; ++i) {
        Pieces pieces(nullptr);
        scratch_of(*stack.blocks[i], sizes_of(*stack.blocks[i], steps[i]), 0, threads, pieces);
        room = std::max(room, pieces.used());
    }
    char* memory = buffer_of(room);
    if (memory == nullptr) return 1;
    const int64_t tokens = steps[0].batch * steps[0].tokens, hidden = stack.blocks[0]->hidden;
    Team team;
    auto all = [&](Member member) {
        for (int64_t i = 0; i < stack.count; ++i) {
            const Sizes sizes = sizes_of(*stack.blocks[i], steps[i]);
            Pieces pieces(memory);
            run(*stack.blocks[i], steps[i], sizes,
                scratch_of(*stack.blocks[i], sizes, member.number, threads, pieces), member);
            if (i + 1 < stack.count) reads_inputs(*stack.blocks[i + 1], sizes, member);
            member.meet();
        }
        if (stack.norm.gain == nullptr) return;
        float* y = steps[stack.count - 1].y;
        const Range own = member.part(tokens);
        for (int64_t t = own.first; t < own.last; ++t) normalise(y + t * hidden, stack.norm, hidden, y + t * hidden);
    };
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(static_cast<int>(threads))
        all(Member(team, omp_get_thread_num(), omp_get_num_threads()));
        return 0;
    }
#endif
    all(Member(team, 0, 1));
    return 0;
}

}  // namespace
}  // namespace linmap

// Blocks for the tokens of `first`, whose stores are `stores`, the keys and the values of each; what they make of x, with
// the norm behind them, is y. 0, or 1 where there is no memory
extern "C" int64_t linmap_stack_step(const linmap::Stack* stack, const linmap::Step* first,
                                     const linmap::Store* stores) {
    using namespace linmap;
    try {
        std::vector<Step> steps(static_cast<size_t>(stack->count), *first);
        for (size_t i = 0; i < steps.size(); ++i) {
            steps[i].x = i == 0 ? first->x : first->y;  // a block reads its input before it writes its output
            steps[i].keys = stores[2 * i], steps[i].values = stores[2 * i + 1];
        }
        return run_all(*stack, steps.data());
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
