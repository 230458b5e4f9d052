/* Convolution of bits with bits, without a matrix of patches.
 *
 * A strip of output positions is laid out as rows of pointers: a row of the kernel is contiguous
 * in the image (NHWC), so the tile reads it where it lies. Only what sticks out of the image is
 * copied, once per strip. Layout 2 of the weights and groups that do not begin at a word want a
 * patch in one piece; there every patch is copied. Then the weights pass by, 64 channels at a
 * time, and what leaves is finished while it is in the first cache.
 *
 * Bits outside the image are clear, that is -1. Where zeros are asked for, the weights outside are
 * added again: their sum depends on how the image cuts off the kernel, not on what is in it, and a
 * sum of weights is 2 popc(w) - n. */
#include "conv_strip.h"
#include "tile_rows.h"

typedef struct {
    const bs_conv *conv;
    int32_t group, group_channels;
    int32_t pixel_words, tap_words, patch_words;
    int32_t n_spans, n_words; /* of a row of the tile */
    int in_place;             /* patches are read where they lie */
    int has_runs;             /* and those of neighbours are one pixel apart */
    int32_t n_rows, block;    /* of the strip, and of all its tiles but the last */
    const uint32_t **rows;    /* per tile: [n_spans][rows of the tile] */
    uint32_t *blank;          /* a span outside the image */
    uint32_t *patches;        /* [n_rows][patch_words] */
    int32_t *acc;
    int64_t stride;
    bs_cuts cuts[2];          /* of the kernel, by rows and by columns of positions */
    int32_t *outside;         /* sums of the weights outside, or null: [cut][cut][out_stride] */
    int64_t out_stride;
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

/* Positions from `at` on, at most n, that lie side by side and inside the image: their number. */
static int32_t lay_out_run(const strip *s, const bs_position *at, const uint32_t **rows,
                           int32_t step, int32_t n)
{
    const bs_conv *conv = s->conv;
    if (!s->has_runs || at->y < s->cuts[0].n_before || at->y >= s->cuts[0].first_after ||
        at->x < s->cuts[1].n_before || at->x >= s->cuts[1].first_after)
        return 0;
    if (n > s->cuts[1].first_after - at->x) n = s->cuts[1].first_after - at->x;
    int64_t pixel = (int64_t)bs_top(conv, at) * conv->size[1] + bs_left(conv, at);
    const uint32_t *first = (const uint32_t *)conv->data + pixel * s->pixel_words;
    int64_t row_words = (int64_t)conv->size[1] * s->pixel_words;
    int32_t pixel_words = conv->stride[1] * s->pixel_words;
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
            int32_t run = lay_out_run(s, &at, rows + i, size, size - i);
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

#if BS_X86
BS_TARGET_AVX2 static void add_avx2(int32_t *to, const int32_t *from, int32_t n)
{
    for (int32_t i = 0; i < n; i++) to[i] += from[i];
}
#endif

BS_APART void add(uint32_t backend, int32_t *to, const int32_t *from, int32_t n)
{
#if BS_X86
    if (backend == BS_AVX512 || backend == BS_AVX2) {
        add_avx2(to, from, n);
        return;
    }
#endif
    (void)backend;
    for (int32_t i = 0; i < n; i++) to[i] += from[i];
}

/* Weights that fall outside, for n positions and the channels from `channel` on. */
static void add_outside(const strip *s, bs_position at, int32_t n, int32_t channel, int32_t width,
                        int32_t *acc, int64_t stride)
{
    const bs_conv *conv = s->conv;
    for (int32_t i = 0; i < n; i++, acc += stride, bs_advance(conv, &at)) {
        int32_t y = bs_cut_of(&s->cuts[0], at.y * conv->pool[0] + at.i);
        int32_t x = bs_cut_of(&s->cuts[1], at.x * conv->pool[1] + at.j);
        if (y == s->cuts[0].n_before && x == s->cuts[1].n_before) continue;
        const int32_t *sums = s->outside + ((int64_t)y * s->cuts[1].n + x) * s->out_stride + channel;
        add(conv->backend, acc, sums, width);
    }
}

/* The strip of n_pixels output pixels from number `pixel` = `at` on. */
static void run_strip(strip *s, bs_position at, int64_t pixel, int32_t n_pixels)
{
    const bs_conv *conv = s->conv;
    int32_t n = n_pixels * conv->pool[0] * conv->pool[1];
    int32_t group_out = conv->n_out / conv->groups, n_out = conv->n_out;
    /* Then the sums need nothing more, and whole panels are written. */
    int is_final = conv->groups == 1 && !conv->threshold && !conv->bias && n == n_pixels &&
                   n_out % BS_LANES_WIDTH == 0;
    for (s->group = 0; s->group < conv->groups; s->group++) {
        lay_out(s, at, n);
        if (is_final) {
            int32_t *out = (int32_t *)conv->out + pixel * n_out;
            multiply(s, 0, n_out, out, n_out);
            if (s->outside) add_outside(s, at, n, 0, n_out, out, n_out);
            return;
        }
        if (conv->groups > 1) { /* spare columns are overwritten by the next group */
            multiply(s, 0, group_out, s->acc + s->group * group_out, s->stride);
            continue;
        }
        for (int32_t c = 0; c < n_out; c += BS_BLOCK) {
            int32_t width = n_out - c < BS_BLOCK ? n_out - c : BS_BLOCK;
            multiply(s, c, width, s->acc, s->stride);
            if (s->outside) add_outside(s, at, n, c, width, s->acc, s->stride);
            bs_conv_finish(conv, s->acc, s->stride, pixel, n_pixels, c, width);
        }
    }
    if (conv->groups > 1) {
        if (s->outside) add_outside(s, at, n, 0, n_out, s->acc, s->stride);
        bs_conv_finish(conv, s->acc, s->stride, pixel, n_pixels, 0, n_out);
    }
}

/* The ones of one tap in all columns. */
static void count_ones(const strip *s, int32_t tap, int32_t *ones)
{
    const bs_conv *conv = s->conv;
    int32_t layout = conv->layout, width = layout == BS_ROWS ? 1 : bs_panel_width(layout);
    int32_t group_out = conv->n_out / conv->groups, step = layout == BS_VECTORS ? 4 : 1;
    int64_t n_words = bs_panel_words(layout, conv->kernel[0] * conv->kernel[1] * s->tap_words);
    int32_t first = tap * s->tap_words, end = first + s->tap_words, begin = first / step * step;
    uint32_t *row = s->patches; /* not in use yet */
    const uint32_t *rows = row, *panel = (const uint32_t *)conv->weights + begin * width;
    bs_tile tile = {.rows = &rows, .stride = width, .n_rows = 1, .n_panels = 1, .n_spans = 1};
    tile.n_words = (end - begin + step - 1) / step * step;
    tile.form = layout == BS_ROWS ? BS_XOR : BS_AND;
    /* Words that share a vector with the tap are masked. */
    for (int32_t i = begin; i < begin + tile.n_words; i++)
        row[i - begin] = layout != BS_ROWS && i >= first && i < end ? ~0u : 0;
    for (int32_t group = 0; group < conv->groups; group++) {
        for (int32_t c = 0; c < group_out; c += width, panel += n_words * width) {
            tile.panels = panel;
            tile.out = ones + group * group_out + c;
            /* The same words of the next panel lie too far away for the processor to foresee. */
            for (int32_t i = 0; i < tile.n_words * width; i += 16)
                __builtin_prefetch(panel + n_words * width + i);
            if (layout != BS_ROWS) {
                bs_run_tile(conv->backend, &tile, layout);
                continue;
            }
            bs_tile_rows(conv->backend, &tile, 1); /* 0 - 2 popc(0 ^ w) */
            *tile.out = -*tile.out / 2;
        }
    }
}

/* Is the tap with row or column i outside of an image cut that way? */
static int is_outside(const strip *s, int axis, int32_t cut, int32_t i)
{
    int32_t at = bs_cut_begin(s->conv, &s->cuts[axis], axis, cut) + i;
    return cut != s->cuts[axis].n_before && (at < 0 || at >= s->conv->size[axis]);
}

/* The sum of a tap's weights is 2 ones - n: to all cuts that have the tap outside. */
static void add_tap(const strip *s, int32_t tap_y, int32_t tap_x, int32_t *ones)
{
    int32_t *sums = s->outside, n_out = s->conv->n_out, n = s->group_channels;
    for (int32_t c = 0; c < n_out; c++) ones[c] = 2 * ones[c] - n;
    for (int32_t y = 0; y < s->cuts[0].n; y++) {
        int is_above = is_outside(s, 0, y, tap_y);
        for (int32_t x = 0; x < s->cuts[1].n; x++, sums += s->out_stride) {
            if (!is_above && !is_outside(s, 1, x, tap_x)) continue;
            add(s->conv->backend, sums, ones, n_out);
        }
    }
}

/* Is the tap in row or column i outside of the image anywhere? */
static int is_ever_outside(const strip *s, int axis, int32_t i)
{
    for (int32_t cut = 0; cut < s->cuts[axis].n; cut++)
        if (is_outside(s, axis, cut, i)) return 1;
    return 0;
}

/* Fills s->outside. The place of the kernel that is whole holds the ones of a tap meanwhile. */
BS_RARE void sum_outside(strip *s)
{
    const bs_conv *conv = s->conv;
    int64_t n_sums = (int64_t)s->cuts[0].n * s->cuts[1].n * s->out_stride;
    int32_t whole = s->cuts[0].n_before * s->cuts[1].n + s->cuts[1].n_before;
    int32_t *ones = s->outside + whole * s->out_stride;
    for (int64_t i = 0; i < n_sums; i++) s->outside[i] = 0;
    for (int32_t y = 0, tap = 0; y < conv->kernel[0]; y++) {
        int is_needed = is_ever_outside(s, 0, y);
        for (int32_t x = 0; x < conv->kernel[1]; x++, tap++) {
            if (!is_needed && !is_ever_outside(s, 1, x)) continue;
            count_ones(s, tap, ones);
            add_tap(s, y, x, ones);
        }
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
    s->out_stride = ((int64_t)conv->n_out + 63) / 64 * 64 + 64;
    s->stride = conv->groups == 1 ? BS_BLOCK : s->out_stride;
    s->acc = conv->scratch;
    s->rows = (const uint32_t **)(s->acc + n_rows * s->stride);
    s->blank = (uint32_t *)(s->rows + n_rows * taps);
    s->patches = s->blank + s->patch_words;
    for (int axis = 0; axis < 2; axis++) s->cuts[axis] = bs_count_cuts(conv, axis);
    s->has_runs = s->in_place && conv->groups == 1 && conv->pool[0] == 1 && conv->pool[1] == 1;
    s->outside = 0;
    if (bs_has_zeros(conv)) {
        s->outside = (int32_t *)(s->patches + n_rows * s->patch_words);
        sum_outside(s);
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
