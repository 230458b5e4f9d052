/* Products of a few packed rows and panels by XOR or AND and POPC. The weights stream from memory
 * once, 16 n ceil(K / 128) bytes for up to 8 rows, and that is what the time is made of.
 *
 * A block of 4 warps makes the 8 columns of one panel. A warp reads 512 bytes of it at a time, lane
 * l the 16 bytes of column l % 8 in block l / 8; the warps take turns, four reads each under way.
 * So 8 blocks on each of 132 multiprocessors (6 for more rows than one) have all of 8192 columns of
 * 8192 bits, 8 MB, under way at once. H100's memory, 3.35 TB/s, brings 14 bytes a clock and
 * multiprocessor; POPC counts 16 words, 64 bytes, so that it keeps up for 4 rows (arithmetic; not
 * measured). */
#include "device.cuh"

enum {
    GEMV_WARPS = 4,
    PANEL = 8,              /* columns */
    BLOCK_WORDS = 32,       /* 8 columns, 128 bits each */
    WARP_BLOCKS = 4,        /* blocks that a warp reads at a time */
    TURN = GEMV_WARPS * WARP_BLOCKS,
    READS = 4,              /* of a lane under way */
    ROUND = READS * TURN,   /* blocks that the warps read before they count */
    ROW_BLOCKS = 4 * ROUND  /* a part of a row in shared memory: 32768 bits */
};
enum Operation { XOR, AND };
enum GemvOutput { INTEGERS, FLOATS, BITS };

template <Operation OPERATION> DEVICE i32 ones(const uint4 &a, const uint4 &b)
{
    if constexpr (OPERATION == XOR)
        return __popc(a.x ^ b.x) + __popc(a.y ^ b.y) + __popc(a.z ^ b.z) + __popc(a.w ^ b.w);
    return __popc(a.x & b.x) + __popc(a.y & b.y) + __popc(a.z & b.z) + __popc(a.w & b.w);
}

/* Brings n_blocks blocks of each row, from word `first`, to shared memory; zeros outside. */
template <int ROWS>
DEVICE void bring_rows(const u32 *a, i64 first_row, i64 m, i32 n_words, i32 first, i32 n_blocks)
{
    u32 *rows = (u32 *)shared_memory();
    const i32 length = 4 * n_blocks;
#pragma unroll 1
    for (i32 word = (i32)threadIdx.x; word < length; word += WARP * GEMV_WARPS)
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const bool exists = first_row + row < m && first + word < n_words;
            rows[row * length + word] = exists ? a[(first_row + row) * n_words + first + word] : 0;
        }
}

/* value = constant + of_row popcount(row) + of_both ones(row, column). */
template <Operation OPERATION, int ROWS>
DEVICE void gemv(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words,
                 const i32 *row_popcounts, i32 constant, i32 of_row, i32 of_both, i32 output,
                 const i32 *threshold, const u8 *flip, u32 *out)
{
    const i32 panel = (i32)blockIdx.x, n_blocks = ceil_divide(n_words, 4);
    const bool exists = panel < ceil_divide(n, (i32)PANEL);
    const i64 first_row = (i64)blockIdx.y * ROWS;
    const uint4 *weights =
        (const uint4 *)panels + (i64)panel * n_blocks * PANEL + lane_number() % PANEL;
    const i32 mine = warp_number() * WARP_BLOCKS + lane_number() / 8;
    i32 sums[ROWS] = {};
    for (i32 part = 0; part < n_blocks; part += ROW_BLOCKS) {
        /* Whole rounds, so that nothing has to be asked between a read and its use: rows and
         * weights are zeros past their ends. */
        const i32 part_blocks =
            smaller(ceil_divide(n_blocks - part, (i32)ROUND) * ROUND, (i32)ROW_BLOCKS);
        for (i32 first = 0; first < part_blocks; first += ROUND) {
            uint4 b[READS];
#pragma unroll
            for (int read = 0; read < READS; read++) {
                const i32 block = part + first + mine + read * TURN;
                b[read] = exists && block < n_blocks ? __ldg(weights + (i64)block * PANEL)
                                                     : make_uint4(0, 0, 0, 0);
            }
            if (first == 0) { /* the first weights are under way meanwhile */
                if (part > 0) __syncthreads();
                bring_rows<ROWS>(a, first_row, m, n_words, 4 * part, part_blocks);
                __syncthreads();
            }
#pragma unroll
            for (int read = 0; read < READS; read++) {
                const uint4 *rows = (const uint4 *)shared_memory() + first + mine + read * TURN;
#pragma unroll
                for (int row = 0; row < ROWS; row++)
                    sums[row] += ones<OPERATION>(rows[row * part_blocks], b[read]);
            }
        }
    }
    __syncthreads(); /* nobody reads rows any more */
    i32 *shared_sums = (i32 *)shared_memory();
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        sums[row] += __shfl_xor_sync(ALL_LANES, sums[row], 8);
        sums[row] += __shfl_xor_sync(ALL_LANES, sums[row], 16);
        if (lane_number() < PANEL)
            shared_sums[(warp_number() * ROWS + row) * PANEL + lane_number()] = sums[row];
    }
    __syncthreads();
    if (warp_number() >= ceil_divide(ROWS * PANEL, (i32)WARP)) return;
    /* Now a thread has one row and one column, a warp 4 rows. */
    const i32 thread = (i32)threadIdx.x, row_in_block = smaller(thread / PANEL, ROWS - 1);
    const i64 row = first_row + row_in_block;
    const i32 column = panel * PANEL + thread % PANEL;
    const bool is_output = thread < ROWS * PANEL && row < m && column < n;
    i32 sum = 0;
