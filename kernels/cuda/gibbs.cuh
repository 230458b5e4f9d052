/* One half of a Gibbs sweep, from packed states to packed states:
 *     field = bias + states W  (or states W^T),   on iff uniform < sigmoid(field).
 *
 * Why fused: a layer of 784 x 1024 and 4096 chains is 6.6 GFLOP, while field, probability and state
 * written and read one after another would move about 40 MB; only bits leave this kernel.
 *
 * A block of 4 warps (2 x 2) has a tile of 32 MT rows x 16 NT columns, each warp 16 MT x 8 NT. For
 * 128 x 128 a warp does 64 mma for every 32 inputs with 8 ldmatrix_x4 (4 KB of shared memory, 32
 * clocks of it) and 64 to 96 integer operations that make bfloat16 of bits; 128 accumulators of a
 * thread leave two blocks on a multiprocessor.
 *
 * States: all words of the block's rows lie in shared memory from the start (64 words of 128 rows
 * are 33 KB), an odd number of words apart, so that 8 rows fall on different banks. A bit becomes
 * the bfloat16 2.0, which is the single bit 14: two bits 16 apart are moved to bits 14 and 30 by a
 * shift and a mask. The sum is halved in the end, which is exact. As elements of a register are
 * bits j and j + 16 of a word, the rows of W are brought in that order when they are copied; where
 * inputs run along the rows of W (TRANSPOSED) a register needs neighbouring bits, and a
 * multiplication moves them apart.
 *
 * Weights: four stages of 32 inputs each are under way or in use; rows of a stage lie an odd
 * multiple of 16 bytes apart, so that the 8 rows of an ldmatrix fall on different banks. */
#pragma once
#include "gibbs_draw.cuh"

enum { GIBBS_THREADS = 128, GIBBS_STAGES = 4, ROW_CHUNK = 16 /* bytes */, CHUNK_COLUMNS = 8 };

template <int MT, int NT, bool TRANSPOSED> struct GibbsTile {
    static const int ROWS = 32 * MT, COLUMNS = 16 * NT;
    static const int STAGE_ROWS = TRANSPOSED ? COLUMNS : WORD_BITS;
    static const int STAGE_CHUNKS = (TRANSPOSED ? WORD_BITS : COLUMNS) / CHUNK_COLUMNS;
    static const int STAGE_PITCH = ROW_CHUNK * (STAGE_CHUNKS + 1);
    static const int STAGE_BYTES = STAGE_ROWS * STAGE_PITCH;
};

/* Where input `bit` of a word stands in the order of an mma: registers have bits j and j + 16. */
DEVICE i32 input_slot(i32 bit)
{
    const i32 x = 14 - bit & 31;
    return 2 * (x & 15) + (x >> 4);
}

/* a[i]: inputs 8 i + 2 t and 8 i + 2 t + 1 of a word, counted by input_slot, as bfloat16 0 or 2. */
DEVICE void spread_distant(u32 (&a)[4], u32 word, u32 t)
{
    const u32 turned = __funnelshift_l(word, word, t);
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = turned << 4 * i & 0x40004000u;
}

/* The same with the bits in the order of the word: bits 0 and 1 of a byte go to 14 and 30. */
DEVICE void spread_neighbours(u32 (&a)[4], u32 word, u32 t)
{
    const u32 low = word >> 2 * t & 0x0303u, high = word >> (16 + 2 * t) & 0x0303u;
    a[0] = low * 0x20004000u & 0x40004000u;
    a[1] = low * 0x00200040u & 0x40004000u;
    a[2] = high * 0x20004000u & 0x40004000u;
    a[3] = high * 0x00200040u & 0x40004000u;
}

/* Begin to copy the states of the block's rows; rows past the end are 0. */
template <int ROWS> DEVICE void copy_states(u32 *to, const HalfStep &step, i64 first_row)
{
    const i32 n_words = ceil_divide(step.n_in, (i32)WORD_BITS), pitch = n_words | 1;
    for (i32 row = warp_number(); row < ROWS; row += GIBBS_THREADS / WARP) {
        const bool valid = first_row + row < step.n_rows;
        const u32 *from = step.states + (valid ? first_row + row : 0) * n_words;
        for (i32 word = lane_number(); word < n_words; word += WARP)
            copy_async_4(to + row * pitch + word, from + word, valid);
    }
}

