/* The sampler in AVX2: 32 units in four vectors per step of the generator. */
#include "sampler.h"

#if BS_X86
#include "philox_avx2.h"

BS_TARGET_AVX2 BS_INLINE __m256 bs_exp_minus_avx2(__m256 y)
{
    __m256 t = _mm256_mul_ps(y, _mm256_set1_ps(BS_MINUS_LOG2_E));
    __m256 r = _mm256_add_ps(t, _mm256_set1_ps(BS_ROUNDER));
    __m256 f = _mm256_sub_ps(t, _mm256_sub_ps(r, _mm256_set1_ps(BS_ROUNDER)));
    __m256 p = _mm256_add_ps(_mm256_mul_ps(f, _mm256_set1_ps(BS_EXP2_5)),
                             _mm256_set1_ps(BS_EXP2_4));
    p = _mm256_add_ps(_mm256_mul_ps(f, p), _mm256_set1_ps(BS_EXP2_3));
    p = _mm256_add_ps(_mm256_mul_ps(f, p), _mm256_set1_ps(BS_EXP2_2));
    p = _mm256_add_ps(_mm256_mul_ps(f, p), _mm256_set1_ps(BS_EXP2_1));
    p = _mm256_add_ps(_mm256_mul_ps(f, p), _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(r), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}

/* Bit i of the result is unit i of eight. */
BS_TARGET_AVX2 BS_INLINE uint32_t bs_bits_avx2(__m256i words, __m256 x, int32_t kind)
{
    __m256 u = _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 8));
    __m256 on;
    if (kind == BS_PROBABILITIES) {
        __m256i bits = _mm256_castps_si256(x);
        u = _mm256_mul_ps(u, _mm256_set1_ps(BS_UNIFORM_STEP));
        __m256i less = _mm256_cmpgt_epi32(bits, _mm256_castps_si256(u));
        __m256i nan = _mm256_cmpgt_epi32(bits, _mm256_set1_epi32(BS_INFINITY_BITS));
        on = _mm256_castsi256_ps(_mm256_andnot_si256(nan, less));
    } else {
        __m256 e = bs_exp_minus_avx2(_mm256_min_ps(x, _mm256_set1_ps(BS_HIGHEST)));
        __m256 scaled = _mm256_mul_ps(u, _mm256_add_ps(e, _mm256_set1_ps(1.0f)));
        on = _mm256_and_ps(_mm256_cmp_ps(scaled, _mm256_set1_ps(BS_UNIFORM_RANGE), _CMP_LT_OQ),
                           _mm256_cmp_ps(x, _mm256_set1_ps(BS_LOWEST), _CMP_GE_OQ));
    }
    return (uint32_t)_mm256_movemask_ps(on);
}

BS_TARGET_AVX2 BS_INLINE uint32_t bs_unit_bits_avx2(const __m256i words[4], const float *values,
                                                    int32_t kind)
{
    uint32_t bits = 0;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        bits |= bs_bits_avx2(words[j], _mm256_loadu_ps(values + 8 * j), kind) << 8 * j;
    return bits;
}

BS_TARGET_AVX2 BS_INLINE void bs_draw_words_avx2(const bs_draws *draws, const bs_block *block,
                                                 int32_t kind)
{
    const int64_t n_words = bs_draw_words(draws);
    for (int64_t word = block->word; word < block->word + block->count; word++) {
        const int64_t n_units = bs_units_of(block, word);
        bs_begun_avx2 begun[2] = {bs_begin_avx2(&draws->stream, (uint32_t)word, 0),
                                  bs_begin_avx2(&draws->stream, (uint32_t)word, 1)};
        for (int64_t i = block->begin; i < block->end; i++) {
            const float *values = draws->values + i * draws->stride + word * BS_UNIT;
            float padded[BS_UNIT];
            if (n_units < BS_UNIT) values = bs_pad(values, n_units, padded);
            __m256i words[4];
            bs_finish_avx2(&draws->stream, bs_row_of(&draws->stream, draws->rows[i]), begun,
                           words);
            draws->out[i * n_words + word] =
                bs_unit_bits_avx2(words, values, kind) & bs_unit_mask(n_units);
        }
    }
}

BS_TARGET_AVX2 void bs_draw_avx2(const bs_draws *draws, const bs_block *block)
{
    if (draws->kind == BS_PROBABILITIES)
        bs_draw_words_avx2(draws, block, BS_PROBABILITIES);
    else
        bs_draw_words_avx2(draws, block, BS_FIELDS);
}
#endif
