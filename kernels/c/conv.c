/* The three convolutions, each with pooling and threshold fused in.
 *
 * For every output pixel the patches of its pooling window are gathered, contiguous and in the
 * order of the weights, so that the inner loop runs over two linear arrays. The rows of weights
 * are then streamed once: accumulate, keep the largest of the window, compare, set a bit. No
 * int32 image is ever stored. Integer results do not depend on the order of summation, so every
 * variant of an inner loop gives the same bits. */
#include "conv.h"

#include "cpu.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* What an inner loop multiplies; always a compile-time constant. */
typedef enum { KIND_U8, KIND_B1, KIND_B1_POPCNT, KIND_B1_I8 } kind;

/* Number of ones, with adds inside the word (Hacker's Delight, section 5-1). */
INLINE uint32_t popcount_portable(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (uint32_t)(x * 0x0101010101010101u >> 56);
}

INLINE uint32_t popcount(uint64_t x, kind k)
{
#if defined(__aarch64__) || defined(__POPCNT__) || BS_X86_DISPATCH
    if (k == KIND_B1_POPCNT) return (uint32_t)__builtin_popcountll(x);
#endif
    (void)k;
    return popcount_portable(x);
}

INLINE uint64_t load_pair(const uint32_t *words)
{
    return words[0] | (uint64_t)words[1] << 32;
}

/* popc(a ^ b) over n words. */
INLINE int32_t mismatches(const uint32_t *a, const uint32_t *b, int32_t n, kind k)
{
    int32_t i = 0;
    uint32_t sum = 0;
#if defined(__aarch64__)
    while (n - i >= 4) {
        uint8x16_t counts_u8x16 = vdupq_n_u8(0);
        /* 31 * 8 <= 255: a byte lane cannot overflow. */
        int32_t end = n - i > 4 * 31 ? i + 4 * 31 : i + (n - i) / 4 * 4;
        for (; i < end; i += 4) {
            uint32x4_t differs = veorq_u32(vld1q_u32(a + i), vld1q_u32(b + i));
            counts_u8x16 = vaddq_u8(counts_u8x16, vcntq_u8(vreinterpretq_u8_u32(differs)));
        }
        sum += vaddlvq_u8(counts_u8x16);
    }
#endif
    for (; i + 2 <= n; i += 2) sum += popcount(load_pair(a + i) ^ load_pair(b + i), k);
    if (i < n) sum += popcount(a[i] ^ b[i], k);
    return (int32_t)sum;
}

