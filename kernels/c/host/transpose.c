/* Transposes matrices of bits: (n_rows, n_bits) -> (n_bits, n_rows), both packed along their rows.
 *
 * A block of 32 x 32 bits is transposed in five steps that swap quarters (Warren 2012, Hacker's
 * Delight, 7-3). Sixteen blocks lie side by side, so that each operation is one on vectors,
 * whatever their width: the source is the same for all processors, only the instructions differ. */
#include "bitspin.h"
#include "tile.h"

enum { SIDE = 32, LANES = 16 };

BS_API int64_t bsk_transpose_bits(int64_t backend, const uint32_t *in, int64_t n_rows,
                                  int64_t n_bits, int64_t width, uint32_t *out);

/* Sixteen blocks side by side; the compiler cuts it into vectors that the processor has. */
typedef uint32_t lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t unaligned_lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* Bits i + s of row i change places with bits i of row i + s, in each group of 2 s. */
BS_INLINE void swap_quarters(lanes block[SIDE], int s, uint32_t mask)
{
#pragma GCC unroll 32
    for (int i = 0; i < SIDE; i++) {
        if (i & s) continue;
        lanes a = block[i], b = block[i + s];
        block[i] = (a & mask) | (b & mask) << s;
        block[i + s] = (a >> s & mask) | (b & ~mask);
    }
}

/* Rows row ... row + 31, words word ... word + 15; zeros where there is nothing. */
BS_INLINE void read_blocks(const uint32_t *in, int64_t n_rows, int64_t n_words, int64_t row,
                           int64_t word, lanes block[SIDE])
{
    const int64_t rows_left = n_rows - row, words_left = n_words - word;
    for (int64_t i = 0; i < SIDE; i++) {
        const uint32_t *source = in + (row + i) * n_words + word;
        uint32_t *target = (uint32_t *)&block[i];
        const int64_t n = i >= rows_left ? 0 : words_left < LANES ? words_left : LANES;
        if (n == LANES)
            block[i] = *(const unaligned_lanes *)source;
        else
            for (int64_t l = 0; l < LANES; l++) target[l] = l < n ? source[l] : 0;
    }
}

/* Word w of columns column ... column + n - 1. Column c goes to (c / width) width out_words +
 * w width + c % width: rows for width 1, panels of columns in lanes (tile.h) for 16. */
BS_INLINE void write_columns(const lanes block[SIDE], int64_t lane, int64_t column, int64_t n,
                             int64_t w, int64_t out_words, int64_t width, uint32_t *out)
{
    const uint32_t *source = (const uint32_t *)block + lane;
    out += column * out_words + w * width; /* width divides column */
#pragma GCC unroll 8
    for (int64_t j = 0; j < n; j++)
        out[j / width * width * out_words + j % width] = source[j * LANES];
}

BS_INLINE void transpose_to(const uint32_t *in, int64_t n_rows, int64_t n_bits, int64_t width,
                            uint32_t *out)
{
    const int64_t n_words = (n_bits + SIDE - 1) / SIDE, out_words = (n_rows + SIDE - 1) / SIDE;
    /* Rows inside: the 512 rows of the result that are being written stay in the first cache. */
    for (int64_t word = 0; word < n_words; word += LANES) {
        for (int64_t w = 0; w < out_words; w++) {
            lanes block[SIDE];
            read_blocks(in, n_rows, n_words, w * SIDE, word, block);
            swap_quarters(block, 16, 0x0000ffff);
            swap_quarters(block, 8, 0x00ff00ff);
            swap_quarters(block, 4, 0x0f0f0f0f);
            swap_quarters(block, 2, 0x33333333);
            swap_quarters(block, 1, 0x55555555);
            for (int64_t l = 0; l < LANES && word + l < n_words; l++) {
                const int64_t column = (word + l) * SIDE;
                if (column + SIDE <= n_bits)
                    write_columns(block, l, column, SIDE, w, out_words, width, out);
                else
                    write_columns(block, l, column, n_bits - column, w, out_words, width, out);
            }
        }
    }
}

BS_INLINE void transpose(const uint32_t *in, int64_t n_rows, int64_t n_bits, int64_t width,
                         uint32_t *out)
{
    if (width == BS_LANES_WIDTH)
        transpose_to(in, n_rows, n_bits, BS_LANES_WIDTH, out);
    else
        transpose_to(in, n_rows, n_bits, 1, out);
}

#if BS_X86
BS_TARGET_AVX512 static void transpose_avx512(const uint32_t *in, int64_t n_rows, int64_t n_bits,
                                              int64_t width, uint32_t *out)
{
    transpose(in, n_rows, n_bits, width, out);
}

BS_TARGET_AVX2 static void transpose_avx2(const uint32_t *in, int64_t n_rows, int64_t n_bits,
                                          int64_t width, uint32_t *out)
{
    transpose(in, n_rows, n_bits, width, out);
}
#endif

int64_t bsk_transpose_bits(int64_t backend, const uint32_t *in, int64_t n_rows, int64_t n_bits,
                           int64_t width, uint32_t *out)
{
    switch (backend) {
#if BS_X86
    case BS_AVX512: transpose_avx512(in, n_rows, n_bits, width, out); break;
    case BS_AVX2: transpose_avx2(in, n_rows, n_bits, width, out); break;
#endif
    default: transpose(in, n_rows, n_bits, width, out);
    }
    return 0;
}
