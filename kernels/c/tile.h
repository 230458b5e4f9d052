/* The inner loop of every product of bits: a few rows against some panels of columns.
 *
 * Columns are packed in panels (kernels/panels.py), rows are plain words of 32 bits:
 *
 *   canonical        layout 0   [column][word]
 *   columns-in-lanes layout 1   [panel of 16 columns][word][16 columns]            x86
 *   vectors          layout 2   [panel of 8 columns][word / 4][8 columns][4 words] ARM
 *
 * A column that does not exist is all zeros. In layout 2 the words of a column are filled up with
 * zeros to a multiple of 4; of a row n_words words are read, whatever follows them.
 *
 * A row is given in n_spans pieces of n_words words each, at rows[span * n_rows + row]: a matrix
 * product has one span, a convolution one per row of its kernel, so that it reads the image where
 * it lies. Layout 2 takes one span only.
 *
 *   out[row * stride + column] = sum over bits of the product of row and column
 *
 * with the product as (a xor b) -> +-1, i.e. n_bits - 2 popc, or (a and b) -> 0/1, i.e. popc.
 * Exact in int32 as long as n_bits < 2^31. */
#ifndef BITSPIN_TILE_H
#define BITSPIN_TILE_H

#include "cpu.h"

enum { BS_XOR = 0, BS_AND = 1 };
enum { BS_ROWS = 0, BS_LANES = 1, BS_VECTORS = 2 };
enum { BS_LANES_WIDTH = 16, BS_VECTORS_WIDTH = 8, BS_VECTORS_WORDS = 4 };
enum { BS_TILE_ROWS = 6, BS_TILE_PANELS = 4 }; /* the most that a caller may ask for */

typedef struct {
    const uint32_t *const *rows; /* [n_spans][n_rows] */
    const uint32_t *panels;      /* n_panels panels, one behind the other */
    int32_t *out;                /* n_rows x (n_panels * width) values */
    int64_t stride;              /* of out, in values */
    int32_t n_rows, n_panels;    /* 1..BS_TILE_ROWS, 1..BS_TILE_PANELS */
    int32_t n_spans, n_words;
    int32_t n_bits; /* true length of a row; used by BS_XOR */
    int32_t form;   /* BS_XOR or BS_AND */
} bs_tile;

/* One file each: tile_portable.c takes layouts 1 and 2 (argument), the others their own. */
void bs_tile_portable(const bs_tile *tile, int32_t layout);
#if BS_X86
void bs_tile_avx2(const bs_tile *tile);   /* layout 1 */
void bs_tile_avx512(const bs_tile *tile); /* layout 1 */
#endif
#if BS_ARM
void bs_tile_neon(const bs_tile *tile); /* layout 2; best with 6 rows at once */
#endif

/* Columns of one panel. */
static inline int32_t bs_panel_width(int32_t layout)
{
    return layout == BS_VECTORS ? BS_VECTORS_WIDTH : BS_LANES_WIDTH;
}

/* The layout that a back end reads fastest. */
static inline int32_t bs_native_layout(uint32_t backend)
{
    return backend == BS_NEON || backend == BS_DOTPROD ? BS_VECTORS : BS_LANES;
}

/* Words of a column of n_words in a panel. */
static inline int32_t bs_panel_words(int32_t layout, int32_t n_words)
{
    return layout == BS_VECTORS ? (n_words + 3) / 4 * 4 : n_words;
}

static inline void bs_run_tile(uint32_t backend, const bs_tile *tile, int32_t layout)
{
#if BS_X86
    if (layout == BS_LANES && backend == BS_AVX512) {
        bs_tile_avx512(tile);
        return;
    }
    if (layout == BS_LANES && backend == BS_AVX2) {
        bs_tile_avx2(tile);
        return;
    }
#endif
#if BS_ARM
    if (layout == BS_VECTORS && (backend == BS_NEON || backend == BS_DOTPROD)) {
        bs_tile_neon(tile);
        return;
    }
#endif
    (void)backend;
    bs_tile_portable(tile, layout);
}

#endif
