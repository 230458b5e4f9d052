/* Convolution of packed signs as a product of bits whose rows are never written down: a row is an
 * output pixel, its words are those of the image under the kernel, tap by tap.
 * Images are (N, H, W, groups, tap_words): the channels of a group of a pixel padded to words.
 * With c = popc(x & w) over the taps inside the image, px and pw the ones of x and w there,
 *     sum = n_signs - 2 px - 2 pw + 4 c,
 * where for zeros outside n_signs and pw count the taps inside only, and for -1 (zero bits) all. */
#pragma once
#include "matmul.cuh"

struct Convolution {
    const u32 *images, *panels;
    const i32 *popcounts; /* of the weights of a channel */
    /* (KH + 1, KW + 1, n_out), of the taps above and left of one; null if -1 is outside */
    const i32 *tap_ones;
    i32 n_images, height, width, groups, tap_words, group_channels, group_out;
    i32 kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w;
};

DEVICE i32 n_out(const Convolution &conv) { return conv.groups * conv.group_out; }

DEVICE u32 n_pixels(const Convolution &conv)
{
    return (u32)conv.n_images * (u32)conv.out_h * (u32)conv.out_w;
}

DEVICE i32 patch_words(const Convolution &conv)
{
    return conv.kernel_h * conv.kernel_w * conv.tap_words;
}

/* The image pixel under the first tap of an output pixel; may lie outside. */
struct Origin {
    i64 pixel;
    i32 y, x;
};

DEVICE Origin origin_of(const Convolution &conv, u32 pixel)
{
    const u32 line = pixel / (u32)conv.out_w, image = line / (u32)conv.out_h;
    Origin at;
    at.y = (i32)(line - image * (u32)conv.out_h) * conv.stride_h - conv.pad_h;
    at.x = (i32)(pixel - line * (u32)conv.out_w) * conv.stride_w - conv.pad_w;
    at.pixel = ((i64)image * conv.height + at.y) * conv.width + at.x;
    return at;
}

/* The taps inside the image: the rectangle of the kernel with these edges. */
struct Inside {
    i32 top, bottom, left, right;
};

DEVICE Inside taps_inside(const Convolution &conv, Origin at)
{
    const i32 top = smaller(larger(-at.y, 0), conv.kernel_h);
    const i32 left = smaller(larger(-at.x, 0), conv.kernel_w);
    return {top, larger(smaller(conv.height - at.y, conv.kernel_h), top), left,
            larger(smaller(conv.width - at.x, conv.kernel_w), left)};
}

/* How the words of a patch follow each other: for each copy of `copy_words`, how far from the
 * origin it starts, or -1 past the last tap, and which tap it is of, y << 16 | x. In shared memory,
 * because the divisions would cost more than the copy. */
DEVICE void write_taps(const Convolution &conv, i32 copy_words, i32 n_copies, int2 *taps)
{
    const u32 pixel_words = (u32)(conv.groups * conv.tap_words);
    for (i32 i = (i32)threadIdx.x; i < n_copies; i += (i32)blockDim.x) {
        const u32 word = (u32)(i * copy_words), tap = word / (u32)conv.tap_words;
        const u32 y = tap / (u32)conv.kernel_w, x = tap - y * (u32)conv.kernel_w;
        const u32 start = (y * (u32)conv.width + x) * pixel_words;
        const u32 within = word - tap * (u32)conv.tap_words;
        const bool is_tap = (i32)word < patch_words(conv);
        taps[i] = make_int2(is_tap ? (i32)(start + within) : -1, (i32)(y << 16 | x));
    }
}

/* The rows of a block, as `accumulate` wants them. A thread copies pieces of one row only, so that
 * it finds its pixel once. With two threads for a row they take pieces in turn: in 16-byte copies a
 * warp reads 32 bytes, a sector, of each of 16 pixels, and its writes go to all banks alike. */
