/* Numbers to bits, and accumulators against thresholds, with base NEON. */
#include "pack.h"
#include "threshold.h"

#if BS_ARM
#include "neon.h"

/* What floats are compared with. NEON of armv7 takes every number below 2^-126 for zero, which
 * would move it across a threshold: there the comparison is one of integers in the same order. */
typedef struct {
#if defined(__aarch64__)
    float32x4_t threshold;
#else
    int32x4_t level; /* key of the threshold */
#endif
} float_level;

#if !defined(__aarch64__)
enum { KEY_INFINITY = 0x7f800000 };

/* Numbers in order, -0 right below +0; a NaN lies outside of [-infinity, infinity]. */
BS_INLINE int32x4_t key(int32x4_t bits)
{
    uint32x4_t low = vshrq_n_u32(vreinterpretq_u32_s32(vshrq_n_s32(bits, 31)), 1);
    return veorq_s32(bits, vreinterpretq_s32_u32(low));
}
#endif

BS_INLINE float_level float_level_of(float threshold)
{
    float_level level;
#if defined(__aarch64__)
    level.threshold = vdupq_n_f32(threshold);
#else
    union {
        float number;
        int32_t bits;
    } at = {threshold};
    if (threshold == 0) at.bits = INT32_MIN; /* -0 >= 0 */
    level.level = key(vdupq_n_s32(at.bits));
    if (threshold != threshold) level.level = vdupq_n_s32(INT32_MAX);
#endif
    return level;
}

BS_INLINE uint32x4_t above_f32(const float *x, const float_level *level)
{
#if defined(__aarch64__)
    return vcgeq_f32(vld1q_f32(x), level->threshold);
#else
    int32x4_t value = key(vreinterpretq_s32_f32(vld1q_f32(x)));
    return vandq_u32(vcgeq_s32(value, level->level), vcleq_s32(value, vdupq_n_s32(KEY_INFINITY)));
#endif
}

void bs_pack_f32_neon(const float *x, int64_t n, float threshold, uint32_t *out)
{
    const float_level level = float_level_of(threshold);
    int64_t at = 0;
    for (; at + 32 <= n; at += 32) {
        uint32x4_t masks[8];
#pragma GCC unroll 8
        for (int32_t i = 0; i < 8; i++) masks[i] = above_f32(x + at + 4 * i, &level);
        *out++ = bs_word_of_masks_u32(masks);
    }
    if (at == n) return;
    uint32_t word = 0;
    int32_t i = 0, rest = (int32_t)(n - at);
    for (; i + 4 <= rest; i += 4) word |= bs_bits_of_mask(above_f32(x + at + i, &level)) << i;
    for (; i < rest; i++) word |= (uint32_t)(x[at + i] >= threshold) << i;
    *out = word;
}

void bs_pack_u8_neon(const uint8_t *x, int64_t n, uint8_t threshold, uint32_t *out)
{
    const uint8x16_t level = vdupq_n_u8(threshold);
    int64_t at = 0;
    for (; at + 32 <= n; at += 32) {
        uint8x16_t low = vcgeq_u8(vld1q_u8(x + at), level);
        uint8x16_t high = vcgeq_u8(vld1q_u8(x + at + 16), level);
        *out++ = bs_word_of_masks(low, high);
    }
    if (at == n) return;
    uint32_t word = 0;
    int32_t i = 0, rest = (int32_t)(n - at);
    for (; i + 8 <= rest; i += 8)
        word |= bs_bits_of_bytes(vcge_u8(vld1_u8(x + at + i), vget_low_u8(level))) << i;
    for (; i < rest; i++) word |= (uint32_t)(x[at + i] >= threshold) << i;
    *out = word;
}

void bs_pack_i8_neon(const int8_t *x, int64_t n, int8_t threshold, uint32_t *out)
{
    const int8x16_t level = vdupq_n_s8(threshold);
    int64_t at = 0;
    for (; at + 32 <= n; at += 32) {
        uint8x16_t low = vcgeq_s8(vld1q_s8(x + at), level);
        uint8x16_t high = vcgeq_s8(vld1q_s8(x + at + 16), level);
        *out++ = bs_word_of_masks(low, high);
    }
    if (at == n) return;
    uint32_t word = 0;
    int32_t i = 0, rest = (int32_t)(n - at);
    for (; i + 8 <= rest; i += 8)
        word |= bs_bits_of_bytes(vcge_s8(vld1_s8(x + at + i), vget_low_s8(level))) << i;
    for (; i < rest; i++) word |= (uint32_t)(x[at + i] >= threshold) << i;
    *out = word;
}

/* The bits of 4 channels, each in the lowest bit of its lane; what is above it does not count. */
BS_INLINE uint32x4_t lowest_bits(const int32_t *acc, const int32_t *level, const int32_t *flip)
{
    uint32x4_t above = vcgeq_s32(vld1q_s32(acc), vld1q_s32(level));
    return veorq_u32(above, vreinterpretq_u32_s32(vld1q_s32(flip)));
}

void bs_threshold_neon(const int32_t *acc, const int32_t *level, const int32_t *flip, int32_t n,
                       uint32_t *out)
{
    const uint8x16_t lowest = vdupq_n_u8(1);
    int32_t c = 0;
    for (; c + 32 <= n; c += 32) {
        uint32x4_t bits[8];
#pragma GCC unroll 8
        for (int32_t i = 0; i < 32; i += 4)
            bits[i / 4] = lowest_bits(acc + c + i, level + c + i, flip + c + i);
        uint8x16_t low = vtstq_u8(bs_low_bytes(bits), lowest);
        *out++ = bs_word_of_masks(low, vtstq_u8(bs_low_bytes(bits + 4), lowest));
    }
    if (c == n) return;
    uint32_t word = 0;
    int32_t i = 0, rest = n - c;
    for (; i + 4 <= rest; i += 4) {
        uint32x4_t bits = lowest_bits(acc + c + i, level + c + i, flip + c + i);
        word |= bs_bits_of_mask(vtstq_u32(bits, vdupq_n_u32(1))) << i;
    }
    for (; i < rest; i++)
        word |= ((uint32_t)(acc[c + i] >= level[c + i]) ^ (uint32_t)flip[c + i]) << i;
    *out = word;
}
#endif
