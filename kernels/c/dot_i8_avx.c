/* Sums of products with int8 weights for x86-64: pmaddwd on pairs of int16, and pmaddubsw where the
 * data are -1, 0 or 1. */
#include "dot_i8.h"

#if BS_X86
#include <immintrin.h>

/* A pair of patch values, for all lanes. */
BS_INLINE int32_t pair(const int16_t *values)
{
    return (int32_t)((uint32_t)(uint16_t)values[0] | (uint32_t)(uint16_t)values[1] << 16);
}

enum { ROWS = 4 }; /* at once */

/* Four patches against n_panels panels, a constant: the sums stay in registers. */
BS_TARGET_AVX512 BS_INLINE void panels_avx512(const bs_dots *dots, int32_t first_row,
                                              int32_t first_panel, const int n_panels)
{
    int32_t n_pairs = (dots->k + 1) / 2;
    const int16_t *weights = (const int16_t *)dots->weights + first_panel * (int64_t)n_pairs * 32;
    const int16_t *patch = (const int16_t *)dots->patches + first_row * dots->patch_stride;
    __m512i sums[4][2];
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; p++) sums[row][p] = _mm512_setzero_si512();
    for (int32_t i = 0; i < n_pairs; i++) {
        __m512i w[2];
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; p++)
            w[p] = _mm512_loadu_si512(weights + ((int64_t)p * n_pairs + i) * 32);
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; row++) {
            __m512i x = _mm512_set1_epi32(pair(patch + row * dots->patch_stride + 2 * i));
#pragma GCC unroll 4
            for (int p = 0; p < n_panels; p++)
                sums[row][p] = _mm512_add_epi32(sums[row][p], _mm512_madd_epi16(w[p], x));
        }
    }
    int32_t *acc = dots->acc + first_row * dots->acc_stride + first_panel * 16;
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
        for (int p = 0; p < n_panels; p++)
            _mm512_storeu_si512(acc + row * dots->acc_stride + p * 16, sums[row][p]);
}

BS_TARGET_AVX512 void bs_dot_panels_avx512(const bs_dots *dots)
{
    int32_t n_panels = (dots->n_columns + 15) / 16, last = dots->n_rows - 4;
    for (int32_t panel = 0; panel < n_panels; panel += 2) {
        for (int32_t row = 0; row < dots->n_rows; row += 4) {
            if (n_panels - panel >= 2) panels_avx512(dots, row < last ? row : last, panel, 2);
            else panels_avx512(dots, row < last ? row : last, panel, 1);
        }
    }
}

BS_TARGET_AVX2 BS_INLINE void panel_avx2(const bs_dots *dots, int32_t first_row, int32_t panel)
{
    int32_t n_pairs = (dots->k + 1) / 2;
    const int16_t *weights = (const int16_t *)dots->weights + panel * (int64_t)n_pairs * 32;
    const int16_t *patch = (const int16_t *)dots->patches + first_row * dots->patch_stride;
    __m256i sums[4][2];
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
        sums[row][0] = sums[row][1] = _mm256_setzero_si256();
    for (int32_t i = 0; i < n_pairs; i++) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(weights + i * (int64_t)32));
        __m256i high = _mm256_loadu_si256((const __m256i *)(weights + i * (int64_t)32 + 16));
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; row++) {
            __m256i x = _mm256_set1_epi32(pair(patch + row * dots->patch_stride + 2 * i));
            sums[row][0] = _mm256_add_epi32(sums[row][0], _mm256_madd_epi16(low, x));
            sums[row][1] = _mm256_add_epi32(sums[row][1], _mm256_madd_epi16(high, x));
        }
    }
    int32_t *acc = dots->acc + first_row * dots->acc_stride + panel * 16;
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++, acc += dots->acc_stride) {
        _mm256_storeu_si256((__m256i *)acc, sums[row][0]);
        _mm256_storeu_si256((__m256i *)(acc + 8), sums[row][1]);
    }
}

BS_TARGET_AVX2 void bs_dot_panels_avx2(const bs_dots *dots)
{
    int32_t last = dots->n_rows - 4;
    for (int32_t panel = 0; panel < (dots->n_columns + 15) / 16; panel++)
        for (int32_t row = 0; row < dots->n_rows; row += 4)
            panel_avx2(dots, row < last ? row : last, panel);
}

BS_TARGET_AVX2 BS_INLINE int32_t sum_of_lanes(__m256i x)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 1)));
}

