/* A stage of training, image by image: convolution, max-pool, statistics, and all gradients.
 *
 * Included once per instruction set, after STAGE (attributes of every function) and FMA(a, b, c)
 * were defined. Rows of channels are cut into vectors of 16. One factor of every product of the
 * gradients is +-1, so fused or not it is exact, and each sum has one order: all instruction sets
 * give the same bytes. An image with its border, its gradient and one strip of the output stay in
 * the caches; what is as large as the batch is read once and written once. */
#ifndef BITSPIN_STAGE_H
#define BITSPIN_STAGE_H

#include "../bitspin.h"
#include "../conv.h"

#if defined(__GNUC__) && !defined(__clang__)
/* Everything here is inlined, so no vector is ever passed. */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

enum { BS_SIXTEEN = 16, BS_FLUSH = 8, BS_NEAR = 6144 };

typedef float bs_lanes __attribute__((vector_size(64)));
typedef float bs_lanes_at __attribute__((vector_size(64), aligned(4), may_alias));

/* As kernels/stage.py fills it, 64 bits each. Arrays that are not there are 0. */
typedef struct {
    int64_t channels, n_out, height, width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
    int64_t pool, rows, columns; /* of the pooled output */
    int64_t full_h, full_w;      /* of the convolution's output */
    int64_t border;              /* -1 or 0 */
    const void *images;          /* (N, height, width, words) bits, or floats (..., channels) */
    float *sums;                 /* (N, rows, columns, n_out), after pooling */
    uint8_t *choices;            /* the same: which position of the window won */
    const float *gradient;       /* the same */
    const uint32_t *within;      /* (N, rows, columns, words): where the gradient passes, or 0 */
    const float *coefficients;   /* (4, n_out): g = a (gradient + b (sum - mean) + c) */
    const float *weights;        /* (channels / 16, n_out, taps, 16); floats: (taps, C, n_out') */
    float *image_gradient;       /* (N, height, width, channels) or 0 */
    float *weight_gradient;      /* (n_out, taps, channels'); of floats (taps, C, n_out') */
    double *totals;              /* (2, n_out) */
    uint8_t *scratch;
} bs_stage;

static inline int64_t bs_up16(int64_t n)
{
    return (n + 15) & ~(int64_t)15;
}

static inline int64_t bs_stage_taps(const bs_stage *s)
{
    return s->kernel_h * s->kernel_w;
}

/* Floats of one image with its border; rows of channels are whole vectors. */
static inline int64_t bs_stage_room(const bs_stage *s, int64_t channels)
{
    return (s->height + 2 * s->padding_h) * (s->width + 2 * s->padding_w) * channels;
}

/* Floats of scratch: image, its gradient, g, g sorted, order, starts, gradient of the weights. */
static inline int64_t bs_stage_floats(const bs_stage *s)
{
    int64_t c = bs_up16(s->channels), n = bs_up16(s->n_out);
    int64_t positions = s->full_h * s->full_w;
    return 2 * bs_stage_room(s, c) + 4 * positions * n + positions * (s->pool * s->pool + 1) +
           bs_stage_taps(s) * c * (n + 2) + 16 * 9;
}

STAGE bs_lanes bs_read16(const float *from)
{
    return *(const bs_lanes_at *)from;
}

STAGE void bs_write16(float *to, bs_lanes value)
{
    *(bs_lanes_at *)to = value;
}

STAGE bs_lanes bs_splat(float x)
{
    return (bs_lanes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

STAGE void bs_zero(float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i += BS_SIXTEEN) bs_write16(to + i, bs_splat(0.0f));
}

STAGE void bs_add(float *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i += BS_SIXTEEN)
        bs_write16(to + i, bs_read16(to + i) + bs_read16(from + i));
}

