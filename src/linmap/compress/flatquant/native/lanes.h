// Vectors of floats and of codes on one instruction set, chosen by the flags of the compiler.
//
// LINMAP_PORTABLE asks for plain C++. `Bytes::dot` adds to each 32-bit lane the products of the four bytes in it.
// Codes of weights have OFFSET4 or OFFSET8 added where the instruction set multiplies unsigned by signed bytes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if !defined(LINMAP_PORTABLE) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define LINMAP_AVX512 1
#include <immintrin.h>
#elif !defined(LINMAP_PORTABLE) && defined(__AVX2__) && defined(__FMA__)
#define LINMAP_AVX2 1
#include <immintrin.h>
#elif !defined(LINMAP_PORTABLE) && defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define LINMAP_NEON 1
#include <arm_neon.h>
#endif

#define LINMAP_INLINE __attribute__((always_inline))

namespace linmap {

// f(0), f(1), ..., f(N - 1) with numbers that the compiler knows, so that arrays of vectors stay in registers.
template <class F, int... I>
LINMAP_INLINE inline void each_of(F&& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
LINMAP_INLINE inline void each(F&& f) {
    each_of(f, std::make_integer_sequence<int, N>{});
}

#if defined(LINMAP_AVX512)

inline const char* instruction_set() { return "avx512-vnni"; }

struct Floats {
    static constexpr int WIDTH = 16;
    __m512 v;
    static __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
    static Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static Floats load(const float* p, int64_t count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }
    static Floats all(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store(float* p, int64_t count) const { _mm512_mask_storeu_ps(p, first(count), v); }
    friend Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
    friend Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
    friend Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
    friend Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
    static Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
    static Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
    static Floats smaller(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
    bool has_nan() const { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; }
    float largest() const { return _mm512_reduce_max_ps(v); }
    float smallest() const { return _mm512_reduce_min_ps(v); }
    float sum() const { return _mm512_reduce_add_ps(v); }
    static void sums(const Floats s[4], float* out) {  // of four
        const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(s[0].v, s[1].v), _mm512_unpackhi_ps(s[0].v, s[1].v));
        const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(s[2].v, s[3].v), _mm512_unpackhi_ps(s[2].v, s[3].v));
        const __m512 c = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
                                       _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))));
        const __m256 d = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1)));
    }
    // Rounded half to even, for numbers within -128 .. 127.
    void store_rounded(int8_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
    }
};

struct Bytes {
    static constexpr int WIDTH = 64, LANES = 16, OFFSET4 = 8, OFFSET8 = 128;
    using Sums = __m512i;
    __m512i v;
    static Bytes load(const void* p) { return {_mm512_loadu_si512(p)}; }
    static Bytes load(const void* p, int64_t count) {
        return {_mm512_maskz_loadu_epi8(count >= 64 ? ~0ull : (1ull << count) - 1, p)};
    }
    static Bytes four(const int8_t* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        return {_mm512_set1_epi32(word)};
    }
    void store(void* p) const { _mm512_storeu_si512(p, v); }
    Bytes low() const {  // (v ^ 0x88) & 0x0F
        return {_mm512_ternarylogic_epi32(v, _mm512_set1_epi8(8), _mm512_set1_epi8(15), 0x28)};
    }
    Bytes high() const {
        return {_mm512_ternarylogic_epi32(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(8), _mm512_set1_epi8(15), 0x28)};
    }
    Bytes wide() const { return {_mm512_xor_si512(v, _mm512_set1_epi8(-128))}; }
    static Sums zero() { return _mm512_setzero_si512(); }
    static Sums add(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
    static Sums dot4(Sums sums, Bytes weight, Bytes x) { return _mm512_dpbusd_epi32(sums, weight.v, x.v); }
    static Sums dot8(Sums sums, Bytes weight, Bytes x) { return _mm512_dpbusd_epi32(sums, weight.v, x.v); }
    static void store(int32_t* p, Sums sums) { _mm512_storeu_si512(p, sums); }
    static int32_t total(Sums sums) { return _mm512_reduce_add_epi32(sums); }
    static void totals(Sums s0, Sums s1, Sums s2, Sums s3, int32_t* out) {  // of four
        __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(s0, s1), _mm512_unpackhi_epi32(s0, s1));
        __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(s2, s3), _mm512_unpackhi_epi32(s2, s3));
        __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        __m256i d = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
        __m128i e = _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), e);
    }
};

