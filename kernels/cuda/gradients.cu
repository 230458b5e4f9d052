/* Products of a real matrix with packed signs, the gradients of a binary layer:
 *   out[i][k] = sum_j r[i][j] s[j][k],  s = +-1, bit k of row j of words;
 * dX = dY sign(W) with r row by row, dW = dY^T sign(X) with r transposed, that is, stored r[j][i].
 *
 * mma m16n8k16 on bfloat16 with sums in float. A bfloat16 r is one term; a float is split into
 * three bfloat16 terms of 8 bits, exactly, and multiplied three times: products with +-1 are exact,
 * so only the sums round. (Below 2^-117 the last term leaves the range of bfloat16; an infinity
 * becomes NaN.)
 *
 * A block of 4 warps makes 128 rows x 128 columns, each warp 64 x 64: 32 mma for every 4
 * ldmatrix_x4 of a term, that is, 16 clocks of shared memory (512 bytes each, 128 a clock). The
 * signs never exist in memory: a word holds one row of four 8-column fragments, and a register of a
 * fragment costs one PRMT and one LOP3; 4 words are shifted for 8 registers. With 4 row tiles a
 * fragment is used 4 times (12 times for floats). */
#include "ptx.cuh"

enum {
    THREADS = 128,
    TILE = 128,      /* rows, and columns, of a block */
    DEPTH = 32,      /* of the sum, in one step */
    STAGES = 4,      /* of bfloat16: three tiles under way while one is multiplied */
    TERMS = 3,       /* of a float */
    TILE_WORDS = TILE / WORD_BITS,
    PLANE_BYTES = TILE * DEPTH * 2,
    RAW_BYTES = TILE * DEPTH * 4,
    BITS_BYTES = DEPTH * TILE_WORDS * 4
};

/* One product as the kernels get it. Rows and columns are those of `out`. */
struct Product {
    i32 n_rows, n_columns, n_sum;
    i32 split;       /* of the sum, for one y of the grid; a multiple of DEPTH */
    bool is_aligned; /* lines of r begin at multiples of 16 bytes */
    i32 first_row, first_column, begin, end;
};

DEVICE Product product_of_block(i32 n_rows, i32 n_columns, i32 n_sum, i32 split, i32 is_aligned)
{
    /* Neighbours share their rows of r, the big operand, in the cache. */
    const u32 across = ceil_divide((u32)n_columns, (u32)TILE);
    const i32 begin = (i32)blockIdx.y * split;
    return {n_rows, n_columns, n_sum, split, is_aligned != 0,
            (i32)(blockIdx.x / across) * TILE, (i32)(blockIdx.x % across) * TILE,
            begin, split < n_sum - begin ? begin + split : n_sum};
}

/* Where 16 bytes of a tile of bfloat16 lie: chunks are permuted so that the 8 rows of a matrix that
 * ldmatrix reads are in different banks. Lines have DEPTH or, transposed, TILE elements. */
template <bool TRANSPOSED> DEVICE i32 chunk_address(i32 line, i32 chunk)
{
    if (TRANSPOSED) return (line * (TILE / 8) + (chunk ^ (line & 7))) * 16;
    return (line * (DEPTH / 8) + (chunk ^ (line >> 1 & 3))) * 16;
}

/* Start copying a tile of r: bfloat16 to where ldmatrix reads it, floats in the order of threads,
 * because each thread splits what it has copied itself. What lies outside becomes 0. */
template <bool TRANSPOSED, typename T>
DEVICE void fetch_rows(u8 *tile, const T *r, const Product &p, i32 step)
{
    const i32 chunk_size = 16 / (i32)sizeof(T);
    const i32 lines = TRANSPOSED ? DEPTH : TILE, chunks = TILE * DEPTH / lines / chunk_size;
    const i32 sum = p.begin + step * DEPTH;
    const i32 line_limit = TRANSPOSED ? p.end : p.n_rows;
    const i32 limit = TRANSPOSED ? p.n_rows : p.end, stride = TRANSPOSED ? p.n_rows : p.n_sum;
#pragma unroll
    for (i32 i = 0; i < lines * chunks / THREADS; i++) {
        const i32 v = i * THREADS + (i32)threadIdx.x, line = v / chunks, chunk = v % chunks;
        const i32 from_line = (TRANSPOSED ? sum : p.first_row) + line;
        const i32 first = (TRANSPOSED ? p.first_row : sum) + chunk * chunk_size;
        u8 *to = tile + (sizeof(T) == 2 ? chunk_address<TRANSPOSED>(line, chunk) : 16 * v);
        const T *from = r + (i64)from_line * stride + first;
        if (p.is_aligned) {
            const bool inside = from_line < line_limit && first < limit;
            copy_async_16(to, inside ? from : r, inside);
        } else {
#pragma unroll
            for (i32 e = 0; e < chunk_size; e++)
                ((T *)to)[e] = from_line < line_limit && first + e < limit ? from[e] : (T)0;
        }
    }
}