/* The largest of each window, the first of equals, and sums of it and of its square. */
STAGE void bs_pool_some(const bs_stage *s, const float *image, int64_t stride, int64_t out,
                        int64_t pixel, int64_t channel, const int n)
{
    float best[16];
    int32_t which[16];
    const float *from = image + pixel * stride + channel;
    for (int c = 0; c < n; c++) best[c] = from[c], which[c] = 0;
    for (int64_t j = 1; j < s->pool * s->pool; j++) {
        const float *at = from + (j / s->pool * s->full_w + j % s->pool) * stride;
        for (int c = 0; c < n; c++) {
            which[c] = at[c] > best[c] ? (int32_t)j : which[c];
            best[c] = at[c] > best[c] ? at[c] : best[c];
        }
    }
    int64_t place = out * s->n_out + channel;
    for (int c = 0; c < n; c++) s->sums[place + c] = best[c];
    if (s->choices)
        for (int c = 0; c < n; c++) s->choices[place + c] = (uint8_t)which[c];
    if (!s->totals) return;
    double *sum = s->totals + channel, *squares = sum + s->n_out;
    for (int c = 0; c < n; c++) {
        double value = best[c];
        sum[c] += value;
        squares[c] += value * value;
    }
}

STAGE void bs_pool_image(const bs_stage *s, const float *image, int64_t stride, int64_t i)
{
    for (int64_t y = 0; y < s->rows; y++)
        for (int64_t x = 0; x < s->columns; x++) {
            int64_t pixel = y * s->pool * s->full_w + x * s->pool;
            int64_t out = (i * s->rows + y) * s->columns + x, c = 0;
            for (; c + 16 <= s->n_out; c += 16) bs_pool_some(s, image, stride, out, pixel, c, 16);
            for (; c < s->n_out; c++) bs_pool_some(s, image, stride, out, pixel, c, 1);
        }
}

/* Signs of bits, with their border. */
STAGE void bs_unpack_image(const bs_stage *s, const uint32_t *words, float *out)
{
    int64_t c = bs_up16(s->channels), n_words = (s->channels + 31) / 32;
    int64_t wide = s->width + 2 * s->padding_w, high = s->height + 2 * s->padding_h;
    for (int64_t y = 0; y < high; y++)
        for (int64_t x = 0; x < wide; x++) {
            float *to = out + (y * wide + x) * c;
            int64_t row = y - s->padding_h, column = x - s->padding_w;
            int is_inside = row >= 0 && row < s->height && column >= 0 && column < s->width;
            const uint32_t *from = words + (row * s->width + column) * n_words;
            for (int64_t k = 0; k < c; k += 16) {
                uint32_t bits = is_inside ? from[k / 32] >> (k & 16) : 0;
                float sign[16];
                for (int l = 0; l < 16; l++) sign[l] = (float)(int32_t)(bits >> l & 1) * 2 - 1;
                if (!is_inside && s->border == 0)
                    for (int l = 0; l < 16; l++) sign[l] = 0;
                if (k + 16 > s->channels)
                    for (int l = 0; l < 16; l++) sign[l] = k + l < s->channels ? sign[l] : 0;
                for (int l = 0; l < 16; l++) to[k + l] = sign[l];
            }
        }
}

/* Reals, with a border of zeros. */
STAGE void bs_pad_image(const bs_stage *s, const float *image, float *out)
{
    int64_t c = s->channels, wide = s->width + 2 * s->padding_w;
    bs_zero(out, bs_up16(bs_stage_room(s, c)));
    for (int64_t y = 0; y < s->height; y++) {
        float *to = out + ((y + s->padding_h) * wide + s->padding_w) * c;
        for (int64_t k = 0; k < s->width * c; k++) to[k] = image[y * s->width * c + k];
    }
}