struct Words {  // the codes of four bytes in each lane
    __m512i v;
    static Words load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
    static Words load(const uint8_t* p, int64_t bytes) { return {Bytes::load(p, bytes).v}; }
    // Number i of each lane.
    template <int i, int BITS, bool SIGNED>
    Floats number() const {
        if constexpr (BITS == 4) {
            const __m512 table = SIGNED ? _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1)
                                        : _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            return {_mm512_permutexvar_ps(i ? _mm512_srli_epi32(v, 4 * i) : v, table)};  // of an index four bits count
        } else if constexpr (SIGNED) {
            return {_mm512_cvtepi32_ps(_mm512_srai_epi32(i < 3 ? _mm512_slli_epi32(v, 24 - 8 * i) : v, 24))};
        } else {
            return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(v, 8 * i), _mm512_set1_epi32(255)))};
        }
    }
};

#elif defined(LINMAP_AVX2)

inline const char* instruction_set() { return "avx2"; }

struct Floats {
    static constexpr int WIDTH = 8;
    __m256 v;
    static __m256i first(int64_t count) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static Floats load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Floats load(const float* p, int64_t count) { return {_mm256_maskload_ps(p, first(count))}; }
    static Floats all(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store(float* p, int64_t count) const { _mm256_maskstore_ps(p, first(count), v); }
    friend Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
    friend Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.v, b.v)}; }
    friend Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
    friend Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.v, b.v)}; }
    static Floats fma(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Floats larger(Floats a, Floats b) { return {_mm256_max_ps(a.v, b.v)}; }
    static Floats smaller(Floats a, Floats b) { return {_mm256_min_ps(a.v, b.v)}; }
    bool has_nan() const { return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0; }
    float lane(int i) const {
        float all[8];
        _mm256_storeu_ps(all, v);
        return all[i];
    }
    float largest() const {
        float all[8], found;
        _mm256_storeu_ps(all, v);
        found = all[0];
        for (int i = 1; i < 8; ++i) found = all[i] > found ? all[i] : found;
        return found;
    }
    float smallest() const { return -Floats{_mm256_sub_ps(_mm256_setzero_ps(), v)}.largest(); }
    float sum() const {
        __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
    }
    static void sums(const Floats s[4], float* out) {
        const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(s[0].v, s[1].v), _mm256_hadd_ps(s[2].v, s[3].v));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)));
    }
    void store_rounded(int8_t* p) const {
        __m256i words = _mm256_cvtps_epi32(v);
        __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(half, half));
    }
};

struct Bytes {
    static constexpr int WIDTH = 32, LANES = 8, OFFSET4 = 8, OFFSET8 = 0;
    using Sums = __m256i;
    __m256i v;
    static Bytes load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
    static Bytes load(const void* p, int64_t count) {
        if (count >= WIDTH) return load(p);
        alignas(32) uint8_t part[WIDTH] = {};
        std::memcpy(part, p, static_cast<size_t>(count));
        return load(part);
    }
    static Bytes four(const int8_t* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        return {_mm256_set1_epi32(word)};
    }
    void store(void* p) const { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
    Bytes low() const { return {_mm256_xor_si256(_mm256_and_si256(v, _mm256_set1_epi8(15)), _mm256_set1_epi8(8))}; }
    Bytes high() const { return Bytes{_mm256_srli_epi16(v, 4)}.low(); }
    Bytes wide() const { return *this; }
    static Sums zero() { return _mm256_setzero_si256(); }
    static Sums add(Sums a, Sums b) { return _mm256_add_epi32(a, b); }
    static Sums dot4(Sums sums, Bytes weight, Bytes x) {  // 2 * 15 * 128 fits into 16 bits
        __m256i pairs = _mm256_maddubs_epi16(weight.v, x.v);
        return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static Sums dot8(Sums sums, Bytes weight, Bytes x) {  // even and odd bytes apart, each as 16 bits
        __m256i even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(weight.v, 8), 8),
                                         _mm256_srai_epi16(_mm256_slli_epi16(x.v, 8), 8));
        __m256i odd = _mm256_madd_epi16(_mm256_srai_epi16(weight.v, 8), _mm256_srai_epi16(x.v, 8));
        return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
    }
    static void store(int32_t* p, Sums sums) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), sums); }
    static int32_t total(Sums sums) {
        __m128i a = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
        return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xB1)));
    }
    static void totals(Sums s0, Sums s1, Sums s2, Sums s3, int32_t* out) {
        __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(s0, s1), _mm256_hadd_epi32(s2, s3));
        __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), b);
    }
};

