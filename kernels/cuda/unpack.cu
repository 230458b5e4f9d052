/* Words -> one of two values per bit: bytes, bfloat16 or floats.
 *
 * The mirror of pack.cu: a warp reads 32 words at once, one per lane, and writes 1024 elements, 16
 * bytes per lane and store. A lane gets the word that its 16 bytes come from by a shuffle. Rows
 * that do not begin at 16 bytes are written element by element, 32 neighbours at a time. */
#include "rows.cuh"

/* `off`, or `on` where the bit is set. For two or four elements in a register the bits are spread
 * to its parts by products without carries, as 0 and 1; times on ^ off they say what to flip. */
struct Floats {
    typedef u32 Element;
    enum { E = 4 };

    static __device__ u32 word(u32 bits, int i, u32 on, u32 off)
    {
        return bits >> i & 1u ? on : off;
    }
};

struct Bfloats {
    typedef u16 Element;
    enum { E = 8 };

    static __device__ u32 word(u32 bits, int i, u32 on, u32 off)
    {
        const u32 pair = bits >> 2 * i & 3u;
        return off * 0x00010001u ^ ((pair | pair << 15) & 0x00010001u) * (on ^ off);
    }
};

struct Bytes {
    typedef u8 Element;
    enum { E = 16 };

    static __device__ u32 word(u32 bits, int i, u32 on, u32 off)
    {
        const u32 four = bits >> 4 * i & 15u;
        return off * 0x01010101u ^ (four * 0x00204081u & 0x01010101u) * (on ^ off);
    }
};

/* out is aligned to 16 bytes; row_length is in units. */
template <typename To>
DEVICE void unpack_units(const u32 *words, const Rows &rows, u32 on, u32 off, void *out)
{
    enum { E = To::E, UNITS = WORD_BITS / E };
    const u32 first = first_word_of_warp();
    if (first >= rows.n_words) return;
    const u32 my_word = first + (u32)lane_number();
    const u32 mine = my_word < rows.n_words ? words[my_word] : 0;
    const u32 unit_of_word = (u32)lane_number() % UNITS, word_of_store = (u32)lane_number() / UNITS;
#pragma unroll
    for (int store = 0; store < UNITS; store++) {
        const u32 from = (u32)(store * E) + word_of_store;
        const u32 bits = __shfl_sync(ALL_LANES, mine, (int)from) >> unit_of_word * E;
        const Place place = place_of(rows, first + from);
        const i64 unit = (i64)place.word * UNITS + unit_of_word;
        if (first + from < rows.n_words && unit < rows.row_length)
            ((uint4 *)out)[place.row * rows.row_length + unit] =
                make_uint4(To::word(bits, 0, on, off), To::word(bits, 1, on, off),
                           To::word(bits, 2, on, off), To::word(bits, 3, on, off));
    }
}

/* Any alignment; row_length is in elements. All lanes read the same word, from the first cache:
 * they need not wait for each other. */
template <typename To>
DEVICE void unpack_elements(const u32 *words, const Rows &rows, u32 on, u32 off, void *out)
{
    enum { AT_A_TIME = 8 };
    typedef typename To::Element Element;
    const u32 first = first_word_of_warp();
    if (first >= rows.n_words) return;
    const i32 lane = lane_number();
    Place place = place_of(rows, first);
    u32 begin = first;
    do {
        u32 bits[AT_A_TIME];
#pragma unroll
        for (u32 i = 0; i < AT_A_TIME; i++)
            bits[i] = begin + i < rows.n_words ? words[begin + i] : 0;
#pragma unroll
        for (u32 i = 0; i < AT_A_TIME; i++) {
            const i64 element = (i64)place.word * WORD_BITS + lane;
            if (begin + i < rows.n_words && element < rows.row_length)
                ((Element *)out)[place.row * rows.row_length + element] =
                    (Element)(bits[i] >> lane & 1u ? on : off);
            step_to_next(rows, place);
        }
        begin += AT_A_TIME;
    } while (begin < first + WARP && begin < rows.n_words);
}

KERNEL(256, 4) unpack_f32(const u32 *words, u32 n_words, u32 row_words, i64 row_units, u32 on,
                          u32 off, u32 *out)
{
    unpack_units<Floats>(words, Rows{n_words, row_words, row_units}, on, off, out);
}

KERNEL(256, 4) unpack_bf16(const u32 *words, u32 n_words, u32 row_words, i64 row_units, u32 on,
                           u32 off, u16 *out)
{
    unpack_units<Bfloats>(words, Rows{n_words, row_words, row_units}, on, off, out);
}

KERNEL(256, 4) unpack_bytes(const u32 *words, u32 n_words, u32 row_words, i64 row_units, u32 on,
                            u32 off, u8 *out)
{
    unpack_units<Bytes>(words, Rows{n_words, row_words, row_units}, on, off, out);
}

KERNEL(256, 4) unpack_elements_f32(const u32 *words, u32 n_words, u32 row_words, i64 row_elements,
                                   u32 on, u32 off, u32 *out)
{
    unpack_elements<Floats>(words, Rows{n_words, row_words, row_elements}, on, off, out);
}

KERNEL(256, 4) unpack_elements_bf16(const u32 *words, u32 n_words, u32 row_words, i64 row_elements,
                                    u32 on, u32 off, u16 *out)
{
    unpack_elements<Bfloats>(words, Rows{n_words, row_words, row_elements}, on, off, out);
}

KERNEL(256, 4) unpack_elements_bytes(const u32 *words, u32 n_words, u32 row_words, i64 row_elements,
                                     u32 on, u32 off, u8 *out)
{
    unpack_elements<Bytes>(words, Rows{n_words, row_words, row_elements}, on, off, out);
}