/* Gradients of the sums of image i after pooling, rows of `stride` channels. */
STAGE void bs_sum_gradients(const bs_stage *s, int64_t i, float *out, int64_t stride)
{
    int64_t n = s->n_out, n_words = (n + 31) / 32, pixels = s->rows * s->columns;
    const float *a = s->coefficients, *b = a + n, *c = b + n, *mean = c + n;
    for (int64_t p = 0; p < pixels; p++) {
        const float *sum = s->sums + (i * pixels + p) * n;
        const float *gradient = s->gradient + (i * pixels + p) * n;
        const uint32_t *within = s->within ? s->within + (i * pixels + p) * n_words : 0;
        float *to = out + p * stride;
        for (int64_t k = 0; k < n; k += 16) {
            uint32_t bits = within ? within[k / 32] >> (k & 16) : 0xffffu;
            int left = n - k < 16 ? (int)(n - k) : 16;
            if (left == 16)
                for (int l = 0; l < 16; l++)
                    to[k + l] = a[k + l] * ((bits >> l & 1 ? gradient[k + l] : 0.0f) +
                                          b[k + l] * (sum[k + l] - mean[k + l]) + c[k + l]);
            else
                for (int l = 0; l < left; l++)
                    to[k + l] = a[k + l] * ((bits >> l & 1 ? gradient[k + l] : 0.0f) +
                                          b[k + l] * (sum[k + l] - mean[k + l]) + c[k + l]);
        }
    }
}

/* A part of the kernel's window: its taps (top ... top + high, left ... left + wide). */
typedef struct {
    int64_t top, left;
} bs_part;

/* Gradient of the weights of one output channel over some rows of the output: for each position
 * the gradient there times the image under a part of the kernel. */
STAGE void bs_weight_part(const bs_stage *s, const float *image, const float *g, int64_t g_stride,
                          const uint8_t *choices, const int64_t *shift, int64_t y0, int64_t y1,
                          int64_t out, int64_t channel, bs_part part, float *to, const int high,
                          const int wide, const int n_vectors)
{
    const int64_t c = bs_up16(s->channels), row = (s->width + 2 * s->padding_w) * c;
    const int64_t step = s->pool * s->stride_w * c;
    bs_lanes sums[18];
#pragma GCC unroll 18
    for (int k = 0; k < high * wide * n_vectors; k++) sums[k] = bs_splat(0.0f);
    for (int64_t y = y0; y < y1; y++) {
        const float *at = image + (y * s->pool * s->stride_h + part.top) * row + part.left * c +
                          channel;
        const float *from = g + y * s->columns * g_stride + out;
        const uint8_t *choice = choices ? choices + y * s->columns * s->n_out + out : 0;
        for (int64_t x = 0; x < s->columns; x++, at += step, from += g_stride) {
            const float *here = choice ? at + shift[choice[x * s->n_out]] : at;
            bs_lanes factor = bs_splat(*from);
#pragma GCC unroll 3
            for (int i = 0; i < high; i++) {
                const float *tap = here + i * row;
#pragma GCC unroll 3
                for (int j = 0; j < wide; j++)
#pragma GCC unroll 2
                    for (int v = 0; v < n_vectors; v++) {
                        int k = (i * wide + j) * n_vectors + v;
                        sums[k] = FMA(factor, bs_read16(tap + j * c + 16 * v), sums[k]);
                    }
            }
        }
    }
#pragma GCC unroll 3
    for (int i = 0; i < high; i++)
#pragma GCC unroll 3
        for (int j = 0; j < wide; j++)
#pragma GCC unroll 2
            for (int v = 0; v < n_vectors; v++) {
                float *place = to +
                               ((out * s->kernel_h + part.top + i) * s->kernel_w + part.left + j) * c +
                               channel + 16 * v;
                bs_write16(place, bs_read16(place) + sums[(i * wide + j) * n_vectors + v]);
            }
}

