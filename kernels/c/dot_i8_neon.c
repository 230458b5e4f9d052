/* Sums of products with int8 weights for base NEON, aarch64 and armv7. */
#include "dot_i8.h"

#if BS_ARM
#include <arm_neon.h>

/* Four patches against one panel of 16 columns: the sums fill 16 registers, and two vectors of
 * weights make 64 products. */
BS_INLINE void panel(const bs_dots *dots, int32_t first_row, int32_t number)
{
    enum { n_rows = 4 };
    const int16_t *weights = (const int16_t *)dots->weights + number * (int64_t)dots->k * 16;
    const int16_t *patch = (const int16_t *)dots->patches + first_row * dots->patch_stride;
    int32x4_t sums[4][4];
    int32_t i = 0;
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) sums[row][c] = vdupq_n_s32(0);
#define STEP(lane)                                                                  \
    do {                                                                            \
        int16x8_t low = vld1q_s16(weights), high = vld1q_s16(weights + 8);          \
        weights += 16;                                                              \
        _Pragma("GCC unroll 4") for (int row = 0; row < n_rows; row++)              \
        {                                                                           \
            sums[row][0] = vmlal_lane_s16(sums[row][0], vget_low_s16(low), x[row], lane);   \
            sums[row][1] = vmlal_lane_s16(sums[row][1], vget_high_s16(low), x[row], lane);  \
            sums[row][2] = vmlal_lane_s16(sums[row][2], vget_low_s16(high), x[row], lane);  \
            sums[row][3] = vmlal_lane_s16(sums[row][3], vget_high_s16(high), x[row], lane); \
        }                                                                           \
    } while (0)
    for (; i + 4 <= dots->k; i += 4) {
        int16x4_t x[4];
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++)
            x[row] = vld1_s16(patch + row * dots->patch_stride + i);
        STEP(0);
        STEP(1);
        STEP(2);
        STEP(3);
    }
    for (; i < dots->k; i++) {
        int16x4_t x[4];
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++)
            x[row] = vld1_dup_s16(patch + row * dots->patch_stride + i);
        STEP(0);
    }
#undef STEP
    int32_t *acc = dots->acc + first_row * dots->acc_stride + number * 16;
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++, acc += dots->acc_stride)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) vst1q_s32(acc + 4 * c, sums[row][c]);
}

void bs_dot_panels_neon(const bs_dots *dots)
{
    int32_t last = dots->n_rows - 4;
    for (int32_t number = 0; number < (dots->n_columns + 15) / 16; number++)
        for (int32_t row = 0; row < dots->n_rows; row += 4)
            panel(dots, row < last ? row : last, number);
}

BS_INLINE int32_t sum_of_lanes(int32x4_t x)
{
#if defined(__aarch64__)
    return vaddvq_s32(x);
#else
    int32x2_t sum = vadd_s32(vget_low_s32(x), vget_high_s32(x));
    return vget_lane_s32(vpadd_s32(sum, sum), 0);
#endif
}

/* One patch against n columns, a constant. */
BS_INLINE void dot_i16(const bs_dots *dots, int32_t row, int32_t column, const int n)
{
    int32_t k = dots->k, i = 0;
    const int8_t *weights = (const int8_t *)dots->weights + (int64_t)column * k;
    const int16_t *patch = (const int16_t *)dots->patches + row * dots->patch_stride;
    int32x4_t sums[4];
#pragma GCC unroll 4
    for (int c = 0; c < n; c++) sums[c] = vdupq_n_s32(0);
    for (; i + 8 <= k; i += 8) {
        int16x8_t x = vld1q_s16(patch + i);
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) {
            int16x8_t w = vmovl_s8(vld1_s8(weights + (int64_t)c * k + i));
            sums[c] = vmlal_s16(sums[c], vget_low_s16(w), vget_low_s16(x));
            sums[c] = vmlal_s16(sums[c], vget_high_s16(w), vget_high_s16(x));
        }
    }
    for (int c = 0; c < n; c++) {
        int32_t sum = sum_of_lanes(sums[c]);
        sum += bs_dot_rest_i16(patch + i, weights + (int64_t)c * k + i, k - i);
        dots->acc[row * dots->acc_stride + column + c] = sum;
    }
}

void bs_dot_i16_neon(const bs_dots *dots)
{
    int32_t column = 0;
    for (; column + 4 <= dots->n_columns; column += 4)
        for (int32_t row = 0; row < dots->n_rows; row++) dot_i16(dots, row, column, 4);
    for (; column < dots->n_columns; column++)
        for (int32_t row = 0; row < dots->n_rows; row++) dot_i16(dots, row, column, 1);
}

/* n_rows patches of -1, 0, 1 against n columns, both constants. */
BS_INLINE void dot_pm1(const bs_dots *dots, int32_t first_row, const int n_rows, int32_t column,
                       const int n)
{
    int32_t k = dots->k, i = 0;
    const int8_t *weights = (const int8_t *)dots->weights + (int64_t)column * k;
    const int8_t *patch = (const int8_t *)dots->patches + first_row * dots->patch_stride;
    int32x4_t sums[4][4];
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) sums[row][c] = vdupq_n_s32(0);
    while (i + 16 <= k) {
        /* 127 * 2 * 128 = 32512 < 2^15: a lane of 16 bits cannot overflow. */
        int32_t end = k - i > 127 * 16 ? i + 127 * 16 : i + (k - i) / 16 * 16;
        int16x8_t part[4][4];
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) part[row][c] = vdupq_n_s16(0);
        for (; i < end; i += 16) {
            int8x16_t w[4];
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) w[c] = vld1q_s8(weights + (int64_t)c * k + i);
#pragma GCC unroll 4
            for (int row = 0; row < n_rows; row++) {
                int8x16_t x = vld1q_s8(patch + row * dots->patch_stride + i);
#pragma GCC unroll 4
                for (int c = 0; c < n; c++) {
                    part[row][c] = vmlal_s8(part[row][c], vget_low_s8(w[c]), vget_low_s8(x));
                    part[row][c] = vmlal_s8(part[row][c], vget_high_s8(w[c]), vget_high_s8(x));
                }
            }
        }
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) sums[row][c] = vpadalq_s16(sums[row][c], part[row][c]);
    }
    for (int row = 0; row < n_rows; row++, patch += dots->patch_stride) {
        int32_t *acc = dots->acc + (first_row + row) * dots->acc_stride + column;
        for (int c = 0; c < n; c++) {
            int32_t sum = sum_of_lanes(sums[row][c]);
            acc[c] = sum + bs_dot_rest_pm1(patch + i, weights + (int64_t)c * k + i, k - i);
        }
    }
}

void bs_dot_pm1_neon(const bs_dots *dots)
{
    int32_t row = 0;
    for (; row + 4 <= dots->n_rows; row += 4) {
        int32_t column = 0;
        for (; column + 2 <= dots->n_columns; column += 2) dot_pm1(dots, row, 4, column, 2);
        for (; column < dots->n_columns; column++) dot_pm1(dots, row, 4, column, 1);
    }
    for (; row < dots->n_rows; row++) {
        int32_t column = 0;
        for (; column + 4 <= dots->n_columns; column += 4) dot_pm1(dots, row, 1, column, 4);
        for (; column < dots->n_columns; column++) dot_pm1(dots, row, 1, column, 1);
    }
}

#endif
