/* The entry points of stage.h for one instruction set; NAME(x) gives each its name. */
#ifndef BITSPIN_STAGE_CALLS_H
#define BITSPIN_STAGE_CALLS_H

#include "stage_bits.h"
#include "stage_moments.h"
#include "stage_reals.h"

STAGE_CALL void NAME(sums_bits)(const bs_stage *s, bs_conv *conv, int64_t begin, int64_t end)
{
    int64_t n_words = (s->channels + 31) / 32, values = s->full_h * s->full_w * s->n_out;
    int32_t *sums = conv->out;
    for (int64_t i = begin; i < end; i++) {
        conv->data = (const uint32_t *)s->images + i * s->height * s->width * n_words;
        bs_convolve(conv);
        for (int64_t k = 0; k < values; k++) {
            float value = (float)sums[k];
            __builtin_memcpy(sums + k, &value, 4);
        }
        bs_pool_image(s, (const float *)(const void *)sums, s->n_out, i);
    }
}

STAGE_CALL void NAME(sums_reals)(const bs_stage *s, int64_t begin, int64_t end)
{
    bs_sums_reals(s, begin, end);
}

STAGE_CALL void NAME(gradients_bits)(const bs_stage *s, int64_t begin, int64_t end)
{
    bs_gradients_bits(s, begin, end);
}

STAGE_CALL void NAME(gradients_reals)(const bs_stage *s, int64_t begin, int64_t end)
{
    bs_gradients_reals(s, begin, end);
}

STAGE_CALL void NAME(moments_reals)(const bs_stage *s, int64_t begin, int64_t end)
{
    bs_moments_reals(s, begin, end);
}

STAGE_CALL void NAME(normalise_reals)(const bs_stage *s, int64_t begin, int64_t end, float clip,
                                      float *out, uint32_t *words, uint32_t *within)
{
    bs_normalise_reals(s, begin, end, clip, out, words, within);
}

STAGE_CALL void NAME(products_reals)(const bs_stage *s, int64_t begin, int64_t end)
{
    bs_products_reals(s, begin, end);
}

STAGE_CALL void NAME(normalise)(const bs_stage *s, int64_t begin, int64_t end, float clip,
                                float *out, uint32_t *words, uint32_t *within)
{
    bs_normalise_pixels(s, begin, end, clip, out, words, within);
}

STAGE_CALL void NAME(totals)(const bs_stage *s, int64_t begin, int64_t end)
{
    bs_gradient_totals(s, begin, end);
}

#endif
