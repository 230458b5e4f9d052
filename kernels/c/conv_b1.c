/* Convolution of bits with bits, without a matrix of patches.
 *
 * A strip of output positions is laid out as rows of pointers: a row of the kernel is contiguous
 * in the image (NHWC), so the tile reads it where it lies. Only what sticks out of the image is
 * copied, once per strip. Layout 2 of the weights and groups that do not begin at a word want a
 * patch in one piece; there every patch is copied. Then the weights pass by, 64 channels at a
 * time, and what leaves is finished while it is in the first cache.
 *
 * Bits outside the image are clear, that is -1; zeros are made of that in conv_outside.c. */
#include "conv_outside.h"
#include "tile_rows.h"

typedef struct {
    const bs_conv *conv;
    int32_t group, group_channels;
    int32_t pixel_words, tap_words, patch_words;
    int32_t n_spans, n_words; /* of a row of the tile */
    int in_place;             /* patches are read where they lie */
    int has_runs;             /* neighbours inside the image are laid out together */
    int32_t n_rows, block;    /* of the strip, and of all its tiles but the last */
    const uint32_t **rows;    /* per tile: [n_spans][rows of the tile] */
    uint32_t *blank;          /* a span outside the image */
    uint32_t *patches;        /* [n_rows][patch_words] */
    int32_t *acc;
    int64_t stride;
    bs_outside outside;
} strip;

typedef uint32_t words4 __attribute__((vector_size(16), aligned(4)));

BS_INLINE void copy_words(uint32_t *to, const uint32_t *from, int32_t n)
{
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) *(words4 *)(to + i) = *(const words4 *)(from + i);
    for (; i < n; i++) to[i] = from[i];
}

/* The group's channels of neighbouring pixels. */
static void copy_taps(const strip *s, uint32_t *to, const uint32_t *pixel, int32_t n_taps)
{
    if (s->conv->groups == 1) {
        copy_words(to, pixel, n_taps * s->pixel_words);
        return;
    }
    int32_t first = s->group * s->group_channels, shift = first % 32;
    uint32_t last_bits = ~0u >> (32 - s->group_channels % 32) % 32;
    for (int32_t tap = 0; tap < n_taps; tap++, pixel += s->pixel_words, to += s->tap_words) {
        for (int32_t i = 0, at = first / 32; i < s->tap_words; i++, at++) {
            to[i] = pixel[at] >> shift;
            if (shift && at + 1 < s->pixel_words) to[i] |= pixel[at + 1] << (32 - shift);
        }
        to[s->tap_words - 1] &= last_bits;
    }
}

/* One row of the kernel, at (y, left) of the image. */
BS_RARE void copy_kernel_row(const strip *s, uint32_t *to, int32_t y, int32_t left)
{
    const bs_conv *conv = s->conv;
    int32_t width = conv->size[1], n_taps = conv->kernel[1], n = s->tap_words;
    int32_t begin = left < 0 ? -left : 0; /* taps [begin, end) are inside */
    int32_t end = n_taps < width - left ? n_taps : width - left;
    if (y < 0 || y >= conv->size[0]) begin = end = n_taps;
    copy_words(to, s->blank, begin * n);
    if (begin < end) {
        int64_t pixel = (int64_t)y * width + left + begin;
        copy_taps(s, to + begin * n, (const uint32_t *)conv->data + pixel * s->pixel_words,
                  end - begin);
    }
    copy_words(to + end * n, s->blank, (n_taps - end) * n);
}

/* A whole patch in one piece; what fills it up to 128 bits is zero already. */
static void copy_patch(const strip *s, uint32_t *to, int32_t top, int32_t left)
{
    const bs_conv *conv = s->conv;
    int32_t n = conv->kernel[1] * s->tap_words, last = conv->kernel[0] - 1;
    if (conv->groups > 1 || top < 0 || left < 0 || top > conv->size[0] - conv->kernel[0] ||
        left > conv->size[1] - conv->kernel[1]) {
        for (int32_t i = 0; i <= last; i++) copy_kernel_row(s, to + i * n, top + i, left);
        return;
    }
    int64_t row_words = (int64_t)conv->size[1] * s->pixel_words;
    const uint32_t *from = (const uint32_t *)conv->data +
                           ((int64_t)top * conv->size[1] + left) * s->pixel_words;
    /* All rows but the last may be copied up to 3 words too far: the next one lies behind them in
     * the image, and overwrites what was too much. */
    if (n >= 3)
        for (; last > 0; last--, to += n, from += row_words)
            for (int32_t i = 0; i < n; i += 4)
                *(words4 *)(to + i) = *(const words4 *)(from + i);
    for (; last >= 0; last--, to += n, from += row_words) copy_words(to, from, n);
}

