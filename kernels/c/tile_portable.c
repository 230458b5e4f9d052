/* The tile in plain C99, the oracle of the others in C; reads layouts 1 and 2. */
#include "tile.h"

/* Number of ones, with adds inside the word (Hacker's Delight, section 5-1). */
BS_INLINE int32_t popcount(uint32_t x)
{
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return (int32_t)(x * 0x01010101u >> 24);
}

/* Place of a word in its panel, for the column that is the panel's first. */
BS_INLINE int64_t place(int32_t layout, int64_t word)
{
    return layout == BS_LANES ? word * 16 : word / 4 * 32 + word % 4;
}

BS_INLINE void run(const bs_tile *tile, int32_t layout, int32_t form)
{
    int32_t width = bs_panel_width(layout), step = layout == BS_LANES ? 1 : 4;
    int64_t n_words = (int64_t)tile->n_spans * tile->n_words;
    int64_t panel_words = width * (int64_t)bs_panel_words(layout, (int32_t)n_words);
    for (int32_t row = 0; row < tile->n_rows; row++) {
        for (int32_t column = 0; column < width * tile->n_panels; column++) {
            const uint32_t *panel = tile->panels + column / width * panel_words;
            int32_t sum = 0;
            int64_t at = 0;
            for (int32_t span = 0; span < tile->n_spans; span++) {
                const uint32_t *words = tile->rows[span * tile->n_rows + row];
                for (int32_t i = 0; i < tile->n_words; i++, at++) {
                    uint32_t w = panel[place(layout, at) + column % width * step];
                    sum += popcount(form == BS_AND ? words[i] & w : words[i] ^ w);
                }
            }
            tile->out[row * tile->stride + column] = form == BS_AND ? sum : tile->n_bits - 2 * sum;
        }
    }
}

void bs_tile_portable(const bs_tile *tile, int32_t layout)
{
    if (layout == BS_LANES && tile->form == BS_XOR) run(tile, BS_LANES, BS_XOR);
    else if (layout == BS_LANES) run(tile, BS_LANES, BS_AND);
    else if (tile->form == BS_XOR) run(tile, BS_VECTORS, BS_XOR);
    else run(tile, BS_VECTORS, BS_AND);
}
