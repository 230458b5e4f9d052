/* The inner loop of tile_neon.c for aarch64: 6 rows, 8 columns, 4 steps of 128 bits at a time.
 * Included once per form, with LOOP (the function's name) and LOOP_OP (eor or and) defined.
 *
 * Per 192 products: 576 vector instructions, 24 loads of rows, 16 pairs of columns, 6 others,
 * that is 3.24 instructions per product. The order matters to cores that issue in order. A row's
 * 8 eor come before its 8 cnt and its 4 adds, and the later adds lie among those of the next row:
 * an operand is then 6 or more instructions old (Cortex-A53), and an instruction is seldom ready
 * before one that was issued earlier (Cortex-A55). From there the order was found by a search that
 * moves instructions past one another wherever no register forbids it and keeps what llvm-mca 19
 * models as faster on both; cores that issue out of order do not mind.
 *
 * Registers: v0-v7 columns, v8-v13 rows, v14-v25 counts, v26-v31 sums (16 bits, one per column). */
#define BITS(d, row, column) LOOP_OP " v" #d ".16b, v" #row ".16b, v" #column ".16b\n"
#define COUNT(d) "cnt v" #d ".16b, v" #d ".16b\n"
#define FOLD(d, a, b) "addp v" #d ".16b, v" #a ".16b, v" #b ".16b\n"
#define SUM(d, a) "uadalp v" #d ".8h, v" #a ".16b\n"
#define ROW(d, row, step) "ldr q" #d ", [%[p" #row "], %[i" #step "]]\n"
#define COLUMN(d, at) "ldr q" #d ", [%[columns], #" #at "]\n"
#define COLUMNS(d, e, at) "ldp q" #d ", q" #e ", [%[columns], #" #at "]\n"
#define NEXT(at, n) "add %[" #at "], %[" #at "], #" #n "\n"
#define LAST(at, n) "adds %[" #at "], %[" #at "], #" #n "\n"

/* Adds n_steps steps, a multiple of 4, of the panel at columns and of 6 rows, which end at
 * rows[0] to rows[5]: an index counts up to 0 and ends the loop. */
