/* Philox4x32-10, addressed as kernels/philox.py says: the words of elements 4 block ... 4 block + 3
 * of the stream (seed, purpose, index, step) of a row. */
#pragma once
#include "device.cuh"
#include "ptx.cuh"

struct Stream {
    u32 key[2];
    u32 step;
    u32 purpose_index; /* purpose << 24 | index */
};

DEVICE Stream stream_of(u64 seed, u32 purpose, u32 index, u32 step)
{
    return Stream{{(u32)seed, (u32)(seed >> 32)}, step, purpose << 24 | index};
}

DEVICE void philox(const Stream &stream, u32 block, u32 row, u32 (&words)[4])
{
    u32 c0 = block, c1 = row, c2 = stream.step, c3 = stream.purpose_index;
    u32 k0 = stream.key[0], k1 = stream.key[1];
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 product_0 = multiply_wide(c0, 0xD2511F53u);
        const u64 product_1 = multiply_wide(c2, 0xCD9E8D57u);
        c0 = (u32)(product_1 >> 32) ^ c1 ^ k0;
        c1 = (u32)product_1;
        c2 = (u32)(product_0 >> 32) ^ c3 ^ k1;
        c3 = (u32)product_0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}
