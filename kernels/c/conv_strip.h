/* Positions of a convolution in the order in which they are computed: pooling window by pooling
 * window, cut into strips of about the same length. */
#ifndef BITSPIN_CONV_STRIP_H
#define BITSPIN_CONV_STRIP_H

#include "conv.h"

/* What runs once per convolution or only at the border is compiled for size: the library has to
 * stay below 64 KB; what would be inlined several times stays apart. */
#if defined(__GNUC__)
#define BS_RARE static __attribute__((noinline, cold))
#define BS_APART static __attribute__((noinline))
#else
#define BS_RARE static
#define BS_APART static
#endif

typedef struct {
    int32_t y, x; /* of the output pixel */
    int32_t i, j; /* in its window */
} bs_position;

static inline void bs_advance(const bs_conv *conv, bs_position *at)
{
    if (++at->j < conv->pool[1]) return;
    at->j = 0;
    if (++at->i < conv->pool[0]) return;
    at->i = 0;
    if (++at->x < conv->out_size[1]) return;
    at->x = 0;
    at->y++;
}

/* First row and column of the image under the kernel. Both fit because every coordinate of the
 * padded image is an int32. */
static inline int32_t bs_top(const bs_conv *conv, const bs_position *at)
{
    return (at->y * conv->pool[0] + at->i) * conv->stride[0] - conv->padding[0];
}

static inline int32_t bs_left(const bs_conv *conv, const bs_position *at)
{
    return (at->x * conv->pool[1] + at->j) * conv->stride[1] - conv->padding[1];
}

typedef struct {
    uint32_t n_strips, size, n_longer; /* so many strips have one output pixel more than size */
} bs_strips;

static inline bs_strips bs_cut_strips(const bs_conv *conv)
{
    uint32_t window = (uint32_t)(conv->pool[0] * conv->pool[1]);
    uint32_t largest = (uint32_t)bs_strip_positions(conv) / window;
    uint32_t n_pixels = (uint32_t)conv->out_size[0] * (uint32_t)conv->out_size[1];
    uint32_t n_strips = n_pixels / largest + (n_pixels % largest != 0);
    bs_strips strips = {n_strips, n_pixels / n_strips, n_pixels % n_strips};
    return strips;
}

/* The first position that is n output pixels further on. */
static inline void bs_skip_pixels(const bs_conv *conv, bs_position *at, int32_t n)
{
    at->x += n;
    while (at->x >= conv->out_size[1]) {
        at->x -= conv->out_size[1];
        at->y++;
    }
}

/* Along one axis, positions at either end where the image cuts off the kernel, each in its way;
 * all positions between them are one more way. */
typedef struct {
    int32_t n_before, first_after; /* positions [n_before, first_after) are whole */
    int32_t n;                     /* ways: n_before + 1 + those from first_after on */
} bs_cuts;

static inline bs_cuts bs_count_cuts(const bs_conv *conv, int axis)
{
    int32_t n = conv->out_size[axis] * conv->pool[axis];
    uint32_t stride = (uint32_t)conv->stride[axis], padding = (uint32_t)conv->padding[axis];
    int32_t room = conv->size[axis] + conv->padding[axis] - conv->kernel[axis];
    bs_cuts cuts;
    cuts.n_before = (int32_t)((padding + stride - 1) / stride);
    if (cuts.n_before > n) cuts.n_before = n;
    cuts.first_after = room < 0 ? 0 : (int32_t)((uint32_t)room / stride) + 1;
    if (cuts.first_after < cuts.n_before) cuts.first_after = cuts.n_before;
    if (cuts.first_after > n) cuts.first_after = n;
    cuts.n = cuts.n_before + 1 + n - cuts.first_after;
    return cuts;
}

/* The way in which a position is cut; n_before: not at all. */
static inline int32_t bs_cut_of(const bs_cuts *cuts, int32_t at)
{
    if (at < cuts->n_before) return at;
    return at < cuts->first_after ? cuts->n_before : cuts->n_before + 1 + at - cuts->first_after;
}

/* First row or column of the image under a kernel that is cut that way; 0 if it is whole. */
static inline int32_t bs_cut_begin(const bs_conv *conv, const bs_cuts *cuts, int axis, int32_t cut)
{
    if (cut == cuts->n_before) return 0;
    int32_t at = cut < cuts->n_before ? cut : cut - cuts->n_before - 1 + cuts->first_after;
    return at * conv->stride[axis] - conv->padding[axis];
}

#endif
