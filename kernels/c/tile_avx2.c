/* The tile for x86-64 with AVX2, which has no count of ones but a table of 16 bytes.
 *
 * Half bytes are split from the operands before they are multiplied, once for a word of a row and
 * all columns, once for a word of eight columns and all rows. A product of 256 bits then takes
 * twice xor, shuffle and add, six operations, instead of eight with the split behind the xor.
 *
 * Counts are kept in bytes: a word adds at most 4 + 4, and 31 words at most 248 <= 255. */
#include "tile.h"

#if BS_X86
#include <immintrin.h>

enum { BLOCK = 31, STRIDE = 32 };
enum { HALVES = 2 * BS_TILE_PANELS }; /* vectors of eight columns */

/* The low and the high half bytes of n words of each row. */
typedef struct {
    uint32_t low[BS_TILE_ROWS][STRIDE], high[BS_TILE_ROWS][STRIDE];
} block;

BS_TARGET_AVX2 BS_INLINE void split(const uint32_t *words, int n, uint32_t *low, uint32_t *high)
{
    const __m256i mask = _mm256_set1_epi8(0x0f);
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(words + i));
        _mm256_storeu_si256((__m256i *)(low + i), _mm256_and_si256(x, mask));
        x = _mm256_and_si256(_mm256_srli_epi32(x, 4), mask);
        _mm256_storeu_si256((__m256i *)(high + i), x);
    }
    for (; i < n; i++) {
        low[i] = words[i] & 0x0f0f0f0fu;
        high[i] = words[i] >> 4 & 0x0f0f0f0fu;
    }
}

BS_TARGET_AVX2 BS_INLINE __m256i count(__m256i column, uint32_t word, __m256i table, const int form)
{
    __m256i row = _mm256_set1_epi32((int32_t)word);
    __m256i product = form == BS_AND ? _mm256_and_si256(row, column)
                                     : _mm256_xor_si256(row, column);
    return _mm256_shuffle_epi8(table, product);
}

/* n words of the rows against eight columns; columns points at word 0 of a panel or its middle. */
BS_TARGET_AVX2 BS_INLINE void run_half(const block *rows, const int n_rows, int n,
                                       const uint32_t *columns, __m256i *sums, const int form)
{
    const __m256i mask = _mm256_set1_epi8(0x0f);
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                           2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    __m256i counts_u8[BS_TILE_ROWS];
#pragma GCC unroll 6
    for (int row = 0; row < n_rows; row++) counts_u8[row] = _mm256_setzero_si256();
    for (int i = 0; i < n; i++, columns += BS_LANES_WIDTH) {
        __m256i column = _mm256_loadu_si256((const __m256i *)columns);
        __m256i low = _mm256_and_si256(column, mask);
        __m256i high = _mm256_and_si256(_mm256_srli_epi32(column, 4), mask);
#pragma GCC unroll 6
        for (int row = 0; row < n_rows; row++) {
            counts_u8[row] =
                _mm256_add_epi8(counts_u8[row], count(low, rows->low[row][i], table, form));
            counts_u8[row] =
                _mm256_add_epi8(counts_u8[row], count(high, rows->high[row][i], table, form));
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < n_rows; row++) {
        __m256i pairs_u16 = _mm256_maddubs_epi16(counts_u8[row], _mm256_set1_epi8(1));
        __m256i lanes_u32 = _mm256_madd_epi16(pairs_u16, _mm256_set1_epi16(1));
        sums[row * HALVES] = _mm256_add_epi32(sums[row * HALVES], lanes_u32);
    }
}

/* n_rows of the tile from first_row on; n_rows and form are constants where this is called. */
BS_TARGET_AVX2 BS_INLINE void run(const bs_tile *tile, int first_row, const int n_rows,
                                  const int form)
{
    const int64_t panel_words = (int64_t)BS_LANES_WIDTH * tile->n_spans * tile->n_words;
    const int n_halves = 2 * tile->n_panels;
    __m256i sums[BS_TILE_ROWS * HALVES];
    for (int i = 0; i < n_rows * HALVES; i++) sums[i] = _mm256_setzero_si256();
    int32_t *out = tile->out + first_row * tile->stride;
    block rows;
    int64_t at = 0;
    for (int32_t span = 0, word = 0; span < tile->n_spans;) {
        int n = 0; /* a block goes on over the ends of spans */
        while (n < BLOCK && span < tile->n_spans) {
            int32_t rest = tile->n_words - word, taken = rest < BLOCK - n ? rest : BLOCK - n;
            for (int row = 0; row < n_rows; row++)
                split(tile->rows[span * tile->n_rows + first_row + row] + word, taken,
                      rows.low[row] + n, rows.high[row] + n);
            n += taken;
            word += taken;
            if (word < tile->n_words) continue;
            word = 0;
            span++;
        }
        for (int half = 0; half < n_halves; half++) {
            /* Lines of the output are fetched behind the products, not all at the end. */
            if (at == 0 && half % 2 == 0)
                for (int row = 0; row < n_rows; row++)
                    __builtin_prefetch(out + row * tile->stride + half * 8, 1);
            const uint32_t *columns = tile->panels + half / 2 * panel_words;
            columns += at * BS_LANES_WIDTH + half % 2 * 8;
            run_half(&rows, n_rows, n, columns, sums + half, form);
        }
        at += n;
    }
    const __m256i n_bits = _mm256_set1_epi32(tile->n_bits);
    for (int row = 0; row < n_rows; row++) {
        for (int half = 0; half < n_halves; half++) {
            __m256i value = sums[row * HALVES + half];
            if (form == BS_XOR) value = _mm256_sub_epi32(n_bits, _mm256_slli_epi32(value, 1));
            _mm256_storeu_si256((__m256i *)(out + row * tile->stride + half * 8), value);
        }
    }
}

BS_TARGET_AVX2 BS_INLINE void run_form(const bs_tile *tile, const int form)
{
    int row = 0;
    if (tile->n_rows == 6) {
        run(tile, 0, 6, form);
        return;
    }
    if (tile->n_rows >= 3) {
        run(tile, 0, 3, form);
        row = 3;
    }
    for (; row < tile->n_rows; row++) run(tile, row, 1, form);
}

BS_TARGET_AVX2 void bs_tile_avx2(const bs_tile *tile)
{
    if (tile->form == BS_AND) run_form(tile, BS_AND);
    else run_form(tile, BS_XOR);
}
#endif
