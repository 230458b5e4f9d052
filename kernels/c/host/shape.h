/* The shape of a convolution as Python passes it. */
#ifndef BITSPIN_HOST_SHAPE_H
#define BITSPIN_HOST_SHAPE_H

#include "../conv.h"

/* shape: kind, layout, groups, border, channels, n_out, then height and width of size, kernel,
 * stride, padding, pool, out_size: 18 values of int64_t. */
enum { SHAPE = 18 };

static inline bs_conv bs_describe_conv(int64_t backend, int64_t address)
{
    const int64_t *shape = (const int64_t *)(uintptr_t)address;
    bs_conv conv = {.backend = (uint32_t)backend,
                    .kind = (int32_t)shape[0],
                    .layout = (int32_t)shape[1],
                    .groups = (int32_t)shape[2],
                    .border = (int32_t)shape[3],
                    .channels = (int32_t)shape[4],
                    .n_out = (int32_t)shape[5]};
    for (int axis = 0; axis < 2; axis++) {
        conv.size[axis] = (int32_t)shape[6 + axis];
        conv.kernel[axis] = (int32_t)shape[8 + axis];
        conv.stride[axis] = (int32_t)shape[10 + axis];
        conv.padding[axis] = (int32_t)shape[12 + axis];
        conv.pool[axis] = (int32_t)shape[14 + axis];
        conv.out_size[axis] = (int32_t)shape[16 + axis];
    }
    return conv;
}

#endif
