/* Pools and the residual add for Python, a batch of images at a time. */
#include "../bitspin.h"
#include "../elementwise.h"
#include "../format.h"

#define ADDRESS(type, value) ((type *)(uintptr_t)(value))

BS_API int64_t bsk_pool(int64_t backend, int64_t shape, int64_t images, int64_t multiplier,
                        int64_t offset, int64_t out, int64_t begin, int64_t end);
BS_API int64_t bsk_add(int64_t backend, int64_t x, int64_t y, int64_t out, int64_t begin,
                       int64_t end);

/* Images [begin, end). shape: channels, shift, then height and width of size, window, stride,
 * padding, out_size. Shift 0: the OR of packed bits; else the scaled sum of int32. */
int64_t bsk_pool(int64_t backend, int64_t shape, int64_t images, int64_t multiplier,
                 int64_t offset, int64_t out, int64_t begin, int64_t end)
{
    const int64_t *values = ADDRESS(const int64_t, shape);
    bs_elementwise e = {.opcode = values[1] ? BS_AVERAGE_POOL : BS_MAX_POOL,
                        .dtype = values[1] ? BS_I32 : BS_BITS,
                        .per_channel = ADDRESS(const int32_t, multiplier),
                        .bias = ADDRESS(const void, offset),
                        .channels = (int32_t)values[0],
                        .n_out = (int32_t)values[0],
                        .shift = (int32_t)values[1]};
    for (int axis = 0; axis < 2; axis++) {
        e.size[axis] = (int32_t)values[2 + axis];
        e.window[axis] = (int32_t)values[4 + axis];
        e.stride[axis] = (int32_t)values[6 + axis];
        e.padding[axis] = (int32_t)values[8 + axis];
        e.out_size[axis] = (int32_t)values[10 + axis];
    }
    int64_t n_items = values[1] ? e.channels : (e.channels + 31) / 32;
    for (int64_t i = begin; i < end; i++) {
        e.data = ADDRESS(const int32_t, images) + i * e.size[0] * e.size[1] * n_items;
        e.out = ADDRESS(int32_t, out) + i * e.out_size[0] * e.out_size[1] * n_items;
        bs_run_elementwise((uint32_t)backend, &e);
    }
    return 0;
}

/* Values [begin, end) of x + y, int32. */
int64_t bsk_add(int64_t backend, int64_t x, int64_t y, int64_t out, int64_t begin, int64_t end)
{
    enum { PIECE = 1 << 24 }; /* so that sizes stay int32 */
    for (int64_t at = begin; at < end; at += PIECE) {
        bs_elementwise e = {.opcode = BS_ADD,
                            .dtype = BS_I32,
                            .data = ADDRESS(const int32_t, x) + at,
                            .residual = ADDRESS(const int32_t, y) + at,
                            .out = ADDRESS(int32_t, out) + at,
                            .size = {1, 1},
                            .channels = end - at < PIECE ? (int32_t)(end - at) : PIECE};
        bs_run_elementwise((uint32_t)backend, &e);
    }
    return 0;
}
