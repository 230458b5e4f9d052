/* Twins of kernels/cuda/wgmma.cuh, from the layouts of the PTX manual. A product is computed when
 * it is issued and again when it is waited for: if operands were not yet written, or are written
 * again while the tensor cores may still read them, the two differ, and that is an error. The
 * accumulators change only at the wait. */
#ifndef BITSPIN_SHIM_WGMMA_H
#define BITSPIN_SHIM_WGMMA_H

#include "instructions.h"

namespace shim {

enum { MAX_PRODUCTS = 64 };

/* Of shared memory: no multiple of 1024, so that who needs one has to align. */
enum : u32 { BASE_ADDRESS = 128 };

/* d += a b of one thread, under way. */
struct Product {
    void (*compute)(u64 a, u64 b, void *sums);
    void (*add)(void *d, const void *sums);
    void *d;
    u64 a, b;
    u32 group;
    u32 sums[WGMMA_REGISTERS];
};

struct Products {
    Index block;
    u32 epoch; /* of the last call */
    u32 proxy_epoch; /* of the first proxy_fence of the block; 0 before */
    u32 n, group;
    bool is_fenced;
    Product list[MAX_PRODUCTS];
};

static Products all_products[MAX_THREADS];

/* Of this thread; what a block before has left under way is an error. */
UNWATCHED inline Products &my_products()
{
    Products &mine = all_products[threadIdx.x];
    const bool is_new_launch = block_epoch < mine.epoch;
    if (is_new_launch || std::memcmp(&mine.block, &block_index, sizeof mine.block)) {
        if (mine.n && !is_new_launch) fail("wgmma: a block ended with products under way");
        mine.block = block_index;
        mine.n = mine.group = mine.proxy_epoch = 0;
        mine.is_fenced = false;
    }
    mine.epoch = block_epoch;
    return mine;
}

/* Address of word 0 ... 7 of a row of an operand. */
UNWATCHED inline const unsigned char *word_of(u64 descriptor, u32 row, u32 word)
{
    const u32 leading = (u32)(descriptor >> 16 & 0x3fff) << 4;
    const u32 rows = (u32)(descriptor & 0x3fff) << 4;
    const u32 row_8 = rows + row / 8 * ((u32)(descriptor >> 32 & 0x3fff) << 4);
    u32 address = row_8 + row % 8 * 16 + word / 4 * leading + word % 4 * 4;
    if (descriptor >> 62 == SWIZZLED_LINES) {
        if (row_8 & 0x380) fail("wgmma: swizzled lines do not begin at a multiple of 1024 bytes");
        address = row_8 + row % 8 * 128 + word * 4;
        address ^= (address >> 7 & 7) << 4;
    }
    return shared + address - BASE_ADDRESS;
}

UNWATCHED inline u32 load_word(u64 descriptor, u32 row, u32 word)
{
    u32 value;
    std::memcpy(&value, word_of(descriptor, row, word), sizeof value);
    return value;
}

/* The 128 sums of this thread: sum of product(a word, b word) over the 8 words of rows. */
template <typename T, typename Multiply>
UNWATCHED inline void compute_product(u64 a, u64 b, void *sums)
{
    const u32 warp = threadIdx.x % WARPGROUP / WARP, lane = threadIdx.x % WARP;
    u32 rows[2][8];
    /* A warp reads its 16 rows of a, and all of b. */
    for (u32 word = 0; word < 8; word += 4) {
        note_read(word_of(a, 16 * warp + lane / 2, word), 16);
        for (u32 i = 0; i < 8; i++) note_read(word_of(b, 8 * lane + i, word), 16);
    }
    for (u32 half = 0; half < 2; half++)
        for (u32 word = 0; word < 8; word++)
            rows[half][word] = load_word(a, 16 * warp + 8 * half + lane / 4, word);
    for (u32 r = 0; r < WGMMA_REGISTERS; r++) {
        T sum = 0;
        for (u32 word = 0; word < 8; word++)
            sum = Multiply()(sum, rows[r / 2 % 2][word],
                             load_word(b, r / 4 * 8 + lane % 4 * 2 + r % 2, word));
        std::memcpy((u32 *)sums + r, &sum, sizeof sum);
    }
}

template <typename T> UNWATCHED inline void add_sums(void *d, const void *sums)
{
    for (int r = 0; r < WGMMA_REGISTERS; r++) ((T *)d)[r] += ((const T *)sums)[r];
}

template <typename T, typename Multiply> UNWATCHED inline void issue_product(T *d, u64 a, u64 b)
{
    Products &mine = my_products();
    const u64 pair[2] = {a, b};
    u64 all[WARP][2];
    exchange(pair, sizeof pair, all);
    for (int lane = 0; lane < WARP; lane++)
        if (std::memcmp(all[lane], pair, sizeof pair))
            fail("wgmma: the threads of a warp give different descriptors");
    if (!mine.is_fenced) fail("wgmma: no warpgroup_fence before the products of a group");
    for (u32 thread = 0; thread < blockDim.x; thread++)
        if (!all_products[thread].proxy_epoch || all_products[thread].proxy_epoch == block_epoch)
            fail("wgmma: no proxy_fence of all threads, and a barrier, before the products");
    if (mine.n == MAX_PRODUCTS) fail("wgmma: more than 64 products under way");
    Product &product = mine.list[mine.n++];
    product = {compute_product<T, Multiply>, add_sums<T>, d, a, b, mine.group, {}};
    product.compute(a, b, product.sums);
}

UNWATCHED inline void wait_products(u32 n_under_way)
{
    Products &mine = my_products();
    u32 kept = 0;
    warp_barrier();
    for (u32 i = 0; i < mine.n; i++) {
        Product &product = mine.list[i];
        if (product.group + n_under_way < mine.group) {
            u32 again[WGMMA_REGISTERS];
            product.compute(product.a, product.b, again);
            if (std::memcmp(again, product.sums, sizeof again))
                fail("wgmma: an operand changed while a product was under way");
            product.add(product.d, product.sums);
        } else {
            if (kept != i) mine.list[kept] = product;
            kept++;
        }
    }
    mine.n = kept;
}

struct AndPopc {
    UNWATCHED i32 operator()(i32 sum, u32 x, u32 y) const { return sum + __popc(x & y); }
};
struct Bytes {
    UNWATCHED i32 operator()(i32 sum, u32 x, u32 y) const
    {
        for (int i = 0; i < 32; i += 8) sum += (i32)(i8)(x >> i) * (i32)(i8)(y >> i);
        return sum;
    }
};
struct Bf16s {
    UNWATCHED float operator()(float sum, u32 x, u32 y) const
    {
        for (int i = 0; i < 2; i++) sum += bf16_half(x, i) * bf16_half(y, i);
        return sum;
    }
};

} // namespace shim

