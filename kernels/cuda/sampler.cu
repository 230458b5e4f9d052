/* Fields or probabilities -> uniform < p -> packed states, and the random words themselves.
 *
 * A warp draws 8 rows x 128 units. A lane owns 4 neighbouring units, for which one Philox block
 * gives the 4 words, in each of the 8 rows; all 8 loads of 16 bytes (bfloat16: 8 bytes) are under
 * way before the first is used. That the 8 counters differ only in their row saves 3 of 20 wide
 * multiplications in all but one of them: the compiler shares those of the first round, and half of
 * those of the second. The 4 bits of row r become field r of a register, and a transposition in 3
 * shuffles gives each lane the word of one row; ballots would be 32, with the bits of 4 of them to
 * be interleaved.
 *
 * A unit takes some 38 instructions: 9 of Philox (4.3 of them wide multiplications, instead of 5)
 * and 17 of the exponential, none of whose products and sums may be fused. A multiprocessor issues
 * 128 lanes a clock, so 3.4 units, which are 13.5 bytes of float fields; the memory of an H100
 * brings 15 at 1.7 GHz. So float fields are drawn about as fast as they come; for bfloat16
 * arithmetic bounds. Calculated, not measured. */
#include "bernoulli.cuh"
#include "bit_matrix.cuh"
#include "philox.cuh"

enum { DRAW_WARPS = 4, DRAW_ROWS = 8, DRAW_UNITS = 4 * WARP };

struct Matrix {
    i64 n_rows, n;
};

/* Which rows and units this lane has. */
struct Block {
    i64 first_row;
    u32 number;  /* of the Philox block: units 4 number ... 4 number + 3 */
    bool exists; /* false for all lanes of a warp at once */
};

DEVICE Block block_of_lane(const Matrix &matrix)
{
    const u32 n_chunks = (u32)ceil_divide(matrix.n, (i64)DRAW_UNITS);
    const u32 warp = blockIdx.x * DRAW_WARPS + (u32)warp_number();
    const u32 group = warp / n_chunks, chunk = warp - group * n_chunks;
    const i64 first_row = (i64)group * DRAW_ROWS;
    return Block{first_row, chunk * WARP + (u32)lane_number(), first_row < matrix.n_rows};
}

/* Whether every block of 4 elements of every row lies at a multiple of its size. */
template <typename T> DEVICE bool is_aligned(const T *values, const Matrix &matrix)
{
    return matrix.n % 4 == 0 && (u64)values % (4 * sizeof(T)) == 0;
}

DEVICE float4 four_floats(const float *values) { return *(const float4 *)values; }
DEVICE float4 four_floats(const u16 *values)
{
    const uint2 pairs = *(const uint2 *)values;
    return make_float4(__uint_as_float(pairs.x << 16), __uint_as_float(pairs.x & 0xffff0000u),
                       __uint_as_float(pairs.y << 16), __uint_as_float(pairs.y & 0xffff0000u));
}
DEVICE float one_float(const float *value) { return *value; }
DEVICE float one_float(const u16 *value) { return float_of_bf16(*value); }

/* Elements of a block; NaN, whose unit is off, where there are none. */
template <typename T>
DEVICE float4 load_block(const T *values, const Matrix &matrix, i64 row, u32 block, bool aligned)
{
    const float none = __uint_as_float(0x7fffffffu);
    const i64 left = row < matrix.n_rows ? matrix.n - 4 * (i64)block : 0;
    const T *from = values + row * matrix.n + 4 * (i64)block;
    float4 four = make_float4(none, none, none, none);
    if (aligned) {
        if (left > 0) four = four_floats(from);
    } else {
        if (left > 0) four.x = one_float(from);
        if (left > 1) four.y = one_float(from + 1);
        if (left > 2) four.z = one_float(from + 2);
        if (left > 3) four.w = one_float(from + 3);
    }
    return four;
}

/* T4 is float4 or uint4, four values of T. */
template <typename T, typename T4>
DEVICE void store_block(T *values, const Matrix &matrix, i64 row, u32 block, const T4 &four,
                        bool aligned)
{
    const i64 left = row < matrix.n_rows ? matrix.n - 4 * (i64)block : 0;
    T *to = values + row * matrix.n + 4 * (i64)block;
    if (aligned) {
        if (left > 0) *(T4 *)to = four;
    } else {
        if (left > 0) to[0] = four.x;
        if (left > 1) to[1] = four.y;
        if (left > 2) to[2] = four.z;
        if (left > 3) to[3] = four.w;
    }
}

struct OfField {
    static __device__ bool draw(u32 word, float field) { return is_on(word, field); }
};

/* (word >> 8) 2^-24 < p: the left side is exact; NaN is off. */
struct OfProbability {
    static __device__ bool draw(u32 word, float p)
    {
        return __fmul_rn((float)(word >> 8), 0x1p-24f) < p;
    }
};

/* The stream at step + *counter, if there is a counter: so that a captured graph goes on. */
DEVICE Stream stream_at(u64 seed, u32 purpose, u32 index, u32 step, const u32 *counter)
{
    return stream_of(seed, purpose, index, counter == nullptr ? step : step + *counter);
}

