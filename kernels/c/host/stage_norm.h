/* Batch normalisation and sign of a stage, and their gradients. */
#ifndef BITSPIN_STAGE_NORM_H
#define BITSPIN_STAGE_NORM_H

#include "stage.h"

/* Pixels [begin, end): scale and shift, of floats into out; or signs and the mask of the clip, as
 * floats if there is out, as bits if there are words. */
STAGE void bs_normalise_some(const bs_stage *s, int64_t p, int64_t k, const int n, float clip,
                             float *out, uint32_t *signs, uint32_t *masks)
{
    const float *scale = s->coefficients + k, *shift = scale + s->n_out;
    float value[16];
    uint32_t sign = 0, mask = 0;
    bs_read_sums(s, p * s->n_out + k, n, value);
    for (int l = 0; l < n; l++) value[l] = value[l] * scale[l] + shift[l];
    if (masks) {
        for (int l = 0; l < n; l++) sign |= (uint32_t)(value[l] >= 0) << l;
        for (int l = 0; l < n; l++)
            mask |= (uint32_t)(value[l] >= -clip && value[l] <= clip) << l;
        *masks |= mask << (k & 16);
        if (signs) *signs |= sign << (k & 16);
    }
    if (!out) return;
    float *to = out + p * s->n_out + k;
    if (masks)
        for (int l = 0; l < n; l++) to[l] = value[l] >= 0 ? 1.0f : -1.0f;
    else
        for (int l = 0; l < n; l++) to[l] = value[l];
}

STAGE void bs_normalise_pixels(const bs_stage *s, int64_t begin, int64_t end, float clip,
                               float *out, uint32_t *words, uint32_t *within)
{
    int64_t n = s->n_out, n_words = (n + 31) / 32;
    for (int64_t p = begin; p < end; p++)
        for (int64_t w = 0; w < n_words; w++) {
            uint32_t signs = 0, masks = 0;
            for (int64_t k = 32 * w; k < 32 * w + 32 && k < n;) {
                int is_whole = n - k >= 16;
                if (is_whole)
                    bs_normalise_some(s, p, k, 16, clip, out, &signs, within ? &masks : 0);
                else
                    bs_normalise_some(s, p, k, (int)(n - k), clip, out, &signs,
                                      within ? &masks : 0);
                k += 16;
            }
            if (words) words[p * n_words + w] = signs;
            if (within) within[p * n_words + w] = masks;
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
            const float *from = s->gradient + p * n + k;
            double *total = s->totals + k, *product = total + n;
            int left = n - k < 16 ? (int)(n - k) : 16;
            float sum[16];
            bs_read_sums(s, p * n + k, left, sum);
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
/* Gradients of the sums of image i after pooling, rows of `stride` channels. */
STAGE void bs_sum_gradients(const bs_stage *s, int64_t i, float *out, int64_t stride)
{
    int64_t n = s->n_out, n_words = (n + 31) / 32, pixels = s->rows * s->columns;
    const float *a = s->coefficients, *b = a + n, *c = b + n, *mean = c + n;
    for (int64_t p = 0; p < pixels; p++) {
        const float *gradient = s->gradient + (i * pixels + p) * n;
        const uint32_t *within = s->within ? s->within + (i * pixels + p) * n_words : 0;
        float *to = out + p * stride;
        for (int64_t k = 0; k < n; k += 16) {
            uint32_t bits = within ? within[k / 32] >> (k & 16) : 0xffffu;
            int left = n - k < 16 ? (int)(n - k) : 16;
            float sum[16];
            bs_read_sums(s, (i * pixels + p) * n + k, left, sum);
            if (left == 16)
                for (int l = 0; l < 16; l++)
                    to[k + l] = a[k + l] * ((bits >> l & 1 ? gradient[k + l] : 0.0f) +
                                          b[k + l] * (sum[l] - mean[k + l]) + c[k + l]);
            else
                for (int l = 0; l < left; l++)
                    to[k + l] = a[k + l] * ((bits >> l & 1 ? gradient[k + l] : 0.0f) +
                                          b[k + l] * (sum[l] - mean[k + l]) + c[k + l]);
        }
    }
}

#endif
