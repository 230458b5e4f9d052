/* The sampler in AVX-512: 32 units in two vectors per step of the generator. */
#include "sampler.h"

#if BS_X86
#include "philox_avx512.h"

BS_TARGET_AVX512 BS_INLINE __m512 bs_exp_minus_avx512(__m512 y)
{
    __m512 t = _mm512_mul_ps(y, _mm512_set1_ps(BS_MINUS_LOG2_E));
    __m512 r = _mm512_add_ps(t, _mm512_set1_ps(BS_ROUNDER));
    __m512 f = _mm512_sub_ps(t, _mm512_sub_ps(r, _mm512_set1_ps(BS_ROUNDER)));
    __m512 p = _mm512_add_ps(_mm512_mul_ps(f, _mm512_set1_ps(BS_EXP2_5)),
                             _mm512_set1_ps(BS_EXP2_4));
    p = _mm512_add_ps(_mm512_mul_ps(f, p), _mm512_set1_ps(BS_EXP2_3));
    p = _mm512_add_ps(_mm512_mul_ps(f, p), _mm512_set1_ps(BS_EXP2_2));
    p = _mm512_add_ps(_mm512_mul_ps(f, p), _mm512_set1_ps(BS_EXP2_1));
    p = _mm512_add_ps(_mm512_mul_ps(f, p), _mm512_set1_ps(1.0f));
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(r), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent));
}

/* What 16 uniforms are compared with: 1 + e^-x, or the bits of probabilities. */
typedef struct {
    __m512 value;
    __mmask16 possible; /* units that exist and are not off for certain */
} bs_level_avx512;

BS_TARGET_AVX512 BS_INLINE bs_level_avx512 bs_level_of_avx512(const float *values, uint32_t here,
                                                              int32_t kind)
{
    const __mmask16 exists = (__mmask16)here;
    __m512 x = _mm512_maskz_loadu_ps(exists, values);
    if (kind == BS_PROBABILITIES) {
        const __m512i infinity = _mm512_set1_epi32(BS_INFINITY_BITS);
        return (bs_level_avx512){
            x, _mm512_mask_cmple_epi32_mask(exists, _mm512_castps_si512(x), infinity)};
    }
    __m512 e = bs_exp_minus_avx512(_mm512_min_ps(x, _mm512_set1_ps(BS_HIGHEST)));
    return (bs_level_avx512){
        _mm512_add_ps(e, _mm512_set1_ps(1.0f)),
        _mm512_mask_cmp_ps_mask(exists, x, _mm512_set1_ps(BS_LOWEST), _CMP_GE_OQ)};
}

/* Bit i of the result is unit i of 16. */
BS_TARGET_AVX512 BS_INLINE uint32_t bs_bits_avx512(__m512i words, bs_level_avx512 level,
                                                   int32_t kind)
{
    __m512 u = _mm512_cvtepi32_ps(_mm512_srli_epi32(words, 8));
    if (kind == BS_PROBABILITIES) {
        u = _mm512_mul_ps(u, _mm512_set1_ps(BS_UNIFORM_STEP));
        return _mm512_mask_cmplt_epi32_mask(level.possible, _mm512_castps_si512(u),
                                            _mm512_castps_si512(level.value));
    }
    return _mm512_mask_cmp_ps_mask(level.possible, _mm512_mul_ps(u, level.value),
                                   _mm512_set1_ps(BS_UNIFORM_RANGE), _CMP_LT_OQ);
}

/* The levels come first: nothing in them waits for the generator, so that the processor works on
 * both at once. */
BS_TARGET_AVX512 BS_INLINE void bs_draw_words_avx512(const bs_draws *draws,
                                                     const bs_block *block, int count,
                                                     int32_t kind)
{
    const int64_t n_words = bs_draw_words(draws);
    const uint32_t last = bs_unit_mask(block->n_last);
    bs_begun_avx512 begun[BS_BLOCK_WORDS];
#pragma GCC unroll 4
    for (int u = 0; u < count; u++)
        begun[u] = bs_begin_avx512(&draws->stream, (uint32_t)(block->word + u));
    for (int64_t i = block->begin; i < block->end; i++) {
        const float *values = draws->values + i * draws->stride + block->word * BS_UNIT;
        uint32_t *out = draws->out + i * n_words + block->word;
        bs_level_avx512 low[BS_BLOCK_WORDS], high[BS_BLOCK_WORDS];
        bs_unit_avx512 units[BS_BLOCK_WORDS];
#pragma GCC unroll 4
        for (int u = 0; u < count; u++) {
            const uint32_t here = u + 1 < count ? ~0u : last;
            low[u] = bs_level_of_avx512(values + u * BS_UNIT, here & 0xffff, kind);
            high[u] = bs_level_of_avx512(values + u * BS_UNIT + 16, here >> 16, kind);
        }
        bs_finish_avx512(&draws->stream, bs_row_of(&draws->stream, draws->rows[i]), begun, count,
                         units);
#pragma GCC unroll 4
        for (int u = 0; u < count; u++)
            out[u] = bs_bits_avx512(units[u].words[0], low[u], kind) |
                     bs_bits_avx512(units[u].words[1], high[u], kind) << 16;
    }
}

/* With the number of words known the compiler keeps all of them in registers. */
BS_TARGET_AVX512 BS_INLINE void bs_draw_kind_avx512(const bs_draws *draws, const bs_block *block,
                                                    int32_t kind)
{
    switch (block->count) {
    case 1: bs_draw_words_avx512(draws, block, 1, kind); break;
    case 2: bs_draw_words_avx512(draws, block, 2, kind); break;
    case 3: bs_draw_words_avx512(draws, block, 3, kind); break;
    default: bs_draw_words_avx512(draws, block, BS_BLOCK_WORDS, kind);
    }
}

BS_TARGET_AVX512 void bs_draw_avx512(const bs_draws *draws, const bs_block *block)
{
    if (draws->kind == BS_PROBABILITIES)
        bs_draw_kind_avx512(draws, block, BS_PROBABILITIES);
    else
        bs_draw_kind_avx512(draws, block, BS_FIELDS);
}
#endif