struct Words {
    __m256i v;
    static Words load(const uint8_t* p) { return {Bytes::load(p).v}; }
    static Words load(const uint8_t* p, int64_t bytes) { return {Bytes::load(p, bytes).v}; }
    template <int i, int BITS, bool SIGNED>
    Floats number() const {
        const __m256i up = _mm256_slli_epi32(v, 32 - BITS * (i + 1));
        return {_mm256_cvtepi32_ps(SIGNED ? _mm256_srai_epi32(up, 32 - BITS) : _mm256_srli_epi32(up, 32 - BITS))};
    }
};

#else

inline const char* instruction_set() {
#if defined(LINMAP_NEON)
    return "neon";
#else
    return "portable";
#endif
}

struct Floats {  // compilers make vectors of these loops
    static constexpr int WIDTH = 4;
    float v[4];
    static Floats load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
    static Floats load(const float* p, int64_t count) {
        Floats found = all(0);
        for (int64_t i = 0; i < count; ++i) found.v[i] = p[i];
        return found;
    }
    static Floats all(float x) { return {{x, x, x, x}}; }
    void store(float* p) const { std::memcpy(p, v, sizeof v); }
    void store(float* p, int64_t count) const { std::memcpy(p, v, static_cast<size_t>(count) * sizeof(float)); }
    template <class F>
    static Floats each(Floats a, Floats b, F f) {
        return {{f(a.v[0], b.v[0]), f(a.v[1], b.v[1]), f(a.v[2], b.v[2]), f(a.v[3], b.v[3])}};
    }
    friend Floats operator+(Floats a, Floats b) { return each(a, b, [](float x, float y) { return x + y; }); }
    friend Floats operator-(Floats a, Floats b) { return each(a, b, [](float x, float y) { return x - y; }); }
    friend Floats operator*(Floats a, Floats b) { return each(a, b, [](float x, float y) { return x * y; }); }
    friend Floats operator/(Floats a, Floats b) { return each(a, b, [](float x, float y) { return x / y; }); }
    static Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
    static Floats larger(Floats a, Floats b) { return each(a, b, [](float x, float y) { return x > y ? x : y; }); }
    static Floats smaller(Floats a, Floats b) { return each(a, b, [](float x, float y) { return x < y ? x : y; }); }
    bool has_nan() const { return v[0] != v[0] || v[1] != v[1] || v[2] != v[2] || v[3] != v[3]; }
    float largest() const {
        float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
        return a > b ? a : b;
    }
    float smallest() const {
        float a = v[0] < v[1] ? v[0] : v[1], b = v[2] < v[3] ? v[2] : v[3];
        return a < b ? a : b;
    }
    float sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }
    static void sums(const Floats s[4], float* out) {
        for (int i = 0; i < 4; ++i) out[i] = s[i].sum();
    }
    void store_rounded(int8_t* p) const {
        for (int i = 0; i < 4; ++i) p[i] = static_cast<int8_t>(std::nearbyint(v[i]));
    }
};

#if defined(LINMAP_NEON)

