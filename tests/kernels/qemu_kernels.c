/* Runs kernels one at a time under qemu-user, without libc: cases in, results out.
 *
 * A case is 8 int32 and its arrays, each filled up to a multiple of 4 bytes:
 *
 *   0 form rows panels words bits 0 0   rows, panels (layout 2)      -> int32 (rows, 8 panels)
 *   1 n threshold 0 0 0 0 0             float32 x; threshold as bits -> words
 *   2 n threshold 0 0 0 0 0             uint8 x                      -> words
 *   3 n threshold 0 0 0 0 0             int8 x                       -> words
 *   4 n 0 0 0 0 0 0                     int32 acc, level, flip       -> words
 *
 * Exit code: 99 if the input is cut or too long. */
#include "pack.h"
#include "qemu_calls.h"
#include "threshold.h"
#include "tile.h"

#define WORDS (1 << 22)

static uint32_t input[WORDS];
static uint32_t result[1 << 16];

static _Noreturn void leave(int code)
{
    for (;;) call(EXIT, code, 0, 0);
}

/* Words of input and of output of a case. */
typedef struct {
    int32_t in, out;
} sizes;

static sizes run_tile(const int32_t *head, const uint32_t *data)
{
    int32_t n_rows = head[2], n_panels = head[3], n_words = head[4];
    const uint32_t *rows[BS_TILE_ROWS];
    for (int32_t i = 0; i < n_rows; i++) rows[i] = data + i * n_words;
    bs_tile tile = {rows, data + n_rows * n_words,
                    (int32_t *)result, n_panels * BS_VECTORS_WIDTH,
                    n_rows, n_panels,
                    1, n_words,
                    head[5], head[1]};
    bs_run_tile(BS_NEON, &tile, BS_VECTORS);
    int32_t panel = BS_VECTORS_WIDTH * bs_panel_words(BS_VECTORS, n_words);
    return (sizes){n_rows * n_words + n_panels * panel, n_rows * n_panels * BS_VECTORS_WIDTH};
}

static sizes run_case(const int32_t *head, const uint32_t *data)
{
    int32_t n = head[1], threshold = head[2], n_out = (n + 31) / 32;
    const void *x = data;
    union {
        int32_t bits;
        float number;
    } level = {threshold};
    switch (head[0]) {
    case 0: return run_tile(head, data);
    case 1: bs_pack_f32(BS_NEON, x, n, level.number, result); return (sizes){n, n_out};
    case 2: bs_pack_u8(BS_NEON, x, n, threshold, result); return (sizes){(n + 3) / 4, n_out};
    case 3: bs_pack_i8(BS_NEON, x, n, threshold, result); return (sizes){(n + 3) / 4, n_out};
    default: break;
    }
    const int32_t *acc = x;
    bs_threshold(BS_NEON, acc, acc + n, acc + 2 * n, n, result);
    return (sizes){3 * n, n_out};
}

static int run(void)
{
    long n_bytes = 0, got;
    while ((got = call(READ, 0, (long)input + n_bytes, (long)sizeof input - n_bytes)) > 0)
        n_bytes += got;
    if (n_bytes == (long)sizeof input) return 99;
    long n = n_bytes / 4, at = 0;
    while (at < n) {
        sizes done = run_case((const int32_t *)input + at, input + at + 8);
        at += 8 + done.in;
        if (at > n) return 99;
        call(WRITE, 1, (long)result, 4 * (long)done.out);
    }
    return 0;
}

_Noreturn void _start(void)
{
    leave(run());
}
