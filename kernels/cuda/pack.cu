/* Compare and pack rows.
 *
 * It moves many bytes and computes little (H100: 4 bytes in the time of 34 instructions of a lane
 * at 3.35 TB/s and 132 x 128 lanes of 1.7 GHz), so what counts is that all accesses are 16 bytes
 * wide and several of them are under way. A warp owns 32 consecutive words of the output, that is
 * 1024 elements, whatever rows they are of: 10^6 rows of two words and 500 rows of a hundred are
 * alike.
 *
 * A unit is 16 bytes: E = 4 floats, 8 bfloat16 or 16 bytes, and 32 / E units make a word. A warp
 * loads 32 neighbouring units 32 / E times; after load j each lane has put E bits into field j of a
 * register. The bits of a word are then in the same field of 32 / E neighbouring lanes, and one
 * small transposition brings each word into one lane: 3, 2 or 1 shuffles for 1024 elements, where
 * ballots would be 32 and would load 4, 2 or 1 bytes at a time.
 *
 * Rows that do not begin at 16 bytes take the second way: a lane an element, and ballots. */
#include "bit_matrix.cuh"
#include "rows.cuh"

/* What becomes of one element: bit 0 of OUTPUTS numbers. NaN gives zeros. */
struct Threshold {
    enum { OUTPUTS = 1 };
    float threshold;

    __device__ bool test(int, float x) const { return x >= threshold; }
};

/* The sign, and where the straight-through estimator lets a gradient pass. */
struct SignAndClip {
    enum { OUTPUTS = 2 };
    float clip;

    __device__ bool test(int output, float x) const
    {
        return output == 0 ? x >= 0.0f : (x >= -clip) & (x <= clip);
    }
};

template <typename Test> struct Floats {
    typedef float Element;
    enum { E = 4, OUTPUTS = Test::OUTPUTS, HAS_NAN = 1 };
    Test test;

    __device__ u32 bit(int output, Element x) const { return test.test(output, x); }
    __device__ u32 bits(int output, const uint4 &unit) const
    {
        const u32 words[4] = {unit.x, unit.y, unit.z, unit.w};
        u32 result = 0;
#pragma unroll
        for (int i = 0; i < E; i++) result |= bit(output, __uint_as_float(words[i])) << i;
        return result;
    }
};

template <typename Test> struct Bfloats {
    typedef u16 Element;
    enum { E = 8, OUTPUTS = Test::OUTPUTS, HAS_NAN = 1 };
    Test test;

    __device__ u32 bit(int output, Element x) const { return test.test(output, float_of_bf16(x)); }
    __device__ u32 bits(int output, const uint4 &unit) const
    {
        const u32 words[4] = {unit.x, unit.y, unit.z, unit.w};
        u32 result = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float low = __uint_as_float(words[i] << 16);
            const float high = __uint_as_float(words[i] & 0xffff0000u);
            result |= (u32)test.test(output, low) << 2 * i;
            result |= (u32)test.test(output, high) << (2 * i + 1);
        }
        return result;
    }
};

/* Bytes x >= level, 0 <= level <= 256, four at a time: x + 256 - level carries into bit 8. Signed
 * bytes are made unsigned by `flip` = 0x80808080, and their level is 128 more. */
struct Bytes {
    typedef u8 Element;
    enum { E = 16, OUTPUTS = 1, HAS_NAN = 0 };
    u32 flip, level;

    __device__ u32 bit(int, Element x) const { return (x ^ (flip & 0xffu)) >= level; }
    __device__ u32 bits(int, const uint4 &unit) const
    {
        const u32 words[4] = {unit.x, unit.y, unit.z, unit.w};
        const u32 added = (256 - level) * 0x00010001u;
        u32 result = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 x = words[i] ^ flip;
            const u32 even = (x & 0x00ff00ffu) + added;
            const u32 odd = (x >> 8 & 0x00ff00ffu) + added;
            const u32 pairs = (even >> 8 & 0x00010001u) | (odd >> 7 & 0x00020002u);
            result |= (pairs | pairs >> 14) << 4 * i & 0xfu << 4 * i;
        }
        return result;
    }
};

/* x is aligned to 16 bytes; row_length is in units. */
template <typename Source>
DEVICE void pack_units(const Source &source, const void *x, const Rows &rows, u32 *words,
                       u32 *second_words)
{
    enum { E = Source::E, UNITS = WORD_BITS / E };
    const u32 first = first_word_of_warp();
    if (first >= rows.n_words) return;
    const u32 unit_of_word = (u32)lane_number() % UNITS, word_of_load = (u32)lane_number() / UNITS;
    uint4 units[UNITS]; /* what does not exist is NaN */
    u32 exist = 0;
#pragma unroll
    for (int load = 0; load < UNITS; load++) {
        const u32 word = first + (u32)(load * E) + word_of_load;
        const Place place = place_of(rows, word);
        const i64 unit = (i64)place.word * UNITS + unit_of_word;
        const bool exists = word < rows.n_words && unit < rows.row_length;
        units[load] = make_uint4(~0u, ~0u, ~0u, ~0u);
        if (exists) units[load] = ((const uint4 *)x)[place.row * rows.row_length + unit];
        exist |= (u32)exists << load;
    }
    const u32 word = first + unit_of_word * E + word_of_load;
#pragma unroll
    for (int output = 0; output < Source::OUTPUTS; output++) {
        u32 fields = 0;
#pragma unroll
        for (int load = 0; load < UNITS; load++)
            if (Source::HAS_NAN || exist >> load & 1u)
                fields |= source.bits(output, units[load]) << load * E;
        fields = transpose_fields<UNITS>(fields);
        if (word < rows.n_words) (output == 0 ? words : second_words)[word] = fields;
    }
}

