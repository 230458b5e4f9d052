/* What base NEON says in one instruction on aarch64 and in two on armv7. */
#ifndef BITSPIN_NEON_H
#define BITSPIN_NEON_H

#include "cpu.h"

#if BS_ARM
#include <arm_neon.h>

/* Sums of neighbouring bytes: those of a in the low half, those of b in the high one. */
BS_INLINE uint8x16_t bs_pairs_u8x16(uint8x16_t a, uint8x16_t b)
{
#if defined(__aarch64__)
    return vpaddq_u8(a, b);
#else
    return vcombine_u8(vpadd_u8(vget_low_u8(a), vget_high_u8(a)),
                       vpadd_u8(vget_low_u8(b), vget_high_u8(b)));
#endif
}

/* The low halves of the lanes of a, then of b. */
BS_INLINE uint16x8_t bs_narrow_u16x8(uint32x4_t a, uint32x4_t b)
{
#if defined(__aarch64__)
    return vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
#else
    return vcombine_u16(vmovn_u32(a), vmovn_u32(b));
#endif
}

BS_INLINE uint8x16_t bs_narrow_u8x16(uint16x8_t a, uint16x8_t b)
{
#if defined(__aarch64__)
    return vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
#else
    return vcombine_u8(vmovn_u16(a), vmovn_u16(b));
#endif
}

/* The masks of 32 values, bytes of 0 or 255, as the bits of a word. */
BS_INLINE uint32_t bs_word_of_masks(uint8x16_t low, uint8x16_t high)
{
    const uint8x16_t weights = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    uint8x16_t sums = bs_pairs_u8x16(vandq_u8(low, weights), vandq_u8(high, weights));
    sums = bs_pairs_u8x16(sums, sums);
    sums = bs_pairs_u8x16(sums, sums);
    return vgetq_lane_u32(vreinterpretq_u32_u8(sums), 0);
}

/* The low bytes of 16 lanes. */
BS_INLINE uint8x16_t bs_low_bytes(const uint32x4_t lanes[4])
{
    return bs_narrow_u8x16(bs_narrow_u16x8(lanes[0], lanes[1]),
                           bs_narrow_u16x8(lanes[2], lanes[3]));
}

/* The masks of 32 values, lanes of 0 or 2^32 - 1, as the bits of a word. */
BS_INLINE uint32_t bs_word_of_masks_u32(const uint32x4_t masks[8])
{
    return bs_word_of_masks(bs_low_bytes(masks), bs_low_bytes(masks + 4));
}

/* The mask of 4 values as the 4 low bits. */
BS_INLINE uint32_t bs_bits_of_mask(uint32x4_t mask)
{
    uint64_t weights = 0x0008000400020001u;
    uint16x4_t bits = vand_u16(vmovn_u32(mask), vreinterpret_u16_u64(vdup_n_u64(weights)));
#if defined(__aarch64__)
    return vaddv_u16(bits);
#else
    bits = vpadd_u16(bits, bits);
    return vget_lane_u16(vpadd_u16(bits, bits), 0);
#endif
}

/* The mask of 8 values, bytes of 0 or 255, as the 8 low bits. */
BS_INLINE uint32_t bs_bits_of_bytes(uint8x8_t mask)
{
    uint8x8_t bits = vand_u8(mask, vreinterpret_u8_u64(vdup_n_u64(0x8040201008040201u)));
#if defined(__aarch64__)
    return vaddv_u8(bits);
#else
    bits = vpadd_u8(bits, bits);
    bits = vpadd_u8(bits, bits);
    return vget_lane_u8(vpadd_u8(bits, bits), 0);
#endif
}

#endif
#endif
