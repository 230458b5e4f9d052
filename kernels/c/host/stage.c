/* Stages of training for Python: which instruction set runs. */
#include "../cpu.h"

#define STAGE BS_INLINE
#define STAGE_CALL static
#define NAME(x) bs_stage_##x##_portable
#define FMA(a, b, c) ((a) * (b) + (c))
#define KEEP(bits, x) bs_keep(bits, x)
#include "shape.h"
#include "stage_calls.h"

#define ADDRESS(type, value) ((type *)(uintptr_t)(value))

#if BS_X86
#define DECLARE(set)                                                                              \
    void bs_stage_sums_bits_##set(const bs_stage *s, bs_conv *conv, int64_t begin, int64_t end);  \
    void bs_stage_sums_reals_##set(const bs_stage *s, int64_t begin, int64_t end);                \
    void bs_stage_gradients_bits_##set(const bs_stage *s, int64_t begin, int64_t end);            \
    void bs_stage_gradients_reals_##set(const bs_stage *s, int64_t begin, int64_t end);           \
    void bs_stage_moments_reals_##set(const bs_stage *s, int64_t begin, int64_t end);             \
    void bs_stage_normalise_reals_##set(const bs_stage *s, int64_t begin, int64_t end,            \
                                        float clip, float *out, uint32_t *words,                  \
                                        uint32_t *within);                                        \
    void bs_stage_products_reals_##set(const bs_stage *s, int64_t begin, int64_t end);            \
    void bs_stage_normalise_##set(const bs_stage *s, int64_t begin, int64_t end, float clip,      \
                                  float *out, uint32_t *words, uint32_t *within);                 \
    void bs_stage_totals_##set(const bs_stage *s, int64_t begin, int64_t end);
DECLARE(avx512)
DECLARE(avx2)
#define CHOOSE(call, ...)                                                                         \
    switch (backend) {                                                                            \
    case BS_AVX512: bs_stage_##call##_avx512(__VA_ARGS__); break;                                 \
    case BS_AVX2: bs_stage_##call##_avx2(__VA_ARGS__); break;                                     \
    default: bs_stage_##call##_portable(__VA_ARGS__);                                             \
    }
#else
#define CHOOSE(call, ...) (void)backend, bs_stage_##call##_portable(__VA_ARGS__);
#endif

BS_API int64_t bsk_stage_scratch(int64_t stage);
BS_API int64_t bsk_stage_sums_bits(int64_t backend, int64_t stage, int64_t shape, int64_t weights,
                                   int64_t scratch, int64_t image_sums, int64_t begin, int64_t end);
BS_API int64_t bsk_stage_sums_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end);
BS_API int64_t bsk_stage_gradients_bits(int64_t backend, int64_t stage, int64_t begin, int64_t end);
BS_API int64_t bsk_stage_gradients_reals(int64_t backend, int64_t stage, int64_t begin,
                                         int64_t end);
BS_API int64_t bsk_stage_moments_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end);
BS_API int64_t bsk_stage_normalise_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end,
                                         float clip, int64_t out, int64_t words, int64_t within);
BS_API int64_t bsk_stage_products_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end);
BS_API int64_t bsk_stage_normalise(int64_t backend, int64_t stage, int64_t begin, int64_t end,
                                   float clip, int64_t out, int64_t words, int64_t within);
BS_API int64_t bsk_stage_totals(int64_t backend, int64_t stage, int64_t begin, int64_t end);

/* Bytes of scratch memory of every call but the convolution of bits, which has its own too. */
int64_t bsk_stage_scratch(int64_t stage)
{
    return 4 * bs_stage_floats(ADDRESS(const bs_stage, stage)) + 64;
}

/* Convolutions of bits after pooling, of images [begin, end): `shape` as in conv.c, without pool;
 * image_sums is room for one image of sums. */
int64_t bsk_stage_sums_bits(int64_t backend, int64_t stage, int64_t shape, int64_t weights,
                            int64_t scratch, int64_t image_sums, int64_t begin, int64_t end)
{
    bs_conv conv = bs_describe_conv(backend, shape);
    conv.weights = ADDRESS(const void, weights);
    conv.scratch = ADDRESS(void, scratch);
    conv.out = ADDRESS(void, image_sums);
    CHOOSE(sums_bits, ADDRESS(const bs_stage, stage), &conv, begin, end)
    return 0;
}

/* The same of reals. */
int64_t bsk_stage_sums_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end)
{
    CHOOSE(sums_reals, ADDRESS(const bs_stage, stage), begin, end)
    return 0;
}

/* Gradients of weights and images, of images [begin, end). */
int64_t bsk_stage_gradients_bits(int64_t backend, int64_t stage, int64_t begin, int64_t end)
{
    CHOOSE(gradients_bits, ADDRESS(const bs_stage, stage), begin, end)
    return 0;
}

/* Gradients of the weights alone. */
int64_t bsk_stage_gradients_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end)
{
    CHOOSE(gradients_reals, ADDRESS(const bs_stage, stage), begin, end)
    return 0;
}

/* Moments of the windows of images [begin, end) of reals; no pool. */
int64_t bsk_stage_moments_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end)
{
    CHOOSE(moments_reals, ADDRESS(const bs_stage, stage), begin, end)
    return 0;
}

/* Images [begin, end) of reals, convolved, scaled and shifted: what bsk_stage_normalise leaves. */
int64_t bsk_stage_normalise_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end,
                                  float clip, int64_t out, int64_t words, int64_t within)
{
    CHOOSE(normalise_reals, ADDRESS(const bs_stage, stage), begin, end, clip, ADDRESS(float, out),
           ADDRESS(uint32_t, words), ADDRESS(uint32_t, within))
    return 0;
}

/* Products of windows of reals and gradients within the clip, of images [begin, end); no pool. */
int64_t bsk_stage_products_reals(int64_t backend, int64_t stage, int64_t begin, int64_t end)
{
    CHOOSE(products_reals, ADDRESS(const bs_stage, stage), begin, end)
    return 0;
}

/* Pixels [begin, end) of the pooled sums, scaled and shifted: floats, or with `within` signs, as
 * floats (out), as bits (words) or both. */
int64_t bsk_stage_normalise(int64_t backend, int64_t stage, int64_t begin, int64_t end, float clip,
                            int64_t out, int64_t words, int64_t within)
{
    CHOOSE(normalise, ADDRESS(const bs_stage, stage), begin, end, clip, ADDRESS(float, out),
           ADDRESS(uint32_t, words), ADDRESS(uint32_t, within))
    return 0;
}

/* What batch normalisation's gradient needs of the pixels [begin, end). */
int64_t bsk_stage_totals(int64_t backend, int64_t stage, int64_t begin, int64_t end)
{
    CHOOSE(totals, ADDRESS(const bs_stage, stage), begin, end)
    return 0;
}
