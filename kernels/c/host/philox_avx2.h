/* A unit of 32 words of Philox4x32-10 in AVX2: eight counters, one per 64-bit lane of two vectors.
 * As philox_avx512.h, but a ternary XOR is two, and half-vectors are picked with a mask. */
#ifndef BITSPIN_PHILOX_AVX2_H
#define BITSPIN_PHILOX_AVX2_H

#include "philox.h"

#if BS_X86
#include <immintrin.h>

/* What is the same in all rows: as bs_begun_avx512, four counters each. */
typedef struct {
    __m256i product_0, c1, high, low;
} bs_begun_avx2;

BS_TARGET_AVX2 BS_INLINE __m256i bs_xor3_avx2(__m256i a, __m256i b, __m256i c)
{
    return _mm256_xor_si256(_mm256_xor_si256(b, c), a);
}

/* Counters 4 half ... 4 half + 3 of a unit. */
BS_TARGET_AVX2 BS_INLINE bs_begun_avx2 bs_begin_avx2(const bs_stream *stream, uint32_t unit,
                                                     uint32_t half)
{
    const __m256i m0 = _mm256_set1_epi64x(BS_PHILOX_M0), m1 = _mm256_set1_epi64x(BS_PHILOX_M1);
    /* In this order of counters the unpacking at the end leaves the words in order. */
    const __m256i order = _mm256_setr_epi64x(0, 2, 1, 3);
    __m256i b = _mm256_add_epi32(_mm256_set1_epi64x(unit * BS_UNIT_COUNTERS + 4 * half), order);
    bs_begun_avx2 begun;
    begun.product_0 = _mm256_mul_epu32(b, m0);
    __m256i c2 = _mm256_xor_si256(_mm256_srli_epi64(begun.product_0, 32),
                                  _mm256_set1_epi64x(BS_ROUND_0_KEY(stream)));
    __m256i product_1 = _mm256_mul_epu32(c2, m1);
    __m256i c0 = _mm256_xor_si256(_mm256_srli_epi64(product_1, 32),
                                  _mm256_set1_epi64x(BS_ROUND_1_KEY(stream)));
    begun.c1 = _mm256_xor_si256(product_1, _mm256_set1_epi64x(stream->key[2][0]));
    begun.low = _mm256_mul_epu32(c0, m0);
    begun.high = _mm256_xor_si256(_mm256_srli_epi64(begun.low, 32),
                                  _mm256_set1_epi64x(stream->key[2][1]));
    return begun;
}

/* The four vectors of 8 words of a unit, in order. */
BS_TARGET_AVX2 BS_INLINE void bs_finish_avx2(const bs_stream *stream, bs_row row,
                                             const bs_begun_avx2 begun[2], __m256i words[4])
{
    const __m256i m0 = _mm256_set1_epi64x(BS_PHILOX_M0), m1 = _mm256_set1_epi64x(BS_PHILOX_M1);
    const __m256i low_halves = _mm256_set1_epi64x(0xffffffff);
    const __m256i first = _mm256_set1_epi32((int)row.first);
    const __m256i second = _mm256_set1_epi32((int)row.second);
    __m256i c0[2], c1[2], c2[2], c3[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        c1[h] = _mm256_mul_epu32(_mm256_xor_si256(begun[h].product_0, first), m1);
        c0[h] = _mm256_xor_si256(_mm256_srli_epi64(c1[h], 32), begun[h].c1);
        c2[h] = _mm256_xor_si256(begun[h].high, second);
        c3[h] = begun[h].low;
    }
#pragma GCC unroll 8
    for (int r = 3; r < BS_ROUNDS; r++) {
        __m256i k0 = _mm256_set1_epi32((int)stream->key[r][0]);
        __m256i k1 = _mm256_set1_epi32((int)stream->key[r][1]);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m256i product_0 = _mm256_mul_epu32(c0[h], m0);
            __m256i product_1 = _mm256_mul_epu32(c2[h], m1);
            if (r + 1 < BS_ROUNDS) {
                c0[h] = bs_xor3_avx2(_mm256_srli_epi64(product_1, 32), c1[h], k0);
                c2[h] = bs_xor3_avx2(_mm256_srli_epi64(product_0, 32), c3[h], k1);
                c1[h] = product_1;
                c3[h] = product_0;
            } else { /* hi and lo change places: two words of the result side by side */
                __m256i extra_0 = _mm256_and_si256(_mm256_xor_si256(c1[h], k0), low_halves);
                __m256i extra_1 = _mm256_and_si256(_mm256_xor_si256(c3[h], k1), low_halves);
                c0[h] = _mm256_xor_si256(_mm256_shuffle_epi32(product_1, 0xb1), extra_0);
                c2[h] = _mm256_xor_si256(_mm256_shuffle_epi32(product_0, 0xb1), extra_1);
            }
        }
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        words[2 * h] = _mm256_unpacklo_epi64(c0[h], c2[h]);
        words[2 * h + 1] = _mm256_unpackhi_epi64(c0[h], c2[h]);
    }
}
#endif

#endif