/* One patch against four columns. */
BS_TARGET_AVX2 BS_INLINE void dot_i16(const bs_dots *dots, int32_t row, int32_t column)
{
    enum { n = 4 };
    int32_t k = dots->k, i = 0;
    const int8_t *weights = (const int8_t *)dots->weights + (int64_t)column * k;
    const int16_t *patch = (const int16_t *)dots->patches + row * dots->patch_stride;
    __m256i sums[4];
#pragma GCC unroll 4
    for (int c = 0; c < n; c++) sums[c] = _mm256_setzero_si256();
    for (; i + 16 <= k; i += 16) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(patch + i));
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) {
            const int8_t *from = weights + (int64_t)c * k + i;
            __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
            sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(w, x));
        }
    }
    for (int c = 0; c < n; c++) {
        int32_t sum = sum_of_lanes(sums[c]);
        sum += bs_dot_rest_i16(patch + i, weights + (int64_t)c * k + i, k - i);
        dots->acc[row * dots->acc_stride + column + c] = sum;
    }
}

BS_TARGET_AVX2 void bs_dot_i16_avx2(const bs_dots *dots)
{
    int32_t column = 0;
    for (; column + 4 <= dots->n_columns; column += 4)
        for (int32_t row = 0; row < dots->n_rows; row++) dot_i16(dots, row, column);
    if (column == dots->n_columns) return;
    bs_dots rest = *dots;
    rest.weights = (const int8_t *)dots->weights + (int64_t)column * dots->k;
    rest.acc += column;
    rest.n_columns -= column;
    bs_dot_i16_portable(&rest);
}

/* One patch of -1, 0, 1 against four columns. pmaddubsw wants one operand without sign:
 * that is w + 128, and 128 * (sum of the patch) is taken off again. */
BS_TARGET_AVX2 BS_INLINE void dot_pm1(const bs_dots *dots, int32_t row, int32_t column)
{
    enum { n = 4 };
    int32_t k = dots->k, i = 0;
    const int8_t *weights = (const int8_t *)dots->weights + (int64_t)column * k;
    const int8_t *patch = (const int8_t *)dots->patches + row * dots->patch_stride;
    const __m256i top = _mm256_set1_epi8(-128), ones_u8 = _mm256_set1_epi8(1);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[4], sum_x = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int c = 0; c < n; c++) sums[c] = _mm256_setzero_si256();
    while (i + 32 <= k) {
        /* 64 * 2 * 255 = 32640 < 2^15: a lane of 16 bits cannot overflow. */
        int32_t end = k - i > 64 * 32 ? i + 64 * 32 : i + (k - i) / 32 * 32;
        __m256i part[4], part_x = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int c = 0; c < n; c++) part[c] = _mm256_setzero_si256();
        for (; i < end; i += 32) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(patch + i));
            part_x = _mm256_add_epi16(part_x, _mm256_maddubs_epi16(ones_u8, x));
#pragma GCC unroll 4
            for (int c = 0; c < n; c++) {
                const int8_t *from = weights + (int64_t)c * k + i;
                __m256i w = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)from), top);
                part[c] = _mm256_add_epi16(part[c], _mm256_maddubs_epi16(w, x));
            }
        }
        sum_x = _mm256_add_epi32(sum_x, _mm256_madd_epi16(part_x, ones));
#pragma GCC unroll 4
        for (int c = 0; c < n; c++)
            sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(part[c], ones));
    }
    /* In 64 bits, because 255 * k may leave int32 where the sum itself does not. */
    int64_t taken = 128 * (int64_t)sum_of_lanes(sum_x);
    for (int c = 0; c < n; c++) {
        int32_t sum = (int32_t)((int64_t)sum_of_lanes(sums[c]) - taken);
        sum += bs_dot_rest_pm1(patch + i, weights + (int64_t)c * k + i, k - i);
        dots->acc[row * dots->acc_stride + column + c] = sum;
    }
}

BS_TARGET_AVX2 void bs_dot_pm1_avx2(const bs_dots *dots)
{
    int32_t column = 0;
    for (; column + 4 <= dots->n_columns; column += 4)
        for (int32_t row = 0; row < dots->n_rows; row++) dot_pm1(dots, row, column);
    if (column == dots->n_columns) return;
    bs_dots rest = *dots;
    rest.weights = (const int8_t *)dots->weights + (int64_t)column * dots->k;
    rest.acc += column;
    rest.n_columns -= column;
    bs_dot_pm1_portable(&rest);
}

#endif
