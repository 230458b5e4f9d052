/* A stage of training, image by image: convolution, max-pool, statistics, and all gradients.
 *
 * Included once per instruction set, after STAGE (attributes of every function) and FMA(a, b, c)
 * were defined. Rows of channels are cut into vectors of 16. One factor of every product of the
 * gradients is +-1, so fused or not it is exact, and each sum has one order: all instruction sets
 * give the same bytes. An image with its border, its gradient and one strip of the output stay in
 * the caches; what is as large as the batch is read once and written once. */
#ifndef BITSPIN_STAGE_H
#define BITSPIN_STAGE_H

#include "../bitspin.h"
#include "../conv.h"

#if defined(__GNUC__) && !defined(__clang__)
/* Everything here is inlined, so no vector is ever passed. */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

enum { BS_SIXTEEN = 16, BS_FLUSH = 8, BS_NEAR = 6144 };

typedef float bs_lanes __attribute__((vector_size(64)));
typedef int32_t bs_ints __attribute__((vector_size(64)));
typedef float bs_lanes_at __attribute__((vector_size(64), aligned(4), may_alias));

/* As kernels/stage.py fills it, 64 bits each. Arrays that are not there are 0. */
typedef struct {
    int64_t channels, n_out, height, width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
    int64_t pool, rows, columns; /* of the pooled output */
    int64_t full_h, full_w;      /* of the convolution's output */
    int64_t border;              /* -1 or 0 */
    const void *images;          /* (N, height, width, words) bits, or floats (..., channels) */
    float *sums;                 /* of reals: (N, rows, columns, n_out), after pooling */
    int16_t *integers;           /* of bits: the same */
    uint8_t *choices;            /* the same: which position of the window won */
    const float *gradient;       /* the same */
    const uint32_t *within;      /* (N, rows, columns, words): where the gradient passes, or 0 */
    const float *coefficients;   /* (4, n_out): g = a (gradient + b (sum - mean) + c) */
    const float *weights;        /* (channels / 16, n_out, taps, 16); floats: (taps, C, n_out') */
    float *image_gradient;       /* (N, height, width, channels) or 0 */
    float *weight_gradient;      /* (n_out, taps, channels'); of floats (taps, C, n_out') */
    double *totals;              /* (2, n_out) */
    double *moments;             /* of reals, see stage_moments.h */
    uint8_t *scratch;
} bs_stage;

static inline int64_t bs_up16(int64_t n)
{
    return (n + 15) & ~(int64_t)15;
}

static inline int64_t bs_stage_taps(const bs_stage *s)
{
    return s->kernel_h * s->kernel_w;
}

/* Floats of one image with its border; rows of channels are whole vectors. */
static inline int64_t bs_stage_room(const bs_stage *s, int64_t channels)
{
    return (s->height + 2 * s->padding_h) * (s->width + 2 * s->padding_w) * channels;
}

/* The same with one more row and pixel, which a square of 2 x 2 may read beyond the image. */
static inline int64_t bs_stage_spare(const bs_stage *s, int64_t channels)
{
    return bs_stage_room(s, channels) + (s->width + 2 * s->padding_w + 1) * channels;
}

/* Floats of scratch: image, squares, image gradient, g, g sorted, order, starts, and gradient and
 * squares of the weights. */
static inline int64_t bs_stage_floats(const bs_stage *s)
{
    int64_t c = bs_up16(s->channels), n = bs_up16(s->n_out);
    int64_t positions = s->full_h * s->full_w;
    int64_t terms = s->moments ? bs_stage_taps(s) * s->channels : 0;
    return (terms + 1) * (bs_up16(terms) + 4) + 3 * bs_stage_spare(s, c) + 4 * positions * n + positions * (s->pool * s->pool + 1) +
           bs_stage_taps(s) * c * (2 * n + 2) + 16 * 12;
}

/* A part of the kernel's window: its taps (top ... top + high, left ... left + wide). */
typedef struct {
    int64_t top, left;
} bs_part;

STAGE bs_lanes bs_read16(const float *from)
{
    return *(const bs_lanes_at *)from;
}

STAGE void bs_write16(float *to, bs_lanes value)
{
    *(bs_lanes_at *)to = value;
}

STAGE bs_lanes bs_splat(float x)
{
    return (bs_lanes){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

/* What KEEP(bits, x) is without masks: x where the bit is 1, else 0. */
STAGE bs_lanes bs_keep(uint32_t bits, bs_lanes x)
{
    for (int l = 0; l < BS_SIXTEEN; l++) x[l] = bits >> l & 1 ? x[l] : 0.0f;
    return x;
}

/* 16 sums from a place on: whole numbers of bits, or of reals. */
STAGE void bs_read_sums(const bs_stage *s, int64_t place, int n, float *to)
{
    if (s->integers)
        for (int l = 0; l < n; l++) to[l] = (float)s->integers[place + l];
    else
        for (int l = 0; l < n; l++) to[l] = s->sums[place + l];
}

STAGE void bs_zero(float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i += BS_SIXTEEN) bs_write16(to + i, bs_splat(0.0f));
}

STAGE void bs_add(float *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i += BS_SIXTEEN)
        bs_write16(to + i, bs_read16(to + i) + bs_read16(from + i));
}
/* Scratch memory in parts, each aligned. */
STAGE float *bs_take(float **rest, int64_t n)
{
    float *part = *rest;
    *rest += bs_up16(n);
    return part;
}

STAGE float *bs_aligned(uint8_t *scratch)
{
    return (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
}

#endif
