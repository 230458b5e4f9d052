/* A convolution of reals without a pool, of which nothing but moments is ever held.
 *
 * A sum is linear in its window v, so over all windows, with weights w,
 *
 *   mean of sums = w . mean v        mean of squares = w' (mean v v') w
 *   sum over (sum - mean) v = (sum over v v') w - mean sum over v
 *
 * and neither statistics nor the gradient of the weights need the sums again. */
#ifndef BITSPIN_STAGE_MOMENTS_H
#define BITSPIN_STAGE_MOMENTS_H

#include "stage_reals.h"

/* Add the products v v' of one row of outputs and, below them, the sums of v to products, which is
 * (n_terms + 1, n) with n = n_terms rounded up to 16. In float32 that is exact for pixels of 8 bits
 * in rows of up to 258: 258 * 255 * 255 < 2^24. The caller adds rows up in float64. */
STAGE void bs_moments_row(const bs_stage *s, const float *row, const int64_t *offsets,
                          int64_t n_terms, float *window, float *products)
{
    int64_t n = bs_up16(n_terms), step = s->stride_w * s->channels;
    bs_zero(products, (n_terms + 1) * n);
    for (int64_t k = n_terms; k < n; k++) window[k] = 0;
    for (int64_t x = 0; x < s->full_w; x++, row += step) {
        for (int64_t k = 0; k < n_terms; k++) window[k] = row[offsets[k]];
        for (int64_t l = 0; l < n; l += 16) {
            bs_lanes here = bs_read16(window + l);
            float *to = products + l;
            for (int64_t k = 0; k < n_terms; k++, to += n)
                bs_write16(to, FMA(bs_splat(window[k]), here, bs_read16(to)));
            bs_write16(to, bs_read16(to) + here);
        }
    }
}

STAGE void bs_moments_reals(const bs_stage *s, int64_t begin, int64_t end)
{
    int64_t n_terms = bs_stage_taps(s) * s->channels, n = bs_up16(n_terms);
    int64_t wide = (s->width + 2 * s->padding_w) * s->channels;
    float *rest = bs_aligned(s->scratch), *image = bs_take(&rest, bs_stage_room(s, s->channels));
    int64_t *offsets = (int64_t *)bs_take(&rest, 2 * n_terms);
    float *window = bs_take(&rest, n), *products = bs_take(&rest, (n_terms + 1) * n);
    for (int64_t k = 0; k < n_terms; k++) offsets[k] = bs_real_at(s, k);
    for (int64_t i = begin; i < end; i++) {
        bs_pad_image(s, (const float *)s->images + i * s->height * s->width * s->channels, image);
        for (int64_t y = 0; y < s->full_h; y++) {
            bs_moments_row(s, image + y * s->stride_h * wide, offsets, n_terms, window, products);
            for (int64_t k = 0; k <= n_terms; k++)
                for (int64_t l = 0; l < n_terms; l++)
                    s->moments[k * n_terms + l] += products[k * n + l];
        }
    }
}

/* Convolve, scale and shift images [begin, end). */
STAGE void bs_normalise_reals(const bs_stage *s, int64_t begin, int64_t end, float clip, float *out,
                              uint32_t *words, uint32_t *within)
{
    int64_t pixels = s->full_h * s->full_w, n = bs_up16(s->n_out), n_words = (s->n_out + 31) / 32;
    float *rest = bs_aligned(s->scratch), *image = bs_take(&rest, bs_stage_room(s, s->channels));
    int64_t *offsets = (int64_t *)bs_take(&rest, 2 * bs_stage_taps(s) * s->channels);
    float *wide = bs_take(&rest, pixels * n);
    bs_stage one = *s;
    one.sums = n == s->n_out ? wide : rest;
    one.integers = 0, one.choices = 0, one.totals = 0;
    for (int64_t i = begin; i < end; i++) {
        bs_pad_image(s, (const float *)s->images + i * s->height * s->width * s->channels, image);
        bs_sum_reals(s, image, offsets, wide);
        if (n != s->n_out) bs_pool_image(&one, wide, n, 0);
        bs_normalise_pixels(&one, 0, pixels, clip, out ? out + i * pixels * s->n_out : 0,
                            words ? words + i * pixels * n_words : 0,
                            within ? within + i * pixels * n_words : 0);
    }
}

STAGE void bs_product_terms(const bs_stage *s, int64_t i, const float *image, int64_t y0,
                            int64_t y1, int64_t term, int64_t c, float *to, const int n_terms)
{
    int64_t n = bs_up16(s->n_out), wide = s->width + 2 * s->padding_w, at[9];
    int64_t n_words = (s->n_out + 31) / 32;
    bs_lanes sums[10];
#pragma GCC unroll 10
    for (int k = 0; k <= n_terms; k++) sums[k] = bs_splat(0.0f);
#pragma GCC unroll 9
    for (int k = 0; k < n_terms; k++) at[k] = bs_real_at(s, term + k);
    for (int64_t y = y0; y < y1; y++) {
        const float *row = image + y * s->stride_h * wide * s->channels;
        int64_t p = (i * s->full_h + y) * s->full_w;
        for (int64_t x = 0; x < s->full_w; x++, p++) {
            uint32_t bits = s->within ? s->within[p * n_words + c / 32] >> (c & 16) : 0xffffu;
            bs_lanes gradient;
            if (s->n_out - c >= 16)
                gradient = KEEP(bits, bs_read16(s->gradient + p * s->n_out + c));
            else {
                gradient = bs_splat(0.0f);
                for (int l = 0; l < s->n_out - c; l++)
                    gradient[l] = bits >> l & 1 ? s->gradient[p * s->n_out + c + l] : 0.0f;
            }
            const float *from = row + x * s->stride_w * s->channels;
#pragma GCC unroll 9
            for (int k = 0; k < n_terms; k++)
                sums[k] = FMA(bs_splat(from[at[k]]), gradient, sums[k]);
            sums[n_terms] += gradient;
        }
    }
#pragma GCC unroll 9
    for (int k = 0; k < n_terms; k++) {
        float *place = to + (term + k) * n + c;
        bs_write16(place, bs_read16(place) + sums[k]);
    }
    if (term) return;
    float *place = to + bs_stage_taps(s) * s->channels * n + c;
    bs_write16(place, bs_read16(place) + sums[n_terms]);
}

/* Onto totals, (n_terms + 1, n_out'): of windows times gradients, and of gradients. */
STAGE void bs_products_reals(const bs_stage *s, int64_t begin, int64_t end)
{
    int64_t n = bs_up16(s->n_out), n_terms = bs_stage_taps(s) * s->channels;
    float *rest = bs_aligned(s->scratch), *image = bs_take(&rest, bs_stage_room(s, s->channels));
    float *partial = bs_take(&rest, (n_terms + 1) * n);
    for (int64_t i = begin; i < end; i++) {
        bs_pad_image(s, (const float *)s->images + i * s->height * s->width * s->channels, image);
        bs_zero(partial, (n_terms + 1) * n);
        for (int64_t y = 0; y < s->full_h; y += 2) {
            int64_t end_y = y + 2 < s->full_h ? y + 2 : s->full_h;
            for (int64_t c = 0; c < n; c += 16) {
                int64_t term = 0;
                for (; term + 9 <= n_terms; term += 9)
                    bs_product_terms(s, i, image, y, end_y, term, c, partial, 9);
                for (; term < n_terms; term++)
                    bs_product_terms(s, i, image, y, end_y, term, c, partial, 1);
            }
        }
        for (int64_t k = 0; k < (n_terms + 1) * n; k++) s->totals[k] += partial[k];
    }
}

#endif