STAGE void bs_weight_gradient(const bs_stage *s, const float *image, const float *g,
                              const uint8_t *choices, const int64_t *shift, float *to)
{
    const int64_t c = bs_up16(s->channels), n = bs_up16(s->n_out);
    const int64_t row = (s->width + 2 * s->padding_w) * c * s->pool * s->stride_h;
    const int64_t strip = row < BS_NEAR / 2 ? BS_NEAR / row : 2;
    for (int64_t y = 0; y < s->rows; y += strip) {
        int64_t end = y + strip < s->rows ? y + strip : s->rows;
        for (int64_t top = 0; top < s->kernel_h;) {
            int is_high = s->kernel_h - top >= 3;
            for (int64_t left = 0; left < s->kernel_w;) {
                int is_three = is_high && s->kernel_w - left >= 3;
                bs_part part = {top, left};
                for (int64_t channel = 0; channel < c;) {
                    int is_pair = c - channel >= 32;
                    for (int64_t out = 0; out < s->n_out; out++) {
                        if (is_three && is_pair)
                            bs_weight_part(s, image, g, n, choices, shift, y, end, out, channel,
                                           part, to, 3, 3, 2);
                        else if (is_three)
                            bs_weight_part(s, image, g, n, choices, shift, y, end, out, channel,
                                           part, to, 3, 3, 1);
                        else
                            for (int64_t i = 0; i < (is_high ? 3 : 1); i++) {
                                bs_part one = {top + i, left};
                                for (int64_t v = 0; v < (is_pair ? 2 : 1); v++)
                                    bs_weight_part(s, image, g, n, choices, shift, y, end, out,
                                                   channel + 16 * v, one, to, 1, 1, 1);
                            }
                    }
                    channel += is_pair ? 32 : 16;
                }
                left += is_three ? 3 : 1;
            }
            top += is_high ? 3 : 1;
        }
    }
}

/* Output channels of each position in the order of their choices. */
STAGE void bs_sort_choices(const bs_stage *s, const float *g, const uint8_t *choices, float *sorted,
                           int32_t *order, int32_t *starts)
{
    int64_t n = s->n_out, n_choices = s->pool * s->pool;
    for (int64_t p = 0; p < s->rows * s->columns; p++) {
        const uint8_t *choice = choices + p * n;
        const float *from = g + p * bs_up16(n);
        int32_t *start = starts + p * (n_choices + 1);
        for (int64_t j = 0; j <= n_choices; j++) start[j] = 0;
        for (int64_t k = 0; k < n; k++) start[choice[k] + 1]++;
        for (int64_t j = 1; j <= n_choices; j++) start[j] += start[j - 1];
        for (int64_t k = 0; k < n; k++) {
            int32_t place = start[choice[k]]++;
            order[p * n + place] = (int32_t)k;
            sorted[p * n + place] = from[k];
        }
        for (int64_t j = n_choices; j > 0; j--) start[j] = start[j - 1];
        start[0] = 0;
    }
}

/* For one position: the gradients of some output channels times their weights, onto the image. */
STAGE void bs_image_part(const bs_stage *s, const float *weights, const float *g,
                         const int32_t *order, int64_t begin, int64_t end, bs_part part, float *to,
                         const int high, const int wide)
{
    const int64_t c = bs_up16(s->channels), row = (s->width + 2 * s->padding_w) * c;
    const int64_t taps = bs_stage_taps(s) * 16;
    const float *window = weights + (part.top * s->kernel_w + part.left) * 16;
    bs_lanes sums[9];
#pragma GCC unroll 9
    for (int k = 0; k < high * wide; k++) sums[k] = bs_splat(0.0f);
    for (int64_t k = begin; k < end; k++) {
        const float *from = window + (order ? order[k] : k) * taps;
        bs_lanes factor = bs_splat(g[k]);
#pragma GCC unroll 3
        for (int i = 0; i < high; i++)
#pragma GCC unroll 3
            for (int j = 0; j < wide; j++)
                sums[i * wide + j] =
                    FMA(factor, bs_read16(from + (i * s->kernel_w + j) * 16), sums[i * wide + j]);
    }
    to += part.top * row + part.left * c;
#pragma GCC unroll 3
    for (int i = 0; i < high; i++)
#pragma GCC unroll 3
        for (int j = 0; j < wide; j++) {
            float *place = to + i * row + j * c;
            bs_write16(place, bs_read16(place) + sums[i * wide + j]);
        }
}

