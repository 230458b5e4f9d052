/* Transposition of a small matrix of bit fields that lies across the lanes of a warp. */
#pragma once
#include "device.cuh"

/* SIDE neighbouring lanes hold SIDE fields of 32 / SIDE bits each: field j of lane i goes to field
 * i of lane j. Every step swaps half of the fields with the lane `step` away; what comes is rotated
 * into place, so that a step is one shuffle, one rotation and one three-input operation. SIDE = 32
 * transposes 32 x 32 bits in 5 steps, where ballots would take 32. */
template <int SIDE> DEVICE u32 transpose_fields(u32 fields)
{
#pragma unroll
    for (int step = SIDE / 2; step > 0; step /= 2) {
        const u32 shift = (u32)step * (WORD_BITS / SIDE);
        const u32 low = ~0u / ((1u << shift) + 1); /* fields j with j & step == 0 */
        const bool is_upper = lane_number() & step;
        const u32 kept = is_upper ? ~low : low;
        const u32 other = __shfl_xor_sync(ALL_LANES, fields, step);
        const u32 rotated = __funnelshift_l(other, other, is_upper ? WORD_BITS - shift : shift);
        fields = (fields & kept) | (rotated & ~kept);
    }
    return fields;
}