/* Begin to copy the weights between inputs 32 k ... 32 k + 31 and the block's columns. */
template <typename Tile, bool TRANSPOSED>
DEVICE void copy_weights(u8 *to, const HalfStep &step, i32 k, i32 first_column)
{
#pragma unroll
    for (int i = 0; i < Tile::STAGE_ROWS * Tile::STAGE_CHUNKS / GIBBS_THREADS; i++) {
        const i32 number = (i32)threadIdx.x + i * GIBBS_THREADS;
        const i32 row = number / Tile::STAGE_CHUNKS, chunk = number % Tile::STAGE_CHUNKS;
        const i32 from_row = row + (TRANSPOSED ? first_column : k * WORD_BITS);
        const i32 from_column = chunk * CHUNK_COLUMNS + (TRANSPOSED ? k * WORD_BITS : first_column);
        const i32 n_rows = TRANSPOSED ? step.n_out : step.n_in;
        const bool valid = from_row < n_rows && from_column < step.pitch;
        const i64 from = valid ? (i64)from_row * step.pitch + from_column : 0;
        const i32 to_row = TRANSPOSED ? row : input_slot(row);
        copy_async_16(to + to_row * Tile::STAGE_PITCH + chunk * ROW_CHUNK, step.weights + from,
                      valid);
    }
}

/* sums += 2 states x weights over one word of inputs. `states`: of this lane's first row. */
template <int MT, int NT, bool TRANSPOSED>
DEVICE void multiply_word(float (&sums)[MT][NT][4], const u32 *states, i32 pitch, const u8 *stage,
                          i32 warp_column)
{
    typedef GibbsTile<MT, NT, TRANSPOSED> Tile;
    const i32 lane = lane_number(), half = lane / 8 % 2, pair = lane / 16;
    u32 a[MT][2][4];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int lower = 0; lower < 2; lower++) {
            const u32 word = states[(16 * m + 8 * lower) * pitch];
            if (TRANSPOSED) spread_neighbours(a[m][lower], word, lane % 4);
            else spread_distant(a[m][lower], word, lane % 4);
        }
#pragma unroll
    for (int k16 = 0; k16 < 2; k16++)
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            u32 b[4]; /* columns of n: inputs of the first and second half; then those of n + 1 */
            const i32 chunk = warp_column * NT + n + pair;
            const i32 row = lane % 8 + (TRANSPOSED ? 8 * chunk : 16 * k16 + 8 * half);
            const u8 *const line = stage + row * Tile::STAGE_PITCH;
            if (TRANSPOSED) ldmatrix_x4(b, line + (2 * k16 + half) * ROW_CHUNK);
            else ldmatrix_x4_transposed(b, line + chunk * ROW_CHUNK);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const u32 column[2] = {b[2 * i], b[2 * i + 1]};
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    const u32 rows[4] = {a[m][0][2 * k16], a[m][1][2 * k16], a[m][0][2 * k16 + 1],
                                         a[m][1][2 * k16 + 1]};
                    mma_bf16(sums[m][n + i], rows, column);
                }
            }
        }
}

template <int MT, int NT, bool TRANSPOSED> DEVICE void half_step(const HalfStep &step)
{
    typedef GibbsTile<MT, NT, TRANSPOSED> Tile;
    u8 *stages = shared_memory();
    u32 *states = (u32 *)(stages + GIBBS_STAGES * Tile::STAGE_BYTES);
    const i64 first_row = (i64)blockIdx.x * Tile::ROWS;
    const i32 first_column = (i32)blockIdx.y * Tile::COLUMNS;
    const i32 n_words = ceil_divide(step.n_in, (i32)WORD_BITS), pitch = n_words | 1;
    const i32 warp_row = warp_number() / 2, warp_column = warp_number() % 2;
    const i32 my_row = 16 * MT * warp_row + lane_number() / 4;

    float sums[MT][NT][4] = {};
    copy_states<Tile::ROWS>(states, step, first_row);
    for (i32 k = 0; k < GIBBS_STAGES - 1; k++) {
        if (k < n_words)
            copy_weights<Tile, TRANSPOSED>(stages + k * Tile::STAGE_BYTES, step, k, first_column);
        copy_async_commit();
    }
    for (i32 k = 0; k < n_words; k++) {
        copy_async_wait<GIBBS_STAGES - 2>();
        __syncthreads(); /* word k is here, and nobody reads the stage of word k - 1 any more */
        const i32 next = k + GIBBS_STAGES - 1;
        if (next < n_words)
            copy_weights<Tile, TRANSPOSED>(stages + next % GIBBS_STAGES * Tile::STAGE_BYTES, step,
                                           next, first_column);
        copy_async_commit();
        const u8 *const stage = stages + k % GIBBS_STAGES * Tile::STAGE_BYTES;
        multiply_word<MT, NT, TRANSPOSED>(sums, states + my_row * pitch + k, pitch, stage,
                                          warp_column);
    }
    Stream stream = step.stream;
    if (step.counter != nullptr) stream.step += *step.counter;
#pragma unroll 1
    for (i32 m = 0; m < MT; m++) {
        const i64 row = first_row + my_row + 16 * m;
        const i32 column = first_column + 8 * NT * warp_column;
        store_rows<NT>(step, sums[0], row, column);
        sample_rows<NT>(step, stream, sums[0], row, column);
#pragma unroll
        for (int i = 0; i + 1 < MT; i++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][n][j] = sums[i + 1][n][j];
    }
}
