/* Draws of units: field -> sigmoid -> uniform < p -> bit, defined as a sequence of single-precision
 * operations, each rounded to nearest, none fused, so that every back end and numpy
 * (kernels/reference_sampling.py) give the same bits.
 *
 * With U = word >> 8, the uniform is U 2^-24, and U 2^-24 < 1 / (1 + e^-x) is decided without a
 * division as U (1 + e^-x) < 2^24. For y = min(x, BS_HIGHEST), with t = y * -log2(e):
 *
 *   r = t + 3 2^22      rounds t to an integer n, whose two's complement stands in the low bits
 *   f = t - (r - 3 2^22)                  exact, |f| <= 1/2
 *   2^f = 1 + f (c1 + f (c2 + f (c3 + f (c4 + f c5))))       relative error < 2e-7
 *   e^-y = 2^f with n added to its exponent
 *
 * From 24 log 2 = 16.64 on 1 + e^-x rounds to 1, and the unit is on. Below BS_LOWEST = -25 log 2,
 * where the sigmoid is nearer to 0 than to 2^-24, it is off: without that, U = 0 would be on for
 * every x. In between 2^-26 < e^-y < 2^26: nothing overflows or is denormal, U (1 + e^-x) < 2^51.
 * NaN is not >= BS_LOWEST, so off; what the arithmetic makes of it, or of -inf, does not matter.
 *
 * For given probabilities the unit is on iff U 2^-24 < p, decided on the bits of both floats as
 * integers: u >= 0, so that this is their order, denormal p included on processors that flush
 * them. NaN is off. */
#ifndef BITSPIN_SAMPLER_H
#define BITSPIN_SAMPLER_H

#include "philox.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define BS_LOWEST -17.328679f /* -25 log 2 */
#define BS_HIGHEST 17.5f
#define BS_MINUS_LOG2_E -0x1.715476p+0f
#define BS_ROUNDER 12582912.0f /* 3 2^22 */
#define BS_EXP2_1 0x1.62e42ap-1f
#define BS_EXP2_2 0x1.ebf9bcp-3f
#define BS_EXP2_3 0x1.c6b754p-5f
#define BS_EXP2_4 0x1.3cea88p-7f
#define BS_EXP2_5 0x1.5bba08p-10f
#define BS_UNIFORM_RANGE 16777216.0f /* 2^24 */
#define BS_UNIFORM_STEP 0x1p-24f
#define BS_INFINITY_BITS 0x7f800000
#define BS_SIGMOID_LIMIT 87.0f /* e^87 < 2^126: neither it nor 1 / (1 + e^87) is denormal */

enum { BS_FIELDS = 0, BS_PROBABILITIES = 1 };

/* n values per row; row i is `rows[i]` of the stream. Bits of a row fill (n + 31) / 32 words. */
typedef struct {
    bs_stream stream;
    const float *values;
    int64_t stride; /* of values, in values */
    const uint32_t *rows;
    int64_t n_rows, n;
    int32_t kind; /* BS_FIELDS or BS_PROBABILITIES */
    uint32_t *out;
} bs_draws;

/* Words word ... word + count - 1 of rows begin ... end - 1; the last word has n_last units. */
typedef struct {
    int64_t begin, end, word, count, n_last;
} bs_block;

/* At most; the rows of a block share what is begun. */
enum { BS_BLOCK_ROWS = 16, BS_BLOCK_WORDS = 4 };

/* Words of a row of bits. */
static inline int64_t bs_draw_words(const bs_draws *draws)
{
    return (draws->n + BS_UNIT - 1) / BS_UNIT;
}

/* How many units of a word of the block exist, and their bits. */
static inline int64_t bs_units_of(const bs_block *block, int64_t word)
{
    return word + 1 == block->word + block->count ? block->n_last : BS_UNIT;
}

static inline uint32_t bs_unit_mask(int64_t n_units) { return ~0u >> (BS_UNIT - n_units); }

/* A copy of values that do not fill a unit, for back ends that read whole vectors. */
BS_INLINE const float *bs_pad(const float *values, int64_t n, float padded[BS_UNIT])
{
    for (int64_t j = 0; j < BS_UNIT; j++) padded[j] = j < n ? values[j] : 0.0f;
    return padded;
}

/* One file each; what they have in common is in sampler.c. Hidden, so that taking their addresses
 * needs no relocation. */
#if defined(__GNUC__)
#pragma GCC visibility push(hidden)
#endif
#if BS_X86
void bs_draw_avx2(const bs_draws *draws, const bs_block *block);
void bs_draw_avx512(const bs_draws *draws, const bs_block *block);
#endif
#if BS_ARM
void bs_draw_neon(const bs_draws *draws, const bs_block *block);
#endif
#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

/* e^-y for |y| <= BS_SIGMOID_LIMIT. */
BS_INLINE float bs_exp_minus(float y)
{
    union {
        float value;
        uint32_t bits;
    } rounded, power;
    float t = y * BS_MINUS_LOG2_E;
    rounded.value = t + BS_ROUNDER;
    float f = t - (rounded.value - BS_ROUNDER);
    float p = f * BS_EXP2_5 + BS_EXP2_4;
    p = f * p + BS_EXP2_3;
    p = f * p + BS_EXP2_2;
    p = f * p + BS_EXP2_1;
    power.value = f * p + 1.0f;
    power.bits += rounded.bits << 23;
    return power.value;
}

#endif
