/* Convolutions of packed signs on tensor cores. */
#include "convolution.cuh"

template <Path PATH, typename T>
DEVICE void convolve(const Convolution &conv, i32 copy_words, i32 output, const i32 *threshold,
                     const u8 *flip, u32 *out)
{
    const i32 group = (i32)blockIdx.y, first_channel = group * conv.group_out;
    const u32 pixel_tiles = ceil_divide(n_pixels(conv), (u32)T::ROWS);
    const u32 column_tiles = (u32)ceil_divide(conv.group_out, (i32)T::COLUMNS);
    const Place place = place_of(blockIdx.x, pixel_tiles, column_tiles);
    const u32 first_pixel = (u32)place.row_tile * (u32)T::ROWS;
    const i32 first_column = place.column_tile * T::COLUMNS;

    int2 *taps = (int2 *)(shared_memory() + T::SHARED_BYTES);
    const i32 n_words = patch_words(conv), n_steps = ceil_divide(n_words, (i32)STEP_WORDS);
    write_taps(conv, copy_words, n_steps * (STEP_WORDS / copy_words), taps);
    __syncthreads();
    const PatchRows rows = patch_rows<T>(conv, group, first_pixel, copy_words, taps);
    const i32 n_panels = ceil_divide(conv.group_out, 8);
    const i32 n_chunks = ceil_divide(n_words, (i32)CHUNK_WORDS);
    const PanelColumns columns = {conv.panels + (i64)group * n_panels * n_chunks * 32, n_panels,
                                  n_chunks};
    T tile;
#pragma unroll
    for (int i = 0; i < 4; i++) tile.ones[i] = 0;
    accumulate<PATH>(tile, rows, columns, first_pixel, first_column, n_words);
    __syncthreads(); /* the stages are free */
    RowTerms<T> *terms = (RowTerms<T> *)shared_memory();
    write_terms(tile, conv, first_pixel, terms);
    finish_sums(tile, conv, group, first_column, terms);
    const Form sums = {nullptr, nullptr, 0, 0, 0, 1};
    if (output == BITS)
        write_bits(tile, sums, n_pixels(conv), conv.group_out, first_pixel, first_column,
                   threshold + first_channel, flip + first_channel, out + first_channel / WORD_BITS,
                   ceil_divide(n_out(conv), (i32)WORD_BITS));
    else
        write_values(tile, sums, n_pixels(conv), conv.group_out, first_pixel, first_column,
                     output == FLOATS, out + first_channel, n_out(conv));
}

/* 128 pixels x 128 channels; a warp's 64 x 32 ask shared memory for 96 of its 128 bytes a clock at
 * A100's b1 rate (matmul.cuh). One block of a multiprocessor: its 96 KB fit 164 KB once, and two in
 * 228 KB would have 128 registers a thread, which are not enough. */
using WideTile = CountingTile<2, 4, 4, 4>;
/* 64 x 64, for groups with few channels and outputs with few pixels. */
using NarrowTile = CountingTile<2, 2, 2, 4>;

/* From sm_100 on there is no b1 instruction, and its emulation is never wanted. */
#if defined(BITSPIN_SHIM) || __CUDA_ARCH__ < 1000
KERNEL(256, 1)
convolve_b1_wide(const u32 *images, const u32 *panels, const i32 *popcounts, const i32 *tap_ones,
                 i32 n_images, i32 height, i32 width, i32 groups, i32 tap_words,
                 i32 group_channels, i32 group_out, i32 kernel_h, i32 kernel_w, i32 stride_h,
                 i32 stride_w, i32 pad_h, i32 pad_w, i32 out_h, i32 out_w, i32 copy_words,
                 i32 output, const i32 *threshold, const u8 *flip, u32 *out)
{
    convolve<B1, WideTile>({images, panels, popcounts, tap_ones, n_images, height, width, groups,
                           tap_words, group_channels, group_out, kernel_h, kernel_w,
                           stride_h, stride_w, pad_h, pad_w, out_h, out_w},
                          copy_words, output, threshold, flip, out);
}

KERNEL(128, 4)
convolve_b1_narrow(const u32 *images, const u32 *panels, const i32 *popcounts, const i32 *tap_ones,
                   i32 n_images, i32 height, i32 width, i32 groups, i32 tap_words,
                   i32 group_channels, i32 group_out, i32 kernel_h, i32 kernel_w, i32 stride_h,
                   i32 stride_w, i32 pad_h, i32 pad_w, i32 out_h, i32 out_w, i32 copy_words,
                   i32 output, const i32 *threshold, const u8 *flip, u32 *out)
{
    convolve<B1, NarrowTile>({images, panels, popcounts, tap_ones, n_images, height, width, groups,
                             tap_words, group_channels, group_out, kernel_h, kernel_w,
                             stride_h, stride_w, pad_h, pad_w, out_h, out_w},
                            copy_words, output, threshold, flip, out);
}
#endif

KERNEL(256, 1)
convolve_s8_wide(const u32 *images, const u32 *panels, const i32 *popcounts, const i32 *tap_ones,
                 i32 n_images, i32 height, i32 width, i32 groups, i32 tap_words,
                 i32 group_channels, i32 group_out, i32 kernel_h, i32 kernel_w, i32 stride_h,
                 i32 stride_w, i32 pad_h, i32 pad_w, i32 out_h, i32 out_w, i32 copy_words,
                 i32 output, const i32 *threshold, const u8 *flip, u32 *out)
{
    convolve<S8, WideTile>({images, panels, popcounts, tap_ones, n_images, height, width, groups,
                           tap_words, group_channels, group_out, kernel_h, kernel_w,
                           stride_h, stride_w, pad_h, pad_w, out_h, out_w},
                          copy_words, output, threshold, flip, out);
}

KERNEL(128, 4)
convolve_s8_narrow(const u32 *images, const u32 *panels, const i32 *popcounts, const i32 *tap_ones,
                   i32 n_images, i32 height, i32 width, i32 groups, i32 tap_words,
                   i32 group_channels, i32 group_out, i32 kernel_h, i32 kernel_w, i32 stride_h,
                   i32 stride_w, i32 pad_h, i32 pad_w, i32 out_h, i32 out_w, i32 copy_words,
                   i32 output, const i32 *threshold, const u8 *flip, u32 *out)
{
    convolve<S8, NarrowTile>({images, panels, popcounts, tap_ones, n_images, height, width, groups,
                             tap_words, group_channels, group_out, kernel_h, kernel_w,
                             stride_h, stride_w, pad_h, pad_w, out_h, out_w},
                            copy_words, output, threshold, flip, out);
}
