/* The tile for ARM: up to 6 rows against 8 columns, base NEON.
 *
 * The 8 products of a row and 128 bits of the columns cost 24 vector instructions, the floor of
 * 3 each: 8 eor (or and), 8 cnt, and 8 that add up. Those are 7 pairwise adds of bytes, which
 * fold the 8 vectors of counts into one with 2 bytes per column, and one that adds these pairs to
 * 8 sums of 16 bits, one lane per column: 6 rows need 6 accumulators, and nothing is left to be
 * reduced at the end. The plan is that of Larq Compute Engine (core/indirect_bgemm).
 *
 * A lane grows by at most 128 per step of 128 bits, and is doubled once at the end: after
 * BLOCK_STEPS steps it is widened, 252 * 128 * 2 = 64512 <= 65535. */
#include "tile.h"

#if BS_ARM
#include "neon.h"

enum { STEP_WORDS = BS_VECTORS_WORDS, PANEL_STEP = BS_VECTORS_WIDTH * STEP_WORDS };
enum { BLOCK_STEPS = 252 };

#if defined(__aarch64__)
#define LOOP loop_xor
#define LOOP_OP "eor"
#include "tile_neon_loop.h"
#define LOOP loop_and
#define LOOP_OP "and"
#include "tile_neon_loop.h"
/* The register file holds 8 columns, 6 rows, 6 accumulators and 12 counts on their way. */
enum { MAX_ROWS = 6, LOOP_ROWS = 6, LOOP_STEPS = 4 };
#else
enum { MAX_ROWS = 2, LOOP_ROWS = 0, LOOP_STEPS = 1 };
#endif

/* 0 to 3 words, the other lanes 0. */
BS_INLINE uint8x16_t load_few(const uint32_t *words, int32_t n)
{
    uint32x4_t few = vdupq_n_u32(0);
    if (n > 0) few = vld1q_lane_u32(words, few, 0);
    if (n > 1) few = vld1q_lane_u32(words + 1, few, 1);
    if (n > 2) few = vld1q_lane_u32(words + 2, few, 2);
    return vreinterpretq_u8_u32(few);
}

BS_INLINE uint8x16_t counts(uint8x16_t row, const uint32_t *column, int32_t form)
{
    uint8x16_t both = vreinterpretq_u8_u32(vld1q_u32(column));
    return vcntq_u8(form == BS_AND ? vandq_u8(row, both) : veorq_u8(row, both));
}

/* Adds the products of 128 bits of one row and of 8 columns. */
BS_INLINE uint16x8_t accumulate(uint16x8_t sums, uint8x16_t row, const uint32_t *columns,
                                int32_t form)
{
    uint8x16_t fours[2];
#pragma GCC unroll 2
    for (int32_t i = 0; i < 2; i++, columns += 4 * STEP_WORDS) {
        uint8x16_t first = bs_pairs_u8x16(counts(row, columns, form),
                                          counts(row, columns + STEP_WORDS, form));
        uint8x16_t second = bs_pairs_u8x16(counts(row, columns + 2 * STEP_WORDS, form),
                                           counts(row, columns + 3 * STEP_WORDS, form));
        fours[i] = bs_pairs_u8x16(first, second);
    }
    return vpadalq_u8(sums, bs_pairs_u8x16(fours[0], fours[1]));
}

/* Adds n_steps steps, a multiple of LOOP_STEPS, before those that the rows point to. */
BS_INLINE void run_loop(const uint8_t *const *rows, const uint32_t *panel, int64_t n_steps,
                        uint16x8_t *sums, int32_t form)
{
#if defined(__aarch64__)
    if (form == BS_AND) loop_and(rows, panel, n_steps, sums);
    else loop_xor(rows, panel, n_steps, sums);
#else
    (void)rows, (void)panel, (void)n_steps, (void)sums, (void)form;
#endif
}

/* start - 2 sums or start + sums, where start is what the earlier blocks left. */
BS_INLINE void emit(int32_t *out, uint32x4_t low, uint32x4_t high, uint16x8_t sums, int32_t form)
{
    if (form == BS_AND) {
        low = vaddw_u16(low, vget_low_u16(sums));
        high = vaddw_u16(high, vget_high_u16(sums));
    } else {
        sums = vshlq_n_u16(sums, 1);
        low = vsubw_u16(low, vget_low_u16(sums));
        high = vsubw_u16(high, vget_high_u16(sums));
    }
    vst1q_s32(out, vreinterpretq_s32_u32(low));
    vst1q_s32(out + 4, vreinterpretq_s32_u32(high));
}