BS_INLINE void LOOP(const uint8_t *const *rows, const uint32_t *columns, int64_t n_steps,
                    uint16x8_t *sums)
{
    int64_t i0 = -16 * n_steps, i1 = i0 + 16, i2 = i0 + 32, i3 = i0 + 48;
    register uint16x8_t sum0 __asm__("v26") = sums[0];
    register uint16x8_t sum1 __asm__("v27") = sums[1];
    register uint16x8_t sum2 __asm__("v28") = sums[2];
    register uint16x8_t sum3 __asm__("v29") = sums[3];
    register uint16x8_t sum4 __asm__("v30") = sums[4];
    register uint16x8_t sum5 __asm__("v31") = sums[5];
    __asm__ volatile(
        "1:\n"
        ROW(8, 0, 0) COLUMNS(0, 1, 0) ROW(9, 1, 0) COLUMNS(2, 3, 32) BITS(14, 8, 0) BITS(15, 8, 1)
        BITS(23, 9, 1) BITS(22, 9, 0) BITS(25, 9, 3) BITS(24, 9, 2) BITS(17, 8, 3) BITS(16, 8, 2)
        COUNT(14) COLUMNS(4, 5, 64) COUNT(15) COUNT(17) COUNT(16) COUNT(25) COLUMNS(6, 7, 96)
        COUNT(24) FOLD(14, 14, 15) BITS(15, 9, 4) BITS(21, 8, 7) BITS(20, 8, 6) BITS(19, 8, 5)
        BITS(18, 8, 4) COUNT(22) FOLD(16, 16, 17) COUNT(23) COUNT(20) COUNT(21) COUNT(19) COUNT(18)
        ROW(10, 2, 0) FOLD(24, 24, 25) FOLD(14, 14, 16) FOLD(22, 22, 23) FOLD(20, 20, 21)
        FOLD(18, 18, 19) BITS(25, 10, 5) BITS(23, 10, 4) BITS(17, 9, 5) BITS(19, 9, 6)
        BITS(21, 9, 7) BITS(16, 10, 0) FOLD(18, 18, 20) COUNT(25) COUNT(17) COUNT(15) COUNT(21)
        COUNT(19) FOLD(14, 14, 18) FOLD(22, 22, 24) COUNT(23) ROW(11, 3, 0) COUNT(16)
        FOLD(15, 15, 17) SUM(26, 14) FOLD(19, 19, 21) BITS(14, 10, 3) BITS(20, 10, 1)
        BITS(18, 10, 2) BITS(17, 10, 6) BITS(21, 10, 7) BITS(24, 11, 0) FOLD(15, 15, 19) COUNT(20)
        COUNT(18) COUNT(17) COUNT(21) COUNT(14) FOLD(22, 22, 15) ROW(13, 5, 0) FOLD(16, 16, 20)
        ROW(10, 2, 1) FOLD(17, 17, 21) FOLD(18, 18, 14) SUM(27, 22) FOLD(23, 23, 25)
        BITS(25, 11, 6) BITS(22, 11, 3) BITS(19, 11, 1) BITS(21, 11, 7) BITS(14, 11, 5)
        BITS(15, 11, 2) BITS(20, 11, 4) COUNT(25) COUNT(19) FOLD(23, 23, 17) COUNT(22)
        FOLD(16, 16, 18) COUNT(21) COUNT(24) COUNT(15) COUNT(14) COUNT(20) ROW(12, 4, 0)
        FOLD(16, 16, 23) FOLD(24, 24, 19) FOLD(15, 15, 22) FOLD(25, 25, 21) FOLD(20, 20, 14)
        ROW(8, 0, 1) ROW(9, 1, 1) SUM(28, 16) FOLD(24, 24, 15) ROW(11, 3, 1) FOLD(20, 20, 25)
        BITS(15, 13, 0) BITS(23, 12, 2) BITS(14, 12, 6) BITS(22, 12, 5) BITS(21, 12, 7)
        BITS(18, 12, 0) BITS(17, 12, 1) BITS(19, 12, 4) BITS(16, 12, 3) BITS(25, 13, 1)
        COLUMNS(0, 1, 128) COUNT(22) COUNT(17) FOLD(24, 24, 20) COUNT(19) COUNT(16) COUNT(18)
        COUNT(14) COUNT(23) COUNT(21) COUNT(15) FOLD(19, 19, 22) SUM(29, 24) FOLD(18, 18, 17)
        COUNT(25) FOLD(14, 14, 21) FOLD(23, 23, 16) BITS(17, 13, 4) BITS(24, 13, 3) BITS(16, 13, 5)
        BITS(20, 13, 2) BITS(22, 13, 6) BITS(21, 13, 7) FOLD(19, 19, 14) COLUMNS(2, 3, 160)
        COUNT(24) FOLD(18, 18, 23) COUNT(22) COUNT(20) FOLD(15, 15, 25) COLUMNS(6, 7, 224)
        COUNT(16) FOLD(18, 18, 19) COUNT(17) COUNT(21) FOLD(20, 20, 24) COLUMNS(4, 5, 192)
        SUM(30, 18) FOLD(17, 17, 16) FOLD(22, 22, 21) FOLD(15, 15, 20) BITS(21, 8, 7)
        BITS(19, 8, 2) BITS(18, 8, 3) BITS(24, 8, 5) BITS(16, 8, 6) BITS(23, 8, 0) BITS(14, 8, 1)
        BITS(25, 8, 4) BITS(20, 9, 0) FOLD(17, 17, 22) COUNT(24) COUNT(18) COUNT(21) COUNT(19)
        COUNT(25) COUNT(16) COUNT(14) FOLD(15, 15, 17) COUNT(23) FOLD(19, 19, 18) FOLD(25, 25, 24)
        FOLD(16, 16, 21) ROW(8, 0, 2) SUM(31, 15) FOLD(23, 23, 14) BITS(17, 9, 2) BITS(14, 9, 4)
        BITS(15, 9, 3) BITS(18, 9, 5) BITS(22, 9, 1) BITS(24, 9, 6) BITS(21, 9, 7) FOLD(23, 23, 19)
        FOLD(25, 25, 16) ROW(13, 5, 1) COUNT(14) COUNT(18) COUNT(20) COUNT(22) FOLD(23, 23, 25)
        COUNT(17) COUNT(15) COUNT(24) COUNT(21) FOLD(20, 20, 22) ROW(12, 4, 1) SUM(26, 23)
        FOLD(14, 14, 18) FOLD(17, 17, 15) FOLD(24, 24, 21) BITS(19, 10, 0) BITS(25, 10, 2)
        BITS(21, 10, 7) BITS(16, 10, 1) BITS(23, 10, 3) BITS(15, 10, 5) BITS(22, 10, 4)
        BITS(18, 10, 6) COUNT(25) FOLD(20, 20, 17) FOLD(14, 14, 24) COUNT(23) COUNT(21) COUNT(18)
        COUNT(16) COUNT(19) COUNT(22) FOLD(20, 20, 14) COUNT(15) FOLD(18, 18, 21) ROW(10, 2, 2)
        FOLD(25, 25, 23) FOLD(19, 19, 16) SUM(27, 20) FOLD(22, 22, 15) BITS(16, 11, 4)
        BITS(20, 11, 3) BITS(24, 11, 1) BITS(21, 11, 7) BITS(23, 11, 5) BITS(17, 11, 0)
        BITS(14, 11, 2) BITS(15, 11, 6) FOLD(22, 22, 18) FOLD(19, 19, 25) COUNT(20) COUNT(16)
        COUNT(14) COUNT(15) COUNT(23) COUNT(17) COUNT(21) COUNT(24) ROW(9, 1, 2) FOLD(19, 19, 22)
        FOLD(16, 16, 23) FOLD(14, 14, 20) FOLD(15, 15, 21) FOLD(17, 17, 24) BITS(23, 12, 6)
        BITS(25, 12, 0) BITS(20, 12, 5) BITS(21, 12, 7) BITS(18, 12, 1) SUM(28, 19)
        FOLD(16, 16, 15) FOLD(17, 17, 14) BITS(22, 12, 2) BITS(19, 12, 3) BITS(14, 13, 0)
        BITS(24, 12, 4) BITS(15, 13, 1) FOLD(17, 17, 16) COUNT(18) COUNT(20) COUNT(25) COUNT(21)
        COUNT(24) COUNT(19) COUNT(23) COUNT(22) SUM(29, 17) COLUMNS(0, 1, 256) COUNT(14) COUNT(15)
        FOLD(22, 22, 19) FOLD(23, 23, 21) FOLD(24, 24, 20) FOLD(25, 25, 18) BITS(21, 13, 7)
        BITS(19, 13, 5) BITS(17, 13, 3) BITS(20, 13, 6) BITS(18, 13, 4) BITS(16, 13, 2)
        FOLD(24, 24, 23) FOLD(25, 25, 22) COLUMNS(2, 3, 288) COUNT(20) COUNT(19) COUNT(16)
        FOLD(25, 25, 24) COLUMNS(4, 5, 320) COUNT(18) COUNT(17) COUNT(21) FOLD(14, 14, 15)
        COLUMNS(6, 7, 352) SUM(30, 25) FOLD(16, 16, 17) FOLD(18, 18, 19) FOLD(20, 20, 21)
        BITS(23, 8, 1) BITS(25, 8, 3) BITS(17, 8, 5) BITS(24, 8, 2) BITS(22, 8, 0) BITS(19, 8, 6)
        BITS(21, 8, 7) BITS(15, 8, 4) COUNT(25) COUNT(23) COUNT(22) FOLD(14, 14, 16)
        FOLD(18, 18, 20) COUNT(24) COUNT(17) COUNT(21) COUNT(15) COUNT(19) ROW(12, 4, 2)
        FOLD(24, 24, 25) FOLD(14, 14, 18) FOLD(22, 22, 23) FOLD(15, 15, 17) FOLD(19, 19, 21)
        BITS(16, 9, 0) BITS(21, 9, 7) BITS(25, 9, 5) BITS(23, 9, 4) BITS(18, 9, 2) SUM(31, 14)
        FOLD(15, 15, 19) FOLD(22, 22, 24) BITS(17, 9, 6) BITS(20, 9, 1) BITS(14, 9, 3)
        BITS(24, 10, 0) BITS(19, 10, 1) COUNT(18) FOLD(22, 22, 15) COUNT(17) COUNT(23) COUNT(14)
        COUNT(25) COUNT(16) COUNT(21) COUNT(19) COUNT(20) ROW(11, 3, 2) SUM(26, 22)
        FOLD(23, 23, 25) FOLD(18, 18, 14) FOLD(17, 17, 21) FOLD(16, 16, 20) BITS(21, 10, 7)
        BITS(20, 10, 4) BITS(22, 10, 3) BITS(14, 10, 5) BITS(25, 10, 6) BITS(15, 10, 2)
        FOLD(16, 16, 18) COUNT(20) FOLD(23, 23, 17) COUNT(22) COUNT(14) COUNT(15) COUNT(24)
        COUNT(21) FOLD(16, 16, 23) COUNT(25) ROW(8, 0, 3) FOLD(15, 15, 22) FOLD(24, 24, 19)
        FOLD(20, 20, 14) SUM(27, 16) FOLD(25, 25, 21) BITS(16, 11, 3) BITS(18, 11, 0)
        BITS(23, 11, 2) BITS(19, 11, 4) BITS(22, 11, 5) BITS(21, 11, 7) BITS(17, 11, 1)
        BITS(14, 11, 6) FOLD(24, 24, 15) COUNT(16) COUNT(18) FOLD(20, 20, 25) COUNT(23) COUNT(14)
        COUNT(17) COUNT(21) COUNT(22) FOLD(24, 24, 20) COUNT(19) ROW(13, 5, 2) FOLD(18, 18, 17)
        FOLD(14, 14, 21) FOLD(23, 23, 16) SUM(28, 24) FOLD(19, 19, 22) BITS(22, 12, 6)
        BITS(24, 12, 3) BITS(16, 12, 5) BITS(15, 12, 0) BITS(17, 12, 4) BITS(21, 12, 7)
        BITS(20, 12, 2) BITS(25, 12, 1) FOLD(19, 19, 14) COUNT(16) FOLD(18, 18, 23) COUNT(15)
        COUNT(21) COUNT(17) COUNT(22) COUNT(25) FOLD(18, 18, 19) COUNT(24) COUNT(20) ROW(9, 1, 3)
        FOLD(17, 17, 16) FOLD(22, 22, 21) SUM(29, 18) FOLD(15, 15, 25) FOLD(20, 20, 24)
        BITS(14, 13, 1) BITS(25, 13, 4) BITS(16, 13, 6) BITS(23, 13, 0) BITS(24, 13, 5)
        BITS(18, 13, 3) BITS(19, 13, 2) BITS(21, 13, 7) FOLD(17, 17, 22) FOLD(15, 15, 20)
        COLUMNS(0, 1, 384) COUNT(19) COUNT(14) COUNT(21) COUNT(25) COLUMNS(4, 5, 448) COUNT(16)
        COUNT(24) FOLD(15, 15, 17) COUNT(23) COLUMNS(2, 3, 416) COUNT(18) FOLD(16, 16, 21)
        FOLD(25, 25, 24) FOLD(23, 23, 14) COLUMNS(6, 7, 480) SUM(30, 15) FOLD(19, 19, 18)
        FOLD(25, 25, 16) BITS(22, 8, 1) BITS(17, 8, 2) BITS(20, 8, 0) BITS(24, 8, 6) BITS(15, 8, 3)
        BITS(16, 9, 1) BITS(21, 8, 7) BITS(18, 8, 5) BITS(14, 8, 4) COUNT(20) FOLD(23, 23, 19)
        COUNT(24) COUNT(21) COUNT(22) COUNT(14) COUNT(17) COUNT(15) FOLD(23, 23, 25) ROW(10, 2, 3)
        COUNT(18) COUNT(16) FOLD(20, 20, 22) FOLD(24, 24, 21) SUM(31, 23) FOLD(17, 17, 15)
        FOLD(14, 14, 18) BITS(23, 9, 3) BITS(18, 9, 6) BITS(15, 9, 5) BITS(25, 9, 2) BITS(22, 9, 4)
        BITS(19, 9, 0) BITS(21, 9, 7) FOLD(14, 14, 24) FOLD(20, 20, 17) COUNT(15) COUNT(23)
        COUNT(25) COUNT(18) COUNT(19) COUNT(22) FOLD(20, 20, 14) COUNT(21) ROW(11, 3, 3)
        FOLD(25, 25, 23) FOLD(19, 19, 16) FOLD(22, 22, 15) SUM(26, 20) FOLD(18, 18, 21)
        BITS(15, 10, 6) BITS(14, 10, 2) BITS(20, 10, 3) BITS(16, 10, 4) BITS(17, 10, 0)
        BITS(23, 10, 5) BITS(21, 10, 7) BITS(24, 10, 1) FOLD(19, 19, 25) COUNT(16) FOLD(22, 22, 18)
        COUNT(14) COUNT(17) COUNT(24) COUNT(23) COUNT(21) FOLD(19, 19, 22) COUNT(20) COUNT(15)
        ROW(12, 4, 3) FOLD(17, 17, 24) FOLD(16, 16, 23) SUM(27, 19) FOLD(14, 14, 20)
        FOLD(15, 15, 21) BITS(23, 11, 6) BITS(22, 11, 2) BITS(25, 11, 0) BITS(21, 11, 7)
        BITS(20, 11, 5) BITS(19, 11, 3) BITS(24, 11, 4) BITS(18, 11, 1) FOLD(17, 17, 14) COUNT(21)
        COUNT(20) FOLD(16, 16, 15) COUNT(19) COUNT(25) COUNT(24) COUNT(18) COUNT(23)
        FOLD(17, 17, 16) COUNT(22) ROW(13, 5, 3) FOLD(24, 24, 20) FOLD(25, 25, 18) FOLD(23, 23, 21)
        SUM(28, 17) FOLD(22, 22, 19) BITS(15, 12, 1) BITS(17, 12, 3) BITS(16, 12, 2)
        BITS(14, 12, 0) BITS(18, 12, 4) BITS(21, 12, 7) BITS(20, 12, 6) BITS(19, 12, 5) COUNT(17)
        FOLD(24, 24, 23) FOLD(25, 25, 22) COUNT(15) COUNT(14) COUNT(18) COUNT(16) COUNT(19)
        FOLD(25, 25, 24) COUNT(21) COUNT(20) FOLD(16, 16, 17) FOLD(14, 14, 15) SUM(29, 25)
        FOLD(18, 18, 19) FOLD(20, 20, 21) BITS(19, 13, 6) BITS(24, 13, 2) BITS(23, 13, 1)
        BITS(21, 13, 7) BITS(15, 13, 4) BITS(25, 13, 3) BITS(17, 13, 5) BITS(22, 13, 0) COUNT(24)
        COUNT(21) COUNT(15) COUNT(19) COUNT(23) COUNT(25) COUNT(17) COUNT(22) FOLD(19, 19, 21)
        FOLD(18, 18, 20) FOLD(24, 24, 25) FOLD(15, 15, 17) FOLD(22, 22, 23) FOLD(14, 14, 16)
        FOLD(15, 15, 19) FOLD(22, 22, 24) FOLD(14, 14, 18) NEXT(i3, 64) NEXT(i2, 64) LAST(i0, 64)
        FOLD(22, 22, 15) NEXT(i1, 64) SUM(30, 14) NEXT(columns, 512) SUM(31, 22)
        "b.ne 1b\n"
        : [columns] "+r"(columns), [i0] "+r"(i0), [i1] "+r"(i1), [i2] "+r"(i2), [i3] "+r"(i3),
          "+w"(sum0), "+w"(sum1), "+w"(sum2), "+w"(sum3), "+w"(sum4), "+w"(sum5)
        : [p0] "r"(rows[0]), [p1] "r"(rows[1]), [p2] "r"(rows[2]), [p3] "r"(rows[3]),
          [p4] "r"(rows[4]), [p5] "r"(rows[5])
        : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
          "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23",
          "v24", "v25");
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
    sums[4] = sum4;
    sums[5] = sum5;
}

#undef BITS
#undef COUNT
#undef FOLD
#undef SUM
#undef ROW
#undef COLUMN
#undef COLUMNS
#undef NEXT
#undef LAST
#undef LOOP
#undef LOOP_OP
