/* The tile for x86-64 with AVX-512 VPOPCNTDQ.
 *
 * One 32-bit lane per column: a word of a row is broadcast against 16 columns, counted in the
 * lanes and added there, so no sum ever crosses lanes. Six rows against four panels are 24 sums;
 * with four vectors of columns, one broadcast and a temporary they fill the 32 registers.
 *
 * Each product of 512 bits is three operations on the vector ports, all else runs beside them, so
 * narrow tiles lose little: five rows are three, one and one, three panels one by one, which keeps
 * the code small. */
#include "tile.h"

#if BS_X86
#include <immintrin.h>

/* n_rows and n_panels of the tile from (row, panel) on. Called with constant sizes only: the loops
 * over rows and panels unroll and the sums stay in registers.
 * A sum counts at most n_bits + 31 ones, which fits 32 bits. */
BS_TARGET_AVX512 BS_INLINE void run(const bs_tile *tile, int first_row, const int n_rows,
                                    int first_panel, const int n_panels, const int form)
{
    const int64_t panel_words = 16 * (int64_t)tile->n_spans * tile->n_words;
    __m512i sum[BS_TILE_ROWS][BS_TILE_PANELS];
#pragma GCC unroll 6
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int panel = 0; panel < n_panels; panel++) sum[row][panel] = _mm512_setzero_si512();

    int32_t *out = tile->out + first_row * tile->stride + first_panel * 16;
    const uint32_t *panels = tile->panels + first_panel * panel_words;
    for (int32_t span = 0; span < tile->n_spans; span++) {
        const uint32_t *words[BS_TILE_ROWS];
#pragma GCC unroll 6
        for (int row = 0; row < n_rows; row++)
            words[row] = tile->rows[span * tile->n_rows + first_row + row];
        for (int64_t i = 0; i < tile->n_words; i++, panels += 16) {
            if (n_rows * n_panels == 24) {
                /* One line of the output a word: fetched one by one behind the products. Missing
                 * them all at the end instead costs a quarter of the time at 1024 bits. */
                const int64_t line = i < 24 ? i : 0;
                __builtin_prefetch(out + line / 4 * tile->stride + line % 4 * 16, 1);
            }
            __m512i column[BS_TILE_PANELS];
#pragma GCC unroll 4
            for (int panel = 0; panel < n_panels; panel++)
                column[panel] = _mm512_loadu_si512(panels + panel * panel_words);
#pragma GCC unroll 6
            for (int row = 0; row < n_rows; row++) {
                const __m512i word = _mm512_set1_epi32((int32_t)words[row][i]);
#pragma GCC unroll 4
                for (int panel = 0; panel < n_panels; panel++) {
                    __m512i product = form == BS_AND ? _mm512_and_si512(word, column[panel])
                                                     : _mm512_xor_si512(word, column[panel]);
                    sum[row][panel] =
                        _mm512_add_epi32(sum[row][panel], _mm512_popcnt_epi32(product));
                }
            }
        }
    }

    const __m512i n_bits = _mm512_set1_epi32(tile->n_bits);
#pragma GCC unroll 6
    for (int row = 0; row < n_rows; row++) {
#pragma GCC unroll 4
        for (int panel = 0; panel < n_panels; panel++) {
            __m512i value = sum[row][panel];
            if (form == BS_XOR) value = _mm512_sub_epi32(n_bits, _mm512_slli_epi32(value, 1));
            _mm512_storeu_si512(out + row * tile->stride + panel * 16, value);
        }
    }
}

BS_TARGET_AVX512 BS_INLINE void run_rows(const bs_tile *tile, int row, const int n_rows,
                                         const int form)
{
    if (tile->n_panels == 4)
        run(tile, row, n_rows, 0, 4, form);
    else
        for (int panel = 0; panel < tile->n_panels; panel++) run(tile, row, n_rows, panel, 1, form);
}

BS_TARGET_AVX512 BS_INLINE void run_form(const bs_tile *tile, const int form)
{
    if (tile->n_rows == 6) {
        run_rows(tile, 0, 6, form);
        return;
    }
    int row = tile->n_rows >= 3 ? 3 : 0;
    if (row) run_rows(tile, 0, 3, form);
    for (; row < tile->n_rows; row++) run_rows(tile, row, 1, form);
}

BS_TARGET_AVX512 void bs_tile_avx512(const bs_tile *tile)
{
    if (tile->form == BS_AND) run_form(tile, BS_AND);
    else run_form(tile, BS_XOR);
}
#endif
