/* One operation made ready to run: pointers and sizes, nothing left to check. */
#ifndef BITSPIN_CONV_H
#define BITSPIN_CONV_H

#include <stdint.h>

typedef struct {
    const void *data;         /* uint8 or packed bits, (height, width, channels) */
    const void *weights;      /* int8 or packed bits, (n_out, kernel, channels) */
    const int32_t *bias;      /* (n_out,) or null */
    const int32_t *threshold; /* (2, n_out) or null: row 0 = t, row 1 = flip */
    void *patches;            /* scratch: pool[0] * pool[1] patches of n_patch elements */
    void *out;                /* packed bits if there is a threshold, else int32 */
    int32_t size[2];          /* of the data: height, width */
    int32_t kernel[2], stride[2], padding[2], pool[2];
    int32_t out_size[2];      /* after pooling */
    int32_t channels;
    int32_t n_pixel;          /* elements of one pixel of data: words or channels */
    int32_t n_patch;          /* elements of one patch and of one row of weights */
    int32_t n_out;
} bs_conv;

void bs_conv_u8(const bs_conv *conv);
void bs_conv_b1(const bs_conv *conv, uint32_t cpu_features);
void bs_conv_b1_i8(const bs_conv *conv);

#endif
