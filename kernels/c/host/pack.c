/* Packing for Python: numbers to rows of bits, rows of bits to panels. */
#include "../pack.h"
#include "../bitspin.h"
#include "../tile.h"

BS_API int64_t bsk_pack_f32(int64_t backend, int64_t x, int64_t n_values, float threshold,
                            int64_t out, int64_t row_begin, int64_t row_end);
BS_API int64_t bsk_pack_u8(int64_t backend, int64_t x, int64_t n_values, int64_t threshold,
                           int64_t out, int64_t row_begin, int64_t row_end);
BS_API int64_t bsk_pack_i8(int64_t backend, int64_t x, int64_t n_values, int64_t threshold,
                           int64_t out, int64_t row_begin, int64_t row_end);
BS_API int64_t bsk_to_panels(int64_t layout, int64_t columns, int64_t n_columns, int64_t n_words,
                             int64_t panels, int64_t panel_begin, int64_t panel_end);

/* Rows [row_begin, row_end) of x (rows, n_values) into out (rows, words of 32). */
int64_t bsk_pack_f32(int64_t backend, int64_t x, int64_t n_values, float threshold, int64_t out,
                     int64_t row_begin, int64_t row_end)
{
    const float *from = (const float *)(uintptr_t)x;
    uint32_t *to = (uint32_t *)(uintptr_t)out;
    for (int64_t row = row_begin; row < row_end; row++)
        bs_pack_f32((uint32_t)backend, from + row * n_values, n_values, threshold,
                    to + row * ((n_values + 31) / 32));
    return 0;
}

int64_t bsk_pack_u8(int64_t backend, int64_t x, int64_t n_values, int64_t threshold, int64_t out,
                    int64_t row_begin, int64_t row_end)
{
    const uint8_t *from = (const uint8_t *)(uintptr_t)x;
    uint32_t *to = (uint32_t *)(uintptr_t)out;
    for (int64_t row = row_begin; row < row_end; row++)
        bs_pack_u8((uint32_t)backend, from + row * n_values, n_values, (int32_t)threshold,
                   to + row * ((n_values + 31) / 32));
    return 0;
}

int64_t bsk_pack_i8(int64_t backend, int64_t x, int64_t n_values, int64_t threshold, int64_t out,
                    int64_t row_begin, int64_t row_end)
{
    const int8_t *from = (const int8_t *)(uintptr_t)x;
    uint32_t *to = (uint32_t *)(uintptr_t)out;
    for (int64_t row = row_begin; row < row_end; row++)
        bs_pack_i8((uint32_t)backend, from + row * n_values, n_values, (int32_t)threshold,
                   to + row * ((n_values + 31) / 32));
    return 0;
}

/* One panel; step words of a column lie side by side. */
BS_INLINE void fill_panel(const uint32_t *columns, int64_t n_columns, int64_t n_words,
                          uint32_t *panel, const int width, const int step)
{
    for (int64_t word = 0; word < n_words; word += step)
        for (int column = 0; column < width; column++)
            for (int i = 0; i < step; i++, panel++)
                *panel = column < n_columns && word + i < n_words
                             ? columns[column * n_words + word + i]
                             : 0;
}

/* Panels [panel_begin, panel_end) of columns (n_columns, n_words); see tile.h for the layouts. */
int64_t bsk_to_panels(int64_t layout, int64_t columns, int64_t n_columns, int64_t n_words,
                      int64_t panels, int64_t panel_begin, int64_t panel_end)
{
    int64_t width = bs_panel_width((int32_t)layout);
    int64_t panel_words = width * bs_panel_words((int32_t)layout, (int32_t)n_words);
    for (int64_t panel = panel_begin; panel < panel_end; panel++) {
        const uint32_t *from = (const uint32_t *)(uintptr_t)columns + panel * width * n_words;
        uint32_t *to = (uint32_t *)(uintptr_t)panels + panel * panel_words;
        int64_t rest = n_columns - panel * width;
        if (layout == BS_LANES) fill_panel(from, rest, n_words, to, BS_LANES_WIDTH, 1);
        else fill_panel(from, rest, n_words, to, BS_VECTORS_WIDTH, BS_VECTORS_WORDS);
    }
    return 0;
}