/* Start copying the words of a step: DEPTH rows of TILE columns, one word a thread. */
DEVICE void fetch_bits(u32 *tile, const u32 *bits, const Product &p, i32 step)
{
    const i32 n_words = ceil_divide(p.n_columns, (i32)WORD_BITS);
    const i32 row = p.begin + step * DEPTH + (i32)threadIdx.x / TILE_WORDS;
    const i32 word = p.first_column / WORD_BITS + (i32)threadIdx.x % TILE_WORDS;
    const bool inside = row < p.end && word < n_words;
    copy_async_4(tile + threadIdx.x, inside ? bits + (i64)row * n_words + word : bits, inside);
}

/* Bits 7 + 8 n of two words become the signs of two bfloat16 ones, the lower half from `low`. */
DEVICE u32 two_signs(u32 low, u32 high, u32 n)
{
    const u32 signs = __byte_perm(low, high, (4 + n) << 12 | n << 4);
    return (~signs & 0x80008000u) | 0x3f803f80u;
}

/* sums += a tile of r, of which `terms` lie behind each other, times a tile of signs. */
template <bool TRANSPOSED, int N_TERMS>
DEVICE void multiply_tile(float (&sums)[4][8][4], const u8 *terms, const u32 *bits)
{
    const i32 lane = lane_number(), group = lane / 4, t = lane % 4;
    const i32 warp_row = warp_number() / 2 * 64, warp_word = warp_number() % 2 * 2;
#pragma unroll
    for (i32 depth = 0; depth < DEPTH; depth += 16) {
        u32 b[8][2];
#pragma unroll
        for (i32 word = 0; word < 2; word++) {
#pragma unroll
            for (i32 half = 0; half < 2; half++) {
                const u32 *from =
                    bits + (depth + 8 * half + 2 * t) * TILE_WORDS + warp_word + word;
                const u32 low = from[0] << (7 - group), high = from[TILE_WORDS] << (7 - group);
#pragma unroll
                for (i32 n = 0; n < 4; n++) b[4 * word + n][half] = two_signs(low, high, n);
            }
        }
#pragma unroll
        for (i32 m = 0; m < 4; m++) {
            const i32 row = warp_row + 16 * m;
            const i32 address =
                TRANSPOSED ? chunk_address<true>(depth + lane / 16 * 8 + lane % 8,
                                                 row / 8 + lane / 8 % 2)
                           : chunk_address<false>(row + lane % 16, depth / 8 + lane / 16);
#pragma unroll
            for (i32 term = 0; term < N_TERMS; term++) {
                u32 a[4];
                if (TRANSPOSED) ldmatrix_x4_transposed(a, terms + term * PLANE_BYTES + address);
                else ldmatrix_x4(a, terms + term * PLANE_BYTES + address);
#pragma unroll
                for (i32 n = 0; n < 8; n++) mma_bf16(sums[m][n], a, b[n]);
            }
        }
    }
}

DEVICE void store_pair(float *to, float x, float y) { *(float2 *)to = make_float2(x, y); }
DEVICE void store_pair(u16 *to, float x, float y) { *(u32 *)to = bf16_pair(x, y); }
DEVICE void store_one(float *to, float x) { *to = x; }
DEVICE void store_one(u16 *to, float x) { *to = (u16)bf16_pair(x, 0.0f); }