INLINE int32_t dot_i16_i8(const int16_t *a, const int8_t *b, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* n elements of a patch that lie outside the image: 0 for uint8, -1 (a zero bit) for bits. */
INLINE void fill(void *patch, int32_t at, int32_t n, kind k)
{
    if (k == KIND_B1 || k == KIND_B1_POPCNT) {
        uint32_t *to = (uint32_t *)patch + at;
        for (int32_t i = 0; i < n; i++) to[i] = 0;
    } else {
        int16_t *to = (int16_t *)patch + at;
        for (int32_t i = 0; i < n; i++) to[i] = k == KIND_U8 ? 0 : -1;
    }
}

/* n_pixels neighbouring pixels of the data, as words or widened to int16. */
INLINE void copy(const bs_conv *conv, void *patch, int32_t at, int32_t pixel, int32_t n_pixels,
                 kind k)
{
    int32_t n = n_pixels * conv->n_pixel;
    if (k == KIND_B1 || k == KIND_B1_POPCNT) {
        const uint32_t *from = (const uint32_t *)conv->data + pixel * conv->n_pixel;
        uint32_t *to = (uint32_t *)patch + at;
        for (int32_t i = 0; i < n; i++) to[i] = from[i];
    } else if (k == KIND_U8) {
        const uint8_t *from = (const uint8_t *)conv->data + pixel * conv->n_pixel;
        int16_t *to = (int16_t *)patch + at;
        for (int32_t i = 0; i < n; i++) to[i] = from[i];
    } else {
        int32_t n_words = (conv->channels + 31) / 32;
        const uint32_t *from = (const uint32_t *)conv->data + pixel * n_words;
        int16_t *to = (int16_t *)patch + at;
        for (int32_t p = 0; p < n_pixels; p++, from += n_words)
            for (int32_t c = 0; c < conv->channels; c++)
                *to++ = (int16_t)((int32_t)(from[c / 32] >> c % 32 & 1) * 2 - 1);
    }
}

/* The patch of one position of the convolution, row by row of the kernel. */
INLINE void gather(const bs_conv *conv, int32_t y, int32_t x, void *patch, kind k)
{
    int32_t height = conv->size[0], width = conv->size[1], kernel_w = conv->kernel[1];
    int32_t n = conv->n_pixel;
    int32_t top = y * conv->stride[0] - conv->padding[0];
    int32_t left = x * conv->stride[1] - conv->padding[1];
    int32_t begin = left < 0 ? -left : 0; /* taps [begin, end) of a row are inside */
    int32_t end = kernel_w < width - left ? kernel_w : width - left;
    for (int32_t row = 0, at = 0; row < conv->kernel[0]; row++, at += kernel_w * n) {
        int32_t source = top + row;
        if (source < 0 || source >= height) {
            fill(patch, at, kernel_w * n, k);
            continue;
        }
        fill(patch, at, begin * n, k);
        copy(conv, patch, at + begin * n, source * width + left + begin, end - begin, k);
        fill(patch, at + end * n, (kernel_w - end) * n, k);
    }
}

/* The largest accumulator of the pooling window for output channel c. */
INLINE int32_t accumulate(const bs_conv *conv, int32_t c, int32_t n_patches, kind k)
{
    int32_t n = conv->n_patch;
    int32_t best = INT32_MIN;
    if (k == KIND_B1 || k == KIND_B1_POPCNT) {
        const uint32_t *row = (const uint32_t *)conv->weights + (int64_t)c * n;
        const uint32_t *patch = conv->patches;
        int32_t n_bits = conv->kernel[0] * conv->kernel[1] * conv->channels;
        for (int32_t i = 0; i < n_patches; i++, patch += n) {
            int32_t sum = n_bits - 2 * mismatches(patch, row, n, k);
            best = sum > best ? sum : best;
        }
    } else {
        const int8_t *row = (const int8_t *)conv->weights + (int64_t)c * n;
        const int16_t *patch = conv->patches;
        for (int32_t i = 0; i < n_patches; i++, patch += n) {
            int32_t sum = dot_i16_i8(patch, row, n);
            best = sum > best ? sum : best;
        }
    }
    return conv->bias ? best + conv->bias[c] : best;
}

/* All channels of one output pixel, as bits or as integers. */
INLINE void emit(const bs_conv *conv, int32_t pixel, int32_t n_patches, kind k)
{
    int32_t n_out = conv->n_out;
    if (!conv->threshold) {
        int32_t *out = (int32_t *)conv->out + (int64_t)pixel * n_out;
        for (int32_t c = 0; c < n_out; c++) out[c] = accumulate(conv, c, n_patches, k);
        return;
    }
    const int32_t *level = conv->threshold, *flip = conv->threshold + n_out;
    uint32_t *out = (uint32_t *)conv->out + (int64_t)pixel * ((n_out + 31) / 32);
    for (int32_t c = 0; c < n_out;) {
        uint32_t word = 0; /* bits past the last channel stay zero */
        do {
            uint32_t bit = (accumulate(conv, c, n_patches, k) >= level[c]) ^ (uint32_t)flip[c];
            word |= bit << c % 32;
        } while (++c < n_out && c % 32 != 0);
        *out++ = word;
    }
}

INLINE void run(const bs_conv *conv, kind k)
{
    int32_t pool_h = conv->pool[0], pool_w = conv->pool[1];
    int32_t item = k == KIND_B1 || k == KIND_B1_POPCNT ? 4 : 2;
    for (int32_t y = 0; y < conv->out_size[0]; y++) {
        for (int32_t x = 0; x < conv->out_size[1]; x++) {
            uint8_t *patch = conv->patches;
            for (int32_t i = 0; i < pool_h; i++)
                for (int32_t j = 0; j < pool_w; j++, patch += conv->n_patch * item)
                    gather(conv, y * pool_h + i, x * pool_w + j, patch, k);
            emit(conv, y * conv->out_size[1] + x, pool_h * pool_w, k);
        }
    }
}

void bs_conv_u8(const bs_conv *conv)
{
    run(conv, KIND_U8);
}

void bs_conv_b1_i8(const bs_conv *conv)
{
    run(conv, KIND_B1_I8);
}

#if BS_X86_DISPATCH
/* The same loops with the POPCNT instruction; only called where the processor has it. */
__attribute__((target("popcnt"))) static void conv_b1_popcnt(const bs_conv *conv)
{
    run(conv, KIND_B1_POPCNT);
}
#endif

void bs_conv_b1(const bs_conv *conv, uint32_t cpu_features)
{
#if BS_X86_DISPATCH
    if (cpu_features & BS_CPU_POPCNT) {
        conv_b1_popcnt(conv);
        return;
    }
    run(conv, KIND_B1);
#elif defined(__aarch64__)
    (void)cpu_features;
    run(conv, KIND_B1_POPCNT);
#else
    (void)cpu_features;
    run(conv, KIND_B1);
#endif
}
