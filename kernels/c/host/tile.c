/* The inner loops one at a time: what the count of instructions and their tests call. */
#include "../bitspin.h"
#include "../threshold.h"
#include "../tile.h"

BS_API int64_t bsk_tile(int64_t backend, int64_t layout, int64_t form, const uint32_t *rows,
                        int64_t n_rows, int64_t row_words, const uint32_t *panels,
                        int64_t n_panels, int64_t n_words, int64_t n_bits, int32_t *out,
                        int64_t stride);
BS_API int64_t bsk_threshold(int64_t backend, const int32_t *acc, const int32_t *level,
                             const int32_t *flip, int64_t n, uint32_t *out);

/* rows: n_rows rows, row_words >= n_words apart; out: n_rows rows, stride values apart. */
int64_t bsk_tile(int64_t backend, int64_t layout, int64_t form, const uint32_t *rows,
                 int64_t n_rows, int64_t row_words, const uint32_t *panels, int64_t n_panels,
                 int64_t n_words, int64_t n_bits, int32_t *out, int64_t stride)
{
    const uint32_t *starts[BS_TILE_ROWS];
    if (n_rows < 1 || n_rows > BS_TILE_ROWS) return -1;
    for (int64_t row = 0; row < n_rows; row++) starts[row] = rows + row * row_words;
    bs_tile tile = {starts,           panels,          out, stride,           (int32_t)n_rows,
                    (int32_t)n_panels, 1, (int32_t)n_words, (int32_t)n_bits, (int32_t)form};
    bs_run_tile((uint32_t)backend, &tile, (int32_t)layout);
    return 0;
}

int64_t bsk_threshold(int64_t backend, const int32_t *acc, const int32_t *level,
                      const int32_t *flip, int64_t n, uint32_t *out)
{
    bs_threshold((uint32_t)backend, acc, level, flip, (int32_t)n, out);
    return 0;
}
