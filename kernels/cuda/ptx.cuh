/* Instructions that C++ has no words for, one function each. With BITSPIN_SHIM their twins come
 * from kernels/shim/instructions.h, written from the register layouts of the PTX manual, which are,
 * with group = lane / 4 and t = lane % 4:
 *   m16n8kK, 32-bit registers: a[0] row group, a[1] row group + 8, both word t of K's first half;
 *   a[2], a[3] the same rows, word t of the second half; b[0], b[1] column group, words t of both
 *   halves; c[0], c[1] row group, columns 2 t and 2 t + 1; c[2], c[3] row group + 8. */
#pragma once
#include "device.cuh"

#ifdef BITSPIN_SHIM
#include "instructions.h"
#else

/* All 64 bits of a product in one instruction: of (u64)a * b the compiler makes an addition more. */
DEVICE u64 multiply_wide(u32 a, u32 b)
{
    u64 product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
    return product;
}

DEVICE u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

/* c += popc(a & b): 16 rows, 8 columns, 256 bits. sm_80 to sm_90. */
DEVICE void mma_b1_and(i32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* c += a b: 16 rows, 8 columns, 32 signed bytes, four to a register. */
DEVICE void mma_s8(i32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* c += a b: 16 rows, 8 columns, 16 bfloat16, two to a register, the lower half first. */
DEVICE void mma_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Two floats rounded to nearest even, `low` in the lower half. */
DEVICE u32 bf16_pair(float low, float high)
{
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* Four 8 x 8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8
 * (16 bytes, aligned) and receives in r[i] elements 2 t and 2 t + 1 of row `group` of matrix i. */
DEVICE void ldmatrix_x4(u32 (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The same, each matrix transposed: r[i] has rows 2 t and 2 t + 1 of column `group`. */
DEVICE void ldmatrix_x4_transposed(u32 (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* Copy 16 or 4 bytes to shared memory, or zeros if not `valid`; both addresses aligned to the size;
 * `from` must be a valid address of the array even where nothing is read. Done only after
 * copy_async_wait and, for other threads, a barrier. */
DEVICE void copy_async_16(void *to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

DEVICE void copy_async_4(void *to, const void *from, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 4 : 0)
                 : "memory");
}

/* Copy 4, 8 or 16 bytes that are read again soon, by way of the L1 cache. */
template <int BYTES> DEVICE void copy_async_cached(void *to, const void *from, bool valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(from), "n"(BYTES), "r"(valid ? BYTES : 0)
                 : "memory");
}

/* 2^x within a relative 2^-22; below 2^-126 it is 0. */
DEVICE float exp2_approximate(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Stores of 16 and 8 bytes, aligned so. The compiler takes one apart where another branch stores
 * the same elements one by one. */
DEVICE void store_vector(void *to, uint4 x)
{
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x.x), "r"(x.y),
                 "r"(x.z), "r"(x.w)
                 : "memory");
}

DEVICE void store_vector(void *to, uint2 x)
{
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(x.x), "r"(x.y) : "memory");
}

/* Close a group of copies, empty or not. */
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/* Wait until at most N of the newest groups of this thread are under way. */
template <int N> DEVICE void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif
