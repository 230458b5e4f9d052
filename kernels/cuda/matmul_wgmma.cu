/* Products of packed rows and panels by warpgroups, sm_90a only: what matmul.cu computes, from the
 * same lines of shared memory, which are the swizzled operands of wgmma.cuh.
 *
 * A warpgroup has 64 rows x 256 columns, 128 registers of a thread. Three of them, 192 x 256
 * outputs at up to 168 registers a thread, take the whole register file. Per step of 1024 bits a
 * block reads 56 KB for 192 * 256 * 1024 products. Were b1 as fast as 32768 products a clock, 8
 * times int8 (not measured), that would be 37 bytes a clock of every multiprocessor, near what L2
 * can give; with two warpgroups, 128 x 256 outputs, 48. Shared memory would be asked for 80 of its
 * 128 bytes a clock: 2 KB of rows and 8 KB of columns for an instruction of 128 clocks. */
#include "matmul.cuh"
#include "wgmma.cuh"

#ifdef HAS_WGMMA

enum {
    WGMMA_STAGES = 4, /* one read by products under way, one by the next ones, two being copied */
    WGMMA_BYTES = 32, /* of a line, one product takes */
    LINES_BYTES = 8 * LINE_BYTES,
    ALIGNMENT_BYTES = 896,
    MOST_VALUE = 1 << 29 /* no product is longer, so no value is greater */
};

/* A warp of a warpgroup has 16 rows and all columns: sums[0][j][r] is register 4 j + r. */
template <int GROUPS> struct WgmmaTile : Tile<4 * GROUPS, 1, 1, 32> {
    typedef Tile<4 * GROUPS, 1, 1, 32> Base;
    enum { SHARED_BYTES = WGMMA_STAGES * Base::STAGE_BYTES }; /* and up to 896 to align them */
};
using TwoGroups = WgmmaTile<2>;   /* 128 x 256, 193 KB of shared memory */
using ThreeGroups = WgmmaTile<3>; /* 192 x 256, 225 KB */

/* Brings the steps of the block's operands one after the other: as the copies of matmul.cuh, but
 * rows begin at multiples of 16 bytes, and loops have fixed lengths: registers are scarce here. */
template <typename T> struct Copies {
    enum {
        ROUND_ROWS = T::THREADS / 8,
        ROUNDS = T::ROWS / ROUND_ROWS,
        PANELS = T::COLUMNS / 8,
        ROUND_PANELS = T::THREADS / 64,
        PANEL_ROUNDS = (PANELS + ROUND_PANELS - 1) / ROUND_PANELS
    };
    static_assert(T::ROWS % ROUND_ROWS == 0 && ROUND_ROWS % 8 == 0, "all threads copy alike");

    const u32 *row, *block; /* of this thread's first line, in the next step */
    i32 n_rows, n_panels;   /* that exist from its first on */
    i32 n_words, n_chunks;  /* of a row, of a panel */
    i32 row_word, chunk;    /* of the next step */
    i32 row_place, panel_place;

    __device__ __forceinline__ Copies(const MatrixRows &rows, const PanelColumns &columns,
                                      i64 first_row, i32 first_column)
    {
        const i32 thread = (i32)threadIdx.x, line = thread / 8, column = thread % 8;
        n_words = rows.n_words;
        n_chunks = columns.n_chunks;
        row_word = column * CHUNK_WORDS;
        chunk = thread / 8 % 8;
        n_rows = (i32)smaller(rows.m - first_row, (i64)T::ROWS) - line;
        n_panels = columns.n_panels - first_column / 8 - thread / 64;
        row = rows.words + (first_row + line) * n_words + row_word;
        block = columns.words + ((i64)(first_column / 8 + thread / 64) * n_chunks + chunk) * 32 +
                column * CHUNK_WORDS;
        row_place = line * LINE_BYTES + (column ^ line % 8) * 16;
        panel_place = T::ROWS * LINE_BYTES + (thread / 64 * 8 + column) * LINE_BYTES +
                      (chunk ^ column) * 16;
    }

    /* The copies of one step into a stage, zeros for what does not exist. */
    __device__ __forceinline__ void bring(u8 *stage, const u32 *somewhere)
    {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const bool valid = i * ROUND_ROWS < n_rows && row_word < n_words;
            copy_async_16(stage + row_place + i * ROUND_ROWS * LINE_BYTES,
                          valid ? row + (i64)(i * ROUND_ROWS) * n_words : somewhere, valid);
        }
#pragma unroll
        for (int i = 0; i < PANEL_ROUNDS; i++) {
            const bool valid = i * ROUND_PANELS < n_panels && chunk < n_chunks;
            if (i + 1 == PANEL_ROUNDS && PANELS % ROUND_PANELS != 0 &&
                threadIdx.x / 64 >= PANELS % ROUND_PANELS)
                break;
            copy_async_16(stage + panel_place + i * ROUND_PANELS * LINES_BYTES,
                          valid ? block + (i64)(i * ROUND_PANELS) * n_chunks * 32 : somewhere,
                          valid);
        }
        row += STEP_WORDS;
        row_word += STEP_WORDS;
        block += STEP_WORDS / CHUNK_WORDS * 32;
        chunk += STEP_WORDS / CHUNK_WORDS;
    }
};

/* tile.sums = popc(a & b) of the block's rows and columns, as accumulate() of matmul.cuh; what
 * meanwhile() writes to shared memory while the first copies are under way, all can read then. */
