/* Heat-bath sweeps of Ising lattices, 32 spins to a word, by integers alone.
 *
 * A lattice has n_slices x n_rows x n_columns sites, all directions periodic, in two colours by
 * the parity of slice + row + column. A colour is an array (slice, row, word) of bits, bit 1 = up:
 * bit r of word j is the site of compact index 32 j + r, whose column is 2 (32 j + r) + offset
 * with offset = (slice + row + colour) % 2. All neighbours are of the other colour: rows above and
 * below and slices before and after at the same compact index, and in its own row the same index
 * and the one before (offset 0) or after it (offset 1). kernels/lattice.py documents the random
 * numbers.
 *
 * Neighbours are counted in bit planes by full adders. A spin is of a class, by its counts; it
 * goes up iff u < T of its class, u and T of 24 bits, compared from the highest bit down. `open`
 * marks the spins whose bits of u and T were all equal so far, P is the plane of T's bits:
 *     on   = open ? not r : on        at the bit that decides, u < T iff r = 0
 *     open = open and not (P xor r)
 * which halves `open` with each bit. Blocks of 4 bits are drawn until no spin is open.
 *
 * Without a field T(up, down exchanged) = 2^24 - T, and u < 2^24 - T iff u <= not T. So pairs of
 * classes share a row of masks, and `base` marks the spins of the upper class: P = base xor (masks
 * of the pair), ties go to base. The class between has T = 2^23: its first bit decides.
 *
 * Cost, counted in the code of lattice_symmetric_4 for sm_90a: 128 spins of a thread take 380
 * instructions to the end of the first block, 2 x 221 for the next two, and 4 x (5 + 72) with 0.23
 * of the 72 run: about 910, or 7.1 a spin; 475 are LOP3, 45 other integer operations, 205
 * IMAD.WIDE. An H100 (132 multiprocessors, 1.755 GHz) that issues 128 lanes a clock, 64 of them
 * for the 520, would make 4100 and 3600 flips/ns: limits by calculation, not measured. A flip
 * moves 1/4 byte (a word read for a word written, the rest from the caches), 0.9 TB/s at that
 * rate, and 16384^2 spins fit in the L2 cache. So logic is the bound, and every instruction per
 * bit counts. */
#include "philox.cuh"

enum { BITS = 24, BLOCK_BITS = 4, BLOCKS = BITS / BLOCK_BITS, GIBBS_VISIBLE = 2 };

/* Blocks drawn for all words of a thread at once. After 8 bits 98 % of the warps have an open spin
 * among the 1024 of a word per lane, after 12 bits 22 %: from there each word goes on alone. */
enum { JOINT_BLOCKS = 3 };

/* What the neighbours of 32 spins say about T: with planes of the counts for n of 4 neighbours in
 * the slice (n = low + 2 middle + 4 high) and n of 2 in time (odd: one, both: two), P is a
 * polynomial modulo 2 of these planes; its coefficients are the masks of a bit, ~0 or 0. In
 * general, with Q(k) = k0 ^ k1 low ^ k2 middle ^ k3 low middle ^ k4 high: P = Q(k), or in time P =
 * Q(k) ^ odd Q(k + 5) ^ both Q(k + 10). If symmetric, the planes are those of pairs of classes and
 * exclude each other: P = base ^ the sum of k_c planes_c. */
template <bool TIME, bool SYMMETRIC> struct Word {
    static constexpr int n_planes = SYMMETRIC ? (TIME ? 7 : 2) : (TIME ? 6 : 4);
    static constexpr int n_masks = SYMMETRIC ? n_planes : (TIME ? 15 : 5);
    static constexpr int row_masks = n_masks == 2 ? 2 : (n_masks + 3) / 4 * 4; /* with padding */
    u32 planes[n_planes];
    u32 base;
    u32 open;
    u32 on;
};

/* Row `bit` of the masks: of T's bits, the highest is bit 0. Row BITS says who goes up if u and T
 * have all bits equal: nobody, but spins with T = 2^24, whose other rows are those of 2^24 - 1. */
