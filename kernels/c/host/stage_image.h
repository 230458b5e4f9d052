/* One image of a stage: unpacked, padded, cropped; its sums pooled. */
#ifndef BITSPIN_STAGE_IMAGE_H
#define BITSPIN_STAGE_IMAGE_H

#include "stage.h"

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
    if (s->integers)
        for (int c = 0; c < n; c++) s->integers[place + c] = (int16_t)best[c];
    else
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

#endif
