/* Twins of kernels/cuda/ptx.cuh: what instructions compute, from the layouts of their registers. */
#ifndef BITSPIN_SHIM_INSTRUCTIONS_H
#define BITSPIN_SHIM_INSTRUCTIONS_H

#include "language.h"

namespace shim {

struct Operands {
    u32 a[4], b[2];
};

/* c[i] += sum of product(a word, b word) over the words of a row and a column. */
template <typename C, typename Product>
UNWATCHED inline void mma(C (&c)[4], const u32 (&a)[4], const u32 (&b)[2], Product product)
{
    const Operands mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const Operand *all = exchange(&mine, sizeof mine);
    const int group = (int)(threadIdx.x % WARP) / 4, t = (int)(threadIdx.x % WARP) % 4;
    for (int i = 0; i < 4; i++) {
        const int column = 2 * t + i % 2, lower = i / 2;
        for (int half = 0; half < 2; half++)
            for (int word = 0; word < 4; word++)
                c[i] = product(c[i], ((const Operands *)all[4 * group + word])->a[2 * half + lower],
                               ((const Operands *)all[4 * column + word])->b[half]);
    }
}

UNWATCHED inline float bf16_half(u32 pair, int half)
{
    const u32 bits = half ? pair & 0xffff0000u : pair << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <bool TRANSPOSED> UNWATCHED inline void ldmatrix_x4(u32 (&r)[4], const void *row)
{
    if ((uintptr_t)row % 16) fail("ldmatrix: the address of a row is not aligned to 16 bytes");
    const Operand *rows = exchange(&row, sizeof row);
    const int group = (int)(threadIdx.x % WARP) / 4, t = (int)(threadIdx.x % WARP) % 4;
    for (int matrix = 0; matrix < 4; matrix++) {
        u16 pair[2];
        for (int i = 0; i < 2; i++) {
            const int from_row = TRANSPOSED ? 2 * t + i : group;
            const int from_column = TRANSPOSED ? group : 2 * t + i;
            const u8 *source;
            std::memcpy(&source, rows[8 * matrix + from_row], sizeof source);
            note_read(source + from_column / 2 * 4, 4);
            std::memcpy(&pair[i], source + 2 * from_column, sizeof pair[i]);
        }
        r[matrix] = (u32)pair[1] << 16 | pair[0];
    }
}

} // namespace shim

DEVICE u64 multiply_wide(u32 a, u32 b) { return (u64)a * b; }

DEVICE void mma_b1_and(i32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2])
{
    shim::mma(c, a, b, [](i32 sum, u32 x, u32 y) UNWATCHED {
        return sum + __builtin_popcount(x & y);
    });
}

DEVICE void mma_s8(i32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2])
{
    shim::mma(c, a, b, [](i32 sum, u32 x, u32 y) UNWATCHED {
        for (int i = 0; i < 32; i += 8) sum += (i32)(i8)(x >> i) * (i32)(i8)(y >> i);
        return sum;
    });
}

DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2])
{
    shim::mma(c, a, b, [](float sum, u32 x, u32 y) UNWATCHED {
        for (int i = 0; i < 2; i++) sum += shim::bf16_half(x, i) * shim::bf16_half(y, i);
        return sum;
    });
}

DEVICE u32 bf16_pair(float low, float high)
{
    return (u32)bf16_of_float(high) << 16 | bf16_of_float(low);
}

DEVICE void ldmatrix_x4(u32 (&r)[4], const void *row) { shim::ldmatrix_x4<false>(r, row); }
DEVICE void ldmatrix_x4_transposed(u32 (&r)[4], const void *row)
{
    shim::ldmatrix_x4<true>(r, row);
}

DEVICE void copy_async_16(void *to, const void *from, bool valid)
{
    shim::copy_async(to, from, 16, valid);
}
DEVICE void copy_async_4(void *to, const void *from, bool valid)
{
    shim::copy_async(to, from, 4, valid);
}
template <int BYTES> DEVICE void copy_async_cached(void *to, const void *from, bool valid)
{
    shim::copy_async(to, from, BYTES, valid);
}
/* As far from exact as the instruction may be. */
DEVICE float exp2_approximate(float x) { return std::exp2(x) * (1.0f + 0x1p-22f); }
DEVICE void store_vector(void *to, uint4 x) { *(uint4 *)to = x; }
DEVICE void store_vector(void *to, uint2 x) { *(uint2 *)to = x; }

DEVICE void copy_async_commit() { shim::copy_async_commit(); }
template <int N> DEVICE void copy_async_wait() { shim::copy_async_wait(N); }

#endif
