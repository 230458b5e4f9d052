/* Convolution of int32 data with int8 weights: pointwise and depthwise layers on residual streams,
 * and dense layers, whose kernel covers the image.
 *
 * Plain loops that the compiler turns into vectors, compiled again for the wider ones of AVX2. Every
 * sum of some of the products of an output, with or without its bias, is an int32: rules.c counts
 * what is not yet added as 0. */
#include "conv.h"

enum { PIXELS = 4 };                /* that share the weights while these are widened */
enum { CHANNELS = 64, TAPS = 16 }; /* of a depthwise layer whose weights are turned at a time */

/* Out of line: what is inlined twice is twice as large, and no faster. */
#define APART static __attribute__((noinline))

/* Positions [first, end) of the kernel that lie inside the image. */
typedef struct {
    int32_t first, end;
} range;

BS_INLINE range inside(const bs_conv *conv, int axis, int32_t at)
{
    int32_t kernel = conv->kernel[axis], left = conv->size[axis] - at;
    return (range){at < 0 ? -at : 0, left < kernel ? left : kernel};
}

BS_INLINE int32_t begin(const bs_conv *conv, int axis, int32_t position)
{
    return position * conv->stride[axis] - conv->padding[axis];
}

/* sums[p] += products of n values from x + p * step on with the same weights, for one pixel or for
 * PIXELS of them. */
BS_INLINE void dot(int32_t *sums, const int32_t *x, int64_t step, const int8_t *w, int64_t n,
                   int is_alone)
{
    int32_t a = 0, b = 0, c = 0, d = 0;
    if (is_alone) {
        for (int64_t i = 0; i < n; i++) a += x[i] * w[i];
        sums[0] += a;
        return;
    }
    const int32_t *x1 = x + step, *x2 = x1 + step, *x3 = x2 + step;
    for (int64_t i = 0; i < n; i++) {
        int32_t weight = w[i];
        a += x[i] * weight;
        b += x1[i] * weight;
        c += x2[i] * weight;
        d += x3[i] * weight;
    }
    sums[0] += a;
    sums[1] += b;
    sums[2] += c;
    sums[3] += d;
}

/* sums[c] += x[c] * w[c]. */
BS_INLINE void add_products(int32_t *sums, const int32_t *x, const int32_t *w, int32_t n)
{
    for (int32_t c = 0; c < n; c++) sums[c] += x[c] * w[c];
}

/* The two loops once for every back end, out of line: nothing else depends on it. */
#define LOOPS(name, target)                                                                       \
    target APART void dot_##name(int32_t *sums, const int32_t *x, int64_t step, const int8_t *w,  \
                                 int64_t n, int is_alone)                                         \
    {                                                                                             \
        if (is_alone) dot(sums, x, step, w, n, 1);                                                \
        else dot(sums, x, step, w, n, 0);                                                         \
    }                                                                                             \
    target APART void add_products_##name(int32_t *sums, const int32_t *x, const int32_t *w,      \
                                          int32_t n)                                              \
    {                                                                                             \
        add_products(sums, x, w, n);                                                              \
    }

LOOPS(portable, )
#if BS_X86
LOOPS(avx2, BS_TARGET_AVX2)
#define CHOOSE(backend, loop, ...)                                         \
    do {                                                                   \
        if ((backend) == BS_PORTABLE) loop##_portable(__VA_ARGS__);        \
        else loop##_avx2(__VA_ARGS__); /* AVX-512 would double the code */ \
    } while (0)
#else
#define CHOOSE(backend, loop, ...) loop##_portable(__VA_ARGS__)
#endif

/* All outputs of one pixel, or of PIXELS side by side that have the same columns inside. What lies
 * side by side in a row of the kernel does so in the image and in the weights, if there is but one
 * group: then a row is one span. */
