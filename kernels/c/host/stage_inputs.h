/* Gradient of the images of a convolution of bits. */
#ifndef BITSPIN_STAGE_INPUTS_H
#define BITSPIN_STAGE_INPUTS_H

#include "stage.h"

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

#endif
