/* The inner part of products of packed bits on tensor cores: c += popc(a & b) of a tile of rows
 * and a tile of columns, on the b1 instruction (sm_80 to sm_90) or on int8 (every architecture).
 * Where rows come from is the caller's: products and convolutions differ in nothing else.
 *
 * Shared memory holds rows and columns alike: lines of 1024 bits, 128 bytes, whose 16-byte chunk k
 * stands at place k ^ (line % 8). So each of these is 8 chunks on 8 different groups of 4 banks:
 * eight lanes that copy one line of a row-major operand (a whole cache line of global memory),
 * eight lanes that copy one block of a panel (128 bytes in one piece too), and eight lanes that
 * ldmatrix reads from: chunk k of eight lines, which is exactly one fragment of the instructions.
 *
 * The large tile: a warp's 64 x 64 outputs need 4 KB of fragments for 32 instructions m16n8k256.
 * At A100's b1 rate (4096 products a clock and scheduler, so 8 clocks each) the four schedulers ask
 * shared memory for 64 of its 128 bytes a clock; 64 x 32 outputs would ask for 96. The block's
 * 128 x 256 outputs ask L2 for 24 bytes a clock. It takes 128 registers of a thread for sums, so
 * one block of 8 warps fills a multiprocessor. The small tile is for products with too few outputs
 * to give every multiprocessor a large one. None of this is measured. */
#pragma once
#include "ptx.cuh"

enum Path { B1, S8 };
enum Output { INTEGERS, FLOATS, BITS };

enum {
    STEP_WORDS = 32,         /* of a line of shared memory: what one step of the pipeline brings */
    LINE_BYTES = 128,
    STAGES = 3,              /* lines of two steps are under way while one is computed */
    MMA_WORDS = 8,           /* 256 bits: the depth of one b1 instruction, of eight int8 ones */
    CHUNK_WORDS = 4
};

/* A warp computes 16 ROW_TILES x 8 COLUMN_TILES outputs, a block ROW_WARPS x COLUMN_WARPS warps. */
template <int ROW_WARPS_, int COLUMN_WARPS_, int ROW_TILES_, int COLUMN_TILES_> struct Tile {
    enum {
        ROW_WARPS = ROW_WARPS_,
        COLUMN_WARPS = COLUMN_WARPS_,
        ROW_TILES = ROW_TILES_,
        COLUMN_TILES = COLUMN_TILES_,
        THREADS = WARP * ROW_WARPS * COLUMN_WARPS,
        WARP_ROWS = 16 * ROW_TILES,
        WARP_COLUMNS = 8 * COLUMN_TILES,
        ROWS = ROW_WARPS * WARP_ROWS,
        COLUMNS = COLUMN_WARPS * WARP_COLUMNS,
        STAGE_BYTES = (ROWS + COLUMNS) * LINE_BYTES,
        SHARED_BYTES = STAGES * STAGE_BYTES
    };
    i32 sums[ROW_TILES][COLUMN_TILES][4];
};

using LargeTile = Tile<2, 4, 4, 8>; /* 128 x 256, 144 KB of shared memory */
using SmallTile = Tile<2, 2, 2, 4>; /* 64 x 64, 48 KB */

DEVICE u32 *chunk_in(u8 *lines, i32 line, i32 chunk)
{
    return (u32 *)(lines + line * LINE_BYTES + (chunk ^ (line % 8)) * 16);
}

/* Rows of a packed matrix (m, n_words), in 16-byte copies if rows are `is_wide`: begin at multiples
 * of 16 bytes; else word by word. */
struct MatrixRows {
    const u32 *words;
    i64 m;
    i32 n_words;
    bool is_wide;

    /* Copies words step * STEP_WORDS ... of the rows first ... first + ROWS - 1, zeros outside. */
    template <int ROWS, int THREADS>
    __device__ __forceinline__ void copy(u8 *lines, i64 first, i32 step) const
    {
        const i32 thread = (i32)threadIdx.x;
        if (is_wide) {
            const i32 chunk = thread % 8, word = step * STEP_WORDS + chunk * CHUNK_WORDS;
#pragma unroll
            for (int k = 0; k < ROWS * 8 / THREADS; k++) {
                const i32 line = thread / 8 + k * (THREADS / 8);
                const bool valid = first + line < m && word < n_words;
                const i64 from = (first + line) * n_words + word;
                copy_async_16(chunk_in(lines, line, chunk), words + (valid ? from : 0), valid);
            }
        } else {
            const i32 lane = thread % 32, word = step * STEP_WORDS + lane;
#pragma unroll 4
            for (int k = 0; k < ROWS * 32 / THREADS; k++) {
                const i32 line = thread / 32 + k * (THREADS / 32);
                const bool valid = first + line < m && word < n_words;
                const i64 from = (first + line) * n_words + word;
                u32 *to = chunk_in(lines, line, lane / CHUNK_WORDS) + lane % CHUNK_WORDS;
                copy_async_4(to, words + (valid ? from : 0), valid);
            }
        }
    }
};

