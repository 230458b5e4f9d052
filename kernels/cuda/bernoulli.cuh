/* field -> sigmoid -> uniform < p, by the operations that kernels/c/host/sampler.h defines, each
 * rounded to nearest and none fused: the states are those of the CPU and of
 * kernels/reference_sampling.py, bit for bit. */
#pragma once
#include "device.cuh"

#define LOWEST_FIELD -17.328679f /* -25 log 2 */
#define HIGHEST_FIELD 17.5f

/* e^-y for |y| <= 87. */
DEVICE float exp_minus(float y)
{
    const float rounder = 12582912.0f; /* 3 2^22 */
    const float t = __fmul_rn(y, -0x1.715476p+0f);
    const float rounded = __fadd_rn(t, rounder);
    const float f = __fsub_rn(t, __fsub_rn(rounded, rounder));
    float p = __fadd_rn(__fmul_rn(f, 0x1.5bba08p-10f), 0x1.3cea88p-7f);
    p = __fadd_rn(__fmul_rn(f, p), 0x1.c6b754p-5f);
    p = __fadd_rn(__fmul_rn(f, p), 0x1.ebf9bcp-3f);
    p = __fadd_rn(__fmul_rn(f, p), 0x1.62e42ap-1f);
    p = __fadd_rn(__fmul_rn(f, p), 1.0f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(rounded) << 23));
}

/* Whether the unit is on: u (1 + e^-x) < 2^24 with u = word >> 8; NaN is off. */
DEVICE bool is_on(u32 word, float field)
{
    const float y = field < HIGHEST_FIELD ? field : HIGHEST_FIELD;
    const float level = __fadd_rn(exp_minus(y), 1.0f);
    return __fmul_rn((float)(word >> 8), level) < 16777216.0f && field >= LOWEST_FIELD;
}

/* The sigmoid by the sampler's exponential, within 2.5e-7. 1 / x by Newton's rule from a guess that
 * is within 13 %: after three steps 0.13^8 = 8e-8, without the conversions of a division. */
DEVICE float sigmoid(float field)
{
    const float y = field < -87.0f ? -87.0f : field > 87.0f ? 87.0f : field;
    const float level = __fadd_rn(exp_minus(y), 1.0f);
    float inverse = __uint_as_float(0x7ef311c7u - __float_as_uint(level));
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const float rest = __fmaf_rn(-level, inverse, 1.0f);
        inverse = __fmaf_rn(inverse, rest, inverse);
    }
    return field == field ? inverse : field;
}