#pragma unroll
    for (int warp = 0; warp < GEMV_WARPS; warp++)
        sum += shared_sums[(warp * ROWS + row_in_block) * PANEL + thread % PANEL];
    i32 value = constant + of_both * sum;
    if (row_popcounts != nullptr && is_output) value += of_row * row_popcounts[row];
    if (output != BITS) {
        if (is_output) out[row * n + column] = output == FLOATS ? __float_as_uint((float)value)
                                                                : (u32)value;
        return;
    }
    const bool bit = is_output && (value >= threshold[column]) != (flip[column] != 0);
    const u32 bits = __ballot_sync(ALL_LANES, bit);
    /* A panel's 8 bits are one byte of a word; panels that do not exist fill up the last word. */
    if (thread < ROWS * PANEL && thread % PANEL == 0 && row < m)
        ((u8 *)out)[row * ceil_divide(n, (i32)WORD_BITS) * 4 + panel] =
            (u8)(bits >> thread % WARP);
}

KERNEL(128, 8)
gemv_xor_1(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, const i32 *row_popcounts,
           i32 constant, i32 of_row, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
           u32 *out)
{
    gemv<XOR, 1>(a, panels, m, n, n_words, row_popcounts, constant, of_row, of_both, output,
                 threshold, flip, out);
}

KERNEL(128, 6)
gemv_xor_4(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, const i32 *row_popcounts,
           i32 constant, i32 of_row, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
           u32 *out)
{
    gemv<XOR, 4>(a, panels, m, n, n_words, row_popcounts, constant, of_row, of_both, output,
                 threshold, flip, out);
}

KERNEL(128, 6)
gemv_xor_8(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, const i32 *row_popcounts,
           i32 constant, i32 of_row, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
           u32 *out)
{
    gemv<XOR, 8>(a, panels, m, n, n_words, row_popcounts, constant, of_row, of_both, output,
                 threshold, flip, out);
}

KERNEL(128, 8)
gemv_and_1(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, const i32 *row_popcounts,
           i32 constant, i32 of_row, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
           u32 *out)
{
    gemv<AND, 1>(a, panels, m, n, n_words, row_popcounts, constant, of_row, of_both, output,
                 threshold, flip, out);
}

KERNEL(128, 6)
gemv_and_4(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, const i32 *row_popcounts,
           i32 constant, i32 of_row, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
           u32 *out)
{
    gemv<AND, 4>(a, panels, m, n, n_words, row_popcounts, constant, of_row, of_both, output,
                 threshold, flip, out);
}

KERNEL(128, 6)
gemv_and_8(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, const i32 *row_popcounts,
           i32 constant, i32 of_row, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
           u32 *out)
{
    gemv<AND, 8>(a, panels, m, n, n_words, row_popcounts, constant, of_row, of_both, output,
                 threshold, flip, out);
}
