/* Scale, residual add, threshold, pools, table, concatenation, slice and product.
 *
 * Plain loops over the channels of a pixel, which the compiler turns into vectors; only the scale,
 * whose products have 64 bits, is compiled again for the wider vectors of x86. What could overflow
 * was excluded by rules.c. Pointers are not restrict: a loop that may overlap becomes no memcpy,
 * which is not there. */
#include "elementwise.h"

#include "format.h"
#include "threshold.h"

enum { SUM, LARGEST, ANY_BIT }; /* how the values of a window come together */
enum { CHUNK = 256 };           /* channels that are widened at a time; whole words of bits */

/* Out of line: half the size of the library's part, at the same speed. */
#define APART static __attribute__((noinline))

BS_INLINE int32_t n_bit_words(int32_t n)
{
    return (n + 31) / 32;
}

/* Values [first, first + n) of a pixel as int32; first is a multiple of 32. */
static void widen(int32_t *to, const bs_elementwise *e, int64_t pixel, int32_t first, int32_t n)
{
    int64_t at = pixel * e->channels + first;
    const uint8_t *u8 = (const uint8_t *)e->data + at;
    const int8_t *i8 = (const int8_t *)e->data + at;
    const int32_t *i32 = (const int32_t *)e->data + at;
    const uint32_t *bits = (const uint32_t *)e->data + pixel * n_bit_words(e->channels) + first / 32;
    if (e->dtype == BS_U8)
        for (int32_t c = 0; c < n; c++) to[c] = u8[c];
    if (e->dtype == BS_I8)
        for (int32_t c = 0; c < n; c++) to[c] = i8[c];
    if (e->dtype == BS_I32)
        for (int32_t c = 0; c < n; c++) to[c] = i32[c];
    if (e->dtype == BS_BITS)
        for (int32_t c = 0; c < n; c++) to[c] = (int32_t)(bits[c / 32] >> c % 32 & 1) * 2 - 1;
}

/* Takes one pixel of n values into `to`. */
APART void take(int32_t *to, const int32_t *from, int32_t n, int is_first, int how)
{
    if (is_first) {
        for (int32_t c = 0; c < n; c++) to[c] = from[c];
    } else if (how == SUM) {
        for (int32_t c = 0; c < n; c++) to[c] += from[c];
    } else if (how == LARGEST) {
        for (int32_t c = 0; c < n; c++) to[c] = to[c] > from[c] ? to[c] : from[c];
    } else {
        for (int32_t c = 0; c < n; c++) to[c] |= from[c];
    }
}

/* One window that begins at (top, left); what is outside does not count. Every window has a pixel
 * inside, because padding is smaller than the window. */
APART void take_window(const bs_elementwise *e, int32_t *to, int32_t top, int32_t left,
                           int how)
{
    int32_t bottom = e->size[0] - top < e->window[0] ? e->size[0] : top + e->window[0];
    int32_t right = e->size[1] - left < e->window[1] ? e->size[1] : left + e->window[1];
    int32_t first_y = top < 0 ? 0 : top, first_x = left < 0 ? 0 : left;
    int32_t chunk[CHUNK];
    for (int32_t y = first_y; y < bottom; y++) {
        for (int32_t x = first_x; x < right; x++) {
            int64_t pixel = (int64_t)y * e->size[1] + x;
            int is_first = y == first_y && x == first_x;
            if (how == ANY_BIT) {
                int32_t n = n_bit_words(e->channels);
                take(to, (const int32_t *)e->data + pixel * n, n, is_first, how);
            } else if (e->dtype == BS_I32) {
                const int32_t *from = (const int32_t *)e->data + pixel * e->channels;
                take(to, from, e->channels, is_first, how);
            } else {
                for (int32_t c = 0; c < e->channels; c += CHUNK) {
                    int32_t n = e->channels - c < CHUNK ? e->channels - c : CHUNK;
                    widen(chunk, e, pixel, c, n);
                    take(to + c, chunk, n, is_first, how);
                }
            }
        }
    }
}

/* y = (x m + b + 2^(s-1)) >> s for one pixel, in place. */
BS_INLINE void scale_pixel(const bs_elementwise *e, int32_t *x)
{
    int32_t n = e->channels, shift = e->shift;
    int64_t half = (int64_t)1 << (shift - 1);
    const int32_t *m = e->per_channel;
    const int64_t *b = e->bias;
    if (!e->has_knee) {
        for (int32_t c = 0; c < n; c++)
            x[c] = (int32_t)(((int64_t)x[c] * m[c] + b[c] + half) >> shift);
        return;
    }
    const int32_t *m_below = m + n, *knee = m_below + n;
    const int64_t *b_below = b + n;
    for (int32_t c = 0; c < n; c++) { /* masks, because a choice between loads is no vector */
        int32_t above = -(x[c] >= knee[c]);
        int32_t factor = (m[c] & above) | (m_below[c] & ~above);
        int64_t offset = (b[c] & (int64_t)above) | (b_below[c] & ~(int64_t)above);
        x[c] = (int32_t)(((int64_t)x[c] * factor + offset + half) >> shift);
    }
}

#if BS_X86
BS_TARGET_AVX512 static void scale_avx512(const bs_elementwise *e, int32_t *x)
{
    scale_pixel(e, x);
}