/* The same for two positions side by side and a window of 3 x 3: they share what is read. */
STAGE void bs_image_two(const bs_stage *s, const float *weights, const float *g, int64_t stride,
                        float *to)
{
    const int64_t c = bs_up16(s->channels), row = (s->width + 2 * s->padding_w) * c;
    bs_lanes sums[18];
#pragma GCC unroll 18
    for (int k = 0; k < 18; k++) sums[k] = bs_splat(0.0f);
    for (int64_t k = 0; k < s->n_out; k++, weights += 9 * 16) {
        bs_lanes first = bs_splat(g[k]), second = bs_splat(g[stride + k]);
#pragma GCC unroll 9
        for (int t = 0; t < 9; t++) {
            bs_lanes weight = bs_read16(weights + t * 16);
            sums[t] = FMA(first, weight, sums[t]);
            sums[9 + t] = FMA(second, weight, sums[9 + t]);
        }
    }
#pragma GCC unroll 18
    for (int k = 0; k < 18; k++) {
        float *place = to + k % 9 / 3 * row + (k % 3 + k / 9 * s->stride_w) * c;
        bs_write16(place, bs_read16(place) + sums[k]);
    }
}

/* All parts of the kernel; a window of 3 x 3 is one. */
STAGE void bs_image_window(const bs_stage *s, const float *weights, const float *g,
                           const int32_t *order, int64_t begin, int64_t end, float *to)
{
    if (begin == end) return;
    for (int64_t top = 0; top < s->kernel_h;) {
        int is_high = s->kernel_h - top >= 3;
        for (int64_t left = 0; left < s->kernel_w;) {
            int is_three = is_high && s->kernel_w - left >= 3;
            if (is_three)
                bs_image_part(s, weights, g, order, begin, end, (bs_part){top, left}, to, 3, 3);
            else
                for (int64_t i = 0; i < (is_high ? 3 : 1); i++)
                    bs_image_part(s, weights, g, order, begin, end, (bs_part){top + i, left}, to, 1,
                                  1);
            left += is_three ? 3 : 1;
        }
        top += is_high ? 3 : 1;
    }
}

STAGE void bs_image_gradient(const bs_stage *s, const float *g, const float *sorted,
                             const int32_t *order, const int32_t *starts, const int64_t *shift,
                             float *to)
{
    const int64_t c = bs_up16(s->channels), wide = s->width + 2 * s->padding_w, n = s->n_out;
    const int64_t n_choices = s->pool * s->pool;
    bs_zero(to, bs_stage_room(s, c));
    for (int64_t channel = 0; channel < c; channel += 16) {
        const float *weights = s->weights + channel * n * bs_stage_taps(s);
        for (int64_t y = 0; y < s->rows; y++)
            for (int64_t x = 0; x < s->columns; x++) {
                int64_t p = y * s->columns + x;
                float *at = to + channel +
                            (y * s->pool * s->stride_h * wide + x * s->pool * s->stride_w) * c;
                if (n_choices == 1 && s->kernel_h == 3 && s->kernel_w == 3 && x + 1 < s->columns) {
                    bs_image_two(s, weights, g + p * bs_up16(n), bs_up16(n), at);
                    x++;
                } else if (n_choices == 1)
                    bs_image_window(s, weights, g + p * bs_up16(n), 0, 0, n, at);
                else
                    for (int64_t j = 0; j < n_choices; j++) {
                        const int32_t *start = starts + p * (n_choices + 1) + j;
                        bs_image_window(s, weights, sorted + p * n, order + p * n, start[0],
                                        start[1], at + shift[j]);
                    }
            }
    }
}

STAGE void bs_crop_image(const bs_stage *s, const float *padded, float *out)
{
    int64_t c = bs_up16(s->channels), wide = s->width + 2 * s->padding_w;
    for (int64_t y = 0; y < s->height; y++)
        for (int64_t x = 0; x < s->width; x++) {
            const float *from = padded + ((y + s->padding_h) * wide + x + s->padding_w) * c;
            float *to = out + (y * s->width + x) * s->channels;
            int64_t k = 0;
            for (; k + 16 <= s->channels; k += 16) bs_write16(to + k, bs_read16(from + k));
            for (; k < s->channels; k++) to[k] = from[k];
        }
}