/* The patches of n positions side by side and inside the image, `step` words apart, whose rows of
 * the kernel are of 4 words or more. */
static void copy_run(const strip *s, uint32_t *to, const uint32_t *from, int32_t step, int32_t n)
{
    int32_t n_words = s->conv->kernel[1] * s->tap_words, n_more = s->conv->kernel[0] - 1;
    int64_t row_words = (int64_t)s->conv->size[1] * s->pixel_words;
    for (; n > 0; n--, to += s->patch_words, from += step) {
        const uint32_t *pixel = from;
        uint32_t *row = to;
        for (int32_t i = n_more; i > 0; i--, row += n_words, pixel += row_words)
            for (int32_t j = 0; j < n_words; j += 4) /* too far, as in copy_patch */
                *(words4 *)(row + j) = *(const words4 *)(pixel + j);
        for (int32_t j = 0; j < n_words - 4; j += 4)
            *(words4 *)(row + j) = *(const words4 *)(pixel + j);
        *(words4 *)(row + n_words - 4) = *(const words4 *)(pixel + n_words - 4);
    }
}

/* Where the tile finds span number `span` of the patch at (top, left). */
static const uint32_t *span_of(const strip *s, int32_t row, int32_t span, int32_t top,
                               int32_t left)
{
    const bs_conv *conv = s->conv;
    int32_t width = conv->size[1], per_row = s->n_spans / conv->kernel[0];
    const uint32_t *data = (const uint32_t *)conv->data + s->group * s->tap_words;
    if (conv->groups > 1) { /* one span per tap */
        int32_t y = top + span / per_row, x = left + span % per_row;
        if (y < 0 || y >= conv->size[0] || x < 0 || x >= width) return s->blank;
        return data + ((int64_t)y * width + x) * s->pixel_words;
    }
    int32_t y = top + span;
    if (y < 0 || y >= conv->size[0]) return s->blank;
    if (left >= 0 && left <= width - conv->kernel[1])
        return data + ((int64_t)y * width + left) * s->pixel_words;
    uint32_t *to = s->patches + (int64_t)row * s->patch_words + span * s->n_words;
    copy_kernel_row(s, to, y, left);
    return to;
}

/* Pointers to the patch of one position, `step` apart. */
BS_APART void lay_out_row(const strip *s, int32_t row, const bs_position *at,
                          const uint32_t **rows, int32_t step)
{
    int32_t top = bs_top(s->conv, at), left = bs_left(s->conv, at);
    if (!s->in_place) {
        uint32_t *to = s->patches + (int64_t)row * s->patch_words;
        copy_patch(s, to, top, left);
        rows[0] = to;
        return;
    }
    for (int32_t span = 0; span < s->n_spans; span++)
        rows[span * step] = span_of(s, row, span, top, left);
}

/* Positions from `at` on, at most n, that lie side by side and inside the image: their number.
 * The first one is row number `row` of the strip. */
static int32_t lay_out_run(const strip *s, int32_t row, const bs_position *at,
                           const uint32_t **rows, int32_t step, int32_t n)
{
    const bs_conv *conv = s->conv;
    const bs_cuts *rows_cut = &s->outside.cuts[0], *columns_cut = &s->outside.cuts[1];
    if (!s->has_runs || bs_cut_of(rows_cut, at->y) != rows_cut->n_before ||
        bs_cut_of(columns_cut, at->x) != columns_cut->n_before)
        return 0;
    if (n > columns_cut->first_after - at->x) n = columns_cut->first_after - at->x;
    int64_t pixel = (int64_t)bs_top(conv, at) * conv->size[1] + bs_left(conv, at);
    const uint32_t *first = (const uint32_t *)conv->data + pixel * s->pixel_words;
    int64_t row_words = (int64_t)conv->size[1] * s->pixel_words;
    int32_t pixel_words = conv->stride[1] * s->pixel_words;
    if (!s->in_place) {
        uint32_t *to = s->patches + (int64_t)row * s->patch_words;
        copy_run(s, to, first, pixel_words, n);
        for (int32_t i = 0; i < n; i++, to += s->patch_words) rows[i] = to;
        return n;
    }
    for (int32_t span = 0; span < s->n_spans; span++, rows += step, first += row_words) {
        const uint32_t *from = first;
        for (int32_t i = 0; i < n; i++, from += pixel_words) rows[i] = from;
    }
    return n;
}