/* Write one row of a warp's tile; PAIRS: an even number of columns, so that pairs are aligned. */
template <bool PAIRS, int HALF, typename Out>
DEVICE void write_row(const float (&sums)[8][4], const u32 *mask, Out *row, i32 left)
{
    const i32 first = lane_number() % 4 * 2;
#pragma unroll
    for (i32 word = 0; word < 2; word++) {
        if (word * WORD_BITS >= left) continue;
        const u32 kept = (mask ? mask[word] : ~0u) >> first;
#pragma unroll
        for (i32 n = 0; n < 4; n++) {
            const i32 column = word * WORD_BITS + 8 * n + first;
            const float x = kept >> 8 * n & 1u ? sums[4 * word + n][2 * HALF] : 0.0f;
            const float y = kept >> 8 * n & 2u ? sums[4 * word + n][2 * HALF + 1] : 0.0f;
            if (PAIRS) {
                if (column < left) store_pair(row + column, x, y);
            } else {
                if (column < left) store_one(row + column, x);
                if (column + 1 < left) store_one(row + column + 1, y);
            }
        }
    }
}

/* Write the sums of a block, 0 where the mask has a 0; each y of the grid to a slab of its own. */
template <bool PAIRS, typename Out>
DEVICE void write_sums(const float (&sums)[4][8][4], const u32 *mask, Out *out, const Product &p)
{
    const i32 n_words = ceil_divide(p.n_columns, (i32)WORD_BITS);
    const i32 first_row = p.first_row + warp_number() / 2 * 64 + lane_number() / 4;
    const i32 column = p.first_column + warp_number() % 2 * 64;
    out += (i64)blockIdx.y * p.n_rows * p.n_columns + column;
    if (mask) mask += column / WORD_BITS;
#pragma unroll
    for (i32 m = 0; m < 4; m++) {
        const i32 row = first_row + 16 * m, left = p.n_columns - column;
        const u32 *kept = mask ? mask + (i64)row * n_words : nullptr;
        Out *to = out + (i64)row * p.n_columns;
        if (row < p.n_rows) write_row<PAIRS, 0>(sums[m], kept, to, left);
        if (row + 8 >= p.n_rows) continue;
        if (mask) kept += 8 * (i64)n_words;
        write_row<PAIRS, 1>(sums[m], kept, to + 8 * (i64)p.n_columns, left);
    }
}

template <typename Out>
DEVICE void write_tile(const float (&sums)[4][8][4], const u32 *mask, Out *out, const Product &p)
{
    if (p.n_columns % 2 == 0) write_sums<true>(sums, mask, out, p);
    else write_sums<false>(sums, mask, out, p);
}

template <bool TRANSPOSED, typename Out>
DEVICE void multiply_bf16(const u16 *r, const u32 *bits, const u32 *mask, Out *out,
                          const Product &p)
{
    const i32 stage_bytes = PLANE_BYTES + BITS_BYTES;
    const i32 n_steps = ceil_divide(p.end - p.begin, (i32)DEPTH);
    u8 *shared = shared_memory();
    float sums[4][8][4] = {};
    for (i32 step = 0; step < STAGES - 1; step++) {
        u8 *stage = shared + step * stage_bytes;
        fetch_rows<TRANSPOSED>(stage, r, p, step);
        fetch_bits((u32 *)(stage + PLANE_BYTES), bits, p, step);
        copy_async_commit();
    }
    for (i32 step = 0; step < n_steps; step++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads(); /* this step has come, and nobody reads the one before it any more */
        u8 *next = shared + (step + STAGES - 1) % STAGES * stage_bytes;
        fetch_rows<TRANSPOSED>(next, r, p, step + STAGES - 1);
        fetch_bits((u32 *)(next + PLANE_BYTES), bits, p, step + STAGES - 1);
        copy_async_commit();
        const u8 *stage = shared + step % STAGES * stage_bytes;
        multiply_tile<TRANSPOSED, 1>(sums, stage, (const u32 *)(stage + PLANE_BYTES));
    }
    copy_async_wait<0>();
    write_tile(sums, mask, out, p);
}

/* Cut the floats that this thread has copied into three terms of 8 bits; the last is exact. */
template <bool TRANSPOSED> DEVICE void split_floats(u8 *planes, const float *raw)
{
    const i32 quads = TRANSPOSED ? TILE / 4 : DEPTH / 4;
#pragma unroll
    for (i32 i = 0; i < TILE * DEPTH / 4 / THREADS; i++) {
        const i32 v = i * THREADS + (i32)threadIdx.x, line = v / quads, quad = v % quads;
        const float4 x = ((const float4 *)raw)[v];
        float left[4] = {x.x, x.y, x.z, x.w};
        u8 *to = planes + chunk_address<TRANSPOSED>(line, quad / 2) + quad % 2 * 8;
#pragma unroll
        for (i32 term = 0; term < TERMS; term++) {
            u32 upper[4];
#pragma unroll
            for (i32 e = 0; e < 4; e++) {
                upper[e] = __float_as_uint(left[e]) & 0xffff0000u;
                left[e] -= __uint_as_float(upper[e]);
            }
            *(uint2 *)(to + term * PLANE_BYTES) = make_uint2(
                __byte_perm(upper[0], upper[1], 0x7632), __byte_perm(upper[2], upper[3], 0x7632));
        }
    }
}

