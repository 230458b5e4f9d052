/* Panels (VECTORS of kernels/panels.py: blocks of 8 columns x 4 words, 128 bytes, column by
 * column), and popcounts of packed rows and of panels. */
#include "device.cuh"

/* 2^log_lanes neighbouring lanes add up one row: as many as leave few idle, so that short rows are
 * read as coalesced as long ones. All 32 lanes of a warp are added up step by step; those of other
 * rows count as nothing. */
KERNEL(256, 4) row_popcounts(const u32 *words, i64 n_rows, i64 n_words, i32 log_lanes,
                             i32 *popcounts)
{
    const i32 lanes = 1 << log_lanes, lane = (i32)threadIdx.x & (lanes - 1);
    const i64 row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) >> log_lanes;
    i32 on = 0;
    const u32 *mine = words + row * n_words + lane;
    const i64 n_mine = row < n_rows ? (n_words - lane + lanes - 1) >> log_lanes : 0;
#pragma unroll 4
    for (i64 i = 0; i < n_mine; i++) on += __popc(mine[i << log_lanes]);
#pragma unroll
    for (i32 step = 1; step < WARP; step *= 2) {
        const i32 other = __shfl_xor_sync(ALL_LANES, on, step);
        on += step < lanes ? other : 0;
    }
    if (row < n_rows && lane == 0) popcounts[row] = on;
}

/* A warp a panel: lane l meets column l / 4 in every block. */
KERNEL(128, 4) panel_popcounts(const u32 *panels, i64 n_columns, i64 n_blocks, i32 *popcounts)
{
    const i64 panel = (i64)blockIdx.x * (blockDim.x / WARP) + warp_number();
    const i64 column = panel * 8 + lane_number() / 4;
    if (panel * 8 >= n_columns) return;
    i32 on = 0;
#pragma unroll 8
    for (i64 block = 0; block < n_blocks; block++)
        on += __popc(panels[(panel * n_blocks + block) * WARP + lane_number()]);
    on += __shfl_xor_sync(ALL_LANES, on, 1);
    on += __shfl_xor_sync(ALL_LANES, on, 2);
    if (lane_number() % 4 == 0 && column < n_columns) popcounts[column] = on;
}

/* A lane moves four words of one column, a warp four blocks: 512 bytes written side by side, 64
 * read from each of 8 columns. */
KERNEL(128, 4) to_panels(const u32 *columns, i64 n_columns, i64 n_words, i64 n_blocks, u32 *panels)
{
    const i64 panel = blockIdx.x, column = panel * 8 + lane_number() % 8;
    const i64 warp = (i64)blockIdx.y * (blockDim.x / WARP) + warp_number();
    const i64 block = warp * 4 + lane_number() / 8;
    if (block >= n_blocks) return;
    const u32 *from = columns + column * n_words + 4 * block;
    uint4 four = make_uint4(0, 0, 0, 0);
    if (column < n_columns) {
        if (n_words % 4 == 0 && (u64)columns % 16 == 0) {
            four = *(const uint4 *)from;
        } else {
            const i64 left = n_words - 4 * block;
            four.x = from[0];
            if (left > 1) four.y = from[1];
            if (left > 2) four.z = from[2];
            if (left > 3) four.w = from[3];
        }
    }
    ((uint4 *)panels)[(panel * n_blocks + block) * 8 + lane_number() % 8] = four;
}
