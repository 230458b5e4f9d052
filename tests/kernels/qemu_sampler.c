/* Draws under qemu-user, without libc: cases in, bits out.
 *
 * A case is 8 int32, backend n_rows n kind seed_low seed_high purpose<<24|index step, then n_rows
 * row numbers and n_rows x n float32. Exit code: 99 if the input is cut or too long. */
#include "bitspin.h"
#include "host/sampler.h"
#include "qemu_calls.h"

BS_API int64_t bsk_bernoulli(int64_t backend, const float *values, int64_t stride,
                             const uint32_t *rows, int64_t n_rows, int64_t n, int64_t seed_low,
                             int64_t seed_high, int64_t purpose, int64_t index, int64_t step,
                             int64_t kind, uint32_t *out);

#define WORDS (1 << 20)

static uint32_t input[WORDS];
static uint32_t result[WORDS / 16];

static int run(void)
{
    long n_bytes = 0, got;
    while ((got = call(READ, 0, (long)input + n_bytes, (long)sizeof input - n_bytes)) > 0)
        n_bytes += got;
    if (n_bytes == (long)sizeof input) return 99;
    for (long at = 0, n = n_bytes / 4; at < n;) {
        const uint32_t *head = input + at, *rows = head + 8;
        long n_rows = head[1], n_units = head[2];
        at += 8 + n_rows + n_rows * n_units;
        if (at > n) return 99;
        bsk_bernoulli(head[0], (const float *)(rows + n_rows), n_units, rows, n_rows, n_units,
                      head[4], head[5], head[6] >> 24, head[6] & 0xffffff, head[7], head[3],
                      result);
        call(WRITE, 1, (long)result, 4 * n_rows * ((n_units + 31) / 32));
    }
    return 0;
}

_Noreturn void _start(void)
{
    int code = run();
    for (;;) call(EXIT, code, 0, 0);
}
