/* Zeros outside the image: the sum with -1 there, and the weights that were taken off added again.
 * Their sum depends on how the image cuts off the kernel, not on what is in the image, and a sum of
 * weights is 2 popc(w) - n. */
#include "conv_outside.h"

#include "tile_rows.h"

/* The ones of one tap in all columns. */
BS_RARE void count_ones(const bs_conv *conv, int32_t tap, int32_t tap_words, uint32_t *row,
                        int32_t *ones)
{
    int32_t layout = conv->layout, width = layout == BS_ROWS ? 1 : bs_panel_width(layout);
    int32_t group_out = conv->n_out / conv->groups, step = layout == BS_VECTORS ? 4 : 1;
    int64_t n_words = bs_panel_words(layout, conv->kernel[0] * conv->kernel[1] * tap_words);
    int32_t first = tap * tap_words, end = first + tap_words, begin = first / step * step;
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
BS_RARE int is_outside(const bs_conv *conv, const bs_outside *o, int axis, int32_t cut, int32_t i)
{
    int32_t at = bs_cut_begin(conv, &o->cuts[axis], axis, cut) + i;
    return cut != o->cuts[axis].n_before && (at < 0 || at >= conv->size[axis]);
}

/* to += from. In vectors by hand, because compilers take four times the room for the same loop. */
#define ADD(lanes, width)                                                              \
    int32_t i = 0;                                                                     \
    for (; i + width <= n; i += width) *(lanes *)(to + i) += *(const lanes *)(from + i); \
    for (; i < n; i++) to[i] += from[i];

typedef int32_t lanes4 __attribute__((vector_size(16), aligned(4)));

#if BS_X86
typedef int32_t lanes8 __attribute__((vector_size(32), aligned(4)));

BS_TARGET_AVX2 BS_RARE void add_avx2(int32_t *to, const int32_t *from, int32_t n)
{
    ADD(lanes8, 8)
}
#endif

BS_RARE void add(uint32_t backend, int32_t *to, const int32_t *from, int32_t n)
{
#if BS_X86
    if (backend == BS_AVX512 || backend == BS_AVX2) {
        add_avx2(to, from, n);
        return;
    }
#endif
    (void)backend;
    ADD(lanes4, 4)
}

/* The sum of a tap's weights is 2 ones - n: to all cuts that have the tap outside. */
BS_RARE void add_tap(const bs_conv *conv, const bs_outside *o, int32_t tap_y, int32_t tap_x,
                     int32_t *ones)
{
    int32_t *sums = o->sums, n_out = conv->n_out, n = conv->channels / conv->groups;
    for (int32_t c = 0; c < n_out; c++) ones[c] = 2 * ones[c] - n;
    for (int32_t y = 0; y < o->cuts[0].n; y++) {
        int is_above = is_outside(conv, o, 0, y, tap_y);
        for (int32_t x = 0; x < o->cuts[1].n; x++, sums += o->stride) {
            if (!is_above && !is_outside(conv, o, 1, x, tap_x)) continue;
            add(conv->backend, sums, ones, n_out);
        }
    }
}

/* Is the tap in row or column i outside of the image anywhere? */
BS_RARE int is_ever_outside(const bs_conv *conv, const bs_outside *o, int axis, int32_t i)
{
    for (int32_t cut = 0; cut < o->cuts[axis].n; cut++)
        if (is_outside(conv, o, axis, cut, i)) return 1;
    return 0;
}

__attribute__((cold)) void bs_sum_outside(const bs_conv *conv, const bs_outside *o, uint32_t *row)
{
    int64_t n_sums = (int64_t)o->cuts[0].n * o->cuts[1].n * o->stride;
    int32_t whole = o->cuts[0].n_before * o->cuts[1].n + o->cuts[1].n_before;
    int32_t tap_words = (conv->channels / conv->groups + 31) / 32;
    int32_t *ones = o->sums + whole * o->stride; /* no sum is needed there */
    for (int64_t i = 0; i < n_sums; i++) o->sums[i] = 0;
    for (int32_t y = 0, tap = 0; y < conv->kernel[0]; y++) {
        int is_needed = is_ever_outside(conv, o, 0, y);
        for (int32_t x = 0; x < conv->kernel[1]; x++, tap++) {
            if (!is_needed && !is_ever_outside(conv, o, 1, x)) continue;
            count_ones(conv, tap, tap_words, row, ones);
            add_tap(conv, o, y, x, ones);
        }
    }
}

void bs_add_outside(const bs_conv *conv, const bs_outside *o, bs_position at, int32_t n,
                    int32_t channel, int32_t width, int32_t *acc, int64_t stride)
{
    for (int32_t i = 0; i < n; i++, acc += stride, bs_advance(conv, &at)) {
        int32_t y = bs_cut_of(&o->cuts[0], at.y * conv->pool[0] + at.i);
        int32_t x = bs_cut_of(&o->cuts[1], at.x * conv->pool[1] + at.j);
        if (y == o->cuts[0].n_before && x == o->cuts[1].n_before) continue;
        const int32_t *sums = o->sums + ((int64_t)y * o->cuts[1].n + x) * o->stride + channel;
        add(conv->backend, acc, sums, width);
    }
}
