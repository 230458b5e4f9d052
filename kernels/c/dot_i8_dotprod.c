/* Sums of products with int8 weights for the dot product of Armv8.2: four products of int8 to a
 * lane. uint8 data come as x - 128, and every sum begins with 128 * (sum of the weights). Lanes
 * are int32 and may wrap around on the way, since the sum itself is within int32. */
#include "dot_i8.h"

#if BS_ARM_DOTPROD
#include <arm_neon.h>

void bs_make_panels_dotprod(const int8_t *weights, int32_t k, int32_t n_columns, int is_u8,
                            int8_t *panels)
{
    int32_t n_groups = (k + 3) / 4;
    for (int32_t first = 0; first < n_columns; first += 16, panels += BS_DOTPROD_PANEL(k)) {
        int32_t *begin = (int32_t *)panels;
        for (int32_t c = 0; c < 16; c++) {
            const int8_t *column = weights + (int64_t)(first + c) * k;
            int8_t *to = panels + 64 + 4 * c;
            int32_t n = first + c < n_columns ? k : 0, i = 0;
            uint32_t sum = 0;
            for (; i < n; i++) {
                to[i / 4 * 64 + i % 4] = column[i];
                sum += (uint32_t)column[i];
            }
            for (; i < 4 * n_groups; i++) to[i / 4 * 64 + i % 4] = 0;
            begin[c] = is_u8 ? (int32_t)(128 * sum) : 0;
        }
    }
}

/* Four patches against one panel of 16 columns: four vectors of weights make 256 products. */
BS_TARGET_DOTPROD BS_INLINE void panel(const bs_dots *dots, int32_t first_row, const int8_t *from)
{
    enum { n_rows = 4 };
    const int8_t *patch = (const int8_t *)dots->patches + first_row * dots->patch_stride;
    int32x4_t sums[4][4];
    int32_t k = dots->k;
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        sums[0][c] = vld1q_s32((const int32_t *)from + 4 * c);
#pragma GCC unroll 4
        for (int row = 1; row < n_rows; row++) sums[row][c] = sums[0][c];
    }
    from += 64;
    for (int32_t i = 0; i < k; i += 16) {
        int8x16_t x[4]; /* what follows the k values meets weights of zero, or none */
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++)
            x[row] = vld1q_s8(patch + row * dots->patch_stride + i);
#define STEP(lane)                                                                    \
    do {                                                                              \
        _Pragma("GCC unroll 4") for (int c = 0; c < 4; c++)                           \
        {                                                                             \
            int8x16_t w = vld1q_s8(from + 16 * c);                                    \
            _Pragma("GCC unroll 4") for (int row = 0; row < n_rows; row++)            \
                sums[row][c] = vdotq_laneq_s32(sums[row][c], w, x[row], lane);        \
        }                                                                             \
        from += 64;                                                                   \
    } while (0)
        STEP(0);
        if (i + 4 >= k) break;
        STEP(1);
        if (i + 8 >= k) break;
        STEP(2);
        if (i + 12 >= k) break;
        STEP(3);
#undef STEP
    }
    int32_t *acc = dots->acc + first_row * dots->acc_stride;
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++, acc += dots->acc_stride)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) vst1q_s32(acc + 4 * c, sums[row][c]);
}

BS_TARGET_DOTPROD void bs_dot_panels_dotprod(const bs_dots *dots)
{
    bs_dots part = *dots;
    const int8_t *from = dots->weights;
    int32_t last = dots->n_rows - 4;
    for (int32_t column = 0; column < dots->n_columns; column += 16, part.acc += 16) {
        for (int32_t row = 0; row < dots->n_rows; row += 4)
            panel(&part, row < last ? row : last, from);
        from += BS_DOTPROD_PANEL(dots->k);
    }
}

/* n_rows patches against n columns, both constants. */
BS_TARGET_DOTPROD BS_INLINE void dot(const bs_dots *dots, int32_t first_row, const int n_rows,
                                     int32_t column, const int n)
{
    int32_t k = dots->k, i = 0;
    const int8_t *weights = (const int8_t *)dots->weights + (int64_t)column * k;
    const int8_t *patch = (const int8_t *)dots->patches + first_row * dots->patch_stride;
    int32x4_t sums[4][4];
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) sums[row][c] = vdupq_n_s32(0);
    for (; i + 16 <= k; i += 16) {
        int8x16_t x[4];
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++)
            x[row] = vld1q_s8(patch + row * dots->patch_stride + i);
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) {
            int8x16_t w = vld1q_s8(weights + (int64_t)c * k + i);
#pragma GCC unroll 4
            for (int row = 0; row < n_rows; row++)
                sums[row][c] = vdotq_s32(sums[row][c], w, x[row]);
        }
    }
    for (int row = 0; row < n_rows; row++, patch += dots->patch_stride) {
        int32_t *acc = dots->acc + (first_row + row) * dots->acc_stride + column;
        for (int c = 0; c < n; c++) {
            int32_t sum = vaddvq_s32(sums[row][c]);
            if (i < k) sum += bs_dot_rest_pm1(patch + i, weights + (int64_t)c * k + i, k - i);
            acc[c] = sum;
        }
    }
}

BS_TARGET_DOTPROD void bs_dot_i8_dotprod(const bs_dots *dots)
{
    int32_t row = 0;
    for (; row + 4 <= dots->n_rows; row += 4) {
        int32_t column = 0;
        for (; column + 4 <= dots->n_columns; column += 4) dot(dots, row, 4, column, 4);
        for (; column < dots->n_columns; column++) dot(dots, row, 4, column, 1);
    }
    for (; row < dots->n_rows; row++) {
        int32_t column = 0;
        for (; column + 4 <= dots->n_columns; column += 4) dot(dots, row, 1, column, 4);
        for (; column < dots->n_columns; column++) dot(dots, row, 1, column, 1);
    }
}

#endif
