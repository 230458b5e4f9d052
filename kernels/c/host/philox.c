/* Streams of random words: rows of consecutive elements, any first element. */
#include "bitspin.h"
#include "philox.h"
#include "philox_avx2.h"
#include "philox_avx512.h"
#include "philox_neon.h"

BS_API int64_t bsk_random_words(int64_t backend, int64_t seed_low, int64_t seed_high,
                                int64_t purpose, int64_t index, int64_t step,
                                const uint32_t *rows, int64_t n_rows, int64_t first_element,
                                int64_t n_elements, uint32_t *out);

/* Elements 32 unit ... 32 (unit + n_units) - 1 of one row. */
typedef void bs_fill(const bs_stream *stream, bs_row row, uint32_t unit, int64_t n_units,
                     uint32_t *out);

static void bs_fill_portable(const bs_stream *stream, bs_row row, uint32_t unit, int64_t n_units,
                             uint32_t *out)
{
    for (int64_t i = 0; i < n_units; i++)
        bs_unit_portable(stream, row, unit + (uint32_t)i, out + i * BS_UNIT);
}

#if BS_X86
BS_TARGET_AVX2 static void bs_fill_avx2(const bs_stream *stream, bs_row row, uint32_t unit,
                                        int64_t n_units, uint32_t *out)
{
    for (int64_t i = 0; i < n_units; i++) {
        bs_begun_avx2 begun[2] = {bs_begin_avx2(stream, unit + (uint32_t)i, 0),
                                  bs_begin_avx2(stream, unit + (uint32_t)i, 1)};
        __m256i words[4];
        bs_finish_avx2(stream, row, begun, words);
        for (int j = 0; j < 4; j++)
            _mm256_storeu_si256((__m256i *)(out + i * BS_UNIT + 8 * j), words[j]);
    }
}

BS_TARGET_AVX512 BS_INLINE void bs_store_avx512(const bs_stream *stream, bs_row row, uint32_t unit,
                                                int count, uint32_t *out)
{
    bs_begun_avx512 begun[4];
    bs_unit_avx512 units[4];
#pragma GCC unroll 4
    for (int u = 0; u < count; u++) begun[u] = bs_begin_avx512(stream, unit + (uint32_t)u);
    bs_finish_avx512(stream, row, begun, count, units);
#pragma GCC unroll 4
    for (int u = 0; u < count; u++) {
        _mm512_storeu_si512(out + u * BS_UNIT, units[u].words[0]);
        _mm512_storeu_si512(out + u * BS_UNIT + 16, units[u].words[1]);
    }
}

BS_TARGET_AVX512 static void bs_fill_avx512(const bs_stream *stream, bs_row row, uint32_t unit,
                                            int64_t n_units, uint32_t *out)
{
    int64_t i = 0;
    for (; i + 4 <= n_units; i += 4)
        bs_store_avx512(stream, row, unit + (uint32_t)i, 4, out + i * BS_UNIT);
    for (; i < n_units; i++)
        bs_store_avx512(stream, row, unit + (uint32_t)i, 1, out + i * BS_UNIT);
}
#endif

#if BS_ARM
static void bs_fill_neon(const bs_stream *stream, bs_row row, uint32_t unit, int64_t n_units,
                         uint32_t *out)
{
    for (int64_t i = 0; i < n_units; i++) {
        bs_begun_neon begun[2] = {bs_begin_neon(stream, unit + (uint32_t)i, 0),
                                  bs_begin_neon(stream, unit + (uint32_t)i, 1)};
        uint32x4x4_t words[2];
        bs_finish_neon(stream, row, begun, words);
        vst4q_u32(out + i * BS_UNIT, words[0]);
        vst4q_u32(out + i * BS_UNIT + 16, words[1]);
    }
}
#endif

static bs_fill *bs_choose_fill(int64_t backend)
{
#if BS_X86
    if (backend == BS_AVX512) return bs_fill_avx512;
    if (backend == BS_AVX2) return bs_fill_avx2;
#endif
#if BS_ARM
    if (backend == BS_NEON || backend == BS_DOTPROD) return bs_fill_neon;
#endif
    (void)backend;
    return bs_fill_portable;
}

/* Elements first ... first + n - 1; units that lie in it in part go through a buffer. */
static void bs_fill_row(bs_fill *fill, const bs_stream *stream, bs_row row, int64_t first,
                        int64_t n, uint32_t *out)
{
    const int64_t end = first + n;
    for (int64_t e = first; e < end;) {
        int64_t unit = e / BS_UNIT, n_units = (end - e) / BS_UNIT;
        if (e % BS_UNIT == 0 && n_units) {
            fill(stream, row, (uint32_t)unit, n_units, out + (e - first));
            e += n_units * BS_UNIT;
        } else {
            uint32_t words[BS_UNIT];
            fill(stream, row, (uint32_t)unit, 1, words);
            for (; e < end && e / BS_UNIT == unit; e++) out[e - first] = words[e % BS_UNIT];
        }
    }
}

/* out[i][j] = element first_element + j of row rows[i]; elements below 2^34, so that their
 * counters fit in 32 bits. */
int64_t bsk_random_words(int64_t backend, int64_t seed_low, int64_t seed_high, int64_t purpose,
                         int64_t index, int64_t step, const uint32_t *rows, int64_t n_rows,
                         int64_t first_element, int64_t n_elements, uint32_t *out)
{
    bs_stream stream = bs_stream_of((uint32_t)seed_low, (uint32_t)seed_high, (uint32_t)purpose,
                                    (uint32_t)index, (uint32_t)step);
    bs_fill *fill = bs_choose_fill(backend);
    for (int64_t i = 0; i < n_rows; i++)
        bs_fill_row(fill, &stream, bs_row_of(&stream, rows[i]), first_element, n_elements,
                    out + i * n_elements);
    return 0;
}
