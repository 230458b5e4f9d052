/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), addressed as kernels/philox.py says: element e
 * of a stream is word e % 4 of the counter (e / 4, row, step, purpose << 24 | index).
 *
 * One round takes (c0, c1, c2, c3) to
 *
 *   (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))
 *
 * so that of rounds 0 and 1, and of half of round 2, nothing depends on the row but two words,
 * and a block of elements is begun once for all rows. With b = e / 4:
 *
 *   round 0   c0 = a constant of the row      c1 = lo(M1 step)     [constants of the call]
 *             c2 = hi(M0 b) ^ c3 ^ k1         c3 = lo(M0 b)
 *   round 1   c0 = hi(M1 c2) ^ c1 ^ k0        c1 = lo(M1 c2)
 *             c2 = lo(M0 b) ^ first           c3 = second          [first, second: bs_row]
 *
 * The back ends work on units of 32 elements, eight counters. */
#ifndef BITSPIN_PHILOX_H
#define BITSPIN_PHILOX_H

#include "cpu.h"

#define BS_PHILOX_M0 0xD2511F53u
#define BS_PHILOX_M1 0xCD9E8D57u
enum { BS_ROUNDS = 10, BS_UNIT = 32, BS_UNIT_COUNTERS = 8 };

typedef struct {
    uint32_t key[BS_ROUNDS][2];
    uint32_t step, purpose_index; /* third and fourth word of every counter */
} bs_stream;

/* What rounds 0 and 1 leave of the row: the key of round 1 is in the first. */
typedef struct {
    uint32_t first, second;
} bs_row;

BS_INLINE uint32_t bs_high(uint64_t product) { return (uint32_t)(product >> 32); }

static inline bs_stream bs_stream_of(uint32_t seed_low, uint32_t seed_high, uint32_t purpose,
                                     uint32_t index, uint32_t step)
{
    bs_stream stream;
    for (int r = 0; r < BS_ROUNDS; r++) {
        stream.key[r][0] = seed_low + (uint32_t)r * 0x9E3779B9u;
        stream.key[r][1] = seed_high + (uint32_t)r * 0xBB67AE85u;
    }
    stream.step = step;
    stream.purpose_index = purpose << 24 | index;
    return stream;
}

BS_INLINE bs_row bs_row_of(const bs_stream *stream, uint32_t row)
{
    uint32_t c0 = bs_high((uint64_t)BS_PHILOX_M1 * stream->step) ^ row ^ stream->key[0][0];
    uint64_t product = (uint64_t)BS_PHILOX_M0 * c0;
    return (bs_row){bs_high(product) ^ stream->key[1][1], (uint32_t)product};
}

/* What is XORed to the high words of the products of rounds 0 and 1 that no row changes. */
#define BS_ROUND_0_KEY(stream) ((stream)->purpose_index ^ (stream)->key[0][1])
#define BS_ROUND_1_KEY(stream) (BS_PHILOX_M1 * (stream)->step ^ (stream)->key[1][0])

/* The 32 words of elements 32 unit ... 32 unit + 31. Lane by lane, for the compiler to see. */
BS_INLINE void bs_unit_portable(const bs_stream *stream, bs_row row, uint32_t unit,
                                uint32_t words[BS_UNIT])
{
    uint32_t c0[BS_UNIT_COUNTERS], c1[BS_UNIT_COUNTERS];
    uint32_t c2[BS_UNIT_COUNTERS], c3[BS_UNIT_COUNTERS];
    for (uint32_t i = 0; i < BS_UNIT_COUNTERS; i++) {
        uint64_t product_0 = (uint64_t)BS_PHILOX_M0 * (unit * BS_UNIT_COUNTERS + i);
        uint32_t second = bs_high(product_0) ^ BS_ROUND_0_KEY(stream);
        uint64_t product_1 = (uint64_t)BS_PHILOX_M1 * second;
        c0[i] = bs_high(product_1) ^ BS_ROUND_1_KEY(stream);
        c1[i] = (uint32_t)product_1;
        c2[i] = (uint32_t)product_0 ^ row.first;
        c3[i] = row.second;
    }
#pragma GCC unroll 8
    for (int r = 2; r < BS_ROUNDS; r++) {
        uint32_t k0 = stream->key[r][0], k1 = stream->key[r][1];
#pragma GCC unroll 8
        for (int i = 0; i < BS_UNIT_COUNTERS; i++) {
            uint64_t product_0 = (uint64_t)BS_PHILOX_M0 * c0[i];
            uint64_t product_1 = (uint64_t)BS_PHILOX_M1 * c2[i];
            c0[i] = bs_high(product_1) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)product_1;
            c2[i] = bs_high(product_0) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)product_0;
        }
    }
    for (int i = 0; i < BS_UNIT_COUNTERS; i++) {
        words[4 * i] = c0[i];
        words[4 * i + 1] = c1[i];
        words[4 * i + 2] = c2[i];
        words[4 * i + 3] = c3[i];
    }
}

#endif
