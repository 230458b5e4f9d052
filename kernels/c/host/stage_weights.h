/* Gradient of the weights of a convolution of bits. */
#ifndef BITSPIN_STAGE_WEIGHTS_H
#define BITSPIN_STAGE_WEIGHTS_H

#include "stage.h"

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

#endif