template <int N> DEVICE void load_masks(const u32 *masks, int bit, u32 (&mask)[N])
{
    if constexpr (N == 2) {
        const uint2 pair = ((const uint2 *)masks)[bit];
        mask[0] = pair.x;
        mask[1] = pair.y;
    } else {
        constexpr int fours = (N + 3) / 4;
#pragma unroll
        for (int i = 0; i < fours; i++) {
            const uint4 four = ((const uint4 *)masks)[bit * fours + i];
            mask[4 * i] = four.x;
            if (4 * i + 1 < N) mask[4 * i + 1] = four.y;
            if (4 * i + 2 < N) mask[4 * i + 2] = four.z;
            if (4 * i + 3 < N) mask[4 * i + 3] = four.w;
        }
    }
}

/* Q of the comment above; k is a constant where it is called. */
template <typename W, int N> DEVICE u32 polynomial(const W &word, const u32 (&mask)[N], int k)
{
    u32 sum = mask[k];
#pragma unroll
    for (int i = 0; i < 4; i++) sum ^= mask[k + 1 + i] & word.planes[i];
    return sum;
}

template <bool TIME, bool SYMMETRIC, int N>
DEVICE u32 plane(const Word<TIME, SYMMETRIC> &word, const u32 (&mask)[N])
{
    u32 sum = word.base;
    if constexpr (SYMMETRIC) {
#pragma unroll
        for (int c = 0; c < N; c++) sum ^= mask[c] & word.planes[c];
    } else {
        sum = polynomial(word, mask, 0);
        if constexpr (TIME) {
            sum ^= word.planes[4] & polynomial(word, mask, 5);
            sum ^= word.planes[5] & polynomial(word, mask, 10);
        }
    }
    return sum;
}

/* Draw 4 bits of u for W consecutive words and compare them. The very first bit decides also what
 * is not open. */
template <bool IS_FIRST, int W, bool TIME, bool SYMMETRIC>
DEVICE void decide(Word<TIME, SYMMETRIC> *words, const u32 *masks, const Stream &stream, u32 row,
                   int block)
{
    u32 random[W][BLOCK_BITS];
#pragma unroll
    for (int w = 0; w < W; w++) philox(stream, (u32)block, row + w, random[w]);
#pragma unroll
    for (int bit = 0; bit < BLOCK_BITS; bit++) {
        u32 mask[Word<TIME, SYMMETRIC>::n_masks];
        load_masks(masks, block * BLOCK_BITS + bit, mask);
#pragma unroll
        for (int w = 0; w < W; w++) {
            const u32 r = random[w][bit], open = words[w].open;
            words[w].on = IS_FIRST && bit == 0 ? ~r : (open & ~r) | (~open & words[w].on);
            words[w].open = open & ~(plane(words[w], mask) ^ r);
        }
    }
}

/* The bits that are left, as long as a lane of the warp has an open spin; then the new spins. */
template <bool TIME, bool SYMMETRIC>
DEVICE u32 finish(Word<TIME, SYMMETRIC> &word, const u32 *masks, const Stream &stream, u32 row)
{
    if (!__any_sync(ALL_LANES, word.open != 0)) return word.on;
#pragma unroll 1
    for (int block = JOINT_BLOCKS; block < BLOCKS; block++) {
        decide<false, 1>(&word, masks, stream, row, block);
        if (!__any_sync(ALL_LANES, word.open != 0)) return word.on;
    }
    u32 tie[Word<TIME, SYMMETRIC>::n_masks];
    load_masks(masks, BITS, tie);
    return (word.open & plane(word, tie)) | (~word.open & word.on);
}

/* Planes of a + b + c + d = low + 2 middle + 4 high. */
struct Count {
    u32 low, middle, high;
};
DEVICE Count count(u32 a, u32 b, u32 c, u32 d)
{
    const u32 sum = a ^ b ^ c, carry = (a & b) | (c & (a | b));
    return Count{sum ^ d, carry ^ (sum & d), carry & sum & d};
}

