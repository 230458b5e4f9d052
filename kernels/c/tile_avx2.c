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

/* Functions of their own, so that the code around them exists once. */
#define DEFINE_HALF(name, n_rows, form)                                                       \
    BS_TARGET_AVX2 __attribute__((noinline)) static void name(                                \
        const block *rows, int n, const uint32_t *columns, __m256i *sums)                     \
    {                                                                                         \
        run_half(rows, n_rows, n, columns, sums, form);                                       \
    }

DEFINE_HALF(xor_6, 6, BS_XOR)
DEFINE_HALF(xor_4, 4, BS_XOR)
DEFINE_HALF(xor_2, 2, BS_XOR)
DEFINE_HALF(xor_1, 1, BS_XOR)
DEFINE_HALF(and_6, 6, BS_AND)
DEFINE_HALF(and_4, 4, BS_AND)
DEFINE_HALF(and_2, 2, BS_AND)
DEFINE_HALF(and_1, 1, BS_AND)

/* Any number of rows: those of a block that are not filled are counted for nothing. */
BS_TARGET_AVX2 static void count_half(int n_rows, int form, const block *rows, int n,
                                      const uint32_t *columns, __m256i *sums)
{
    if (form == BS_XOR) {
        if (n_rows > 4) xor_6(rows, n, columns, sums);
        else if (n_rows > 2) xor_4(rows, n, columns, sums);
        else if (n_rows > 1) xor_2(rows, n, columns, sums);
        else xor_1(rows, n, columns, sums);
    } else {
        if (n_rows > 4) and_6(rows, n, columns, sums);
        else if (n_rows > 2) and_4(rows, n, columns, sums);
        else if (n_rows > 1) and_2(rows, n, columns, sums);
        else and_1(rows, n, columns, sums);
    }
}

/* Up to BLOCK words of each row from (span, word) on, over the ends of spans. */
BS_TARGET_AVX2 static int fill(const bs_tile *tile, int32_t *span, int32_t *word, block *rows)
{
    int n = 0;
    while (n < BLOCK && *span < tile->n_spans) {
        int32_t rest = tile->n_words - *word, taken = rest < BLOCK - n ? rest : BLOCK - n;
        for (int row = 0; row < tile->n_rows; row++)
            split(tile->rows[*span * tile->n_rows + row] + *word, taken, rows->low[row] + n,
                  rows->high[row] + n);
        n += taken;
        *word += taken;
        if (*word < tile->n_words) continue;
        *word = 0;
        ++*span;
    }
    return n;
}

BS_TARGET_AVX2 void bs_tile_avx2(const bs_tile *tile)
{
    const int64_t panel_words = (int64_t)BS_LANES_WIDTH * tile->n_spans * tile->n_words;
    const int n_rows = tile->n_rows, n_halves = 2 * tile->n_panels;
    __m256i sums[BS_TILE_ROWS * HALVES];
    for (int i = 0; i < BS_TILE_ROWS * HALVES; i++) sums[i] = _mm256_setzero_si256();
    block rows;
    for (int row = n_rows; row < BS_TILE_ROWS; row++)
        for (int i = 0; i < STRIDE; i++) rows.low[row][i] = rows.high[row][i] = 0;
    int64_t at = 0;
    for (int32_t span = 0, word = 0; span < tile->n_spans;) {
        int n = fill(tile, &span, &word, &rows);
        for (int half = 0; half < n_halves; half++) {
            /* Lines of the output are fetched behind the products, not all at the end. */
            if (at == 0 && half % 2 == 0)
                for (int row = 0; row < n_rows; row++)
                    __builtin_prefetch(tile->out + row * tile->stride + half * 8, 1);
            const uint32_t *columns = tile->panels + half / 2 * panel_words;
            columns += at * BS_LANES_WIDTH + half % 2 * 8;
            count_half(n_rows, tile->form, &rows, n, columns, sums + half);
        }
        at += n;
    }
    const __m256i n_bits = _mm256_set1_epi32(tile->n_bits);
    for (int row = 0; row < n_rows; row++) {
        for (int half = 0; half < n_halves; half++) {
            __m256i value = sums[row * HALVES + half];
            if (tile->form == BS_XOR)
                value = _mm256_sub_epi32(n_bits, _mm256_slli_epi32(value, 1));
            _mm256_storeu_si256((__m256i *)(tile->out + row * tile->stride + half * 8), value);
        }
    }
}
#endif
