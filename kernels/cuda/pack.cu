/* Compare and pack rows, with their popcounts; and back. */
#include "device.cuh"

/* One warp packs one row: each step ballots 32 neighbours into a word. */
template <typename T>
DEVICE void pack_rows(const T *x, i64 n_rows, i64 n, float threshold, u32 *words, i32 *popcounts)
{
    const i64 row = (i64)blockIdx.x * (blockDim.x / WARP) + warp_number();
    if (row >= n_rows) return;
    const i64 n_words = ceil_divide(n, (i64)WORD_BITS);
    i32 on = 0;
    for (i64 word = 0; word < n_words; word++) {
        const i64 i = word * WORD_BITS + lane_number();
        const bool bit = i < n && (float)x[row * n + i] >= threshold;
        const u32 bits = __ballot_sync(ALL_LANES, bit);
        if (lane_number() == 0) words[row * n_words + word] = bits;
        on += __popc(bits);
    }
    if (popcounts != nullptr && lane_number() == 0) popcounts[row] = on;
}

KERNEL(256, 1) pack_f32(const float *x, i64 n_rows, i64 n, float threshold, u32 *words, i32 *popcounts)
{
    pack_rows(x, n_rows, n, threshold, words, popcounts);
}