DEVICE u64 matrix_descriptor(const void *matrix, u32 leading, u32 stride, Swizzling swizzling)
{
    const u64 start = (u64)((const unsigned char *)matrix - shim::shared) + shim::BASE_ADDRESS;
    if ((start | leading | stride) % 16 || start >= 1 << 18)
        shim::fail("wgmma: an operand is not in shared memory, or not aligned to 16 bytes");
    return start >> 4 | (u64)(leading >> 4 & 0x3fffu) << 16 | (u64)(stride >> 4 & 0x3fffu) << 32 |
           (u64)swizzling << 62;
}

DEVICE u8 *aligned_to_lines(u8 *memory)
{
    const u64 address = (u64)(memory - shim::shared) + shim::BASE_ADDRESS;
    return memory + (0 - address) % 1024;
}

/* What it orders has happened here already; that it came before products is noted. */
DEVICE void proxy_fence()
{
    shim::Products &mine = shim::my_products();
    if (!mine.proxy_epoch) mine.proxy_epoch = shim::block_epoch;
}

DEVICE void warpgroup_fence()
{
    shim::warp_barrier();
    shim::my_products().is_fenced = true;
}

DEVICE void warpgroup_commit()
{
    shim::Products &mine = shim::my_products();
    shim::warp_barrier();
    mine.group++;
    mine.is_fenced = false;
}

template <int N> DEVICE void warpgroup_wait()
{
    shim::wait_products(N);
}

DEVICE void wgmma_b1_and(i32 (&d)[WGMMA_REGISTERS], u64 a, u64 b)
{
    shim::issue_product<i32, shim::AndPopc>(d, a, b);
}
DEVICE void wgmma_s8(i32 (&d)[WGMMA_REGISTERS], u64 a, u64 b)
{
    shim::issue_product<i32, shim::Bytes>(d, a, b);
}
DEVICE void wgmma_bf16(float (&d)[WGMMA_REGISTERS], u64 a, u64 b)
{
    shim::issue_product<float, shim::Bf16s>(d, a, b);
}

#endif