/* Rows of a tile that are computed best. */
static int32_t tile_rows(const bs_conv *conv)
{
    return conv->layout == BS_LANES && conv->backend != BS_AVX512 ? 4 : BS_TILE_ROWS;
}

/* Rows for n positions, in tiles of about the same height. */
static void lay_out(strip *s, bs_position at, int32_t n)
{
    uint32_t largest = (uint32_t)tile_rows(s->conv);
    uint32_t n_blocks = ((uint32_t)n + largest - 1) / largest;
    s->n_rows = n;
    s->block = (int32_t)(((uint32_t)n + n_blocks - 1) / n_blocks);
    const uint32_t **rows = s->rows;
    for (int32_t begin = 0; begin < n; begin += s->block) {
        int32_t size = n - begin < s->block ? n - begin : s->block;
        for (int32_t i = 0; i < size;) {
            int32_t run = lay_out_run(s, begin + i, &at, rows + i, size, size - i);
            if (run > 0) {
                bs_skip_pixels(s->conv, &at, run);
            } else {
                lay_out_row(s, begin + i, &at, rows + i, size);
                bs_advance(s->conv, &at);
                run = 1;
            }
            i += run;
        }
        rows += (int64_t)size * s->n_spans;
    }
}

/* All rows of the strip times `n` columns of the group, from `column` on. */
static void multiply(const strip *s, int32_t column, int32_t n, int32_t *out, int64_t stride)
{
    const bs_conv *conv = s->conv;
    int32_t group_out = conv->n_out / conv->groups, taps = conv->kernel[0] * conv->kernel[1];
    int32_t width = conv->layout == BS_ROWS ? 1 : bs_panel_width(conv->layout);
    int64_t n_words = bs_panel_words(conv->layout, taps * s->tap_words);
    int64_t n_padded = (group_out + width - 1) / width * width;
    int32_t step = conv->layout == BS_ROWS ? n : width * BS_TILE_PANELS;
    const uint32_t *weights =
        (const uint32_t *)conv->weights + (s->group * n_padded + column) * n_words;
    bs_tile tile;
    tile.n_spans = s->n_spans;
    tile.n_words = s->n_words;
    tile.n_bits = taps * s->group_channels;
    tile.form = BS_XOR;
    tile.stride = stride;
    for (int32_t c = 0; c < n; c += step, weights += step * n_words) {
        tile.panels = weights;
        tile.n_panels = (n - c + width - 1) / width;
        if (tile.n_panels > BS_TILE_PANELS) tile.n_panels = BS_TILE_PANELS;
        for (int32_t row = 0; row < s->n_rows; row += s->block) {
            tile.rows = s->rows + (int64_t)row * s->n_spans;
            tile.n_rows = s->n_rows - row < s->block ? s->n_rows - row : s->block;
            tile.out = out + row * stride + c;
            if (conv->layout == BS_ROWS) bs_tile_rows(conv->backend, &tile, n);
            else bs_run_tile(conv->backend, &tile, conv->layout);
        }
    }
}

/* The strip of n_pixels output pixels from number `pixel` = `at` on. */
static void run_strip(strip *s, bs_position at, int64_t pixel, int32_t n_pixels)
{
    const bs_conv *conv = s->conv;
    int32_t n = n_pixels * conv->pool[0] * conv->pool[1];
    int32_t group_out = conv->n_out / conv->groups, n_out = conv->n_out;
    const bs_outside *zeros = s->outside.sums ? &s->outside : 0;
    /* Then the sums need nothing more, and whole panels are written. */
    int is_final = conv->groups == 1 && !conv->threshold && !conv->bias && n == n_pixels &&
                   n_out % BS_LANES_WIDTH == 0;
    for (s->group = 0; s->group < conv->groups; s->group++) {
        lay_out(s, at, n);
        if (is_final) {
            int32_t *out = (int32_t *)conv->out + pixel * n_out;
            multiply(s, 0, n_out, out, n_out);
            if (zeros) bs_add_outside(conv, zeros, at, n, 0, n_out, out, n_out);
            return;
        }
        if (conv->groups > 1) { /* spare columns are overwritten by the next group */
            multiply(s, 0, group_out, s->acc + s->group * group_out, s->stride);
            continue;
        }
        for (int32_t c = 0; c < n_out; c += BS_BLOCK) {
            int32_t width = n_out - c < BS_BLOCK ? n_out - c : BS_BLOCK;
            multiply(s, c, width, s->acc, s->stride);
            if (zeros) bs_add_outside(conv, zeros, at, n, c, width, s->acc, s->stride);
            bs_conv_finish(conv, s->acc, s->stride, pixel, n_pixels, c, width);
        }
    }
    if (conv->groups > 1) {
        if (zeros) bs_add_outside(conv, zeros, at, n, 0, n_out, s->acc, s->stride);
        bs_conv_finish(conv, s->acc, s->stride, pixel, n_pixels, 0, n_out);
    }
}