/* Columns in panels of 8, n_chunks blocks of 128 bits each. */
struct PanelColumns {
    const u32 *words;
    i32 n_panels, n_chunks;

    template <int COLUMNS, int THREADS>
    __device__ __forceinline__ void copy(u8 *lines, i32 first, i32 step) const
    {
        const i32 thread = (i32)threadIdx.x, column = thread % 8, chunk = thread / 8 % 8;
        const i32 block = step * (STEP_WORDS / CHUNK_WORDS) + chunk;
#pragma unroll
        for (int k = 0; k < COLUMNS * 8 / THREADS; k++) {
            const i32 panel = thread / 64 + k * (THREADS / 64);
            const bool valid = first / 8 + panel < n_panels && block < n_chunks;
            const i64 from = ((i64)(first / 8 + panel) * n_chunks + block) * 32 + column * 4;
            copy_async_16(chunk_in(lines, panel * 8 + column, chunk), words + (valid ? from : 0),
                          valid);
        }
    }
};

/* One instruction of 256 bits, or the eight of 32 bytes that do the same: byte i of the registers
 * is bit 8 i + j of a word, for rows and columns alike. */
template <Path PATH, typename T>
DEVICE void multiply(T &tile, const u32 (&a)[T::ROW_TILES][4], const u32 (&b)[T::COLUMN_TILES][2])
{
    if constexpr (PATH == B1) {
#pragma unroll
        for (int j = 0; j < T::COLUMN_TILES; j++)
#pragma unroll
            for (int i = 0; i < T::ROW_TILES; i++) mma_b1_and(tile.sums[i][j], a[i], b[j]);
        return;
    }
#pragma unroll
    for (int bit = 0; bit < 8; bit++) {
        u32 bytes_a[T::ROW_TILES][4];
#pragma unroll
        for (int i = 0; i < T::ROW_TILES; i++)
#pragma unroll
            for (int r = 0; r < 4; r++) bytes_a[i][r] = a[i][r] >> bit & 0x01010101u;
#pragma unroll
        for (int j = 0; j < T::COLUMN_TILES; j++) {
            const u32 bytes_b[2] = {b[j][0] >> bit & 0x01010101u, b[j][1] >> bit & 0x01010101u};
#pragma unroll
            for (int i = 0; i < T::ROW_TILES; i++) mma_s8(tile.sums[i][j], bytes_a[i], bytes_b);
        }
    }
}

/* Reads the fragments of 256 bits, the `part`th of a stage, and multiplies them. */
template <Path PATH, typename T> DEVICE void multiply_part(T &tile, u8 *stage, i32 part)
{
    const i32 lane = lane_number(), matrix = lane / 8;
    const i32 row = warp_number() / T::COLUMN_WARPS * T::WARP_ROWS + lane % 8 + matrix % 2 * 8;
    const i32 column =
        warp_number() % T::COLUMN_WARPS * T::WARP_COLUMNS + lane % 8 + matrix / 2 * 8;
    u8 *columns = stage + T::ROWS * LINE_BYTES;
    u32 a[T::ROW_TILES][4], b[T::COLUMN_TILES][2];
#pragma unroll
    for (int i = 0; i < T::ROW_TILES; i++)
        ldmatrix_x4(a[i], chunk_in(stage, row + 16 * i, 2 * part + matrix / 2));
#pragma unroll
    for (int j = 0; j < T::COLUMN_TILES; j += 2) {
        u32 pair[4];
        ldmatrix_x4(pair, chunk_in(columns, column + 8 * j, 2 * part + matrix % 2));
        b[j][0] = pair[0];
        b[j][1] = pair[1];
        b[j + 1][0] = pair[2];
        b[j + 1][1] = pair[3];
    }
    multiply<PATH>(tile, a, b);
}