APART void dense_pixels(const bs_conv *conv, int32_t y, int32_t x, int is_alone)
{
    int32_t n_in = conv->channels / conv->groups, n_out = conv->n_out / conv->groups;
    int32_t top = begin(conv, 0, y), left = begin(conv, 1, x);
    range rows = inside(conv, 0, top), columns = inside(conv, 1, left);
    int is_one = conv->groups == 1;
    int32_t n_columns = columns.end - columns.first; /* at least 1: padding < kernel */
    int32_t n_spans = is_one ? 1 : n_columns;
    int64_t length = is_one ? (int64_t)n_columns * n_in : n_in;
    int64_t step = (int64_t)conv->stride[1] * conv->channels;
    int64_t k = (int64_t)conv->kernel[0] * conv->kernel[1] * n_in;
    const int8_t *weights = conv->weights;
    int32_t *to = (int32_t *)conv->out + ((int64_t)y * conv->out_size[1] + x) * conv->n_out;
    for (int32_t o = 0; o < conv->n_out; o++, weights += k) {
        int32_t bias = conv->bias ? conv->bias[o] : 0;
        int32_t sums[PIXELS] = {bias, bias, bias, bias};
        for (int32_t i = rows.first; i < rows.end; i++) {
            int64_t pixel = (int64_t)(top + i) * conv->size[1] + left + columns.first;
            int64_t tap = (int64_t)i * conv->kernel[1] + columns.first;
            const int32_t *from = (const int32_t *)conv->data + pixel * conv->channels +
                                  (int64_t)(o / n_out) * n_in;
            for (int32_t j = 0; j < n_spans; j++)
                CHOOSE(conv->backend, dot, sums, from + (int64_t)j * conv->channels, step,
                       weights + (tap + j) * n_in, length, is_alone);
        }
        for (int32_t p = 0; p < (is_alone ? 1 : PIXELS); p++)
            to[(int64_t)p * conv->n_out + o] = sums[p];
    }
}

static void dense(const bs_conv *conv)
{
    for (int32_t y = 0; y < conv->out_size[0]; y++) {
        for (int32_t x = 0; x < conv->out_size[1];) {
            int is_block = 0;
            if (conv->out_size[1] - x >= PIXELS) {
                range first = inside(conv, 1, begin(conv, 1, x));
                range last = inside(conv, 1, begin(conv, 1, x + PIXELS - 1));
                is_block = first.first == last.first && first.end == last.end;
            }
            dense_pixels(conv, y, x, !is_block);
            x += is_block ? PIXELS : 1;
        }
    }
}

/* One channel in and one out per group: outputs [channel, channel + n), and the taps
 * [tap, tap + n_taps), on top of what is in the output unless the taps are the first. */
APART void depthwise_part(const bs_conv *conv, int32_t channel, int32_t n, int32_t tap,
                              int32_t n_taps)
{
    int32_t turned[TAPS][CHANNELS], sums[CHANNELS];
    int64_t k = (int64_t)conv->kernel[0] * conv->kernel[1];
    int32_t first_i = tap / conv->kernel[1], first_j = tap % conv->kernel[1];
    const int8_t *weights = (const int8_t *)conv->weights + channel * k + tap;
    for (int32_t c = 0; c < n; c++)
        for (int32_t t = 0; t < n_taps; t++) turned[t][c] = weights[c * k + t];
    int32_t *to = (int32_t *)conv->out + channel;
    for (int32_t y = 0; y < conv->out_size[0]; y++) {
        for (int32_t x = 0; x < conv->out_size[1]; x++, to += conv->n_out) {
            int32_t top = begin(conv, 0, y), left = begin(conv, 1, x);
            for (int32_t c = 0; c < n; c++)
                sums[c] = tap ? to[c] : conv->bias ? conv->bias[channel + c] : 0;
            int32_t i = first_i, j = first_j;
            for (int32_t t = 0; t < n_taps; t++) {
                int32_t row = top + i, column = left + j;
                if (++j == conv->kernel[1]) {
                    j = 0;
                    i++;
                }
                if (row < 0 || row >= conv->size[0] || column < 0 || column >= conv->size[1])
                    continue;
                const int32_t *from = (const int32_t *)conv->data + channel +
                                      ((int64_t)row * conv->size[1] + column) * conv->channels;
                CHOOSE(conv->backend, add_products, sums, from, turned[t], n);
            }
            for (int32_t c = 0; c < n; c++) to[c] = sums[c];
        }
    }
}

static void depthwise(const bs_conv *conv)
{
    int32_t k = conv->kernel[0] * conv->kernel[1];
    for (int32_t c = 0; c < conv->n_out; c += CHANNELS) {
        int32_t n = conv->n_out - c < CHANNELS ? conv->n_out - c : CHANNELS;
        for (int32_t tap = 0; tap < k; tap += TAPS)
            depthwise_part(conv, c, n, tap, k - tap < TAPS ? k - tap : TAPS);
    }
}

void bs_conv_i32(const bs_conv *conv)
{
    if (conv->groups > 1 && conv->groups == conv->channels && conv->groups == conv->n_out)
        depthwise(conv);
    else
        dense(conv);
}
