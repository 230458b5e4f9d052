/* One convolution made ready to run: pointers and sizes, nothing left to check.
 *
 * Data is one image (height, width, channels), packed bits with whole words of 32 channels per
 * pixel, uint8, int8 or int32. Accumulators are int32; after them, in this order and each optional: the
 * largest of every pooling window, a bias, a threshold that leaves packed bits. */
#ifndef BITSPIN_CONV_H
#define BITSPIN_CONV_H

#include "cpu.h"
#include "tile.h"

/* What is multiplied; the codes are those of the operations in a file (format.h). */
enum {
    BS_U8_I8 = 1, /* sum x * w over uint8 and int8; outside the image 0 */
    BS_B1_B1 = 2, /* sum over bits that mean -1 and +1 */
    BS_B1_I8 = 3, /* sum (+-1) * w over bits and int8 */
    BS_I8_I8 = 4, /* sum x * w over int8; outside the image 0 */
    BS_I32_I8 = 5 /* sum x * w over int32 and int8; outside the image 0; bs_conv_i32 only */
};

typedef struct {
    const void *data;
    const void *weights;      /* bits in a layout of tile.h, each group for itself; int8: ROWS */
    const int32_t *bias;      /* (n_out,) or null */
    const int32_t *threshold; /* (2, n_out) or null: row 0 = t, row 1 = flip */
    void *scratch;            /* bs_conv_scratch_bytes, 8-byte aligned */
    void *out;                /* packed bits if there is a threshold, else int32 */
    int32_t size[2];          /* of the data: height, width */
    int32_t kernel[2], stride[2], padding[2], pool[2];
    int32_t out_size[2];      /* after pooling */
    int32_t channels, n_out;  /* both multiples of groups */
    int32_t groups;
    int32_t border;           /* bits outside the image count as -1 or 0; integers: 0 */
    int32_t kind;             /* BS_U8_I8 ... */
    int32_t layout;           /* of the weights: BS_ROWS, BS_LANES or BS_VECTORS */
    uint32_t backend;
} bs_conv;

void bs_convolve(const bs_conv *conv);

/* The parts of bs_convolve: conv_b1.c, conv_depthwise.c, conv_i8.c. */
void bs_conv_b1(const bs_conv *conv);
void bs_conv_depthwise(const bs_conv *conv);
void bs_conv_i8(const bs_conv *conv);

/* Int32 data, canonical int8 weights, no pool, no threshold and no scratch memory. */
void bs_conv_i32(const bs_conv *conv);

/* Pool, bias, threshold or int32 for some output pixels and the channels [channel, channel + n).
 * acc holds their pooling windows one behind the other, each position in a row of `stride`. The
 * rows are overwritten. channel is a multiple of 32. */
void bs_conv_finish(const bs_conv *conv, int32_t *acc, int64_t stride, int64_t first_pixel,
                    int32_t n_pixels, int32_t channel, int32_t n);

enum {
    BS_STRIP = 24,  /* positions that are accumulated together: whole tiles of 4 and of 6 rows */
    BS_BLOCK = 64,  /* output channels that are finished together */
    BS_MANY = 8,    /* positions from which on int8 weights are transposed first */
    BS_PLANES = 36  /* words per 32 channels that a depthwise threshold takes */
};

/* Are int8 weights transposed into the scratch memory before use? */
static inline int bs_is_transposed(const bs_conv *conv)
{
    int64_t window = (int64_t)conv->pool[0] * conv->pool[1];
    int64_t pixels = (int64_t)conv->out_size[0] * conv->out_size[1];
    return (conv->kind == BS_U8_I8 || conv->kind == BS_I8_I8) && conv->groups == 1 &&
           (window >= BS_MANY || pixels >= BS_MANY || window * pixels >= BS_MANY);
}

/* One channel in, one channel out, per group. */
static inline int bs_is_depthwise(const bs_conv *conv)
{
    return conv->kind == BS_B1_B1 && conv->layout == BS_ROWS && conv->groups > 1 &&
           conv->groups == conv->channels && conv->groups == conv->n_out;
}

/* a * b, but no more than 2^32, for a <= 2^32 and b < 2^31. */
static inline uint64_t bs_times(uint64_t a, uint64_t b)
{
    uint64_t product = a * b;
    return product < (uint64_t)1 << 32 ? product : (uint64_t)1 << 32;
}