template <typename T, typename Meanwhile>
DEVICE void accumulate_wgmma(T &tile, const MatrixRows &rows, const PanelColumns &columns,
                             i64 first_row, i32 first_column, const Meanwhile &meanwhile)
{
    u8 *memory = aligned_to_lines(shared_memory());
    const i32 n_steps = ceil_divide(rows.n_words, (i32)STEP_WORDS);
    Copies<T> copies(rows, columns, first_row, first_column);
    const auto bring = [&](i32 step) {
        if (step < n_steps)
            copies.bring(memory + step % WGMMA_STAGES * T::STAGE_BYTES, rows.words);
        copy_async_commit();
    };
    i32(&sums)[WGMMA_REGISTERS] = reinterpret_cast<i32(&)[WGMMA_REGISTERS]>(tile.sums);
#pragma unroll
    for (int i = 0; i < WGMMA_REGISTERS; i++) sums[i] = 0;
#pragma unroll
    for (i32 step = 0; step < WGMMA_STAGES - 2; step++) bring(step);
    meanwhile();
    if (n_steps == 0) __syncthreads();
#pragma unroll 1
    for (i32 step = 0; step < n_steps; step++) {
        copy_async_wait<WGMMA_STAGES - 3>();
        proxy_fence();
        __syncthreads(); /* all have the step's copies, and all products of step - 2 are done */
        u8 *stage = memory + step % WGMMA_STAGES * T::STAGE_BYTES;
        u8 *group_rows = stage + warp_number() / 4 * WGMMA_ROWS * LINE_BYTES;
        u64 a = matrix_descriptor(group_rows, 16, LINES_BYTES, SWIZZLED_LINES);
        u64 b = matrix_descriptor(stage + T::ROWS * LINE_BYTES, 16, LINES_BYTES, SWIZZLED_LINES);
        warpgroup_fence();
#pragma unroll
        for (int part = 0; part < LINE_BYTES / WGMMA_BYTES; part++)
            wgmma_b1_and(sums, a + part * (WGMMA_BYTES / 16), b + part * (WGMMA_BYTES / 16));
        warpgroup_commit();
        bring(step + WGMMA_STAGES - 2);
        warpgroup_wait<1>();
    }
    warpgroup_wait<0>();
}

/* What write_bits() reads of each column, brought to shared memory: a thread has 64 columns, and
 * would wait for 192 loads from global memory in the end. */
template <typename T> struct Levels {
    i32 *levels; /* threshold less the column's term */
    u8 *flips;

    __device__ __forceinline__ Levels()
    {
        levels = (i32 *)(shared_memory() + T::SHARED_BYTES + ALIGNMENT_BYTES);
        flips = (u8 *)(levels + T::COLUMNS);
    }

    __device__ __forceinline__ void bring(const Form &form, i32 n, i32 first_column,
                                          const i32 *threshold, const u8 *flip) const
    {
        for (i32 i = (i32)threadIdx.x; i < T::COLUMNS; i += T::THREADS) {
            const i32 column = first_column + i;
            if (column >= n) break;
            const i32 most = larger(smaller(threshold[column], MOST_VALUE + 1), -MOST_VALUE - 1);
            levels[i] = most - form.column_term(column);
            flips[i] = flip[column];
        }
    }
};

template <typename T>
DEVICE void matmul_wgmma(const MatrixRows &rows, const u32 *panels, i32 n, const Form &form,
                         i32 output, const i32 *threshold, const u8 *flip, u32 *out)
{
    const i64 row_tiles = ceil_divide(rows.m, (i64)T::ROWS);
    const i32 column_tiles = ceil_divide(n, (i32)T::COLUMNS);
    const Place place = place_of(blockIdx.x, (u32)row_tiles, (u32)column_tiles);
    const i64 first_row = (i64)place.row_tile * T::ROWS;
    const i32 first_column = place.column_tile * T::COLUMNS;
    const PanelColumns columns = {panels, ceil_divide(n, 8),
                                  ceil_divide(rows.n_words, (i32)CHUNK_WORDS)};
    T tile;
    const Levels<T> of;
    accumulate_wgmma(tile, rows, columns, first_row, first_column, [&] {
        if (output == BITS) of.bring(form, n, first_column, threshold, flip);
    });
    if (output == BITS) {
        const Form of_rows = {form.row_popcounts, nullptr, form.constant, form.of_row, 0,
                              form.of_both};
        write_bits(tile, of_rows, rows.m, n, first_row, first_column, of.levels - first_column,
                   of.flips - first_column, out);
    } else {
        write_values(tile, form, rows.m, n, first_row, first_column, output == FLOATS, out);
    }
}

KERNEL(256, 1)
matmul_wgmma_128(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words,
                 const i32 *row_popcounts, const i32 *panel_popcounts, i32 constant, i32 of_row,
                 i32 of_column, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
                 u32 *out)
{
    const Form form = {row_popcounts, panel_popcounts, constant, of_row, of_column, of_both};
    matmul_wgmma<TwoGroups>({a, m, n_words, true}, panels, n, form, output, threshold, flip, out);
}

KERNEL(384, 1)
matmul_wgmma_192(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words,
                 const i32 *row_popcounts, const i32 *panel_popcounts, i32 constant, i32 of_row,
                 i32 of_column, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
                 u32 *out)
{
    const Form form = {row_popcounts, panel_popcounts, constant, of_row, of_column, of_both};
    matmul_wgmma<ThreeGroups>({a, m, n_words, true}, panels, n, form, output, threshold, flip, out);
}
#endif
