/* Half-steps of Gibbs sampling (gibbs.cuh), and the counter of the sweeps. */
#include "gibbs.cuh"

/* MT x NT = 4 x 8 is a tile of 128 x 128, 2 x 4 one of 64 x 64 for what gives too few of those. The
 * number of the step is step + *counter, so that a captured graph draws anew at every replay. */
#define HALF_STEP(MT, NT, TRANSPOSED)                                                              \
    half_step<MT, NT, TRANSPOSED>(HalfStep{                                                        \
        states, n_rows, n_in, n_out, weights, pitch, bias,                                         \
        stream_of(seed, purpose, index, step), counter, row_begin, words, probabilities_bf16,      \
        probabilities, fields})

KERNEL(128, 2) gibbs_128(const u32 *states, i64 n_rows, i32 n_in, i32 n_out, const u16 *weights,
                         i32 pitch, const float *bias, u64 seed, u32 purpose, u32 index, u32 step,
                         const u32 *counter, u32 row_begin, u32 *words, u16 *probabilities_bf16,
                         float *probabilities, float *fields)
{
    HALF_STEP(4, 8, false);
}

KERNEL(128, 2) gibbs_transposed_128(const u32 *states, i64 n_rows, i32 n_in, i32 n_out,
                                    const u16 *weights, i32 pitch, const float *bias, u64 seed,
                                    u32 purpose, u32 index, u32 step, const u32 *counter,
                                    u32 row_begin, u32 *words, u16 *probabilities_bf16,
                                    float *probabilities, float *fields)
{
    HALF_STEP(4, 8, true);
}

KERNEL(128, 4) gibbs_64(const u32 *states, i64 n_rows, i32 n_in, i32 n_out, const u16 *weights,
                        i32 pitch, const float *bias, u64 seed, u32 purpose, u32 index, u32 step,
                        const u32 *counter, u32 row_begin, u32 *words, u16 *probabilities_bf16,
                        float *probabilities, float *fields)
{
    HALF_STEP(2, 4, false);
}

KERNEL(128, 4) gibbs_transposed_64(const u32 *states, i64 n_rows, i32 n_in, i32 n_out,
                                   const u16 *weights, i32 pitch, const float *bias, u64 seed,
                                   u32 purpose, u32 index, u32 step, const u32 *counter,
                                   u32 row_begin, u32 *words, u16 *probabilities_bf16,
                                   float *probabilities, float *fields)
{
    HALF_STEP(2, 4, true);
}

KERNEL(32, 1) advance_counter(u32 *counter, u32 by)
{
    if (threadIdx.x == 0) *counter += by;
}
