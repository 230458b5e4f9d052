/* Depthwise convolution of bits: one channel in, one out, so there is no sum inside a word.
 *
 * The sums of 32 channels are counted side by side, bit-sliced: word p of a counter holds bit p of
 * all 32 counts, and adding a word of bits is a chain of half adders. The threshold is compared in
 * the same form, so a bit that is written costs about three operations per tap and 32 channels.
 *
 * The counter holds u = K - sum = 2 * (taps that differ) + (taps that are zero, border 0), at most
 * 2 K < 2^32. (sum >= t) is u < K - t + 1. */
#include "conv_strip.h"

#if BS_X86
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));

typedef struct {
    const bs_conv *conv;
    int32_t n_words, n_padded; /* of a pixel, and rounded up to 8 */
    int32_t n_taps, n_planes;
    const uint32_t *end; /* of the data */
    uint32_t *weights; /* [tap][n_padded] */
    uint32_t *limits;  /* [plane][n_padded]: K - t + 1 */
    uint32_t *flips;   /* [n_padded] */
} depthwise;

BS_RARE void load_last(const uint32_t *from, int32_t n, uint32_t *to)
{
    for (int32_t i = 0; i < LANES; i++) to[i] = i < n ? from[i] : 0;
}

/* LANES words of a pixel. Behind its last there is anything: those lanes are never written out. */
BS_INLINE void load(const depthwise *d, const uint32_t *pixel, int32_t word, words *to)
{
    const uint32_t *from = pixel + word;
    if (from + LANES <= d->end) *to = *(const words *)from;
    else load_last(from, d->n_words - word, (uint32_t *)to);
}

/* u += 2 * (a + b). */
BS_INLINE void add_pair(words *u, const words *a, const words *b, int32_t n_planes)
{
    words half = *a ^ *b, carry = (*a & *b) | (half & u[1]);
    u[1] ^= half;
    for (int32_t p = 2; p < n_planes; p++) {
        words next = u[p] & carry;
        u[p] ^= carry;
        carry = next;
    }
}

/* u of LANES words of channels at one position. */
BS_INLINE void count(const depthwise *d, int32_t top, int32_t left, int32_t word, words *u,
                     int32_t n_planes)
{
    const bs_conv *conv = d->conv;
    const words none = {0};
    words kept = none;
    int is_kept = 0;
    uint32_t n_zeros = 0;
    for (int32_t p = 0; p < n_planes; p++) u[p] = none;
    for (int32_t tap = 0, i = 0; i < conv->kernel[0]; i++) {
        for (int32_t j = 0; j < conv->kernel[1]; j++, tap++) {
            int32_t y = top + i, x = left + j;
            words bits = none;
            if (y >= 0 && y < conv->size[0] && x >= 0 && x < conv->size[1]) {
                int64_t pixel = (int64_t)y * conv->size[1] + x;
                load(d, (const uint32_t *)conv->data + pixel * d->n_words, word, &bits);
            } else if (conv->border == 0) {
                n_zeros++;
                continue;
            }
            bits ^= *(const words *)(d->weights + (int64_t)tap * d->n_padded + word);
            if (is_kept) add_pair(u, &kept, &bits, n_planes);
            kept = bits;
            is_kept = !is_kept;
        }
    }
    if (is_kept) add_pair(u, &kept, &none, n_planes);
    words carry = none; /* + n_zeros, the same in every channel */
    for (int32_t p = 0; n_zeros && p < n_planes; p++) {
        words bit = none - (n_zeros >> p & 1), sum = u[p] ^ bit;
        words next = (u[p] & bit) | (sum & carry);
        u[p] = sum ^ carry;
        carry = next;
    }
}

/* Where u < limit, for LANES words of channels. */
BS_INLINE void compare(const depthwise *d, const words *u, int32_t word, words *below,
                       int32_t n_planes)
{
    *below = (words){0};
    for (int32_t p = 0; p < n_planes; p++) {
        words limit = *(const words *)(d->limits + (int64_t)p * d->n_padded + word);
        words differs = u[p] ^ limit;
        *below = (differs & limit) | (~differs & *below);
    }
}

/* out = max(out, K - u), or K - u for the first position of a window. */
BS_RARE void expand(const depthwise *d, const words *u, int32_t word, int32_t *out, int is_first)
{
    const uint32_t *planes = (const uint32_t *)u;
    for (int32_t lane = 0; lane < LANES && word + lane < d->n_words; lane++) {
        int32_t channel = 32 * (word + lane), rest = d->conv->n_out - channel;
        uint32_t sums[32];
        for (uint32_t c = 0; c < 32; c++) sums[c] = (uint32_t)d->n_taps;
        for (int32_t p = 0; p < d->n_planes; p++) {
            uint32_t plane = planes[p * LANES + lane];
            for (uint32_t c = 0; c < 32; c++) sums[c] -= (plane >> c & 1) << p;
        }
        for (int32_t c = 0; c < 32 && c < rest; c++) {
            int32_t sum = (int32_t)sums[c], old = out[channel + c];
            out[channel + c] = is_first || sum > old ? sum : old;
        }
    }
}

