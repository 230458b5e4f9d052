/* A unit of 32 words of Philox4x32-10 in NEON: eight counters in two vectors of four, word by
 * word, so that vld4 and vst4 put elements where their words are. */
#ifndef BITSPIN_PHILOX_NEON_H
#define BITSPIN_PHILOX_NEON_H

#include "philox.h"

#if BS_ARM
#include <arm_neon.h>

typedef struct {
    uint32x4_t low, high;
} bs_product_neon;

/* What is the same in all rows: as bs_begun_avx512, four counters each. */
typedef struct {
    uint32x4_t c3, c1, high, low;
} bs_begun_neon;

BS_INLINE bs_product_neon bs_multiply_neon(uint32x4_t a, uint32_t factor)
{
    uint64x2_t even = vmull_u32(vget_low_u32(a), vdup_n_u32(factor));
    uint64x2_t odd = vmull_u32(vget_high_u32(a), vdup_n_u32(factor));
    uint32x4x2_t halves = vuzpq_u32(vreinterpretq_u32_u64(even), vreinterpretq_u32_u64(odd));
    return (bs_product_neon){halves.val[0], halves.val[1]};
}

/* Counters 4 half ... 4 half + 3 of a unit. */
BS_INLINE bs_begun_neon bs_begin_neon(const bs_stream *stream, uint32_t unit, uint32_t half)
{
    static const uint32_t order[4] = {0, 1, 2, 3};
    uint32x4_t b = vaddq_u32(vdupq_n_u32(unit * BS_UNIT_COUNTERS + 4 * half), vld1q_u32(order));
    bs_product_neon product_0 = bs_multiply_neon(b, BS_PHILOX_M0);
    uint32x4_t c2 = veorq_u32(product_0.high, vdupq_n_u32(BS_ROUND_0_KEY(stream)));
    bs_product_neon product_1 = bs_multiply_neon(c2, BS_PHILOX_M1);
    uint32x4_t c0 = veorq_u32(product_1.high, vdupq_n_u32(BS_ROUND_1_KEY(stream)));
    bs_product_neon next_0 = bs_multiply_neon(c0, BS_PHILOX_M0);
    return (bs_begun_neon){product_0.low, veorq_u32(product_1.low, vdupq_n_u32(stream->key[2][0])),
                           veorq_u32(next_0.high, vdupq_n_u32(stream->key[2][1])), next_0.low};
}

/* words[h].val[w], lane l: element 16 h + 4 l + w of the unit. */
BS_INLINE void bs_finish_neon(const bs_stream *stream, bs_row row, const bs_begun_neon begun[2],
                              uint32x4x4_t words[2])
{
    for (int h = 0; h < 2; h++) {
        bs_product_neon product_0 = {begun[h].low, begun[h].high};
        bs_product_neon product_1 =
            bs_multiply_neon(veorq_u32(begun[h].c3, vdupq_n_u32(row.first)), BS_PHILOX_M1);
        uint32x4_t c0 = veorq_u32(product_1.high, begun[h].c1);
        uint32x4_t c1 = product_1.low;
        uint32x4_t c2 = veorq_u32(product_0.high, vdupq_n_u32(row.second));
        uint32x4_t c3 = product_0.low;
#pragma GCC unroll 8
        for (int r = 3; r < BS_ROUNDS; r++) {
            product_0 = bs_multiply_neon(c0, BS_PHILOX_M0);
            product_1 = bs_multiply_neon(c2, BS_PHILOX_M1);
            c0 = veorq_u32(product_1.high, veorq_u32(c1, vdupq_n_u32(stream->key[r][0])));
            c1 = product_1.low;
            c2 = veorq_u32(product_0.high, veorq_u32(c3, vdupq_n_u32(stream->key[r][1])));
            c3 = product_0.low;
        }
        words[h] = (uint32x4x4_t){{c0, c1, c2, c3}};
    }
}
#endif

#endif