struct PatchRows {
    const u32 *images;
    const int2 *taps;
    i64 word;
    i32 y, x, height, width;
    i32 n_words;    /* of a row */
    i32 copy_words; /* 1, 2 or 4: divides tap_words */

    template <int ROWS, int THREADS>
    __device__ __forceinline__ void copy(u8 *lines, i64, i32 step) const
    {
        if (copy_words == 4)
            copy_pieces<THREADS / ROWS, 4>(lines, step);
        else if (copy_words == 2)
            copy_pieces<THREADS / ROWS, 2>(lines, step);
        else
            copy_pieces<THREADS / ROWS, 1>(lines, step);
    }

    /* By way of L1: a word is part of up to KH * KW rows, most of them of the same block. What no
     * instruction of 256 bits reads is not copied, neither are zeros in its place. */
    template <int PER_ROW, int WORDS>
    __device__ __forceinline__ void copy_pieces(u8 *lines, i32 step) const
    {
        const i32 line = (i32)threadIdx.x / PER_ROW, turn = (i32)threadIdx.x % PER_ROW;
        const i32 n_parts = ceil_divide(n_words - step * STEP_WORDS, (i32)MMA_WORDS);
        const int2 *tap = taps + step * (STEP_WORDS / WORDS) + turn;
#pragma unroll 2
        for (i32 part = 0; part < smaller(n_parts, (i32)(STEP_WORDS / MMA_WORDS)); part++) {
#pragma unroll
            for (i32 i = 0; i < MMA_WORDS / WORDS; i += PER_ROW, tap += PER_ROW) {
                const i32 at = (i + turn) * WORDS, dy = tap->y >> 16, dx = tap->y & 0xffff;
                const bool is_inside =
                    tap->x >= 0 && (u32)(y + dy) < (u32)height && (u32)(x + dx) < (u32)width;
                const i32 chunk = part * (MMA_WORDS / CHUNK_WORDS) + at / CHUNK_WORDS;
                u32 *to = chunk_in(lines, line, chunk);
                copy_async_cached<4 * WORDS>(to + at % CHUNK_WORDS,
                                             images + (is_inside ? word + tap->x : 0), is_inside);
            }
        }
    }
};

template <typename T>
DEVICE PatchRows patch_rows(const Convolution &conv, i32 group, u32 first_pixel, i32 copy_words,
                            const int2 *taps)
{
    const u32 pixel = first_pixel + threadIdx.x / (u32)(T::THREADS / T::ROWS);
    /* Rows past the end repeat the last one, and are not written. */
    const Origin at = origin_of(conv, smaller(pixel, n_pixels(conv) - 1));
    const i64 word = (at.pixel * conv.groups + group) * conv.tap_words;
    return {conv.images, taps,       word,              at.y,      at.x,
            conv.height, conv.width, patch_words(conv), copy_words};
}

/* A tile that counts the ones of its rows too, as one more column, of ones: warps that share rows
 * count one fragment each, so that this is one instruction beside ROW_TILES * COLUMN_TILES. POPC,
 * at 16 words a clock and multiprocessor, would take a quarter of the time that the b1 instructions
 * of a 128 x 128 tile take on A100, and would read the rows from shared memory once more. */
template <int ROW_WARPS, int COLUMN_WARPS, int ROW_TILES, int COLUMN_TILES>
struct CountingTile : Tile<ROW_WARPS, COLUMN_WARPS, ROW_TILES, COLUMN_TILES> {
    static_assert(ROW_TILES == COLUMN_WARPS, "a fragment of rows for each warp");
    i32 ones[4];
};

template <Path PATH> DEVICE void count_ones(i32 (&ones)[4], const u32 (&a)[4])
{
    if constexpr (PATH == B1) {
        mma_b1_and(ones, a, {~0u, ~0u});
        return;
    }
#pragma unroll
    for (int bit = 0; bit < 8; bit++) {
        const u32 bytes[4] = {a[0] >> bit & 0x01010101u, a[1] >> bit & 0x01010101u,
                              a[2] >> bit & 0x01010101u, a[3] >> bit & 0x01010101u};
        mma_s8(ones, bytes, {0x01010101u, 0x01010101u});
    }
}