BS_TARGET_AVX2 static void scale_avx2(const bs_elementwise *e, int32_t *x)
{
    scale_pixel(e, x);
}
#endif

static void scale(uint32_t backend, const bs_elementwise *e, int32_t *x)
{
#if BS_X86
    if (backend == BS_AVX512) {
        scale_avx512(e, x);
        return;
    }
    if (backend == BS_AVX2) {
        scale_avx2(e, x);
        return;
    }
#endif
    (void)backend;
    scale_pixel(e, x);
}

static void run_windows(uint32_t backend, const bs_elementwise *e, int how)
{
    int32_t n = how == ANY_BIT ? n_bit_words(e->channels) : e->channels;
    int32_t *to = e->out;
    for (int32_t y = 0; y < e->out_size[0]; y++) {
        for (int32_t x = 0; x < e->out_size[1]; x++, to += n) {
            int32_t top = y * e->stride[0] - e->padding[0];
            take_window(e, to, top, x * e->stride[1] - e->padding[1], how);
            if (how == SUM) scale(backend, e, to);
        }
    }
}

static void run_threshold(uint32_t backend, const bs_elementwise *e)
{
    int64_t n_pixels = (int64_t)e->size[0] * e->size[1];
    const int32_t *level = e->per_channel, *flip = level + e->channels;
    uint32_t *to = e->out;
    int32_t chunk[CHUNK];
    for (int64_t pixel = 0; pixel < n_pixels; pixel++, to += n_bit_words(e->channels)) {
        for (int32_t c = 0; c < e->channels; c += CHUNK) {
            int32_t n = e->channels - c < CHUNK ? e->channels - c : CHUNK;
            const int32_t *from = (const int32_t *)e->data + pixel * e->channels + c;
            if (e->dtype != BS_I32) {
                widen(chunk, e, pixel, c, n);
                from = chunk;
            }
            bs_threshold(backend, from, level + c, flip + c, n, to + c / 32);
        }
    }
}

static void run_lookup(const bs_elementwise *e, int64_t n)
{
    const int32_t *x = e->data;
    int32_t half = e->n_table / 2;
    const uint16_t *table = e->weights;
    int32_t *to = e->out;
    for (int64_t i = 0; i < n; i++) {
        int32_t at = x[i] < -half ? -half : x[i] >= half ? half - 1 : x[i];
        to[i] = table[at + half];
    }
}

static void run_add(const bs_elementwise *e, int64_t n)
{
    const int32_t *x = e->data, *y = e->residual;
    int32_t *to = e->out;
    for (int64_t i = 0; i < n; i++) to[i] = x[i] + y[i];
}

static void run_multiply(const bs_elementwise *e, int64_t n)
{
    const int32_t *x = e->data, *y = e->residual;
    int64_t half = (int64_t)1 << (e->shift - 1);
    int32_t *to = e->out;
    for (int64_t i = 0; i < n; i++) to[i] = (int32_t)(((int64_t)x[i] * y[i] + half) >> e->shift);
}

static void run_concat(const bs_elementwise *e)
{
    int64_t n_pixels = (int64_t)e->size[0] * e->size[1];
    int32_t first = e->channels, second = e->n_out - first;
    const int32_t *x = e->data, *y = e->residual;
    int32_t *to = e->out;
    for (int64_t pixel = 0; pixel < n_pixels; pixel++, x += first, y += second, to += e->n_out) {
        take(to, x, first, 1, SUM);
        take(to + first, y, second, 1, SUM);
    }
}

/* Words of bits are copied like channels of int32: rules.c lets no word be cut. */
static void run_slice(const bs_elementwise *e)
{
    int is_bits = e->dtype == BS_BITS;
    int32_t per_pixel = is_bits ? n_bit_words(e->channels) : e->channels;
    int32_t n = is_bits ? n_bit_words(e->n_out) : e->n_out;
    int32_t first = is_bits ? e->start[2] / 32 : e->start[2];
    int32_t *to = e->out;
    for (int32_t y = 0; y < e->out_size[0]; y++) {
        for (int32_t x = 0; x < e->out_size[1]; x++, to += n) {
            int64_t pixel = (int64_t)(e->start[0] + y) * e->size[1] + e->start[1] + x;
            take(to, (const int32_t *)e->data + pixel * per_pixel + first, n, 1, SUM);
        }
    }
}

void bs_run_elementwise(uint32_t backend, const bs_elementwise *e)
{
    int64_t n = (int64_t)e->size[0] * e->size[1] * e->channels;
    if (e->opcode == BS_SCALE || e->opcode == BS_AVERAGE_POOL) run_windows(backend, e, SUM);
    if (e->opcode == BS_MAX_POOL)
        run_windows(backend, e, e->dtype == BS_BITS ? ANY_BIT : LARGEST);
    if (e->opcode == BS_THRESHOLD) run_threshold(backend, e);
    if (e->opcode == BS_LOOKUP) run_lookup(e, n);
    if (e->opcode == BS_ADD) run_add(e, n);
    if (e->opcode == BS_MULTIPLY) run_multiply(e, n);
    if (e->opcode == BS_CONCAT) run_concat(e);
    if (e->opcode == BS_SLICE) run_slice(e);
}