/* Any alignment; row_length is in elements. */
template <typename Source>
DEVICE void pack_elements(const Source &source, const void *x, const Rows &rows, u32 *words,
                          u32 *second_words)
{
    enum { AT_A_TIME = 8 };
    typedef typename Source::Element Element;
    const u32 first = first_word_of_warp();
    if (first >= rows.n_words) return;
    const i32 lane = lane_number();
    Place place = place_of(rows, first);
    u32 mine[Source::OUTPUTS] = {};
    for (i32 begin = 0; begin < WARP; begin += AT_A_TIME) {
        Element values[AT_A_TIME];
        bool exists[AT_A_TIME];
#pragma unroll
        for (int i = 0; i < AT_A_TIME; i++) {
            const i64 element = (i64)place.word * WORD_BITS + lane;
            exists[i] = first + (u32)(begin + i) < rows.n_words && element < rows.row_length;
            values[i] = Element(0);
            if (exists[i])
                values[i] = ((const Element *)x)[place.row * rows.row_length + element];
            step_to_next(rows, place);
        }
#pragma unroll
        for (int output = 0; output < Source::OUTPUTS; output++)
#pragma unroll
            for (int i = 0; i < AT_A_TIME; i++) {
                const u32 bit = (u32)exists[i] & source.bit(output, values[i]);
                const u32 bits = __ballot_sync(ALL_LANES, bit);
                if (lane == begin + i) mine[output] = bits;
            }
    }
    if (first + (u32)lane >= rows.n_words) return;
    words[first + (u32)lane] = mine[0];
    if (Source::OUTPUTS == 2) second_words[first + (u32)lane] = mine[Source::OUTPUTS - 1];
}

KERNEL(256, 4) pack_f32(const float *x, u32 n_words, u32 row_words, i64 row_units, float threshold,
                        u32 *words)
{
    const Rows rows = {n_words, row_words, row_units};
    pack_units(Floats<Threshold>{{threshold}}, x, rows, words, nullptr);
}

KERNEL(256, 4) pack_bf16(const u16 *x, u32 n_words, u32 row_words, i64 row_units, float threshold,
                         u32 *words)
{
    const Rows rows = {n_words, row_words, row_units};
    pack_units(Bfloats<Threshold>{{threshold}}, x, rows, words, nullptr);
}

KERNEL(256, 4) pack_bytes(const u8 *x, u32 n_words, u32 row_words, i64 row_units, u32 flip,
                          u32 level, u32 *words)
{
    const Rows rows = {n_words, row_words, row_units};
    pack_units(Bytes{flip, level}, x, rows, words, nullptr);
}

KERNEL(256, 4) pack_signs_f32(const float *x, u32 n_words, u32 row_words, i64 row_units, float clip,
                              u32 *words, u32 *within)
{
    const Rows rows = {n_words, row_words, row_units};
    pack_units(Floats<SignAndClip>{{clip}}, x, rows, words, within);
}

KERNEL(256, 4) pack_signs_bf16(const u16 *x, u32 n_words, u32 row_words, i64 row_units, float clip,
                               u32 *words, u32 *within)
{
    const Rows rows = {n_words, row_words, row_units};
    pack_units(Bfloats<SignAndClip>{{clip}}, x, rows, words, within);
}

KERNEL(256, 4) pack_elements_f32(const float *x, u32 n_words, u32 row_words, i64 row_elements,
                                 float threshold, u32 *words)
{
    const Rows rows = {n_words, row_words, row_elements};
    pack_elements(Floats<Threshold>{{threshold}}, x, rows, words, nullptr);
}

KERNEL(256, 4) pack_elements_bf16(const u16 *x, u32 n_words, u32 row_words, i64 row_elements,
                                  float threshold, u32 *words)
{
    const Rows rows = {n_words, row_words, row_elements};
    pack_elements(Bfloats<Threshold>{{threshold}}, x, rows, words, nullptr);
}

KERNEL(256, 4) pack_elements_bytes(const u8 *x, u32 n_words, u32 row_words, i64 row_elements,
                                   u32 flip, u32 level, u32 *words)
{
    const Rows rows = {n_words, row_words, row_elements};
    pack_elements(Bytes{flip, level}, x, rows, words, nullptr);
}

KERNEL(256, 4) pack_signs_elements_f32(const float *x, u32 n_words, u32 row_words, i64 row_elements,
                                       float clip, u32 *words, u32 *within)
{
    const Rows rows = {n_words, row_words, row_elements};
    pack_elements(Floats<SignAndClip>{{clip}}, x, rows, words, within);
}

KERNEL(256, 4) pack_signs_elements_bf16(const u16 *x, u32 n_words, u32 row_words, i64 row_elements,
                                        float clip, u32 *words, u32 *within)
{
    const Rows rows = {n_words, row_words, row_elements};
    pack_elements(Bfloats<SignAndClip>{{clip}}, x, rows, words, within);
}
