/* Thresholds per channel, for every back end but ARM's. */
#include "threshold.h"

#if BS_X86
#include <immintrin.h>
#endif

/* Words [0, (n + 31) / 32) of a row. */
BS_INLINE void threshold_words(const int32_t *acc, const int32_t *level, const int32_t *flip,
                               int32_t n, uint32_t *out)
{
    for (int32_t c = 0; c < n; c += 32) {
        int32_t width = n - c < 32 ? n - c : 32;
        uint32_t word = 0;
        for (int32_t i = 0; i < width; i++)
            word |= ((uint32_t)(acc[c + i] >= level[c + i]) ^ (uint32_t)flip[c + i]) << i;
        out[c / 32] = word;
    }
}

#if BS_X86
BS_TARGET_AVX2 static void threshold_avx2(const int32_t *acc, const int32_t *level,
                                          const int32_t *flip, int32_t n, uint32_t *out)
{
    int32_t c = 0;
    for (; c + 32 <= n; c += 32) {
        uint32_t word = 0;
        for (int32_t i = 0; i < 32; i += 8) {
            __m256i sum = _mm256_loadu_si256((const __m256i *)(acc + c + i));
            __m256i below = _mm256_cmpgt_epi32(
                _mm256_loadu_si256((const __m256i *)(level + c + i)), sum);
            /* The flip moves to the sign, which is what movmskps reads. */
            __m256i sign = _mm256_slli_epi32(
                _mm256_loadu_si256((const __m256i *)(flip + c + i)), 31);
            __m256i clear = _mm256_xor_si256(below, sign);
            word |= (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(clear)) << i;
        }
        out[c / 32] = ~word;
    }
    threshold_words(acc + c, level + c, flip + c, n - c, out + c / 32);
}

BS_TARGET_AVX512 static void threshold_avx512(const int32_t *acc, const int32_t *level,
                                              const int32_t *flip, int32_t n, uint32_t *out)
{
    for (int32_t c = 0; c < n; c += 32) {
        uint32_t word = 0;
        for (int32_t i = 0; i < 32 && c + i < n; i += 16) {
            int32_t rest = n - c - i;
            __mmask16 exists = rest >= 16 ? 0xffff : (__mmask16)((1u << rest) - 1);
            __m512i sum = _mm512_maskz_loadu_epi32(exists, acc + c + i);
            __m512i at = _mm512_maskz_loadu_epi32(exists, level + c + i);
            __m512i flips = _mm512_maskz_loadu_epi32(exists, flip + c + i);
            __mmask16 above = _mm512_mask_cmpge_epi32_mask(exists, sum, at);
            word |= (uint32_t)(above ^ _mm512_test_epi32_mask(flips, flips)) << i;
        }
        out[c / 32] = word;
    }
}
#endif

void bs_threshold(uint32_t backend, const int32_t *acc, const int32_t *level, const int32_t *flip,
                  int32_t n, uint32_t *out)
{
#if BS_X86
    if (backend == BS_AVX512) {
        threshold_avx512(acc, level, flip, n, out);
        return;
    }
    if (backend == BS_AVX2) {
        threshold_avx2(acc, level, flip, n, out);
        return;
    }
#endif
#if BS_ARM
    if (backend == BS_NEON || backend == BS_DOTPROD) {
        bs_threshold_neon(acc, level, flip, n, out);
        return;
    }
#endif
    (void)backend;
    threshold_words(acc, level, flip, n, out);
}