/* The planes of 32 spins from their counts and their neighbours in time. */
template <bool TIME, bool SYMMETRIC>
DEVICE Word<TIME, SYMMETRIC> classify(const Count &n, u32 before, u32 after)
{
    Word<TIME, SYMMETRIC> word;
    const u32 odd = before ^ after, both = before & after, none = ~(before | after);
    const u32 extreme = ~(n.low | n.middle); /* 0 or 4 */
    const u32 two = n.middle & ~n.low, most = n.high | (n.middle & n.low);
    word.on = 0;
    if constexpr (!SYMMETRIC) {
        word.planes[0] = n.low;
        word.planes[1] = n.middle;
        word.planes[2] = n.low & n.middle;
        word.planes[3] = n.high;
        if constexpr (TIME) {
            word.planes[4] = odd;
            word.planes[5] = both;
        }
        word.base = 0;
        word.open = ~0u;
    } else if constexpr (!TIME) {
        word.planes[0] = extreme;
        word.planes[1] = n.low;
        word.base = most;
        word.open = ~two;
    } else { /* 0 and 1 in the slice with 0, 1, 2 in time; 2 with 0; and what mirrors them */
        word.base = most | (two & both);
        const u32 opposed = (word.base & both) | (~word.base & none);
        const u32 aligned = (word.base & none) | (~word.base & both);
        word.planes[0] = extreme & opposed;
        word.planes[1] = n.low & opposed;
        word.planes[2] = extreme & odd;
        word.planes[3] = n.low & odd;
        word.planes[4] = extreme & aligned;
        word.planes[5] = n.low & aligned;
        word.planes[6] = two & ~odd;
        word.open = ~(two & odd);
    }
    return word;
}

template <int W> DEVICE void load_words(const u32 *from, u32 (&to)[W])
{
    if constexpr (W == 4) {
        const uint4 four = *(const uint4 *)from;
        to[0] = four.x;
        to[1] = four.y;
        to[2] = four.z;
        to[3] = four.w;
    } else {
        to[0] = *from;
    }
}

template <int W> DEVICE void store_words(u32 *to, const u32 (&from)[W])
{
    if constexpr (W == 4)
        *(uint4 *)to = make_uint4(from[0], from[1], from[2], from[3]);
    else
        *to = from[0];
}

/* Sizes of a colour in words. */
struct Shape {
    u32 n_slices, n_rows, n_words;
};
DEVICE u32 before(u32 i, u32 n) { return i == 0 ? n - 1 : i - 1; }
DEVICE u32 after(u32 i, u32 n) { return i == n - 1 ? 0 : i + 1; }

/* The neighbours in its own row that do not have a spin's own compact index. */
template <int W>
DEVICE void load_side(const u32 *row, u32 word, u32 n_words, bool is_after, const u32 (&same)[W],
                      u32 (&side)[W])
{
    const u32 edge = row[is_after ? after(word + W - 1, n_words) : before(word, n_words)];
#pragma unroll
    for (int w = 0; w < W; w++) {
        const u32 low = w == 0 ? edge : same[w - 1], high = w == W - 1 ? edge : same[w + 1];
        side[w] = is_after ? __funnelshift_r(same[w], high, 1) : __funnelshift_l(low, same[w], 1);
    }
}

/* Read the neighbours of W words, in `row` from `word` on. */
template <bool TIME, bool SYMMETRIC, int W>
DEVICE void load_classes(Word<TIME, SYMMETRIC> (&words)[W], const u32 *other, const Shape &shape,
                         u32 colour, u32 slice, u32 row, u32 word)
{
    const u64 slice_words = (u64)shape.n_rows * shape.n_words;
    const u32 here = row * shape.n_words + word;
    const u32 *in_slice = other + slice * slice_words;
    u32 up[W], down[W], same[W], side[W], past[W] = {}, future[W] = {};
    load_words(in_slice + before(row, shape.n_rows) * shape.n_words + word, up);
    load_words(in_slice + here, same);
    load_words(in_slice + after(row, shape.n_rows) * shape.n_words + word, down);
    load_side(in_slice + row * shape.n_words, word, shape.n_words, (slice + row + colour) & 1, same,
              side);
    if constexpr (TIME) {
        load_words(other + before(slice, shape.n_slices) * slice_words + here, past);
        load_words(other + after(slice, shape.n_slices) * slice_words + here, future);
    }
#pragma unroll
    for (int w = 0; w < W; w++)
        words[w] = classify<TIME, SYMMETRIC>(count(up[w], down[w], same[w], side[w]), past[w],
                                             future[w]);
}

/* Update one colour, given the other. A thread takes W words, blockIdx.y is the slice. Threads
 * past the end do the last words again and do not store: a warp is never split, so that what is
 * the same for all its lanes, the keys of Philox above all, is computed once for all of them. */