/* tile.sums = popc(a & b) of the block's rows and columns. Rows has
 * copy<n, threads>(lines, first row, step), as MatrixRows. */
template <Path PATH, typename T, typename Rows>
DEVICE void accumulate(T &tile, const Rows &rows, const PanelColumns &columns, i64 first_row,
                       i32 first_column, i32 n_words)
{
    u8 *memory = shared_memory();
    const i32 n_steps = ceil_divide(n_words, (i32)STEP_WORDS);
#pragma unroll
    for (int i = 0; i < T::ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < T::COLUMN_TILES; j++)
#pragma unroll
            for (int r = 0; r < 4; r++) tile.sums[i][j][r] = 0;
#pragma unroll 1
    for (i32 step = 1 - STAGES; step < n_steps; step++) {
        if (step >= 0) {
            copy_async_wait<STAGES - 2>();
            __syncthreads(); /* all have the step's copies, and are done with the stage they left */
        }
        const i32 next = step + STAGES - 1;
        if (next < n_steps) {
            u8 *lines = memory + next % STAGES * T::STAGE_BYTES;
            rows.template copy<T::ROWS, T::THREADS>(lines, first_row, next);
            lines += T::ROWS * LINE_BYTES;
            columns.template copy<T::COLUMNS, T::THREADS>(lines, first_column, next);
        }
        copy_async_commit();
        if (step < 0) continue;
        u8 *stage = memory + step % STAGES * T::STAGE_BYTES;
        const i32 n_parts = ceil_divide(n_words - step * STEP_WORDS, (i32)MMA_WORDS);
        if (PATH == B1 && n_parts >= STEP_WORDS / MMA_WORDS) {
            /* In one piece, so that fragments are read ahead of the instructions that need them. */
#pragma unroll
            for (int part = 0; part < STEP_WORDS / MMA_WORDS; part++)
                multiply_part<PATH>(tile, stage, part);
        } else {
#pragma unroll 1
            for (i32 part = 0; part < smaller(n_parts, (i32)(STEP_WORDS / MMA_WORDS)); part++)
                multiply_part<PATH>(tile, stage, part);
        }
    }
}

/* Number of the block's tile among row_tiles x column_tiles, in bands of 8 tiles of rows: blocks
 * that run together share rows and columns, so that L2 delivers most of what they read. */
struct Place {
    i32 row_tile, column_tile;
};

DEVICE Place place_of(u32 block, u32 row_tiles, u32 column_tiles)
{
    const u32 band_rows = 8, per_band = band_rows * column_tiles;
    const u32 first = block / per_band * band_rows, within = block % per_band;
    const u32 rows = smaller(row_tiles - first, band_rows);
    return Place{(i32)(first + within % rows), (i32)(within / rows)};
}

/* value = constant + of_row popc(row) + of_column popc(column) + of_both popc(row & column);
 * popcounts are null where their coefficient is 0. */
struct Form {
    const i32 *row_popcounts, *column_popcounts;
    i32 constant, of_row, of_column, of_both;

    __device__ __forceinline__ i32 row_term(i64 row) const
    {
        return constant + (row_popcounts != nullptr ? of_row * row_popcounts[row] : 0);
    }
    __device__ __forceinline__ i32 column_term(i32 column) const
    {
        return column_popcounts != nullptr ? of_column * column_popcounts[column] : 0;
    }
};

/* Where a warp's outputs are in the block's tile: sums[i][j][2 h + e] is row
 * row_of_lane + 16 i + 8 h, column column_of_lane + 8 j + e. */
template <typename T> DEVICE i32 row_of_lane()
{
    return warp_number() / T::COLUMN_WARPS * T::WARP_ROWS + lane_number() / 4;
}

template <typename T> DEVICE i32 column_of_lane()
{
    return warp_number() % T::COLUMN_WARPS * T::WARP_COLUMNS + lane_number() % 4 * 2;
}

/* Writes values (m, n), int32 or float32, a whole row of the tile at a time; row_words are those of
 * a row of out, if it has more than n. Through shared memory: straight from the registers a store
 * would touch 8 rows, 32 bytes each. Its rows are 8 words longer than the tile's, so that the pairs
 * of 16 lanes (4 rows, 8 columns each) lie in different banks. */