template <bool TRANSPOSED>
DEVICE void multiply_f32(const float *r, const u32 *bits, const u32 *mask, float *out,
                         const Product &p)
{
    const i32 n_steps = ceil_divide(p.end - p.begin, (i32)DEPTH);
    u8 *planes = shared_memory();
    float *raw = (float *)(planes + TERMS * PLANE_BYTES);
    u32 *words = (u32 *)((u8 *)raw + RAW_BYTES); /* of two steps */
    float sums[4][8][4] = {};
    fetch_rows<TRANSPOSED>((u8 *)raw, r, p, 0);
    fetch_bits(words, bits, p, 0);
    copy_async_commit();
    for (i32 step = 0; step < n_steps; step++) {
        copy_async_wait<0>();
        __syncthreads(); /* nobody reads the terms of the step before it any more */
        split_floats<TRANSPOSED>(planes, raw);
        __syncthreads();
        /* 3 x 64 mma of every warp hide the copies of the next step. */
        fetch_rows<TRANSPOSED>((u8 *)raw, r, p, step + 1);
        fetch_bits(words + (step + 1) % 2 * DEPTH * TILE_WORDS, bits, p, step + 1);
        copy_async_commit();
        multiply_tile<TRANSPOSED, TERMS>(sums, planes, words + step % 2 * DEPTH * TILE_WORDS);
    }
    copy_async_wait<0>();
    write_tile(sums, mask, out, p);
}

KERNEL(128, 2)
multiply_rows_bf16_f32(const u16 *r, const u32 *bits, const u32 *mask, float *out, i32 n_rows,
                       i32 n_columns, i32 n_sum, i32 split, i32 is_aligned)
{
    multiply_bf16<false>(r, bits, mask, out,
                         product_of_block(n_rows, n_columns, n_sum, split, is_aligned));
}

KERNEL(128, 2)
multiply_rows_bf16_bf16(const u16 *r, const u32 *bits, const u32 *mask, u16 *out, i32 n_rows,
                        i32 n_columns, i32 n_sum, i32 split, i32 is_aligned)
{
    multiply_bf16<false>(r, bits, mask, out,
                         product_of_block(n_rows, n_columns, n_sum, split, is_aligned));
}

KERNEL(128, 2)
multiply_transposed_bf16_f32(const u16 *r, const u32 *bits, const u32 *mask, float *out, i32 n_rows,
                             i32 n_columns, i32 n_sum, i32 split, i32 is_aligned)
{
    multiply_bf16<true>(r, bits, mask, out,
                        product_of_block(n_rows, n_columns, n_sum, split, is_aligned));
}

KERNEL(128, 2)
multiply_transposed_bf16_bf16(const u16 *r, const u32 *bits, const u32 *mask, u16 *out, i32 n_rows,
                              i32 n_columns, i32 n_sum, i32 split, i32 is_aligned)
{
    multiply_bf16<true>(r, bits, mask, out,
                        product_of_block(n_rows, n_columns, n_sum, split, is_aligned));
}

KERNEL(128, 2)
multiply_rows_f32_f32(const float *r, const u32 *bits, const u32 *mask, float *out, i32 n_rows,
                      i32 n_columns, i32 n_sum, i32 split, i32 is_aligned)
{
    multiply_f32<false>(r, bits, mask, out,
                        product_of_block(n_rows, n_columns, n_sum, split, is_aligned));
}

KERNEL(128, 2)
multiply_transposed_f32_f32(const float *r, const u32 *bits, const u32 *mask, float *out,
                            i32 n_rows, i32 n_columns, i32 n_sum, i32 split, i32 is_aligned)
{
    multiply_f32<true>(r, bits, mask, out,
                       product_of_block(n_rows, n_columns, n_sum, split, is_aligned));
}
