/* Both gradients of a 3 x 3 convolution of bits without a pool, four products at a time.
 *
 * With signs as one factor, a sum of four products is one of 16 numbers: a table of them fills a
 * vector, and a lookup with 4 bits per lane replaces four products. For the weights the four are a
 * square of 2 x 2 positions, for the images four output channels. Where there is no lookup the
 * same four are multiplied out in the same order: the table's entries are exact products of signs,
 * so both give the same bytes. */
#ifndef BITSPIN_STAGE_SQUARES_H
#define BITSPIN_STAGE_SQUARES_H

#include "stage.h"

/* Does the geometry allow it? The border must be signs too. */
static inline int bs_has_squares(const bs_stage *s)
{
    int has_zeros = s->border == 0 && (s->padding_h || s->padding_w);
    return s->pool == 1 && s->kernel_h == 3 && s->kernel_w == 3 && s->stride_h == 1 &&
           s->stride_w == 1 && !has_zeros;
}

#ifdef LOOKUP
#define SQUARES(image, squares) squares
STAGE bs_lanes bs_table(float a, float b, float c, float d)
{
    const bs_lanes first = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
    const bs_lanes second = {-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1};
    const bs_lanes third = {-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1};
    const bs_lanes fourth = {-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1};
    bs_lanes sum = FMA(second, bs_splat(b), first * bs_splat(a));
    return FMA(fourth, bs_splat(d), FMA(third, bs_splat(c), sum));
}

STAGE bs_ints bs_nibbles(bs_lanes a, bs_lanes b, bs_lanes c, bs_lanes d)
{
    bs_lanes zero = bs_splat(0.0f);
    return (bs_ints)(((a > zero) & 1) | ((b > zero) & 2) | ((c > zero) & 4) | ((d > zero) & 8));
}
#else
#define SQUARES(image, squares) image
#endif

/* Signs of the squares that begin at each pixel of an image with its border. */
STAGE void bs_make_squares(const bs_stage *s, const float *image, float *squares)
{
#ifdef LOOKUP
    int64_t c = bs_up16(s->channels), wide = s->width + 2 * s->padding_w;
    int64_t pixels = (s->height + 2 * s->padding_h) * wide;
    for (int64_t k = 0; k < pixels * c; k += 16) {
        const float *at = image + k, *below = at + wide * c;
        bs_ints four = bs_nibbles(bs_read16(at), bs_read16(at + c), bs_read16(below),
                                  bs_read16(below + c));
        bs_write16(squares + k, (bs_lanes)four);
    }
#else
    (void)s, (void)image, (void)squares;
#endif
}

/* One output channel, 16 or 32 channels, rows [y0, y1) of positions, y0 even: onto the gradient. */
STAGE void bs_weight_squares(const bs_stage *s, const float *image, const float *g, int64_t y0,
                             int64_t y1, int64_t out, int64_t channel, float *to,
                             const int n_vectors)
{
    const int64_t c = bs_up16(s->channels), n = bs_up16(s->n_out);
    const int64_t wide = s->width + 2 * s->padding_w;
    bs_lanes sums[18];
#pragma GCC unroll 18
    for (int k = 0; k < 9 * n_vectors; k++) sums[k] = bs_splat(0.0f);
    for (int64_t y = y0; y < y1; y += 2)
        for (int64_t x = 0; x < s->columns; x += 2) {
            const float *from = g + (y * s->columns + x) * n + out, *below = from + s->columns * n;
            int has_right = x + 1 < s->columns, has_below = y + 1 < s->rows;
            float right = has_right ? from[n] : 0, under = has_below ? *below : 0;
            float corner = has_right && has_below ? below[n] : 0;
            const float *at = image + (y * wide + x) * c + channel;
#ifdef LOOKUP
            bs_lanes table = bs_table(*from, right, under, corner);
#else
            bs_lanes a = bs_splat(*from), b = bs_splat(right), d = bs_splat(under);
            bs_lanes e = bs_splat(corner);
#endif
#pragma GCC unroll 9
            for (int t = 0; t < 9; t++) {
                const float *tap = at + (t / 3 * wide + t % 3) * c;
#pragma GCC unroll 2
                for (int v = 0; v < n_vectors; v++) {
                    const float *here = tap + 16 * v;
#ifdef LOOKUP
                    sums[t * n_vectors + v] += LOOKUP(table, (bs_ints)bs_read16(here));
#else
                    const float *next = here + wide * c;
                    bs_lanes sum = FMA(bs_read16(here + c), b, bs_read16(here) * a);
                    sum = FMA(bs_read16(next), d, sum);
                    sums[t * n_vectors + v] += FMA(bs_read16(next + c), e, sum);
#endif
                }
            }
        }
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vectors; v++) {
            float *place = to + (out * 9 + t) * c + channel + 16 * v;
            bs_write16(place, bs_read16(place) + sums[t * n_vectors + v]);
        }
}

