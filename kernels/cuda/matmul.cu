/* Products of packed rows and panels on tensor cores. */
#include "matmul.cuh"

template <Path PATH, typename T>
DEVICE void matmul(const MatrixRows &rows, const u32 *panels, i32 n, const Form &form, i32 output,
                   const i32 *threshold, const u8 *flip, u32 *out)
{
    const i64 row_tiles = ceil_divide(rows.m, (i64)T::ROWS);
    const i32 column_tiles = ceil_divide(n, (i32)T::COLUMNS);
    const Place place = place_of(blockIdx.x, (u32)row_tiles, (u32)column_tiles);
    const i64 first_row = (i64)place.row_tile * T::ROWS;
    const i32 first_column = place.column_tile * T::COLUMNS;
    const PanelColumns columns = {panels, ceil_divide(n, 8),
                                  ceil_divide(rows.n_words, (i32)CHUNK_WORDS)};
    T tile;
    accumulate<PATH>(tile, rows, columns, first_row, first_column, rows.n_words);
    if (output == BITS)
        write_bits(tile, form, rows.m, n, first_row, first_column, threshold, flip, out);
    else
        write_values(tile, form, rows.m, n, first_row, first_column, output == FLOATS, out);
}

/* From sm_100 on there is no b1 instruction, and its emulation is never wanted. */
#if defined(BITSPIN_SHIM) || __CUDA_ARCH__ < 1000
KERNEL(256, 1)
matmul_b1_large(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, i32 is_wide,
                const i32 *row_popcounts, const i32 *panel_popcounts, i32 constant, i32 of_row,
                i32 of_column, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
                u32 *out)
{
    matmul<B1, LargeTile>({a, m, n_words, is_wide != 0}, panels, n,
                          {row_popcounts, panel_popcounts, constant, of_row, of_column, of_both},
                          output, threshold, flip, out);
}

KERNEL(128, 4)
matmul_b1_small(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, i32 is_wide,
                const i32 *row_popcounts, const i32 *panel_popcounts, i32 constant, i32 of_row,
                i32 of_column, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
                u32 *out)
{
    matmul<B1, SmallTile>({a, m, n_words, is_wide != 0}, panels, n,
                          {row_popcounts, panel_popcounts, constant, of_row, of_column, of_both},
                          output, threshold, flip, out);
}
#endif

KERNEL(256, 1)
matmul_s8_large(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, i32 is_wide,
                const i32 *row_popcounts, const i32 *panel_popcounts, i32 constant, i32 of_row,
                i32 of_column, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
                u32 *out)
{
    matmul<S8, LargeTile>({a, m, n_words, is_wide != 0}, panels, n,
                          {row_popcounts, panel_popcounts, constant, of_row, of_column, of_both},
                          output, threshold, flip, out);
}

KERNEL(128, 4)
matmul_s8_small(const u32 *a, const u32 *panels, i64 m, i32 n, i32 n_words, i32 is_wide,
                const i32 *row_popcounts, const i32 *panel_popcounts, i32 constant, i32 of_row,
                i32 of_column, i32 of_both, i32 output, const i32 *threshold, const u8 *flip,
                u32 *out)
{
    matmul<S8, SmallTile>({a, m, n_words, is_wide != 0}, panels, n,
                          {row_popcounts, panel_popcounts, constant, of_row, of_column, of_both},
                          output, threshold, flip, out);
}
