/* Sums of products with int8 weights in plain C99, the oracle of the others in C. */
#include "dot_i8.h"

/* Not inlined below, where each would be unrolled once more. */
#if defined(__GNUC__)
#define APART __attribute__((noinline))
#else
#define APART
#endif

APART int32_t bs_dot_rest_i16(const int16_t *patch, const int8_t *weights, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += patch[i] * weights[i];
    return sum;
}

APART int32_t bs_dot_rest_pm1(const int8_t *patch, const int8_t *weights, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += patch[i] * weights[i];
    return sum;
}

void bs_dot_i16_portable(const bs_dots *dots)
{
    for (int32_t column = 0; column < dots->n_columns; column++) {
        const int8_t *weights = (const int8_t *)dots->weights + (int64_t)column * dots->k;
        const int16_t *patch = dots->patches;
        for (int32_t row = 0; row < dots->n_rows; row++, patch += dots->patch_stride)
            dots->acc[row * dots->acc_stride + column] = bs_dot_rest_i16(patch, weights, dots->k);
    }
}

void bs_dot_pm1_portable(const bs_dots *dots)
{
    for (int32_t column = 0; column < dots->n_columns; column++) {
        const int8_t *weights = (const int8_t *)dots->weights + (int64_t)column * dots->k;
        const int8_t *patch = dots->patches;
        for (int32_t row = 0; row < dots->n_rows; row++, patch += dots->patch_stride)
            dots->acc[row * dots->acc_stride + column] = bs_dot_rest_pm1(patch, weights, dots->k);
    }
}
