/* Reals under a packed mask, element by element, bound by memory.
 * A warp has 128 neighbours of a row, a lane four of them: 16 bytes of floats, and the eight lanes
 * that share a word of bits read one address. */
#include "ptx.cuh"

enum { NEIGHBOURS = 4, WARP_COLUMNS = NEIGHBOURS * WARP };

DEVICE float4 load_four(const float *from) { return *(const float4 *)from; }
DEVICE float4 load_four(const u16 *from)
{
    const uint2 x = *(const uint2 *)from;
    return make_float4(__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u),
                       __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u));
}
DEVICE float load_one(const float *from) { return *from; }
DEVICE float load_one(const u16 *from) { return float_of_bf16(*from); }

DEVICE void store_four(float *to, const float (&x)[4])
{
    store_vector(to, make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]),
                                __float_as_uint(x[2]), __float_as_uint(x[3])));
}
DEVICE void store_four(u16 *to, const float (&x)[4])
{
    store_vector(to, make_uint2(bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3])));
}
DEVICE void store_one(float *to, float x) { *to = x; }
DEVICE void store_one(u16 *to, float x) { *to = (u16)bf16_pair(x, 0.0f); }

/* What a thread has: the first of its columns, and rows blockIdx.y, + gridDim.y, ... */
DEVICE i64 first_column()
{
    const i64 warp = (i64)blockIdx.x * (blockDim.x / WARP) + warp_number();
    return warp * WARP_COLUMNS + NEIGHBOURS * lane_number();
}

/* Sum of slabs in their order, 0 where the mask has a 0; without a mask nothing is left out.
 * One slab is a gradient that is clipped; several are a product whose sum was split. */
template <typename In, typename Out>
DEVICE void keep(const In *slabs, const u32 *mask, Out *out, i64 n_rows, i64 n, i32 n_slabs,
                 i32 is_aligned)
{
    const i64 column = first_column(), n_words = ceil_divide(n, (i64)WORD_BITS), slab = n_rows * n;
    if (column >= n) return;
#pragma unroll 1 /* else the number of rounds is a division of 64 bits */
    for (i64 row = blockIdx.y; row < n_rows; row += gridDim.y) {
        const u32 kept = (mask ? mask[row * n_words + column / WORD_BITS] : ~0u) >>
                         (u32)(column % WORD_BITS);
        const In *from = slabs + row * n + column;
        float sums[NEIGHBOURS] = {};
#pragma unroll 1
        for (i32 i = 0; i < n_slabs; i++, from += slab) {
            if (is_aligned) {
                const float4 x = load_four(from);
                sums[0] += x.x, sums[1] += x.y, sums[2] += x.z, sums[3] += x.w;
            } else {
#pragma unroll
                for (i32 e = 0; e < NEIGHBOURS; e++)
                    if (column + e < n) sums[e] += load_one(from + e);
            }
        }
#pragma unroll
        for (i32 e = 0; e < NEIGHBOURS; e++)
            if (!(kept >> e & 1u)) sums[e] = 0.0f;
        Out *to = out + row * n + column;
        if (is_aligned) {
            store_four(to, sums);
        } else {
#pragma unroll
            for (i32 e = 0; e < NEIGHBOURS; e++)
                if (column + e < n) store_one(to + e, sums[e]);
        }
    }
}

KERNEL(256, 8)
keep_f32_f32(const float *slabs, const u32 *mask, float *out, i64 n_rows, i64 n, i32 n_slabs,
             i32 is_aligned)
{
    keep(slabs, mask, out, n_rows, n, n_slabs, is_aligned);
}

KERNEL(256, 8)
keep_f32_bf16(const float *slabs, const u32 *mask, u16 *out, i64 n_rows, i64 n, i32 n_slabs,
              i32 is_aligned)
{
    keep(slabs, mask, out, n_rows, n, n_slabs, is_aligned);
}

KERNEL(256, 8)
keep_bf16_bf16(const u16 *slabs, const u32 *mask, u16 *out, i64 n_rows, i64 n, i32 n_slabs,
               i32 is_aligned)
{
    keep(slabs, mask, out, n_rows, n, n_slabs, is_aligned);
}
