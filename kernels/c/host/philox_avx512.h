/* A unit of 32 words of Philox4x32-10 in AVX-512: eight counters, one per 64-bit lane.
 *
 * vpmuludq reads the low half of each lane only, so every word may drag along what it likes in
 * its high half, and lo() costs nothing: a round is 2 products, 2 shifts, 2 ternary XORs. The
 * last round rotates instead of shifting, which puts hi and lo where two output words go. */
#ifndef BITSPIN_PHILOX_AVX512_H
#define BITSPIN_PHILOX_AVX512_H

#include "philox.h"

#if BS_X86
#include <immintrin.h>

/* What is the same in all rows. */
typedef struct {
    __m512i product_0;  /* M0 b: c3 of round 0 in the low halves */
    __m512i c1;         /* of round 1, with the key of round 2 */
    __m512i high, low;  /* of M0 c0 in round 2 */
} bs_begun_avx512;

typedef struct {
    __m512i words[2]; /* 16 elements each, in order */
} bs_unit_avx512;

BS_TARGET_AVX512 BS_INLINE bs_begun_avx512 bs_begin_avx512(const bs_stream *stream, uint32_t unit)
{
    const __m512i m0 = _mm512_set1_epi64(BS_PHILOX_M0), m1 = _mm512_set1_epi64(BS_PHILOX_M1);
    /* In this order of counters the unpacking at the end leaves the words in order. */
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    __m512i b = _mm512_add_epi32(_mm512_set1_epi64(unit * BS_UNIT_COUNTERS), order);
    bs_begun_avx512 begun;
    begun.product_0 = _mm512_mul_epu32(b, m0);
    __m512i c2 = _mm512_xor_si512(_mm512_srli_epi64(begun.product_0, 32),
                                  _mm512_set1_epi64(BS_ROUND_0_KEY(stream)));
    __m512i product_1 = _mm512_mul_epu32(c2, m1);
    __m512i c0 = _mm512_xor_si512(_mm512_srli_epi64(product_1, 32),
                                  _mm512_set1_epi64(BS_ROUND_1_KEY(stream)));
    begun.c1 = _mm512_xor_si512(product_1, _mm512_set1_epi64(stream->key[2][0]));
    begun.low = _mm512_mul_epu32(c0, m0);
    begun.high = _mm512_xor_si512(_mm512_srli_epi64(begun.low, 32),
                                  _mm512_set1_epi64(stream->key[2][1]));
    return begun;
}

/* `count` units at once, to fill the pipes. */
BS_TARGET_AVX512 BS_INLINE void bs_finish_avx512(const bs_stream *stream, bs_row row,
                                                 const bs_begun_avx512 *begun, int count,
                                                 bs_unit_avx512 *units)
{
    enum { XOR3 = 0x96, LOW_HALVES = 0x5555 };
    const __m512i m0 = _mm512_set1_epi64(BS_PHILOX_M0), m1 = _mm512_set1_epi64(BS_PHILOX_M1);
    const __m512i first = _mm512_set1_epi32((int)row.first);
    const __m512i second = _mm512_set1_epi32((int)row.second);
    __m512i c0[4], c1[4], c2[4], c3[4];
#pragma GCC unroll 4
    for (int u = 0; u < count; u++) {
        c1[u] = _mm512_mul_epu32(_mm512_xor_si512(begun[u].product_0, first), m1);
        c0[u] = _mm512_xor_si512(_mm512_srli_epi64(c1[u], 32), begun[u].c1);
        c2[u] = _mm512_xor_si512(begun[u].high, second);
        c3[u] = begun[u].low;
    }
#pragma GCC unroll 8
    for (int r = 3; r < BS_ROUNDS; r++) {
        __m512i k0 = _mm512_set1_epi32((int)stream->key[r][0]);
        __m512i k1 = _mm512_set1_epi32((int)stream->key[r][1]);
#pragma GCC unroll 4
        for (int u = 0; u < count; u++) {
            __m512i product_0 = _mm512_mul_epu32(c0[u], m0);
            __m512i product_1 = _mm512_mul_epu32(c2[u], m1);
            if (r + 1 < BS_ROUNDS) {
                __m512i high_0 = _mm512_srli_epi64(product_0, 32);
                __m512i high_1 = _mm512_srli_epi64(product_1, 32);
                c0[u] = _mm512_ternarylogic_epi32(high_1, c1[u], k0, XOR3);
                c2[u] = _mm512_ternarylogic_epi32(high_0, c3[u], k1, XOR3);
                c1[u] = product_1;
                c3[u] = product_0;
            } else {
                __m512i turned_0 = _mm512_ror_epi64(product_0, 32);
                __m512i turned_1 = _mm512_ror_epi64(product_1, 32);
                c0[u] = _mm512_mask_ternarylogic_epi32(turned_1, LOW_HALVES, c1[u], k0, XOR3);
                c2[u] = _mm512_mask_ternarylogic_epi32(turned_0, LOW_HALVES, c3[u], k1, XOR3);
            }
        }
    }
#pragma GCC unroll 4
    for (int u = 0; u < count; u++) {
        units[u].words[0] = _mm512_unpacklo_epi64(c0[u], c2[u]);
        units[u].words[1] = _mm512_unpackhi_epi64(c0[u], c2[u]);
    }
}
#endif

#endif