/* Are there positions where some of the bits are zero? */
static inline int bs_has_zeros(const bs_conv *conv)
{
    return conv->kind == BS_B1_B1 && conv->border == 0 && (conv->padding[0] || conv->padding[1]);
}

/* No less than the ways in which the image cuts off the kernel along one axis. */
static inline uint64_t bs_most_cuts(const bs_conv *conv, int axis)
{
    uint64_t n = bs_times((uint64_t)conv->out_size[axis], (uint64_t)conv->pool[axis]);
    uint64_t cut = 2 * (uint64_t)conv->padding[axis];
    return (n < cut ? n : cut) + 1;
}

/* Positions of the convolution in one strip: whole pooling windows. */
static inline uint64_t bs_strip_positions(const bs_conv *conv)
{
    uint64_t window = bs_times((uint64_t)conv->pool[0], (uint64_t)conv->pool[1]);
    uint64_t pixels = bs_times((uint64_t)conv->out_size[0], (uint64_t)conv->out_size[1]);
    uint64_t windows = 1;
    /* In 32 bits, because a 64-bit division is a library call on 32-bit ARM. */
    if (window < BS_STRIP) windows = (uint32_t)BS_STRIP / (uint32_t)window;
    return bs_times(window, windows < pixels ? windows : pixels);
}

/* Bytes of scratch memory, computed from kind, pool, out_size, kernel, padding, channels, n_out,
 * groups, border and layout alone, the sizes all of them at least 1. A size of 2^32 or
 * more stands for anything that is too large. With ceil_n(x) = x rounded up to a multiple of n,
 *
 *   window  = pool_h * pool_w
 *   windows = 24 // window if window < 24, else 1
 *   rows    = window * min(windows, out_h * out_w)
 *   columns = ceil_64(n_out) + 64
 *   acc     = 64 + 4 * rows * (64 if groups == 1 else columns)
 *   taps    = KH * KW
 *   cuts    = (min(out_h * pool_h, 2 * padding_h) + 1) * (the same of w)
 *
 *   depthwise (B1_B1, layout ROWS, 1 < groups == channels == n_out)
 *                  64 + 4 * ceil_8(words(channels)) * (taps + 36)
 *   B1_B1          acc + 8 * rows * taps
 *                  + 4 * (rows + 1) * ceil_4(taps * words(channels / groups)),
 *                  and if border == 0 and padding_h + padding_w > 0: + 4 * cuts * columns
 *   int8 weights   acc + 2 * rows * ceil_32(taps * channels / groups), and
 *                  if not B1_I8, groups == 1 and window * out_h * out_w >= 8:
 *                  + 2 * ceil_32(taps * channels) * ceil_32(n_out)
 *
 * Every product is cut at 2^32 after each factor, so nothing can overflow. */
static inline uint64_t bs_conv_scratch_bytes(const bs_conv *conv)
{
    uint32_t group_channels = (uint32_t)conv->channels / (uint32_t)conv->groups;
    uint64_t taps = bs_times((uint64_t)conv->kernel[0], (uint64_t)conv->kernel[1]);
    uint64_t n_out = (uint64_t)conv->n_out;
    if (bs_is_depthwise(conv)) {
        uint64_t n_words = ((uint64_t)conv->channels + 255) / 256 * 8;
        return 64 + 4 * bs_times(taps + BS_PLANES, n_words);
    }
    uint64_t rows = bs_strip_positions(conv), columns = (n_out + 63) / 64 * 64 + 64;
    if (rows >= (uint64_t)1 << 30 || taps >= (uint64_t)1 << 30) return (uint64_t)1 << 32;
    uint64_t bytes = 64 + 4 * bs_times(rows, conv->groups == 1 ? BS_BLOCK : columns);
    if (conv->kind == BS_B1_B1) {
        uint64_t patch = bs_times(taps, ((uint64_t)group_channels + 31) / 32) + 3;
        patch -= patch % 4;
        bytes += 8 * bs_times(taps, rows) + 4 * bs_times(patch, rows + 1);
        if (bs_has_zeros(conv)) {
            uint64_t cuts = bs_times(bs_most_cuts(conv, 0), bs_most_cuts(conv, 1));
            bytes += 4 * bs_times(cuts, columns);
        }
        return bytes;
    }
    uint64_t patch = bs_times(taps, group_channels) + 31;
    patch -= patch % 32;
    bytes += 2 * bs_times(patch, rows);
    if (bs_is_transposed(conv)) bytes += 2 * bs_times(patch, (n_out + 31) / 32 * 32);
    return bytes;
}

#endif