/* How a patch is read: where it lies, in spans, or copied. */
static void choose_spans(strip *s)
{
    const bs_conv *conv = s->conv;
    int32_t kernel_h = conv->kernel[0], kernel_w = conv->kernel[1];
    int is_inside = conv->padding[0] == 0 && conv->padding[1] == 0;
    int is_contiguous = kernel_h == 1 || (kernel_w == conv->size[1] && is_inside);
    s->n_spans = conv->groups > 1 ? kernel_h * kernel_w : kernel_h;
    s->n_words = conv->groups > 1 ? s->tap_words : kernel_w * s->tap_words;
    if (conv->groups == 1 && is_contiguous) {
        s->n_words *= kernel_h;
        s->n_spans = 1;
    }
    s->in_place = conv->groups == 1 || s->group_channels % 32 == 0;
    if (conv->layout == BS_VECTORS && (s->n_spans > 1 || s->n_words % BS_VECTORS_WORDS))
        s->in_place = 0;
    if (s->in_place) return;
    s->n_spans = 1;
    s->n_words = kernel_h * kernel_w * s->tap_words;
}

BS_RARE void set_up(strip *s, const bs_conv *conv)
{
    int32_t taps = conv->kernel[0] * conv->kernel[1];
    int64_t n_rows = (int64_t)bs_strip_positions(conv);
    s->conv = conv;
    s->group_channels = conv->channels / conv->groups;
    s->pixel_words = (conv->channels + 31) / 32;
    s->tap_words = (s->group_channels + 31) / 32;
    s->patch_words = (taps * s->tap_words + 3) / 4 * 4;
    choose_spans(s);
    int64_t n_columns = ((int64_t)conv->n_out + 63) / 64 * 64 + 64;
    s->stride = conv->groups == 1 ? BS_BLOCK : n_columns;
    s->acc = conv->scratch;
    s->rows = (const uint32_t **)(s->acc + n_rows * s->stride);
    s->blank = (uint32_t *)(s->rows + n_rows * taps);
    s->patches = s->blank + s->patch_words;
    for (int axis = 0; axis < 2; axis++) s->outside.cuts[axis] = bs_count_cuts(conv, axis);
    s->has_runs = conv->groups == 1 && conv->pool[0] == 1 && conv->pool[1] == 1 &&
                  (s->in_place || conv->kernel[1] * s->tap_words >= 4);
    s->outside.sums = 0;
    if (bs_has_zeros(conv)) {
        s->outside.sums = (int32_t *)(s->patches + n_rows * s->patch_words);
        s->outside.stride = n_columns;
        bs_sum_outside(conv, &s->outside, s->patches);
    }
    /* The blank span, and what fills up a patch. */
    int64_t n_zeros = (s->in_place ? 1 : n_rows + 1) * s->patch_words;
    for (int64_t i = 0; i < n_zeros; i++) s->blank[i] = 0;
}

void bs_conv_b1(const bs_conv *conv)
{
    strip s;
    set_up(&s, conv);
    bs_strips strips = bs_cut_strips(conv);
    bs_position at = {0, 0, 0, 0};
    for (uint32_t i = 0, pixel = 0; i < strips.n_strips; i++) {
        uint32_t n = strips.size + (i < strips.n_longer);
        run_strip(&s, at, pixel, (int32_t)n);
        pixel += n;
        bs_skip_pixels(conv, &at, (int32_t)n);
    }
}