/* Scratch memory in parts, each aligned. */
STAGE float *bs_take(float **rest, int64_t n)
{
    float *part = *rest;
    *rest += bs_up16(n);
    return part;
}

STAGE float *bs_aligned(uint8_t *scratch)
{
    return (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
}

/* Both gradients of the convolution of bits, of images [begin, end). */
STAGE void bs_gradients_bits(const bs_stage *s, int64_t begin, int64_t end)
{
    int64_t c = bs_up16(s->channels), n = bs_up16(s->n_out), pixels = s->rows * s->columns;
    int64_t n_words = (s->channels + 31) / 32, n_choices = s->pool * s->pool;
    int64_t n_weights = s->n_out * bs_stage_taps(s) * c, shift[256];
    float *rest = bs_aligned(s->scratch), *image = bs_take(&rest, bs_stage_room(s, c));
    float *image_gradient = bs_take(&rest, bs_stage_room(s, c)), *g = bs_take(&rest, pixels * n);
    float *sorted = bs_take(&rest, pixels * n), *partial = bs_take(&rest, n_weights);
    int32_t *order = (int32_t *)bs_take(&rest, pixels * n);
    int32_t *starts = (int32_t *)bs_take(&rest, pixels * (n_choices + 1));
    int64_t row = (s->width + 2 * s->padding_w) * c;
    for (int64_t j = 0; j < n_choices; j++)
        shift[j] = j / s->pool * s->stride_h * row + j % s->pool * s->stride_w * c;
    bs_zero(partial, n_weights);
    for (int64_t i = begin; i < end; i++) {
        const uint8_t *choices = s->choices ? s->choices + i * pixels * s->n_out : 0;
        const uint32_t *words = (const uint32_t *)s->images + i * s->height * s->width * n_words;
        bs_sum_gradients(s, i, g, n);
        bs_unpack_image(s, words, image);
        bs_weight_gradient(s, image, g, choices, shift, partial);
        /* Sums of sums: the rounding of a long one grows with the root of its length. */
        if ((i - begin) % BS_FLUSH == BS_FLUSH - 1 || i == end - 1) {
            bs_add(s->weight_gradient, partial, n_weights);
            bs_zero(partial, n_weights);
        }
        if (!s->image_gradient) continue;
        if (choices) bs_sort_choices(s, g, choices, sorted, order, starts);
        bs_image_gradient(s, g, sorted, order, starts, shift, image_gradient);
        bs_crop_image(s, image_gradient,
                      s->image_gradient + i * s->height * s->width * s->channels);
    }
}

/* Reals under tap and channel k of a window, relative to its first. */
STAGE int64_t bs_real_at(const bs_stage *s, int64_t k)
{
    int64_t tap = k / s->channels, wide = s->width + 2 * s->padding_w;
    return (tap / s->kernel_w * wide + tap % s->kernel_w) * s->channels + k % s->channels;
}

STAGE void bs_sum_eight(const bs_stage *s, const float *from, int64_t step, const int64_t *offsets,
                        int64_t n_terms, int64_t c, float *to, const int count)
{
    int64_t n = bs_up16(s->n_out);
    bs_lanes sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) sums[i] = bs_splat(0.0f);
    for (int64_t k = 0; k < n_terms; k++) {
        bs_lanes weight = bs_read16(s->weights + k * n + c);
        const float *at = from + offsets[k];
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) sums[i] = FMA(bs_splat(at[i * step]), weight, sums[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) bs_write16(to + i * n, sums[i]);
}

STAGE void bs_sum_reals(const bs_stage *s, const float *image, int64_t *offsets, float *out)
{
    int64_t n = bs_up16(s->n_out), n_terms = bs_stage_taps(s) * s->channels;
    int64_t wide = s->width + 2 * s->padding_w, step = s->stride_w * s->channels;
    for (int64_t k = 0; k < n_terms; k++) offsets[k] = bs_real_at(s, k);
    for (int64_t y = 0; y < s->full_h; y++)
        for (int64_t x = 0; x < s->full_w; x += 8) {
            /* The last eight overlap those before, if there are so many. */
            int64_t first = x + 8 <= s->full_w || s->full_w < 8 ? x : s->full_w - 8;
            int64_t count = s->full_w < 8 ? s->full_w : 8;
            const float *from = image + (y * s->stride_h * wide + first * s->stride_w) * s->channels;
            for (int64_t c = 0; c < n; c += 16) {
                float *to = out + (y * s->full_w + first) * n + c;
                if (count == 8)
                    bs_sum_eight(s, from, step, offsets, n_terms, c, to, 8);
                else
                    for (int64_t i = 0; i < count; i++)
                        bs_sum_eight(s, from + i * step, step, offsets, n_terms, c, to + i * n, 1);
            }
        }
}

/* Convolution of reals, pooled, of images [begin, end). */
STAGE void bs_sums_reals(const bs_stage *s, int64_t begin, int64_t end)
{
    float *rest = bs_aligned(s->scratch), *image = bs_take(&rest, bs_stage_room(s, s->channels));
    int64_t *offsets = (int64_t *)bs_take(&rest, 2 * bs_stage_taps(s) * s->channels);
    for (int64_t i = begin; i < end; i++) {
        bs_pad_image(s, (const float *)s->images + i * s->height * s->width * s->channels, image);
        bs_sum_reals(s, image, offsets, rest);
        bs_pool_image(s, rest, bs_up16(s->n_out), i);
    }
}

/* Gradients of the sums put back where the windows had their largest. */
STAGE void bs_unpool(const bs_stage *s, int64_t i, const float *g, float *out)
{
    int64_t n = bs_up16(s->n_out);
    bs_zero(out, s->full_h * s->full_w * n);
    for (int64_t y = 0; y < s->rows; y++)
        for (int64_t x = 0; x < s->columns; x++) {
            int64_t p = y * s->columns + x, from = y * s->pool * s->full_w + x * s->pool;
            const uint8_t *choice =
                s->choices ? s->choices + (i * s->rows * s->columns + p) * s->n_out : 0;
            for (int64_t k = 0; k < s->n_out; k++) {
                int64_t j = choice ? choice[k] : 0;
                int64_t pixel = from + j / s->pool * s->full_w + j % s->pool;
                out[pixel * n + k] = g[p * n + k];
            }
        }
}

STAGE void bs_real_terms(const bs_stage *s, const float *image, const float *g, int64_t y0,
                         int64_t y1, int64_t term, int64_t c, float *to, const int n_terms)
{
    int64_t n = bs_up16(s->n_out), wide = s->width + 2 * s->padding_w, at[9];
    bs_lanes sums[9];
#pragma GCC unroll 9
    for (int k = 0; k < n_terms; k++) sums[k] = bs_splat(0.0f), at[k] = bs_real_at(s, term + k);
    for (int64_t y = y0; y < y1; y++) {
        const float *row = image + y * s->stride_h * wide * s->channels;
        for (int64_t x = 0; x < s->full_w; x++) {
            bs_lanes gradient = bs_read16(g + (y * s->full_w + x) * n + c);
            const float *from = row + x * s->stride_w * s->channels;
#pragma GCC unroll 9
            for (int k = 0; k < n_terms; k++)
                sums[k] = FMA(bs_splat(from[at[k]]), gradient, sums[k]);
        }
    }
#pragma GCC unroll 9
    for (int k = 0; k < n_terms; k++) {
        float *place = to + (term + k) * n + c;
        bs_write16(place, bs_read16(place) + sums[k]);
    }
}

/* Gradient of the weights of a convolution of reals, of images [begin, end). */
STAGE void bs_gradients_reals(const bs_stage *s, int64_t begin, int64_t end)
{
    int64_t n = bs_up16(s->n_out), n_terms = bs_stage_taps(s) * s->channels;
    int64_t pixels = s->rows * s->columns;
    float *rest = bs_aligned(s->scratch), *image = bs_take(&rest, bs_stage_room(s, s->channels));
    float *g = bs_take(&rest, pixels * n), *full = bs_take(&rest, s->full_h * s->full_w * n);
    float *partial = bs_take(&rest, n_terms * n);
    bs_zero(g, pixels * n);
    bs_zero(partial, n_terms * n);
    for (int64_t i = begin; i < end; i++) {
        bs_pad_image(s, (const float *)s->images + i * s->height * s->width * s->channels, image);
        bs_sum_gradients(s, i, g, n);
        bs_unpool(s, i, g, full);
        for (int64_t y = 0; y < s->full_h; y += 2) {
            int64_t end_y = y + 2 < s->full_h ? y + 2 : s->full_h;
            for (int64_t c = 0; c < n; c += 16) {
                int64_t term = 0;
                for (; term + 9 <= n_terms; term += 9)
                    bs_real_terms(s, image, full, y, end_y, term, c, partial, 9);
                for (; term < n_terms; term++)
                    bs_real_terms(s, image, full, y, end_y, term, c, partial, 1);
            }
        }
        if ((i - begin) % BS_FLUSH == BS_FLUSH - 1 || i == end - 1) {
            bs_add(s->weight_gradient, partial, n_terms * n);
            bs_zero(partial, n_terms * n);
        }
    }
}

/* Pixels [begin, end): scale and shift; of floats into out, of signs with the mask of the clip. */
STAGE void bs_normalise_pixels(const bs_stage *s, int64_t begin, int64_t end, float clip,
                               float *out, uint32_t *within)
{
    int64_t n = s->n_out, n_words = (n + 31) / 32;
    const float *scale = s->coefficients, *shift = scale + n;
    for (int64_t p = begin; p < end; p++)
        for (int64_t w = 0; w < n_words; w++) {
            int left = n - 32 * w < 32 ? (int)(n - 32 * w) : 32;
            const float *from = s->sums + p * n + 32 * w, *m = scale + 32 * w, *b = shift + 32 * w;
            float *to = out + p * n + 32 * w, value[32];
            uint32_t bits = 0;
            if (left == 32)
                for (int l = 0; l < 32; l++) value[l] = from[l] * m[l] + b[l];
            else
                for (int l = 0; l < left; l++) value[l] = from[l] * m[l] + b[l];
            if (!within) {
                for (int l = 0; l < left; l++) to[l] = value[l];
                continue;
            }
            if (left == 32) {
                for (int l = 0; l < 32; l++) to[l] = value[l] >= 0 ? 1.0f : -1.0f;
                for (int l = 0; l < 32; l++)
                    bits |= (uint32_t)(value[l] >= -clip && value[l] <= clip) << l;
            } else {
                for (int l = 0; l < left; l++) to[l] = value[l] >= 0 ? 1.0f : -1.0f;
                for (int l = 0; l < left; l++)
                    bits |= (uint32_t)(value[l] >= -clip && value[l] <= clip) << l;
            }
            within[p * n_words + w] = bits;
        }
}

/* Sums over pixels [begin, end) of the gradient within the clip, and of it times sum - mean. */
STAGE void bs_gradient_totals(const bs_stage *s, int64_t begin, int64_t end)
{
    int64_t n = s->n_out, n_words = (n + 31) / 32;
    const float *mean = s->coefficients;
    for (int64_t p = begin; p < end; p++)
        for (int64_t k = 0; k < n; k += 16) {
            uint32_t bits = s->within ? s->within[p * n_words + k / 32] >> (k & 16) : 0xffffu;
            const float *from = s->gradient + p * n + k, *sum = s->sums + p * n + k;
            double *total = s->totals + k, *product = total + n;
            int left = n - k < 16 ? (int)(n - k) : 16;
            if (left == 16)
                for (int l = 0; l < 16; l++) {
                    float passed = bits >> l & 1 ? from[l] : 0.0f;
                    total[l] += passed;
                    product[l] += passed * (sum[l] - mean[k + l]);
                }
            else
                for (int l = 0; l < left; l++) {
                    float passed = bits >> l & 1 ? from[l] : 0.0f;
                    total[l] += passed;
                    product[l] += passed * (sum[l] - mean[k + l]);
                }
        }
}

#endif
