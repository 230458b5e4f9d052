/* Convolution, pooling and threshold in one: which part computes it, and what comes after the sum.
 * No int32 image is ever stored. Integer results do not depend on the order of summation, so every
 * back end gives the same bits. */
#include "conv.h"

#include "threshold.h"

#if BS_X86
#include <immintrin.h>
#elif BS_ARM
#include "neon.h"
#endif

enum { COPY, LARGEST, ADD };
typedef int32_t lanes __attribute__((vector_size(16), aligned(4)));

/* to = from, max(to, from) or to + from. In vectors by hand, because compilers take four times the
 * room for the same loops. */
static __attribute__((noinline, cold)) void merge(int32_t *to, const int32_t *from, int32_t n,
                                                  int how)
{
    int32_t c = 0;
    for (; c + 4 <= n; c += 4) {
        lanes a = *(const lanes *)(to + c), b = *(const lanes *)(from + c), larger = a > b;
        if (how == ADD) b += a;
        if (how == LARGEST) b = (a & larger) | (b & ~larger);
        *(lanes *)(to + c) = b;
    }
    for (; c < n; c++) {
        int32_t a = to[c], b = from[c];
        to[c] = how == ADD ? a + b : how == LARGEST && a > b ? a : b;
    }
}

#if BS_X86
/* bs_threshold for n_rows rows `stride` apart, `words` apart in out: n <= 64 channels, whose
 * thresholds stay in registers. */
BS_TARGET_AVX512 static void threshold_avx512(const int32_t *acc, int64_t stride, int32_t n_rows,
                                              const int32_t *level, const int32_t *flip, int32_t n,
                                              uint32_t *out, int64_t words)
{
    __m512i at[4];
    uint64_t exists = ~(uint64_t)0 >> (64 - n), flips = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __mmask16 part = (__mmask16)(exists >> 16 * i);
        __m512i bits = _mm512_maskz_loadu_epi32(part, flip + 16 * i);
        at[i] = _mm512_maskz_loadu_epi32(part, level + 16 * i);
        flips |= (uint64_t)_mm512_test_epi32_mask(bits, bits) << 16 * i;
    }
    for (int32_t row = 0; row < n_rows; row++, acc += stride, out += words) {
        __mmask16 above[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) /* the row is 64 values long whatever n is */
            above[i] = _mm512_cmpge_epi32_mask(_mm512_loadu_si512(acc + 16 * i), at[i]);
        uint32_t low = _mm512_kunpackw(above[1], above[0]);
        uint32_t high = _mm512_kunpackw(above[3], above[2]);
        out[0] = (low ^ (uint32_t)flips) & (uint32_t)exists;
        if (n > 32) out[1] = (high ^ (uint32_t)(flips >> 32)) & (uint32_t)(exists >> 32);
    }
}
#elif BS_ARM
/* bs_threshold for whole words of 32 channels, with their thresholds in registers. */
static void threshold_neon(const int32_t *acc, int64_t stride, int32_t n_rows,
                           const int32_t *level, const int32_t *flip, uint32_t *out, int64_t words)
{
    int32x4_t at[8];
    uint32_t flips = 0;
    for (int32_t i = 0; i < 32; i++) flips |= (uint32_t)flip[i] << i;
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) at[i] = vld1q_s32(level + 4 * i);
    for (int32_t row = 0; row < n_rows; row++, acc += stride, out += words) {
        uint32x4_t above[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) above[i] = vcgeq_s32(vld1q_s32(acc + 4 * i), at[i]);
        *out = bs_word_of_masks(bs_low_bytes(above), bs_low_bytes(above + 4)) ^ flips;
    }
}
#endif

/* Bits of n_pixels rows of accumulators. */
static void set_bits(const bs_conv *conv, const int32_t *acc, int64_t stride, int32_t n_pixels,
                     int32_t channel, int32_t n, uint32_t *out)
{
    const int32_t *level = conv->threshold + channel, *flip = level + conv->n_out;
    int64_t n_words = (conv->n_out + 31) / 32;
#if BS_X86
    if (conv->backend == BS_AVX512) {
        for (int32_t c = 0; c < n; c += 64)
            threshold_avx512(acc + c, stride, n_pixels, level + c, flip + c,
                             n - c < 64 ? n - c : 64, out + c / 32, n_words);
        return;
    }
#elif BS_ARM
    for (; n >= 32 && conv->backend != BS_PORTABLE; n -= 32, acc += 32, level += 32, flip += 32)
        threshold_neon(acc, stride, n_pixels, level, flip, out++, n_words);
    if (n == 0) return;
#endif
    for (int32_t i = 0; i < n_pixels; i++, acc += stride, out += n_words)
        bs_threshold(conv->backend, acc, level, flip, n, out);
}

void bs_conv_finish(const bs_conv *conv, int32_t *acc, int64_t stride, int64_t first_pixel,
                    int32_t n_pixels, int32_t channel, int32_t n)
{
    int32_t window = conv->pool[0] * conv->pool[1];
    int64_t step = window * stride;
    for (int32_t i = 0; i < n_pixels && (window > 1 || conv->bias); i++) {
        int32_t *sums = acc + i * step;
        for (int32_t j = 1; j < window; j++) merge(sums, sums + j * stride, n, LARGEST);
        if (conv->bias) merge(sums, conv->bias + channel, n, ADD);
    }
    if (conv->threshold) {
        uint32_t *out = (uint32_t *)conv->out + channel / 32;
        set_bits(conv, acc, step, n_pixels, channel, n,
                 out + first_pixel * ((conv->n_out + 31) / 32));
        return;
    }
    int32_t *out = (int32_t *)conv->out + first_pixel * conv->n_out + channel;
    for (int32_t i = 0; i < n_pixels; i++, acc += step, out += conv->n_out)
        merge(out, acc, n, COPY);
}

void bs_convolve(const bs_conv *conv)
{
    if (bs_is_depthwise(conv)) bs_conv_depthwise(conv);
    else if (conv->kind == BS_B1_B1) bs_conv_b1(conv);
    else bs_conv_i8(conv);
}
