/* Draws of a half-step from the sums that an mma leaves: 16 rows, in the registers of its lanes. */
#pragma once
#include "bernoulli.cuh"
#include "philox.cuh"
#include "ptx.cuh"

struct HalfStep {
    const u32 *states; /* (n_rows, ceil(n_in / 32)), bits past n_in 0 */
    i64 n_rows;
    i32 n_in, n_out;
    const u16 *weights; /* bfloat16; rows of `pitch`, a multiple of 8, columns */
    i32 pitch;
    const float *bias; /* (n_out,) */
    Stream stream;
    const u32 *counter; /* is added to the step of the stream; may be null */
    u32 row_begin;      /* number of the first row in the stream */
    u32 *words;         /* (n_rows, ceil(n_out / 32)) */
    /* Each may be null; (n_rows, n_out). */
    u16 *probabilities_bf16;
    float *probabilities, *fields;
};

/* What else is asked for of a unit. */
DEVICE void store_unit(const HalfStep &step, i64 row, i32 column, float sum)
{
    if (row >= step.n_rows || column >= step.n_out) return;
    const i64 i = row * step.n_out + column;
    const float field = __fmaf_rn(sum, 0.5f, step.bias[column]);
    const float p = sigmoid(field);
    if (step.fields != nullptr) step.fields[i] = field;
    if (step.probabilities != nullptr) step.probabilities[i] = p;
    if (step.probabilities_bf16 != nullptr) step.probabilities_bf16[i] = bf16_of_float(p);
}

/* Sums are in registers, which a loop cannot index: instead the first BY of N change places with
 * the others, so that a loop finds those of its turn in front, and after all turns everything is
 * where it was. Unrolled, draws of a tile would be 90 KB of instructions that run once. */
template <int BY, int N> DEVICE void rotate(float (&sums)[N][4])
{
    float first[BY][4];
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (n < BY) first[n][i] = sums[n][i];
            sums[n][i] = n + BY < N ? sums[(n + BY) % N][i] : first[(n + BY) % N][i];
        }
}

template <int NT>
DEVICE void store_rows(const HalfStep &step, float (&sums)[NT][4], i64 row, i32 first_column)
{
    if (!step.fields && !step.probabilities && !step.probabilities_bf16) return;
#pragma unroll 1
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            store_unit(step, row + i / 2 * 8, first_column + 8 * n + lane_number() % 4 * 2 + i % 2,
                       sums[0][i]);
        rotate<1>(sums);
    }
}

/* What is_on says, at half its price, except where `is_near` is set: then only is_on knows.
 * Where it matters, |x| < 18, x log2(e) is off by 18 * 1.45 * 2^-23 at most, so that u (1 + e^-x)
 * is within a relative 3e-6 of the exact one, and that of is_on within 5e-7; 1e-5 of 2^24 leaves
 * room for both. One unit in 50 000 is that near. For x < -88 the product may be NaN: off, and not
 * near. */
DEVICE bool is_probably_on(u32 word, float field, bool &is_near)
{
    const float level = exp2_approximate(field * -0x1.715476p+0f) + 1.0f;
    const float excess = __fmaf_rn((float)(word >> 8), level, -16777216.0f);
    is_near |= -168.0f < excess && excess < 168.0f;
    return excess < 0.0f && field >= LOWEST_FIELD;
}

/* The random words of this lane's four units of an 8 x 16 tile: [0], [1] of row `row`, [2], [3] of
 * the eighth after it. Philox gives four neighbours of a row at once: of the two lanes that have
 * them the even one computes those of the first row, the odd one those of the other, and they swap
 * halves. */
DEVICE void quad_words(const Stream &stream, u32 row, u32 column, u32 (&words)[4])
{
    const i32 t = lane_number() % 4;
    const bool is_odd = t % 2 != 0;
    u32 block[4];
    philox(stream, column / 4 + t / 2, row + (is_odd ? 8 : 0), block);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const u32 other = __shfl_xor_sync(ALL_LANES, is_odd ? block[i] : block[2 + i], 1);
        words[i] = is_odd ? other : block[i];
        words[2 + i] = is_odd ? block[2 + i] : other;
    }
}

/* Draw the units of 16 rows and write them. `row`: the lane's first, `first_column`: the warp's. */
template <int NT>
DEVICE void sample_rows(const HalfStep &step, const Stream &stream, float (&sums)[NT][4], i64 row,
                        i32 first_column)
{
    const i32 t = lane_number() % 4;
    const bool is_odd = t % 2 != 0;
    u32 result = 0;
#pragma unroll 1
    for (int word = 0; word < NT / 4; word++) {
        u32 upper = 0, lower = 0; /* this lane's bits of the two rows, moved 2 t down */
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const i32 column = first_column + WORD_BITS * word + 8 * j;
            u32 random[4];
            quad_words(stream, step.row_begin + (u32)row, (u32)column, random);
            const i32 unit = column + 2 * t;
            const float bias[2] = {unit < step.n_out ? step.bias[unit] : 0.0f,
                                   unit + 1 < step.n_out ? step.bias[unit + 1] : 0.0f};
            float field[4];
            bool on[4], is_near = false;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                field[i] = __fmaf_rn(sums[j][i], 0.5f, bias[i % 2]);
                on[i] = is_probably_on(random[i], field[i], is_near);
            }
            if (is_near) {
#pragma unroll
                for (int i = 0; i < 4; i++) on[i] = is_on(random[i], field[i]);
            }
            upper |= ((u32)on[0] | (u32)on[1] << 1) << 8 * j;
            lower |= ((u32)on[2] | (u32)on[3] << 1) << 8 * j;
        }
        /* Even lanes collect the upper row, odd ones the lower; lanes 2 w, 2 w + 1 keep word w. */
        u32 kept = (is_odd ? lower : upper) << 2 * t;
        kept |= __shfl_xor_sync(ALL_LANES, (is_odd ? upper : lower) << 2 * t, 1);
        kept |= __shfl_xor_sync(ALL_LANES, kept, 2);
        if (t / 2 == word) result = kept;
        rotate<4>(sums);
    }
    const i32 n_words = ceil_divide(step.n_out, (i32)WORD_BITS);
    const i32 word = first_column / WORD_BITS + t / 2;
    const i64 my_row = row + (is_odd ? 8 : 0);
    if (t / 2 < NT / 4 && word < n_words && my_row < step.n_rows)
        step.words[my_row * n_words + word] = result & word_mask(step.n_out, word);
}
