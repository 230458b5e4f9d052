/* Numbers to bits, for every back end but ARM's. */
#include "pack.h"

#if BS_X86
#include <immintrin.h>
#endif

/* Plain C: the comparison is that of the promoted types. */
#define DEFINE_PACK(name, value, level)                                                    \
    BS_INLINE void name(const value *x, int64_t n, level threshold, uint32_t *out)         \
    {                                                                                      \
        for (int64_t at = 0; at < n; at += 32) {                                           \
            int32_t width = n - at < 32 ? (int32_t)(n - at) : 32;                          \
            uint32_t word = 0;                                                             \
            for (int32_t i = 0; i < width; i++)                                            \
                word |= (uint32_t)(x[at + i] >= threshold) << i;                           \
            out[at / 32] = word;                                                           \
        }                                                                                  \
    }

DEFINE_PACK(pack_f32, float, float)
DEFINE_PACK(pack_u8, uint8_t, int32_t)
DEFINE_PACK(pack_i8, int8_t, int32_t)

#if BS_X86
BS_TARGET_AVX2 static void pack_f32_avx2(const float *x, int64_t n, float threshold, uint32_t *out)
{
    const __m256 level = _mm256_set1_ps(threshold);
    int64_t at = 0;
    for (; at + 32 <= n; at += 32) {
        uint32_t word = 0;
        for (int32_t i = 0; i < 32; i += 8) {
            __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(x + at + i), level, _CMP_GE_OQ);
            word |= (uint32_t)_mm256_movemask_ps(above) << i;
        }
        out[at / 32] = word;
    }
    pack_f32(x + at, n - at, threshold, out + at / 32);
}

/* Signed bytes become unsigned by flipping their sign, as does their threshold: offset is 0x80. */
BS_TARGET_AVX2 BS_INLINE int64_t pack_bytes_avx2(const uint8_t *x, int64_t n, uint8_t threshold,
                                                 uint8_t offset, uint32_t *out)
{
    const __m256i level = _mm256_set1_epi8((char)threshold);
    const __m256i sign = _mm256_set1_epi8((char)offset);
    int64_t at = 0;
    for (; at + 32 <= n; at += 32) {
        __m256i value = _mm256_loadu_si256((const __m256i *)(x + at));
        value = _mm256_xor_si256(value, sign);
        __m256i above = _mm256_cmpeq_epi8(_mm256_max_epu8(value, level), value);
        out[at / 32] = (uint32_t)_mm256_movemask_epi8(above);
    }
    return at;
}

BS_TARGET_AVX2 static int64_t pack_u8_avx2(const uint8_t *x, int64_t n, uint8_t threshold,
                                           uint32_t *out)
{
    return pack_bytes_avx2(x, n, threshold, 0, out);
}

BS_TARGET_AVX2 static int64_t pack_i8_avx2(const int8_t *x, int64_t n, int8_t threshold,
                                           uint32_t *out)
{
    return pack_bytes_avx2((const uint8_t *)x, n, (uint8_t)threshold ^ 0x80, 0x80, out);
}

BS_TARGET_AVX512 static void pack_f32_avx512(const float *x, int64_t n, float threshold,
                                             uint32_t *out)
{
    const __m512 level = _mm512_set1_ps(threshold);
    int64_t at = 0;
    for (; at + 32 <= n; at += 32) {
        __mmask16 low = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + at), level, _CMP_GE_OQ);
        __mmask16 high = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + at + 16), level, _CMP_GE_OQ);
        out[at / 32] = _mm512_kunpackw(high, low);
    }
    if (at < n) {
        uint32_t exists = (1u << (n - at)) - 1;
        __mmask16 first = (__mmask16)exists, second = (__mmask16)(exists >> 16);
        __m512 x0 = _mm512_maskz_loadu_ps(first, x + at);
        __m512 x1 = _mm512_maskz_loadu_ps(second, x + at + 16);
        __mmask16 low = _mm512_mask_cmp_ps_mask(first, x0, level, _CMP_GE_OQ);
        __mmask16 high = _mm512_mask_cmp_ps_mask(second, x1, level, _CMP_GE_OQ);
        out[at / 32] = _mm512_kunpackw(high, low);
    }
}

BS_TARGET_AVX512 static int64_t pack_u8_avx512(const uint8_t *x, int64_t n, uint8_t threshold,
                                               uint32_t *out)
{
    const __m512i level = _mm512_set1_epi8((char)threshold);
    int64_t at = 0;
    for (; at + 64 <= n; at += 64) {
        uint64_t bits = _mm512_cmpge_epu8_mask(_mm512_loadu_si512(x + at), level);
        out[at / 32] = (uint32_t)bits;
        out[at / 32 + 1] = (uint32_t)(bits >> 32);
    }
    return at;
}

BS_TARGET_AVX512 static int64_t pack_i8_avx512(const int8_t *x, int64_t n, int8_t threshold,
                                               uint32_t *out)
{
    const __m512i level = _mm512_set1_epi8((char)threshold);
    int64_t at = 0;
    for (; at + 64 <= n; at += 64) {
        uint64_t bits = _mm512_cmpge_epi8_mask(_mm512_loadu_si512(x + at), level);
        out[at / 32] = (uint32_t)bits;
        out[at / 32 + 1] = (uint32_t)(bits >> 32);
    }
    return at;
}
#endif

void bs_pack_f32(uint32_t backend, const float *x, int64_t n, float threshold, uint32_t *out)
{
#if BS_X86
    if (backend == BS_AVX512) {
        pack_f32_avx512(x, n, threshold, out);
        return;
    }
    if (backend == BS_AVX2) {
        pack_f32_avx2(x, n, threshold, out);
        return;
    }
#endif
#if BS_ARM
    if (backend == BS_NEON || backend == BS_DOTPROD) {
        bs_pack_f32_neon(x, n, threshold, out);
        return;
    }
#endif
    (void)backend;
    pack_f32(x, n, threshold, out);
}

void bs_pack_u8(uint32_t backend, const uint8_t *x, int64_t n, int32_t threshold, uint32_t *out)
{
    int64_t at = 0; /* a multiple of 32 */
    if (threshold >= 0 && threshold <= 255) {
#if BS_X86
        if (backend == BS_AVX512) at = pack_u8_avx512(x, n, (uint8_t)threshold, out);
        if (backend == BS_AVX2) at = pack_u8_avx2(x, n, (uint8_t)threshold, out);
#endif
#if BS_ARM
        if (backend == BS_NEON || backend == BS_DOTPROD) {
            bs_pack_u8_neon(x, n, (uint8_t)threshold, out);
            return;
        }
#endif
    }
    (void)backend;
    pack_u8(x + at, n - at, threshold, out + at / 32);
}

void bs_pack_i8(uint32_t backend, const int8_t *x, int64_t n, int32_t threshold, uint32_t *out)
{
    int64_t at = 0; /* a multiple of 32 */
    if (threshold >= -128 && threshold <= 127) {
#if BS_X86
        if (backend == BS_AVX512) at = pack_i8_avx512(x, n, (int8_t)threshold, out);
        if (backend == BS_AVX2) at = pack_i8_avx2(x, n, (int8_t)threshold, out);
#endif
#if BS_ARM
        if (backend == BS_NEON || backend == BS_DOTPROD) {
            bs_pack_i8_neon(x, n, (int8_t)threshold, out);
            return;
        }
#endif
    }
    (void)backend;
    pack_i8(x + at, n - at, threshold, out + at / 32);
}