template <Path PATH, int ROW_WARPS, int COLUMN_WARPS, int ROW_TILES, int COLUMN_TILES>
DEVICE void multiply(CountingTile<ROW_WARPS, COLUMN_WARPS, ROW_TILES, COLUMN_TILES> &tile,
                     const u32 (&a)[ROW_TILES][4], const u32 (&b)[COLUMN_TILES][2])
{
    multiply<PATH>((Tile<ROW_WARPS, COLUMN_WARPS, ROW_TILES, COLUMN_TILES> &)tile, a, b);
    const i32 own = warp_number() % COLUMN_WARPS; /* selected without a branch */
    u32 rows[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        rows[r] = a[0][r];
#pragma unroll
        for (int i = 1; i < ROW_TILES; i++) rows[r] = own == i ? a[i][r] : rows[r];
    }
    count_ones<PATH>(tile.ones, rows);
}

/* Ones of the weights of a channel in the rectangle of taps. */
DEVICE i32 ones_inside(const Convolution &conv, const Inside &in, i32 channel)
{
    const i32 *ones = conv.tap_ones + channel;
    const i32 n = n_out(conv), line = conv.kernel_w + 1;
    return ones[(in.bottom * line + in.right) * n] - ones[(in.bottom * line + in.left) * n] -
           ones[(in.top * line + in.right) * n] + ones[(in.top * line + in.left) * n];
}

/* What all columns of a row need; in the memory of the first stage, when that is done. */
template <typename T> struct RowTerms {
    i32 base[T::ROWS]; /* px, then n_signs - 2 px */
    Inside inside[T::ROWS];
    bool is_cut[T::ROWS]; /* taps are outside, and count as 0 */
};

template <typename T>
DEVICE void write_terms(const T &tile, const Convolution &conv, u32 first_pixel, RowTerms<T> *terms)
{
    if (lane_number() % 4 == 0) {
        const i32 row = row_of_lane<T>() + warp_number() % T::COLUMN_WARPS * 16;
        terms->base[row] = tile.ones[0];
        terms->base[row + 8] = tile.ones[2];
    }
    __syncthreads();
    const i32 row = (i32)threadIdx.x;
    if (row < T::ROWS) {
        const u32 pixel = smaller(first_pixel + (u32)row, n_pixels(conv) - 1);
        const Inside in = taps_inside(conv, origin_of(conv, pixel));
        const i32 all = conv.kernel_h * conv.kernel_w;
        const i32 n_inside = (in.bottom - in.top) * (in.right - in.left);
        const bool is_cut = conv.tap_ones != nullptr && n_inside < all;
        terms->base[row] = (is_cut ? n_inside : all) * conv.group_channels - 2 * terms->base[row];
        terms->inside[row] = in;
        terms->is_cut[row] = is_cut;
    }
    __syncthreads();
}

/* From counts to sums, in place. */
template <typename T>
DEVICE void finish_sums(T &tile, const Convolution &conv, i32 group, i32 first_column,
                        const RowTerms<T> *terms)
{
#pragma unroll
    for (int k = 0; k < 2 * T::COLUMN_TILES; k++) {
        const i32 column = first_column + column_of_lane<T>() + 8 * (k / 2) + k % 2;
        if (column >= conv.group_out) continue;
        const i32 channel = group * conv.group_out + column;
        const i32 all = conv.popcounts[channel];
#pragma unroll
        for (int i = 0; i < 2 * T::ROW_TILES; i++) {
            const i32 row = row_of_lane<T>() + 8 * i;
            const i32 ones =
                terms->is_cut[row] ? ones_inside(conv, terms->inside[row], channel) : all;
            i32 &sum = tile.sums[i / 2][k / 2][i % 2 * 2 + k % 2];
            sum = terms->base[row] - 2 * ones + 4 * sum;
        }
    }
}