template <typename Of, bool HAS_PROBABILITIES, typename T>
DEVICE void draw(const T *values, const Matrix &matrix, const Stream &stream, u32 row_begin,
                 u32 *words, float *probabilities)
{
    const Block block = block_of_lane(matrix);
    if (!block.exists) return;
    const bool aligned = is_aligned(values, matrix);
    float4 fours[DRAW_ROWS];
#pragma unroll
    for (int r = 0; r < DRAW_ROWS; r++)
        fours[r] = load_block(values, matrix, block.first_row + r, block.number, aligned);
    u32 fields = 0;
#pragma unroll
    for (int r = 0; r < DRAW_ROWS; r++) {
        u32 random[4];
        philox(stream, block.number, row_begin + (u32)block.first_row + r, random);
        fields |= (u32)Of::draw(random[0], fours[r].x) << 4 * r;
        fields |= (u32)Of::draw(random[1], fours[r].y) << (4 * r + 1);
        fields |= (u32)Of::draw(random[2], fours[r].z) << (4 * r + 2);
        fields |= (u32)Of::draw(random[3], fours[r].w) << (4 * r + 3);
        if (HAS_PROBABILITIES) {
            const float4 p = make_float4(sigmoid(fours[r].x), sigmoid(fours[r].y),
                                         sigmoid(fours[r].z), sigmoid(fours[r].w));
            store_block(probabilities, matrix, block.first_row + r, block.number, p,
                        is_aligned(probabilities, matrix));
        }
    }
    fields = transpose_fields<DRAW_ROWS>(fields);
    const i64 row = block.first_row + lane_number() % DRAW_ROWS;
    const i64 word = (i64)(block.number / WARP) * 4 + lane_number() / DRAW_ROWS;
    const i64 n_words = ceil_divide(matrix.n, (i64)WORD_BITS);
    if (row < matrix.n_rows && word < n_words) words[row * n_words + word] = fields;
}

KERNEL(128, 8) bernoulli_f32(const float *field, i64 n_rows, i64 n, u64 seed, u32 purpose,
                             u32 index, u32 step, const u32 *counter, u32 row_begin, u32 *words)
{
    const Stream stream = stream_at(seed, purpose, index, step, counter);
    draw<OfField, false>(field, Matrix{n_rows, n}, stream, row_begin, words, nullptr);
}

KERNEL(128, 8) bernoulli_bf16(const u16 *field, i64 n_rows, i64 n, u64 seed, u32 purpose, u32 index,
                              u32 step, const u32 *counter, u32 row_begin, u32 *words)
{
    const Stream stream = stream_at(seed, purpose, index, step, counter);
    draw<OfField, false>(field, Matrix{n_rows, n}, stream, row_begin, words, nullptr);
}

KERNEL(128, 6) bernoulli_and_probabilities_f32(const float *field, i64 n_rows, i64 n, u64 seed,
                                               u32 purpose, u32 index, u32 step, const u32 *counter,
                                               u32 row_begin, u32 *words, float *probabilities)
{
    const Stream stream = stream_at(seed, purpose, index, step, counter);
    draw<OfField, true>(field, Matrix{n_rows, n}, stream, row_begin, words, probabilities);
}

KERNEL(128, 6) bernoulli_and_probabilities_bf16(const u16 *field, i64 n_rows, i64 n, u64 seed,
                                                u32 purpose, u32 index, u32 step,
                                                const u32 *counter, u32 row_begin, u32 *words,
                                                float *probabilities)
{
    const Stream stream = stream_at(seed, purpose, index, step, counter);
    draw<OfField, true>(field, Matrix{n_rows, n}, stream, row_begin, words, probabilities);
}

KERNEL(128, 8) bernoulli_of_probabilities_f32(const float *p, i64 n_rows, i64 n, u64 seed,
                                              u32 purpose, u32 index, u32 step, const u32 *counter,
                                              u32 row_begin, u32 *words)
{
    const Stream stream = stream_at(seed, purpose, index, step, counter);
    draw<OfProbability, false>(p, Matrix{n_rows, n}, stream, row_begin, words, nullptr);
}

KERNEL(128, 8) bernoulli_of_probabilities_bf16(const u16 *p, i64 n_rows, i64 n, u64 seed,
                                               u32 purpose, u32 index, u32 step, const u32 *counter,
                                               u32 row_begin, u32 *words)
{
    const Stream stream = stream_at(seed, purpose, index, step, counter);
    draw<OfProbability, false>(p, Matrix{n_rows, n}, stream, row_begin, words, nullptr);
}

KERNEL(128, 8) random_words(i64 n_rows, i64 n, u64 seed, u32 purpose, u32 index, u32 step,
                            const u32 *counter, u32 row_begin, u32 *words)
{
    const Matrix matrix = {n_rows, n};
    const Block block = block_of_lane(matrix);
    if (!block.exists) return;
    const Stream stream = stream_at(seed, purpose, index, step, counter);
    const bool aligned = is_aligned(words, matrix);
#pragma unroll
    for (int r = 0; r < DRAW_ROWS; r++) {
        u32 random[4];
        philox(stream, block.number, row_begin + (u32)block.first_row + r, random);
        const uint4 four = make_uint4(random[0], random[1], random[2], random[3]);
        store_block(words, matrix, block.first_row + r, block.number, four, aligned);
    }
}