/* `image` is what LOOKUP reads, squares, or else the image itself. */
STAGE void bs_weights_by_squares(const bs_stage *s, const float *image, const float *g, float *to)
{
    const int64_t c = bs_up16(s->channels), row = 2 * (s->width + 2 * s->padding_w) * c;
    const int64_t strip = 2 * (row < BS_NEAR / 2 ? BS_NEAR / row : 1);
    for (int64_t y = 0; y < s->rows; y += strip) {
        int64_t end = y + strip < s->rows ? y + strip : s->rows;
        int64_t channel = 0;
        for (; channel + 32 <= c; channel += 32)
            for (int64_t out = 0; out < s->n_out; out++)
                bs_weight_squares(s, image, g, y, end, out, channel, to, 2);
        for (; channel < c; channel += 16)
            for (int64_t out = 0; out < s->n_out; out++)
                bs_weight_squares(s, image, g, y, end, out, channel, to, 1);
    }
}

/* Signs of the weights of four output channels: (channels / 16, n_out / 4, taps, 16). */
STAGE void bs_make_fours(const bs_stage *s, float *fours)
{
#ifdef LOOKUP
    int64_t n = s->n_out, n_fours = (n + 3) / 4, row = 9 * 16;
    bs_lanes none = bs_splat(0.0f);
    for (int64_t v = 0; v < bs_up16(s->channels) / 16; v++)
        for (int64_t f = 0; f < n_fours; f++)
            for (int64_t t = 0; t < 9; t++) {
                const float *at = s->weights + (v * n + 4 * f) * row + t * 16;
                int64_t left = n - 4 * f;
                bs_ints four = bs_nibbles(bs_read16(at), left > 1 ? bs_read16(at + row) : none,
                                          left > 2 ? bs_read16(at + 2 * row) : none,
                                          left > 3 ? bs_read16(at + 3 * row) : none);
                bs_write16(fours + ((v * n_fours + f) * 9 + t) * 16, (bs_lanes)four);
            }
#else
    (void)s, (void)fours;
#endif
}

/* One position, 16 or 32 channels: the gradients of all output channels times their weights. */
STAGE void bs_image_fours(const bs_stage *s, const float *fours, const float *g, int64_t vector,
                          float *to, const int n_vectors)
{
    const int64_t c = bs_up16(s->channels), row = (s->width + 2 * s->padding_w) * c;
    const int64_t n = s->n_out, n_fours = (n + 3) / 4;
    bs_lanes sums[18];
#pragma GCC unroll 18
    for (int k = 0; k < 9 * n_vectors; k++) sums[k] = bs_splat(0.0f);
    for (int64_t f = 0; f < n_fours; f++, g += 4) {
#ifdef LOOKUP
        const float *at = fours + (vector * n_fours + f) * 9 * 16;
        bs_lanes table = bs_table(g[0], g[1], g[2], g[3]);
#pragma GCC unroll 9
        for (int t = 0; t < 9; t++)
#pragma GCC unroll 2
            for (int v = 0; v < n_vectors; v++) {
                const float *four = at + (v * n_fours * 9 + t) * 16;
                sums[t * n_vectors + v] += LOOKUP(table, (bs_ints)bs_read16(four));
            }
#else
        (void)fours;
        int64_t left = n - 4 * f, second = left > 1, third = left > 2, fourth = left > 3;
        bs_lanes a = bs_splat(g[0]), b = bs_splat(g[1]), d = bs_splat(g[2]), e = bs_splat(g[3]);
#pragma GCC unroll 9
        for (int t = 0; t < 9; t++)
#pragma GCC unroll 2
            for (int v = 0; v < n_vectors; v++) {
                const float *at = s->weights + ((vector + v) * n + 4 * f) * 144 + t * 16;
                bs_lanes sum = FMA(bs_read16(at + second * 144), b, bs_read16(at) * a);
                sum = FMA(bs_read16(at + 2 * third * 144), d, sum);
                sums[t * n_vectors + v] += FMA(bs_read16(at + 3 * fourth * 144), e, sum);
            }
#endif
    }
#pragma GCC unroll 9
    for (int t = 0; t < 9; t++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vectors; v++) {
            float *place = to + t / 3 * row + t % 3 * c + 16 * v;
            bs_write16(place, bs_read16(place) + sums[t * n_vectors + v]);
        }
}

/* g has rows of up16(n_out), zero behind n_out. */
STAGE void bs_image_by_fours(const bs_stage *s, const float *fours, const float *g, float *to)
{
    const int64_t c = bs_up16(s->channels), n = bs_up16(s->n_out);
    const int64_t wide = s->width + 2 * s->padding_w;
    bs_zero(to, bs_stage_room(s, c));
    int64_t vector = 0;
    for (; vector + 2 <= c / 16; vector += 2)
        for (int64_t p = 0; p < s->rows * s->columns; p++)
            bs_image_fours(s, fours, g + p * n, vector,
                           to + (p / s->columns * wide + p % s->columns) * c + 16 * vector, 2);
    for (; vector < c / 16; vector++)
        for (int64_t p = 0; p < s->rows * s->columns; p++)
            bs_image_fours(s, fours, g + p * n, vector,
                           to + (p / s->columns * wide + p % s->columns) * c + 16 * vector, 1);
}

#endif
