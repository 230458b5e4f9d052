/* Transpose a matrix of bits that is packed along its rows: into rows, or into panels.
 *
 * A block takes 256 rows x 8 words: 32 neighbouring bytes, one sector, of each row are read, and 8
 * words, again one sector, of each of the 256 rows of the result are written. In between a warp
 * holds 8 tiles of 32 x 32 bits, one register each, and transposes each in 5 shuffles. Rows in
 * shared memory are 9 words apart, so that 32 lanes that take one word each of 32 rows meet 32
 * banks. A batch of 4096 states of 784 units is 64 blocks; more reading per block would leave
 * multiprocessors without work. */
#include "bit_matrix.cuh"

enum {
    TILE_WORDS = 8, /* of a row, and of a column */
    TILE_ROWS = TILE_WORDS * WORD_BITS,
    STRIDE = TILE_WORDS + 1,
};

/* The tile of this block, transposed, in shared memory: row i, word j at [STRIDE i + j]. */
DEVICE u32 *transposed_tile(const u32 *words, i64 n_rows, i64 n_words)
{
    u32 *tile = (u32 *)shared_memory();
    const i64 first_row = (i64)blockIdx.x * TILE_ROWS, first_word = (i64)blockIdx.y * TILE_WORDS;
    const i32 thread = (i32)threadIdx.x;
#pragma unroll
    for (int i = 0; i < TILE_WORDS; i++) {
        const i32 row = (thread + i * TILE_ROWS) / TILE_WORDS, word = thread % TILE_WORDS;
        const bool exists = first_row + row < n_rows && first_word + word < n_words;
        tile[row * STRIDE + word] =
            exists ? words[(first_row + row) * n_words + first_word + word] : 0;
    }
    __syncthreads();
    u32 mine[TILE_WORDS];
#pragma unroll
    for (int i = 0; i < TILE_WORDS; i++)
        mine[i] = tile[(i * WORD_BITS + lane_number()) * STRIDE + warp_number()];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE_WORDS; i++)
        tile[thread * STRIDE + i] = transpose_fields<WORD_BITS>(mine[i]);
    __syncthreads();
    return tile;
}

KERNEL(256, 4) transpose_bits(const u32 *words, i64 n_rows, i64 n_words, i64 n_bits, u32 *out)
{
    const u32 *tile = transposed_tile(words, n_rows, n_words);
    const i64 first_bit = (i64)blockIdx.y * TILE_ROWS, first_word = (i64)blockIdx.x * TILE_WORDS;
    const i64 out_words = ceil_divide(n_rows, (i64)WORD_BITS);
#pragma unroll
    for (int i = 0; i < TILE_WORDS; i++) {
        const i32 bit = ((i32)threadIdx.x + i * TILE_ROWS) / TILE_WORDS;
        const i32 word = (i32)threadIdx.x % TILE_WORDS;
        if (first_bit + bit < n_bits && first_word + word < out_words)
            out[(first_bit + bit) * out_words + first_word + word] = tile[bit * STRIDE + word];
    }
}

/* Each warp writes blocks of 8 columns x 4 words, 128 bytes; what is missing is already 0. */
KERNEL(256, 4) transpose_to_panels(const u32 *words, i64 n_rows, i64 n_words, i64 n_bits, u32 *out)
{
    const u32 *tile = transposed_tile(words, n_rows, n_words);
    const i64 first_panel = (i64)blockIdx.y * (TILE_ROWS / 8), first_block = (i64)blockIdx.x * 2;
    const i64 n_panels = ceil_divide(n_bits, (i64)8), n_blocks = ceil_divide(n_rows, (i64)128);
    const i32 lane = lane_number();
#pragma unroll
    for (int i = 0; i < TILE_WORDS; i++) {
        const i32 panel = warp_number() * 4 + i / 2, block = i % 2;
        if (first_panel + panel < n_panels && first_block + block < n_blocks)
            out[((first_panel + panel) * n_blocks + first_block + block) * WARP + lane] =
                tile[(panel * 8 + lane / 4) * STRIDE + block * 4 + lane % 4];
    }
}
