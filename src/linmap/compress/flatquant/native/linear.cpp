// A layer of FlatQuant for many tokens: transform, codes, product.
#include "codes.h"

#include <new>

using namespace linmap;

namespace {

constexpr int64_t NUMBERS = 1 << 22;  // of activations that are computed at once, so that what is kept is bounded

// As `layer.py` packs it, in 64 bits each.
struct Call {
    const float* x;
    int64_t tokens;
    const float *left, *right, *channel_scale;
    int64_t n1, n2;
    const float *max_logit, *min_logit;
    const uint8_t* codes;
    const float *scale, *zero, *bias;
    int64_t rows, cols, groups, w_bits, a_bits;
    float* y;
    int64_t threads;
    bool transforms() const { return left != nullptr || right != nullptr || channel_scale != nullptr; }
};

float share(const float* logit) { return logit == nullptr ? 1.0f : 1.0f / (1.0f + std::exp(-*logit)); }

// Runs f(t, scratch) for every token, with 3 cols floats of scratch.
template <class F>
void for_tokens(int64_t tokens, int64_t cols, int threads, F&& f) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        static thread_local std::vector<float> scratch;
        scratch.resize(static_cast<size_t>(3 * cols));
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; ++t) f(t, scratch.data());
    }
}

struct Between {  // of the calling thread, kept from call to call
    std::vector<int8_t> even, odd;
    std::vector<float> scale, numbers;
    std::vector<int32_t> sum;
};

void linear(const Call& c, const float* x, int64_t tokens, float* y) {
    static thread_local Between between;
    Between& b = between;
    const Weight w{c.codes, c.scale, c.zero, c.bias, c.rows, c.cols, c.groups, static_cast<int>(c.w_bits)};
    const int threads = static_cast<int>(c.threads);
    const int64_t n = c.cols, cost = c.transforms() ? n * (c.n1 + 64) : 16 * n;
    const int before = threads_for(tokens * cost, threads);
    if (c.a_bits == 16) {
        if (c.transforms()) {
            b.numbers.resize(static_cast<size_t>(tokens * n));
            float* out = b.numbers.data();
            for_tokens(tokens, n, before, [&](int64_t t, float* scratch) {
                kronecker_row(x + t * n, c.left, c.n1, c.right, c.n2, c.channel_scale, out + t * n, scratch);
            });
            x = out;
        }
        return float_product(w, x, tokens, y, c.rows, threads);
    }
    const bool two = w.bits <= 4;
    const int64_t stride = stream_bytes(n, two);
    b.even.resize(static_cast<size_t>(tokens * stride));
    b.odd.resize(static_cast<size_t>(two ? tokens * stride : 0));
    b.scale.resize(static_cast<size_t>(tokens));
    b.sum.resize(static_cast<size_t>(tokens));
    const float clip_max = share(c.max_logit), clip_min = share(c.min_logit);
    for_tokens(tokens, n, before, [&](int64_t t, float* scratch) {
        const float* row = x + t * n;
        if (c.transforms()) {
            kronecker_row(row, c.left, c.n1, c.right, c.n2, c.channel_scale, scratch + 2 * n, scratch);
            row = scratch + 2 * n;
        }
        quantise_row(row, n, clip_max, clip_min, static_cast<int>(c.a_bits), b.even.data() + t * stride,
                     two ? b.odd.data() + t * stride : nullptr, &b.scale[t], &b.sum[t]);
    });
    code_product(w, b.even.data(), b.odd.data(), b.scale.data(), b.sum.data(), tokens, y, c.rows, threads);
}

}  // namespace

extern "C" const char* linmap_name() { return instruction_set(); }

// Whether words of memory are what they were.
extern "C" int linmap_unchanged(const uint64_t* const* places, const uint64_t* values, int64_t count) {
    constexpr int64_t SOON = 32;
    for (int64_t i = 0; i < count; ++i) {
        if (i + SOON < count) __builtin_prefetch(places[i + SOON]);
        if (*places[i] != values[i]) return 0;
    }
    return 1;
}

// 0, or 1 where there is no memory.
extern "C" int linmap_linear(const void* call) {
    const Call& c = *static_cast<const Call*>(call);
    try {
        const int64_t at_once = std::max<int64_t>(64, NUMBERS / c.cols);
        for (int64_t t = 0; t < c.tokens; t += at_once)
            linear(c, c.x + t * c.cols, std::min(at_once, c.tokens - t), c.y + t * c.rows);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// y = (x * channel_scale) (L (x) R) of every token.
extern "C" int linmap_transform(const void* call) {
    const Call& c = *static_cast<const Call*>(call);
    const int64_t n = c.n1 * c.n2;
    const int threads = threads_for(c.tokens * n * (c.n1 + 64), static_cast<int>(c.threads));
    try {
        for_tokens(c.tokens, n, threads, [&](int64_t t, float* scratch) {
            kronecker_row(c.x + t * n, c.left, c.n1, c.right, c.n2, c.channel_scale, c.y + t * n, scratch);
        });
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

// Rows of keys or values and what is kept of them, as `layer.py` packs it.
struct Rows {
    const float* x;
    int64_t rows, n, bits;
    const float *max_logit, *min_logit;
    uint8_t* codes;
    float* scale;
    uint8_t* zero;  // null: symmetric
    int64_t threads;
};

extern "C" void linmap_encode(const void* call) {
    const Rows& c = *static_cast<const Rows*>(call);
    const int bits = static_cast<int>(c.bits);
    const int64_t bytes = bits <= 4 ? (c.n + 1) / 2 : c.n;
    const float clip_max = share(c.max_logit), clip_min = share(c.min_logit);
    const int threads = threads_for(16 * c.rows * c.n, static_cast<int>(c.threads));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t r = 0; r < c.rows; ++r)
        encode_row(c.x + r * c.n, c.n, clip_max, clip_min, bits, c.codes + r * bytes, c.scale + r,
                   c.zero == nullptr ? nullptr : c.zero + r);
}