/* The steps of a block: where they lie, and those at their end that the inner loop leaves. */
typedef struct {
    const uint8_t *rows[MAX_ROWS]; /* the first step after the inner loop's */
    uint8x16_t ends[MAX_ROWS];     /* a last step: the words that are left, and zeros */
    int32_t n_looped, n_left, has_end;
} block;

/* The sums of a block for one panel. */
BS_INLINE void add_block(const block *b, const uint32_t *panel, uint16x8_t *sums, int32_t n_rows,
                         int32_t form)
{
#pragma GCC unroll 8
    for (int32_t row = 0; row < n_rows; row++) sums[row] = vdupq_n_u16(0);
    if (n_rows == LOOP_ROWS && b->n_looped > 0) run_loop(b->rows, panel, b->n_looped, sums, form);
    panel += (int64_t)b->n_looped * PANEL_STEP;
    for (int32_t at = 0; at < b->n_left; at++, panel += PANEL_STEP) {
#pragma GCC unroll 8
        for (int32_t row = 0; row < n_rows; row++) {
            uint8x16_t bits = vld1q_u8(b->rows[row] + (int64_t)at * 16);
            sums[row] = accumulate(sums[row], bits, panel, form);
        }
    }
    if (!b->has_end) return;
#pragma GCC unroll 8
    for (int32_t row = 0; row < n_rows; row++)
        sums[row] = accumulate(sums[row], b->ends[row], panel, form);
}

BS_INLINE void run(const bs_tile *tile, int32_t first, int32_t n_rows, int32_t form)
{
    const int32_t rest = tile->n_words % STEP_WORDS, n_whole = tile->n_words / STEP_WORDS;
    const int64_t panel_words = (int64_t)(n_whole + (rest != 0)) * PANEL_STEP;
    const int64_t stride = tile->stride;
    uint32x4_t low = vdupq_n_u32(form == BS_AND ? 0 : (uint32_t)tile->n_bits), high = low;
    block b;
#pragma GCC unroll 8
    for (int32_t row = 0; row < n_rows; row++) {
        const uint32_t *words = tile->rows[first + row];
        b.rows[row] = (const uint8_t *)words;
        b.ends[row] = load_few(words + n_whole * STEP_WORDS, rest);
    }
    for (int32_t begin = 0; begin == 0 || begin < n_whole + (rest != 0); begin += BLOCK_STEPS) {
        const int32_t is_last = n_whole - begin < BLOCK_STEPS;
        const int32_t n_steps = is_last ? n_whole - begin : BLOCK_STEPS;
        b.n_looped = n_rows == LOOP_ROWS ? n_steps / LOOP_STEPS * LOOP_STEPS : 0;
        b.n_left = n_steps - b.n_looped;
        b.has_end = rest != 0 && is_last;
#pragma GCC unroll 8
        for (int32_t row = 0; row < n_rows; row++) b.rows[row] += b.n_looped * 16;
        const uint32_t *panel = tile->panels + (int64_t)begin * PANEL_STEP;
        int32_t *out = tile->out + first * stride;
        for (int32_t i = tile->n_panels; i > 0; i--, panel += panel_words, out += 8) {
            uint16x8_t sums[MAX_ROWS];
            add_block(&b, panel, sums, n_rows, form);
            int32_t *to = out;
#pragma GCC unroll 8
            for (int32_t row = 0; row < n_rows; row++, to += stride) {
                if (begin > 0) {
                    low = vld1q_u32((const uint32_t *)to);
                    high = vld1q_u32((const uint32_t *)to + 4);
                }
                emit(to, low, high, sums[row], form);
            }
        }
#pragma GCC unroll 8
        for (int32_t row = 0; row < n_rows; row++) b.rows[row] += b.n_left * 16;
    }
}

/* Not inlined into one another: each is a loop of its own with its own use of the registers. */
#define DEFINE_TILE(n_rows)                                                  \
    static void tile_##n_rows(const bs_tile *tile, int32_t first)            \
    {                                                                        \
        if (tile->form == BS_AND) run(tile, first, n_rows, BS_AND);          \
        else run(tile, first, n_rows, BS_XOR);                               \
    }

DEFINE_TILE(1)
DEFINE_TILE(2)
#if defined(__aarch64__)
DEFINE_TILE(4)
DEFINE_TILE(6)
#endif

void bs_tile_neon(const bs_tile *tile)
{
    int32_t row = 0;
#if defined(__aarch64__)
    for (; tile->n_rows - row >= 6; row += 6) tile_6(tile, row);
    for (; tile->n_rows - row >= 4; row += 4) tile_4(tile, row);
#endif
    for (; tile->n_rows - row >= 2; row += 2) tile_2(tile, row);
    for (; row < tile->n_rows; row++) tile_1(tile, row);
}
#endif