template <typename T>
DEVICE void write_values(const T &tile, const Form &form, i64 m, i32 n, i64 first_row,
                         i32 first_column, bool is_float, u32 *out, i64 row_words = 0)
{
    const i32 stride = T::COLUMNS + 8, groups = T::COLUMNS / WARP;
    static_assert(T::ROWS * stride * 4 <= T::SHARED_BYTES, "the sums fit shared memory");
    i32 *sums = (i32 *)shared_memory() + row_of_lane<T>() * stride + column_of_lane<T>();
    __syncthreads(); /* nobody reads rows and columns any more */
#pragma unroll
    for (int i = 0; i < 2 * T::ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < T::COLUMN_TILES; j++) {
            const i32 *pair = &tile.sums[i / 2][j][i % 2 * 2];
            *(int2 *)(sums + 8 * i * stride + 8 * j) = make_int2(pair[0], pair[1]);
        }
    __syncthreads();
    i32 column_terms[groups];
#pragma unroll
    for (int group = 0; group < groups; group++) {
        const i32 column = first_column + WARP * group + lane_number();
        column_terms[group] = column < n ? form.column_term(column) : 0;
    }
    const i32 n_rows = (i32)smaller(m - first_row, (i64)T::ROWS);
#pragma unroll 1
    for (i32 row = warp_number(); row < n_rows; row += T::THREADS / WARP) {
        const i32 *from = (const i32 *)shared_memory() + row * stride + lane_number();
        u32 *to = out + (first_row + row) * (row_words > 0 ? row_words : n) + first_column +
                  lane_number();
        const i32 row_term = form.row_term(first_row + row);
#pragma unroll
        for (int group = 0; group < groups; group++) {
            const i32 value = row_term + column_terms[group] + form.of_both * from[WARP * group];
            if (first_column + WARP * group + lane_number() < n)
                to[WARP * group] = is_float ? __float_as_uint((float)value) : (u32)value;
        }
    }
}

/* Writes bits (m, ceil(n / 32)): (value >= threshold) ^ flip. A warp owns whole words, because its
 * columns are a multiple of 32 and begin at one; four lanes make a word together. */
template <typename T>
DEVICE void write_bits(const T &tile, const Form &form, i64 m, i32 n, i64 first_row,
                       i32 first_column, const i32 *threshold, const u8 *flip, u32 *out,
                       i64 row_words = 0)
{
    enum { LINES = 2 * T::ROW_TILES };
    static_assert(T::WARP_COLUMNS % WORD_BITS == 0, "a warp writes whole words");
    const i64 row = first_row + row_of_lane<T>();
    const i32 quarter = lane_number() % 4, n_words = ceil_divide(n, (i32)WORD_BITS);
    i32 row_terms[LINES];
#pragma unroll
    for (int i = 0; i < LINES; i++) row_terms[i] = row + 8 * i < m ? form.row_term(row + 8 * i) : 0;
#pragma unroll
    for (int word = 0; word < T::WARP_COLUMNS / WORD_BITS; word++) {
        const i32 first = first_column + column_of_lane<T>() + WORD_BITS * word;
        u32 bits[LINES] = {}, flips = 0, exist = 0;
        i32 levels[8], column_terms[8];
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const i32 column = first + 8 * (k / 2) + k % 2;
            const u32 bit = column < n ? 1u << (8 * (k / 2) + k % 2) : 0;
            exist |= bit;
            levels[k] = bit ? threshold[column] : 0;
            flips |= bit && flip[column] != 0 ? bit : 0;
            column_terms[k] = bit ? form.column_term(column) : 0;
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
#pragma unroll
            for (int i = 0; i < LINES; i++) {
                const i32 sum = tile.sums[i / 2][4 * word + k / 2][i % 2 * 2 + k % 2];
                if (row_terms[i] + column_terms[k] + form.of_both * sum >= levels[k])
                    bits[i] |= 1u << (8 * (k / 2) + k % 2);
            }
#pragma unroll
        for (int i = 0; i < LINES; i++) {
            bits[i] = ((bits[i] ^ flips) & exist) << 2 * quarter;
            bits[i] |= __shfl_xor_sync(ALL_LANES, bits[i], 1);
            bits[i] |= __shfl_xor_sync(ALL_LANES, bits[i], 2);
        }
        const i32 at = first / WORD_BITS;
#pragma unroll
        for (int i = 0; i < LINES; i++)
            if (quarter == i % 4 && row + 8 * i < m && at < n_words)
                out[(row + 8 * i) * (row_words > 0 ? row_words : n_words) + at] = bits[i];
    }
}
