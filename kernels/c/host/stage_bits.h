/* Both gradients of a convolution of bits. */
#ifndef BITSPIN_STAGE_BITS_H
#define BITSPIN_STAGE_BITS_H

#include "stage_image.h"
#include "stage_inputs.h"
#include "stage_norm.h"
#include "stage_squares.h"
#include "stage_weights.h"

/* Both gradients of the convolution of bits, of images [begin, end). */
STAGE void bs_gradients_bits(const bs_stage *s, int64_t begin, int64_t end)
{
    int64_t c = bs_up16(s->channels), n = bs_up16(s->n_out), pixels = s->rows * s->columns;
    int64_t n_words = (s->channels + 31) / 32, n_choices = s->pool * s->pool;
    int64_t n_weights = s->n_out * bs_stage_taps(s) * c, shift[256];
    float *rest = bs_aligned(s->scratch), *image = bs_take(&rest, bs_stage_spare(s, c));
    float *image_gradient = bs_take(&rest, bs_stage_room(s, c)), *g = bs_take(&rest, pixels * n);
    float *squares = bs_take(&rest, bs_stage_spare(s, c));
    float *fours = bs_take(&rest, bs_stage_taps(s) * c * bs_up16(s->n_out) / 4);
    float *sorted = bs_take(&rest, pixels * n), *partial = bs_take(&rest, n_weights);
    int32_t *order = (int32_t *)bs_take(&rest, pixels * n);
    int32_t *starts = (int32_t *)bs_take(&rest, pixels * (n_choices + 1));
    int64_t row = (s->width + 2 * s->padding_w) * c;
    for (int64_t j = 0; j < n_choices; j++)
        shift[j] = j / s->pool * s->stride_h * row + j % s->pool * s->stride_w * c;
    const int has_squares = bs_has_squares(s);
    bs_zero(partial, n_weights);
    bs_zero(g, pixels * n);
    bs_zero(image, bs_stage_spare(s, c));
    if (has_squares && s->image_gradient) bs_make_fours(s, fours);
    for (int64_t i = begin; i < end; i++) {
        const uint8_t *choices = s->choices ? s->choices + i * pixels * s->n_out : 0;
        const uint32_t *words = (const uint32_t *)s->images + i * s->height * s->width * n_words;
        bs_sum_gradients(s, i, g, n);
        bs_unpack_image(s, words, image);
        if (has_squares) bs_make_squares(s, image, squares);
        if (has_squares)
            bs_weights_by_squares(s, SQUARES(image, squares), g, partial);
        else
            bs_weight_gradient(s, image, g, choices, shift, partial);
        /* Sums of sums: the rounding of a long one grows with the root of its length. */
        if ((i - begin) % BS_FLUSH == BS_FLUSH - 1 || i == end - 1) {
            bs_add(s->weight_gradient, partial, n_weights);
            bs_zero(partial, n_weights);
        }
        if (!s->image_gradient) continue;
        if (choices) bs_sort_choices(s, g, choices, sorted, order, starts);
        if (has_squares)
            bs_image_by_fours(s, fours, g, image_gradient);
        else
            bs_image_gradient(s, g, sorted, order, starts, shift, image_gradient);
        bs_crop_image(s, image_gradient,
                      s->image_gradient + i * s->height * s->width * s->channels);
    }
}

#endif
