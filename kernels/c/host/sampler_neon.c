/* The sampler in NEON: 32 units in eight vectors per step of the generator. Vector w of a half
 * holds units w, 4 + w, 8 + w, 12 + w of it. */
#include "sampler.h"

#if BS_ARM
#include "philox_neon.h"

BS_INLINE float32x4_t bs_exp_minus_neon(float32x4_t y)
{
    float32x4_t t = vmulq_f32(y, vdupq_n_f32(BS_MINUS_LOG2_E));
    float32x4_t r = vaddq_f32(t, vdupq_n_f32(BS_ROUNDER));
    float32x4_t f = vsubq_f32(t, vsubq_f32(r, vdupq_n_f32(BS_ROUNDER)));
    float32x4_t p = vaddq_f32(vmulq_f32(f, vdupq_n_f32(BS_EXP2_5)), vdupq_n_f32(BS_EXP2_4));
    p = vaddq_f32(vmulq_f32(f, p), vdupq_n_f32(BS_EXP2_3));
    p = vaddq_f32(vmulq_f32(f, p), vdupq_n_f32(BS_EXP2_2));
    p = vaddq_f32(vmulq_f32(f, p), vdupq_n_f32(BS_EXP2_1));
    p = vaddq_f32(vmulq_f32(f, p), vdupq_n_f32(1.0f));
    uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(r), 23);
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p), exponent));
}

/* All bits of a lane set where the unit is on. */
BS_INLINE uint32x4_t bs_on_neon(uint32x4_t words, float32x4_t x, int32_t kind)
{
    float32x4_t u = vcvtq_f32_u32(vshrq_n_u32(words, 8));
    if (kind == BS_PROBABILITIES) {
        int32x4_t bits = vreinterpretq_s32_f32(x);
        u = vmulq_f32(u, vdupq_n_f32(BS_UNIFORM_STEP));
        return vandq_u32(vcltq_s32(vreinterpretq_s32_f32(u), bits),
                         vcleq_s32(bits, vdupq_n_s32(BS_INFINITY_BITS)));
    }
    float32x4_t e = bs_exp_minus_neon(vminq_f32(x, vdupq_n_f32(BS_HIGHEST)));
    float32x4_t scaled = vmulq_f32(u, vaddq_f32(e, vdupq_n_f32(1.0f)));
    return vandq_u32(vcltq_f32(scaled, vdupq_n_f32(BS_UNIFORM_RANGE)),
                     vcgeq_f32(x, vdupq_n_f32(BS_LOWEST)));
}

BS_INLINE uint32_t bs_unit_bits_neon(const uint32x4x4_t words[2], const float *values,
                                     int32_t kind)
{
    static const uint32_t first_bits[4] = {1, 1 << 4, 1 << 8, 1 << 12};
    uint32x4_t bit = vld1q_u32(first_bits), bits = vdupq_n_u32(0);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        float32x4x4_t x = vld4q_f32(values + 16 * h);
#pragma GCC unroll 4
        for (int w = 0; w < 4; w++) {
            bits = vorrq_u32(bits, vandq_u32(bit, bs_on_neon(words[h].val[w], x.val[w], kind)));
            bit = vshlq_n_u32(bit, 1);
        }
        bit = vshlq_n_u32(bit, 12);
    }
    uint32x2_t pairs = vpadd_u32(vget_low_u32(bits), vget_high_u32(bits));
    return vget_lane_u32(vpadd_u32(pairs, pairs), 0);
}

BS_INLINE void bs_draw_words_neon(const bs_draws *draws, const bs_block *block, int32_t kind)
{
    const int64_t n_words = bs_draw_words(draws);
    for (int64_t word = block->word; word < block->word + block->count; word++) {
        const int64_t n_units = bs_units_of(block, word);
        bs_begun_neon begun[2] = {bs_begin_neon(&draws->stream, (uint32_t)word, 0),
                                  bs_begin_neon(&draws->stream, (uint32_t)word, 1)};
        for (int64_t i = block->begin; i < block->end; i++) {
            const float *values = draws->values + i * draws->stride + word * BS_UNIT;
            float padded[BS_UNIT];
            if (n_units < BS_UNIT) values = bs_pad(values, n_units, padded);
            uint32x4x4_t words[2];
            bs_finish_neon(&draws->stream, bs_row_of(&draws->stream, draws->rows[i]), begun,
                           words);
            draws->out[i * n_words + word] =
                bs_unit_bits_neon(words, values, kind) & bs_unit_mask(n_units);
        }
    }
}

void bs_draw_neon(const bs_draws *draws, const bs_block *block)
{
    if (draws->kind == BS_PROBABILITIES)
        bs_draw_words_neon(draws, block, BS_PROBABILITIES);
    else
        bs_draw_words_neon(draws, block, BS_FIELDS);
}
#endif