struct Bytes {  // signed by signed bytes
    static constexpr int WIDTH = 16, LANES = 4, OFFSET4 = 0, OFFSET8 = 0;
    using Sums = int32x4_t;
    int8x16_t v;
    static Bytes load(const void* p) { return {vld1q_s8(static_cast<const int8_t*>(p))}; }
    static Bytes load(const void* p, int64_t count) {
        if (count >= WIDTH) return load(p);
        int8_t part[WIDTH] = {};
        std::memcpy(part, p, static_cast<size_t>(count));
        return load(part);
    }
    static Bytes four(const int8_t* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        return {vreinterpretq_s8_s32(vdupq_n_s32(word))};
    }
    void store(void* p) const { vst1q_s8(static_cast<int8_t*>(p), v); }
    Bytes low() const { return {vshrq_n_s8(vshlq_n_s8(v, 4), 4)}; }
    Bytes high() const { return {vshrq_n_s8(v, 4)}; }
    Bytes wide() const { return *this; }
    static Sums zero() { return vdupq_n_s32(0); }
    static Sums add(Sums a, Sums b) { return vaddq_s32(a, b); }
    static Sums dot4(Sums sums, Bytes weight, Bytes x) { return vdotq_s32(sums, weight.v, x.v); }
    static Sums dot8(Sums sums, Bytes weight, Bytes x) { return vdotq_s32(sums, weight.v, x.v); }
    static void store(int32_t* p, Sums sums) { vst1q_s32(p, sums); }
    static int32_t total(Sums sums) { return vaddvq_s32(sums); }
    static void totals(Sums s0, Sums s1, Sums s2, Sums s3, int32_t* out) {
        vst1q_s32(out, vpaddq_s32(vpaddq_s32(s0, s1), vpaddq_s32(s2, s3)));
    }
};

#else

struct Bytes {
    static constexpr int WIDTH = 16, LANES = 4, OFFSET4 = 0, OFFSET8 = 0;
    struct Sums {
        int32_t v[4];
    };
    int8_t v[16];
    static Bytes load(const void* p, int64_t count = 16) {
        Bytes found = {};
        std::memcpy(found.v, p, static_cast<size_t>(count < 16 ? count : 16));
        return found;
    }
    static Bytes four(const int8_t* p) {
        Bytes found;
        for (int i = 0; i < 16; ++i) found.v[i] = p[i % 4];
        return found;
    }
    void store(void* p) const { std::memcpy(p, v, sizeof v); }
    Bytes low() const {
        Bytes found;
        for (int i = 0; i < 16; ++i) found.v[i] = static_cast<int8_t>(((v[i] & 15) ^ 8) - 8);
        return found;
    }
    Bytes high() const {
        Bytes found;
        for (int i = 0; i < 16; ++i) found.v[i] = static_cast<int8_t>(v[i] >> 4);
        return found;
    }
    Bytes wide() const { return *this; }
    static Sums zero() { return {{0, 0, 0, 0}}; }
    static Sums add(Sums a, Sums b) {
        for (int i = 0; i < 4; ++i) a.v[i] += b.v[i];
        return a;
    }
    static Sums dot8(Sums sums, Bytes weight, Bytes x) {
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) sums.v[i] += int32_t(weight.v[4 * i + j]) * int32_t(x.v[4 * i + j]);
        return sums;
    }
    static Sums dot4(Sums sums, Bytes weight, Bytes x) { return dot8(sums, weight, x); }
    static void store(int32_t* p, Sums sums) { std::memcpy(p, sums.v, sizeof sums.v); }
    static int32_t total(Sums sums) { return sums.v[0] + sums.v[1] + sums.v[2] + sums.v[3]; }
    static void totals(Sums s0, Sums s1, Sums s2, Sums s3, int32_t* out) {
        out[0] = total(s0), out[1] = total(s1), out[2] = total(s2), out[3] = total(s3);
    }
};

#endif

struct Words {
    uint32_t v[4];
    static Words load(const uint8_t* p, int64_t bytes = 16) {
        Words found = {};
        std::memcpy(found.v, p, static_cast<size_t>(bytes < 16 ? bytes : 16));
        return found;
    }
    template <int i, int BITS, bool SIGNED>
    Floats number() const {
        Floats found;
        for (int l = 0; l < 4; ++l) {
            const uint32_t up = v[l] << (32 - BITS * (i + 1));
            found.v[l] = SIGNED ? static_cast<float>(static_cast<int32_t>(up) >> (32 - BITS))
                                : static_cast<float>(up >> (32 - BITS));
        }
        return found;
    }
};

#endif

}  // namespace linmap
