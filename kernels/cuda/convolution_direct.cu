/* What convolutions do with images whose groups of channels do not fill words: one thread for an
 * output where groups have few output channels (a tile of the tensor cores would be almost empty),
 * and else a copy of the image whose groups begin at words. */
#include "convolution.cuh"

/* 32 channels of a group, or those that are left, of the words of a pixel. */
DEVICE u32 group_word(const u32 *pixel, i32 group, i32 group_channels, i32 word)
{
    const i32 first = group * group_channels + word * WORD_BITS, shift = first % WORD_BITS;
    const i32 n_bits = smaller(group_channels - word * WORD_BITS, (i32)WORD_BITS);
    const u32 low = pixel[first / WORD_BITS];
    const u32 high = shift + n_bits > WORD_BITS ? pixel[first / WORD_BITS + 1] : 0;
    return __funnelshift_r(low, high, (u32)shift) & word_mask(group_channels, word);
}

/* Here the weights are (KH * KW * tap_words, n_out), so that the lanes of a warp, 32 neighbouring
 * channels of one pixel, read neighbouring words; of a depthwise image they read the same one. */
DEVICE i32 direct_sum(const Convolution &conv, bool zero_outside, u32 pixel, i32 channel)
{
    const Origin at = origin_of(conv, pixel);
    const i32 group = (i32)((u32)channel / (u32)conv.group_out);
    const i32 pixel_words = ceil_divide(conv.groups * conv.group_channels, (i32)WORD_BITS);
    const u32 *weight = conv.panels + channel;
    i32 n_taps = 0, n_different = 0;
    for (i32 y = 0; y < conv.kernel_h; y++) {
        const bool is_line = (u32)(at.y + y) < (u32)conv.height;
        i64 image = (at.pixel + (i64)y * conv.width) * pixel_words;
        for (i32 x = 0; x < conv.kernel_w; x++, image += pixel_words) {
            const bool is_inside = is_line && (u32)(at.x + x) < (u32)conv.width;
            n_taps += is_inside || !zero_outside;
            for (i32 word = 0; word < conv.tap_words; word++, weight += n_out(conv)) {
                u32 signs = 0;
                if (is_inside)
                    signs = group_word(conv.images + image, group, conv.group_channels, word);
                if (is_inside || !zero_outside) n_different += __popc(signs ^ *weight);
            }
        }
    }
    return n_taps * conv.group_channels - 2 * n_different;
}

KERNEL(256, 4)
convolve_direct(const u32 *images, const u32 *weights, i32 n_images, i32 height, i32 width,
                i32 groups, i32 tap_words, i32 group_channels, i32 group_out, i32 kernel_h,
                i32 kernel_w, i32 stride_h, i32 stride_w, i32 pad_h, i32 pad_w, i32 out_h,
                i32 out_w, i32 zero_outside, i32 output, const i32 *threshold, const u8 *flip,
                u32 *out)
{
    const Convolution conv = {images,   weights,  nullptr,   nullptr,        n_images,  height,
                              width,    groups,   tap_words, group_channels, group_out, kernel_h,
                              kernel_w, stride_h, stride_w,  pad_h,          pad_w,     out_h,
                              out_w};
    const i32 n = n_out(conv);
    const u32 row_words = (u32)ceil_divide(n, (i32)WORD_BITS);
    const u32 warp = blockIdx.x * (256 / WARP) + (u32)warp_number(), pixel = warp / row_words;
    const i32 channel = (i32)(warp - pixel * row_words) * WORD_BITS + lane_number();
    if (pixel >= n_pixels(conv)) return;
    const bool exists = channel < n;
    const i32 sum = exists ? direct_sum(conv, zero_outside != 0, pixel, channel) : 0;
    if (output == BITS) {
        const bool bit = exists && (sum >= threshold[channel]) != (flip[channel] != 0);
        const u32 bits = __ballot_sync(ALL_LANES, bit);
        if (lane_number() == 0) out[warp] = bits;
    } else if (exists) {
        out[(i64)pixel * n + channel] = output == FLOATS ? __float_as_uint((float)sum) : (u32)sum;
    }
}

/* (pixels, ceil(groups * group_channels / 32)) to (pixels, groups, ceil(group_channels / 32)). */
KERNEL(256, 8)
spread_groups(const u32 *images, u32 n_words, i32 groups, i32 group_channels, u32 *spread)
{
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_words) return;
    const u32 tap_words = (u32)ceil_divide(group_channels, (i32)WORD_BITS);
    const u32 line = i / tap_words, pixel = line / (u32)groups;
    const i64 pixel_words = ceil_divide(groups * group_channels, (i32)WORD_BITS);
    spread[i] = group_word(images + pixel * pixel_words, (i32)(line - pixel * (u32)groups),
                           group_channels, (i32)(i - line * tap_words));
}