/* All channels of the output pixel (y, x). */
BS_INLINE void run_pixel(const depthwise *d, int32_t y, int32_t x, int32_t n_planes)
{
    const bs_conv *conv = d->conv;
    int64_t pixel = (int64_t)y * conv->out_size[1] + x;
    words u[BS_PLANES];
    for (int32_t word = 0; word < d->n_words; word += LANES) {
        words any = {0}, below;
        int32_t *sums = (int32_t *)conv->out + pixel * conv->n_out;
        for (int32_t i = 0; i < conv->pool[0]; i++) {
            for (int32_t j = 0; j < conv->pool[1]; j++) {
                int32_t top = (y * conv->pool[0] + i) * conv->stride[0] - conv->padding[0];
                int32_t left = (x * conv->pool[1] + j) * conv->stride[1] - conv->padding[1];
                count(d, top, left, word, u, n_planes);
                if (!conv->threshold) {
                    expand(d, u, word, sums, i == 0 && j == 0);
                    continue;
                }
                compare(d, u, word, &below, n_planes);
                any |= below; /* the largest sum reaches t if any does */
            }
        }
        if (!conv->threshold) continue;
        any ^= *(const words *)(d->flips + word);
        uint32_t *out = (uint32_t *)conv->out + pixel * d->n_words + word;
        for (int32_t i = 0; i < LANES && word + i < d->n_words; i++) out[i] = any[i];
    }
    if (conv->threshold || !conv->bias) return;
    int32_t *out = (int32_t *)conv->out + pixel * conv->n_out;
    for (int32_t c = 0; c < conv->n_out; c++) out[c] += conv->bias[c];
}

BS_INLINE void run(const depthwise *d, int32_t n_planes)
{
    for (int32_t y = 0; y < d->conv->out_size[0]; y++)
        for (int32_t x = 0; x < d->conv->out_size[1]; x++) run_pixel(d, y, x, n_planes);
}

/* Weights and limits as words of 32 channels; the rest of the last words is zero. */
BS_RARE void slice(const depthwise *d)
{
    const bs_conv *conv = d->conv;
    const uint32_t *taps = conv->weights; /* one word each, of which bit 0 counts */
    for (int64_t i = 0; i < (int64_t)d->n_padded * (d->n_taps + d->n_planes + 1); i++)
        d->weights[i] = 0;
    for (int32_t c = 0; c < conv->n_out; c++, taps += d->n_taps) {
        uint32_t *word = d->weights + c / 32;
        for (int32_t tap = 0; tap < d->n_taps; tap++, word += d->n_padded)
            *word |= (taps[tap] & 1) << c % 32;
    }
    for (int32_t c = 0; conv->threshold && c < conv->n_out; c++) {
        int64_t limit = (int64_t)d->n_taps - conv->threshold[c] + 1;
        if (conv->bias) limit += conv->bias[c];
        if (limit < 0) limit = 0;
        if (limit > 2 * (int64_t)d->n_taps + 1) limit = 2 * (int64_t)d->n_taps + 1;
        uint32_t *word = d->limits + c / 32;
        for (int32_t p = 0; p < d->n_planes; p++, word += d->n_padded)
            *word |= (uint32_t)(limit >> p & 1) << c % 32;
        d->flips[c / 32] |= (uint32_t)conv->threshold[conv->n_out + c] << c % 32;
    }
}

/* Any kernel. */
BS_RARE void run_any(const depthwise *d)
{
    run(d, d->n_planes);
}

#if BS_X86
/* 3x3: the counter stays in registers. */
BS_TARGET_AVX2 static void run_3x3_avx2(const depthwise *d)
{
    run(d, 5);
}
#endif

void bs_conv_depthwise(const bs_conv *conv)
{
    depthwise d;
    d.conv = conv;
    d.n_words = (conv->channels + 31) / 32;
    d.end = (const uint32_t *)conv->data +
            (int64_t)conv->size[0] * conv->size[1] * d.n_words;
    d.n_padded = (d.n_words + 7) / 8 * 8;
    d.n_taps = conv->kernel[0] * conv->kernel[1];
    d.n_planes = 0;
    while ((2 * (uint64_t)d.n_taps + 1) >> d.n_planes) d.n_planes++;
    d.weights = conv->scratch;
    d.limits = d.weights + (int64_t)d.n_taps * d.n_padded;
    d.flips = d.limits + (int64_t)d.n_planes * d.n_padded;
    slice(&d);
#if BS_X86
    if (d.n_planes == 5 && (conv->backend == BS_AVX2 || conv->backend == BS_AVX512)) {
        run_3x3_avx2(&d);
        return;
    }
#elif BS_ARM
    if (d.n_planes == 5) {
        run(&d, 5);
        return;
    }
#endif
    run_any(&d);
}
