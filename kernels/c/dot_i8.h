/* Sums of products with int8 weights: some patches against some columns of weights.
 *
 *   acc[row * acc_stride + column] = sum over i < k of patch[row][i] * weights[column][i]
 *
 * Exact in int32 because bs_open bounds every sum. Two forms of patches: int16 (from uint8, so
 * 0..255) and int8 (from bits, so -1, 0 or 1). Canonical weights are read along k; where many
 * patches follow, they are transposed into panels of 16 columns first, so that the lanes are
 * columns and no sum across lanes is needed. Panels want four patches or more: the last four may
 * be computed twice. */
#ifndef BITSPIN_DOT_I8_H
#define BITSPIN_DOT_I8_H

#include "cpu.h"

enum { BS_PANEL_I16 = 16 };
#if BS_X86
enum { BS_PANEL_GROUP = 2 }; /* [panel][k / 2][16][2], what pmaddwd multiplies */
#else
enum { BS_PANEL_GROUP = 1 }; /* [panel][k][16] */
#endif

typedef struct {
    const void *patches; /* int16 or int8; what follows the k values is not used */
    int64_t patch_stride;
    const void *weights; /* int8 [column][k], or int16 panels with zeros for what is missing */
    int32_t *acc;
    int64_t acc_stride;
    int32_t n_rows, n_columns, k;
} bs_dots;

/* Patches of int16, canonical weights. */
void bs_dot_i16_portable(const bs_dots *dots);
/* Patches of int8, canonical weights. */
void bs_dot_pm1_portable(const bs_dots *dots);

/* The last few values of a sum, for all back ends. */
int32_t bs_dot_rest_i16(const int16_t *patch, const int8_t *weights, int32_t n);
int32_t bs_dot_rest_pm1(const int8_t *patch, const int8_t *weights, int32_t n);

#if BS_X86 /* dot_i8_avx.c; for panels, n_columns is rounded up to 16 */
void bs_dot_i16_avx2(const bs_dots *dots);
void bs_dot_pm1_avx2(const bs_dots *dots);
void bs_dot_panels_avx2(const bs_dots *dots);
void bs_dot_panels_avx512(const bs_dots *dots);
#endif
#if BS_ARM_DOTPROD /* dot_i8_dotprod.c: patches of int8 that may be read up to a multiple of 16 */
/* Bytes of a panel: int32 [16], which the sums begin with, then int8 [k / 4][16][4]. */
#define BS_DOTPROD_PANEL(k) (64 + ((int64_t)(k) + 3) / 4 * 64)
/* Panels of canonical weights, aligned to 4 bytes; is_u8: for data from uint8, as x - 128. */
void bs_make_panels_dotprod(const int8_t *weights, int32_t k, int32_t n_columns, int is_u8,
                            int8_t *panels);
void bs_dot_panels_dotprod(const bs_dots *dots); /* n_columns is rounded up to 16 */
void bs_dot_i8_dotprod(const bs_dots *dots);     /* canonical weights, any int8 data */
#endif
#if BS_ARM /* dot_i8_neon.c */
void bs_dot_i16_neon(const bs_dots *dots);
void bs_dot_pm1_neon(const bs_dots *dots);
void bs_dot_panels_neon(const bs_dots *dots);
#endif

#endif