template <bool TIME, bool SYMMETRIC, int W>
DEVICE void update(const u32 *__restrict__ other, u32 *__restrict__ own, const Shape &shape,
                   const u32 *table, u64 seed, u32 sweep, u32 colour)
{
    constexpr u32 n_masks = (BITS + 1) * Word<TIME, SYMMETRIC>::row_masks;
    u32 *masks = (u32 *)shared_memory();
    for (u32 i = threadIdx.x; i < n_masks; i += blockDim.x) masks[i] = table[i];
    const u32 n_groups = shape.n_words / W, all_groups = shape.n_rows * n_groups;
    const u32 mine = blockIdx.x * blockDim.x + threadIdx.x, group = smaller(mine, all_groups - 1);
    const u32 slice = blockIdx.y, row = group / n_groups, word = (group - row * n_groups) * W;
    const u32 here = row * shape.n_words + word;
    const Stream stream = stream_of(seed, GIBBS_VISIBLE, slice << 1 | colour, sweep);
    Word<TIME, SYMMETRIC> words[W];
    load_classes(words, other, shape, colour, slice, row, word);
    __syncthreads(); /* the masks */
    decide<true, W>(words, masks, stream, here, 0);
#pragma unroll (TIME ? 2 : 1)
    for (int block = 1; block < JOINT_BLOCKS; block++)
        decide<false, W>(words, masks, stream, here, block);
    u32 on[W];
#pragma unroll
    for (int w = 0; w < W; w++) on[w] = finish(words[w], masks, stream, here + w);
    u32 *to = own + (u64)slice * shape.n_rows * shape.n_words + here;
    if (mine < all_groups) store_words(to, on);
}

KERNEL(256, 4) lattice_symmetric_4(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<false, true, 4>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}
KERNEL(256, 4) lattice_symmetric_1(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<false, true, 1>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}
KERNEL(256, 3) lattice_field_4(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<false, false, 4>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}
KERNEL(256, 4) lattice_field_1(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<false, false, 1>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}
KERNEL(256, 2) lattice_time_symmetric_4(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<true, true, 4>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}
KERNEL(256, 2) lattice_time_symmetric_1(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<true, true, 1>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}
KERNEL(256, 2) lattice_time_field_4(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<true, false, 4>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}
KERNEL(256, 2) lattice_time_field_1(
    const u32 *other, u32 *own, u32 n_slices, u32 n_rows, u32 n_words, const u32 *masks, u64 seed,
    u32 sweep, u32 colour)
{
    update<true, false, 1>(other, own, Shape{n_slices, n_rows, n_words}, masks, seed, sweep,
                       colour);
}

/* Add to totals[3][n_slices]: spins up; bonds within the slice whose ends differ; with `in_time`,
 * such bonds to the next slice. A bond within the slice is counted at its end of colour 0. */
KERNEL(256, 4) lattice_totals(
    const u32 *black, const u32 *white, u32 n_slices, u32 n_rows, u32 n_words, u32 in_time,
    u64 *totals)
{
    const u32 slice = blockIdx.y, next = after(slice, n_slices), slice_words = n_rows * n_words;
    const u32 *in_slice = white + (u64)slice * slice_words;
    u32 sums[3] = {};
    const u32 n_threads = gridDim.x * blockDim.x;
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < slice_words; i += n_threads) {
        const u32 row = i / n_words, word = i - row * n_words;
        const u32 spins = black[(u64)slice * slice_words + i], same[1] = {in_slice[i]};
        u32 side[1];
        load_side(in_slice + row * n_words, word, n_words, (slice + row) & 1, same, side);
        sums[0] += __popc(spins) + __popc(same[0]);
        sums[1] += __popc(spins ^ same[0]) + __popc(spins ^ side[0]) +
                   __popc(spins ^ in_slice[before(row, n_rows) * n_words + word]) +
                   __popc(spins ^ in_slice[after(row, n_rows) * n_words + word]);
        if (in_time)
            sums[2] += __popc(spins ^ white[(u64)next * slice_words + i]) +
                       __popc(same[0] ^ black[(u64)next * slice_words + i]);
    }
#pragma unroll
    for (int which = 0; which < 3; which++) {
#pragma unroll
        for (int lane = WARP / 2; lane > 0; lane /= 2)
            sums[which] += __shfl_xor_sync(ALL_LANES, sums[which], lane);
        if (lane_number() == 0) atomicAdd(totals + which * n_slices + slice, (u64)sums[which]);
    }
}
