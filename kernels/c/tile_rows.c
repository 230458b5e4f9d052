/* The tile on canonical rows of weights, which every back end has to read; the slow way. */
#include "tile_rows.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Number of ones, with adds inside the word (Hacker's Delight, section 5-1). */
BS_INLINE uint32_t popcount_portable(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (uint32_t)(x * 0x0101010101010101u >> 56);
}

/* has_popcount is a compile-time constant. */
BS_INLINE uint32_t popcount(uint64_t x, int has_popcount)
{
    return has_popcount ? (uint32_t)__builtin_popcountll(x) : popcount_portable(x);
}

BS_INLINE uint64_t load_pair(const uint32_t *words)
{
    return words[0] | (uint64_t)words[1] << 32;
}

/* popc(a ^ b) over n words. */
BS_INLINE uint32_t mismatches(const uint32_t *a, const uint32_t *b, int32_t n, int has_popcount)
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
    for (; i + 2 <= n; i += 2) sum += popcount(load_pair(a + i) ^ load_pair(b + i), has_popcount);
    if (i < n) sum += popcount(a[i] ^ b[i], has_popcount);
    return sum;
}

BS_INLINE void run(const bs_tile *tile, int32_t n_columns, int has_popcount)
{
    int64_t n_words = (int64_t)tile->n_spans * tile->n_words;
    for (int32_t column = 0; column < n_columns; column++) {
        for (int32_t row = 0; row < tile->n_rows; row++) {
            const uint32_t *weights = tile->panels + column * n_words;
            uint32_t sum = 0;
            for (int32_t span = 0; span < tile->n_spans; span++, weights += tile->n_words)
                sum += mismatches(tile->rows[span * tile->n_rows + row], weights, tile->n_words,
                                  has_popcount);
            tile->out[row * tile->stride + column] = tile->n_bits - 2 * (int32_t)sum;
        }
    }
}

#if BS_X86
__attribute__((target("popcnt"))) static void run_popcnt(const bs_tile *tile, int32_t n_columns)
{
    run(tile, n_columns, 1);
}

/* For processors of before 2008: compiled for size. */
__attribute__((noinline, cold)) static void run_without(const bs_tile *tile, int32_t n_columns)
{
    run(tile, n_columns, 0);
}
#endif

void bs_tile_rows(uint32_t backend, const bs_tile *tile, int32_t n_columns)
{
#if BS_X86
    if (backend == BS_AVX2 || backend == BS_AVX512) run_popcnt(tile, n_columns);
    else run_without(tile, n_columns);
#elif defined(__aarch64__) || defined(__wasm__)
    (void)backend;
    run(tile, n_columns, 1);
#else
    (void)backend;
    run(tile, n_columns, 0);
#endif
}
