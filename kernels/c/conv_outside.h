/* What a convolution of bits needs where the image is surrounded by zeros. */
#ifndef BITSPIN_CONV_OUTSIDE_H
#define BITSPIN_CONV_OUTSIDE_H

#include "conv_strip.h"

typedef struct {
    bs_cuts cuts[2]; /* of the kernel, by rows and by columns of positions */
    int32_t *sums;   /* of the weights outside: [cut][cut][stride], stride >= n_out + 64 */
    int64_t stride;
} bs_outside;

/* Fills the sums, with words for one patch to work in. */
void bs_sum_outside(const bs_conv *conv, const bs_outside *outside, uint32_t *row);

/* Adds them to n rows of accumulators, `stride` apart, for n positions from `at` on and the
 * channels [channel, channel + width). */
void bs_add_outside(const bs_conv *conv, const bs_outside *outside, bs_position at, int32_t n,
                    int32_t channel, int32_t width, int32_t *acc, int64_t stride);

#endif
