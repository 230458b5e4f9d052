/* The library face of the sampler, what its back ends share, and the portable one. */
#include "bitspin.h"
#include "sampler.h"

BS_API int64_t bsk_bernoulli(int64_t backend, const float *values, int64_t stride,
                             const uint32_t *rows, int64_t n_rows, int64_t n, int64_t seed_low,
                             int64_t seed_high, int64_t purpose, int64_t index, int64_t step,
                             int64_t kind, uint32_t *out);
BS_API int64_t bsk_sigmoid(int64_t backend, const float *x, int64_t n, float *out);

typedef void bs_draw(const bs_draws *draws, const bs_block *block);

BS_INLINE uint32_t bs_bit_portable(uint32_t word, float x, int32_t kind)
{
    union {
        float value;
        int32_t bits;
    } u, p;
    u.value = (float)(int32_t)(word >> 8);
    if (kind == BS_PROBABILITIES) {
        u.value *= BS_UNIFORM_STEP;
        p.value = x;
        return (u.bits < p.bits) & (p.bits <= BS_INFINITY_BITS);
    }
    float e = bs_exp_minus(x < BS_HIGHEST ? x : BS_HIGHEST);
    return (u.value * (e + 1.0f) < BS_UNIFORM_RANGE) & (x >= BS_LOWEST);
}

BS_INLINE uint32_t bs_unit_bits_portable(const uint32_t words[BS_UNIT], const float *values,
                                         int32_t kind)
{
    uint32_t on[BS_UNIT], bits = 0;
#pragma GCC unroll 8
    for (int j = 0; j < BS_UNIT; j++) on[j] = bs_bit_portable(words[j], values[j], kind);
#pragma GCC unroll 32
    for (int j = 0; j < BS_UNIT; j++) bits |= on[j] << j;
    return bits;
}

static void bs_draw_portable(const bs_draws *draws, const bs_block *block)
{
    const int64_t n_words = bs_draw_words(draws);
    for (int64_t word = block->word; word < block->word + block->count; word++) {
        const int64_t n_units = bs_units_of(block, word);
        for (int64_t i = block->begin; i < block->end; i++) {
            const float *values = draws->values + i * draws->stride + word * BS_UNIT;
            float padded[BS_UNIT];
            uint32_t words[BS_UNIT], bits;
            if (n_units < BS_UNIT) values = bs_pad(values, n_units, padded);
            bs_unit_portable(&draws->stream, bs_row_of(&draws->stream, draws->rows[i]),
                             (uint32_t)word, words);
            bits = draws->kind == BS_PROBABILITIES
                       ? bs_unit_bits_portable(words, values, BS_PROBABILITIES)
                       : bs_unit_bits_portable(words, values, BS_FIELDS);
            draws->out[i * n_words + word] = bits & bs_unit_mask(n_units);
        }
    }
}

static bs_draw *bs_choose_draw(int64_t backend)
{
#if BS_X86
    if (backend == BS_AVX512) return bs_draw_avx512;
    if (backend == BS_AVX2) return bs_draw_avx2;
#endif
#if BS_ARM
    if (backend == BS_NEON || backend == BS_DOTPROD) return bs_draw_neon;
#endif
    (void)backend;
    return bs_draw_portable;
}

/* Blocks of rows stay in the second-level cache while all their words are drawn. */
static void bs_draw_blocks(bs_draw *draw, const bs_draws *draws)
{
    const int64_t n_words = bs_draw_words(draws);
    for (int64_t begin = 0; begin < draws->n_rows; begin += BS_BLOCK_ROWS) {
        bs_block block = {begin, begin + BS_BLOCK_ROWS, 0, BS_BLOCK_WORDS, BS_UNIT};
        if (block.end > draws->n_rows) block.end = draws->n_rows;
        for (; block.word < n_words; block.word += block.count) {
            if (n_words - block.word <= BS_BLOCK_WORDS) {
                block.count = n_words - block.word;
                block.n_last = draws->n - (n_words - 1) * BS_UNIT;
            }
            draw(draws, &block);
        }
    }
}

/* Bits of n_rows x n units from values[i * stride + j], which are fields or probabilities. */
int64_t bsk_bernoulli(int64_t backend, const float *values, int64_t stride, const uint32_t *rows,
                      int64_t n_rows, int64_t n, int64_t seed_low, int64_t seed_high,
                      int64_t purpose, int64_t index, int64_t step, int64_t kind, uint32_t *out)
{
    bs_draws draws = {bs_stream_of((uint32_t)seed_low, (uint32_t)seed_high, (uint32_t)purpose,
                                   (uint32_t)index, (uint32_t)step),
                      values, stride, rows, n_rows, n, (int32_t)kind, out};
    bs_draw_blocks(bs_choose_draw(backend), &draws);
    return 0;
}

/* The compiler makes vectors of this; whatever their width, the operations are the same. */
BS_INLINE void bs_sigmoid(const float *x, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] < BS_SIGMOID_LIMIT ? x[i] : BS_SIGMOID_LIMIT;
        y = y > -BS_SIGMOID_LIMIT ? y : -BS_SIGMOID_LIMIT;
        float p = 1.0f / (bs_exp_minus(y) + 1.0f);
        out[i] = x[i] == x[i] ? p : x[i];
    }
}

#if BS_X86
BS_TARGET_AVX512 static void bs_sigmoid_avx512(const float *x, int64_t n, float *out)
{
    bs_sigmoid(x, n, out);
}

BS_TARGET_AVX2 static void bs_sigmoid_avx2(const float *x, int64_t n, float *out)
{
    bs_sigmoid(x, n, out);
}
#endif

int64_t bsk_sigmoid(int64_t backend, const float *x, int64_t n, float *out)
{
    switch (backend) {
#if BS_X86
    case BS_AVX512: bs_sigmoid_avx512(x, n, out); break;
    case BS_AVX2: bs_sigmoid_avx2(x, n, out); break;
#endif
    default: bs_sigmoid(x, n, out);
    }
    return 0;
}
