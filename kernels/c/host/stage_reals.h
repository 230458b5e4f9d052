/* Convolution of reals of few channels: sums, moments, gradient of the weights. */
#ifndef BITSPIN_STAGE_REALS_H
#define BITSPIN_STAGE_REALS_H

#include "stage_image.h"
#include "stage_norm.h"

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

#endif
