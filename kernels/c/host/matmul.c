/* Matrix products of bits for Python: blocks for the caches, ragged edges and epilogues around
 * the tile of tile.h.
 *
 * A set of four panels is kept while the rows of a block run past it. At 4096 bits a set is
 * 32 KiB on x86 and stays in the first cache; longer ones come from the second at 64 * 4 bytes
 * per 24 products of 512 bits, 7 bytes per cycle or less, which costs nothing: the bits of a
 * product are therefore not split. A block of rows keeps out of the way of the caches and of the
 * table of pages, which every row of the output needs one of. */
#include "../bitspin.h"
#include "../tile.h"
#include "../threshold.h"

/* Rows are {0, 1}, columns -1 or +1: twice the AND less the ones of the row. */
enum { MIXED = 2 };
enum { SET_COLUMNS = BS_TILE_PANELS * BS_LANES_WIDTH };
enum { BLOCK_BYTES = 128 * 1024, BLOCK_ROWS = 192 };

typedef struct {
    uint32_t backend;
    int32_t layout, form, n_bits, n_words, n_columns;
    const uint32_t *a;
    int64_t row_stride, plane_stride; /* in words */
    int32_t n_planes;
    const int32_t *weights; /* of the planes, or null: one plane of weight 1 */
    const uint32_t *panels;
    int32_t *out;   /* (rows, n_columns), or null: */
    uint32_t *bits; /* (rows, (n_columns + 31) / 32) */
    const int32_t *level, *flip;
} product;

typedef struct {
    int64_t row_begin, row_end, panel_begin, panel_end;
} range;

static int32_t count_ones(const uint32_t *words, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t x = words[i];
        x -= x >> 1 & 0x55555555u;
        x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
        x = (x + (x >> 4)) & 0x0f0f0f0fu;
        sum += (int32_t)(x * 0x01010101u >> 24);
    }
    return sum;
}

/* One plane of one tile, into out. */
static void run_plane(const product *p, int32_t plane, int64_t row, int32_t n_rows, int64_t panel,
                      int32_t n_panels, int32_t *out, int64_t stride)
{
    const uint32_t *rows[BS_TILE_ROWS];
    for (int32_t i = 0; i < n_rows; i++)
        rows[i] = p->a + plane * p->plane_stride + (row + i) * p->row_stride;
    int64_t panel_words = (int64_t)bs_panel_width(p->layout) *
                          bs_panel_words(p->layout, p->n_words);
    bs_tile tile = {rows,     p->panels + panel * panel_words,
                    out,      stride,
                    n_rows,   n_panels,
                    1,        p->n_words,
                    p->n_bits, p->form == BS_XOR ? BS_XOR : BS_AND};
    bs_run_tile(p->backend, &tile, p->layout);
    if (p->form != MIXED) return;
    for (int32_t i = 0; i < n_rows; i++) {
        int32_t ones = count_ones(rows[i], p->n_words);
        for (int32_t c = 0; c < n_panels * bs_panel_width(p->layout); c++)
            out[i * stride + c] = 2 * out[i * stride + c] - ones;
    }
}

/* A tile through a buffer: planes are added up, missing columns dropped, thresholds applied. */
static void run_buffered(const product *p, int64_t row, int32_t n_rows, int64_t panel,
                         int32_t n_panels)
{
    int32_t sum[BS_TILE_ROWS * SET_COLUMNS], one[BS_TILE_ROWS * SET_COLUMNS];
    int32_t width = bs_panel_width(p->layout), first = (int32_t)panel * width;
    int32_t n_columns = n_panels * width; /* of the tile, then of those that exist */
    run_plane(p, 0, row, n_rows, panel, n_panels, sum, n_columns);
    if (p->weights) {
        for (int32_t i = 0; i < n_rows * n_columns; i++) sum[i] *= p->weights[0];
        for (int32_t plane = 1; plane < p->n_planes; plane++) {
            run_plane(p, plane, row, n_rows, panel, n_panels, one, n_columns);
            for (int32_t i = 0; i < n_rows * n_columns; i++)
                sum[i] += p->weights[plane] * one[i];
        }
    }
    int32_t stride = n_columns;
    if (n_columns > p->n_columns - first) n_columns = p->n_columns - first;
    for (int32_t i = 0; i < n_rows; i++) {
        if (p->bits) {
            /* A set begins at a multiple of 32 columns in every layout. */
            uint32_t *bits = p->bits + (row + i) * ((p->n_columns + 31) / 32) + first / 32;
            bs_threshold(p->backend, sum + i * stride, p->level + first, p->flip + first,
                         n_columns, bits);
        } else {
            int32_t *out = p->out + (row + i) * p->n_columns + first;
            for (int32_t c = 0; c < n_columns; c++) out[c] = sum[i * stride + c];
        }
    }
}

/* A block of rows against a set of panels. */
static void run_set(const product *p, int64_t row_begin, int64_t row_end, int64_t panel,
                    int32_t n_panels)
{
    int32_t width = bs_panel_width(p->layout), tile_rows = BS_TILE_ROWS;
    int direct = p->out && !p->weights && (panel + n_panels) * width <= p->n_columns;
    for (int64_t row = row_begin; row < row_end; row += tile_rows) {
        int32_t n_rows = row_end - row < tile_rows ? (int32_t)(row_end - row) : tile_rows;
        if (direct)
            run_plane(p, 0, row, n_rows, panel, n_panels,
                      p->out + row * p->n_columns + panel * width, p->n_columns);
        else
            run_buffered(p, row, n_rows, panel, n_panels);
    }
}

static void run(const product *p, range r)
{
    int32_t block = BLOCK_BYTES / 4 / ((int32_t)p->row_stride * p->n_planes + 1);
    if (block > BLOCK_ROWS) block = BLOCK_ROWS;
    block = block < 12 ? 12 : block / 12 * 12; /* whole tiles of 4 and of 6 rows */
    for (int64_t row = r.row_begin; row < r.row_end; row += block) {
        int64_t row_end = row + block < r.row_end ? row + block : r.row_end;
        for (int64_t panel = r.panel_begin; panel < r.panel_end; panel += BS_TILE_PANELS) {
            int64_t rest = r.panel_end - panel;
            int32_t n_panels = rest < BS_TILE_PANELS ? (int32_t)rest : BS_TILE_PANELS;
            run_set(p, row, row_end, panel, n_panels);
        }
    }
}

#define ADDRESS(type, value) ((type *)(uintptr_t)(value))

BS_API int64_t bsk_matmul(int64_t backend, int64_t layout, int64_t form, int64_t n_bits,
                          int64_t a, int64_t row_stride, int64_t panels, int64_t n_columns,
                          int64_t out, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                          int64_t panel_end);
BS_API int64_t bsk_matmul_bits(int64_t backend, int64_t layout, int64_t form, int64_t n_bits,
                               int64_t a, int64_t row_stride, int64_t panels, int64_t n_columns,
                               int64_t level, int64_t flip, int64_t bits, int64_t row_begin,
                               int64_t row_end, int64_t panel_begin, int64_t panel_end);
BS_API int64_t bsk_matmul_planes(int64_t backend, int64_t layout, int64_t form, int64_t n_bits,
                                 int64_t a, int64_t row_stride, int64_t plane_stride,
                                 int64_t n_planes, int64_t weights, int64_t panels,
                                 int64_t n_columns, int64_t out, int64_t row_begin,
                                 int64_t row_end, int64_t panel_begin, int64_t panel_end);

/* A tile as the convolutions use it: row i of span s begins at words[starts[s * n_rows + i]]. */
BS_API int64_t bsk_tile_spans(int64_t backend, int64_t layout, int64_t form, int64_t n_bits,
                              const uint32_t *words, const int64_t *starts, int64_t n_rows,
                              int64_t n_spans, int64_t n_words, const uint32_t *panels,
                              int64_t n_panels, int32_t *out, int64_t stride);
enum { MAX_SPANS = 16 };

int64_t bsk_tile_spans(int64_t backend, int64_t layout, int64_t form, int64_t n_bits,
                       const uint32_t *words, const int64_t *starts, int64_t n_rows,
                       int64_t n_spans, int64_t n_words, const uint32_t *panels, int64_t n_panels,
                       int32_t *out, int64_t stride)
{
    const uint32_t *rows[MAX_SPANS * BS_TILE_ROWS];
    if (n_spans > MAX_SPANS || n_rows > BS_TILE_ROWS) return 1;
    for (int64_t i = 0; i < n_spans * n_rows; i++) rows[i] = words + starts[i];
    bs_tile tile = {rows,
                    panels,
                    out,
                    stride,
                    (int32_t)n_rows,
                    (int32_t)n_panels,
                    (int32_t)n_spans,
                    (int32_t)n_words,
                    (int32_t)n_bits,
                    (int32_t)form};
    bs_run_tile((uint32_t)backend, &tile, (int32_t)layout);
    return 0;
}

static product describe(int64_t backend, int64_t layout, int64_t form, int64_t n_bits, int64_t a,
                        int64_t row_stride, int64_t panels, int64_t n_columns)
{
    product p = {.backend = (uint32_t)backend,
                 .layout = (int32_t)layout,
                 .form = (int32_t)form,
                 .n_bits = (int32_t)n_bits,
                 .n_words = (int32_t)((n_bits + 31) / 32),
                 .n_columns = (int32_t)n_columns,
                 .a = ADDRESS(const uint32_t, a),
                 .row_stride = row_stride,
                 .n_planes = 1,
                 .panels = ADDRESS(const uint32_t, panels)};
    return p;
}

/* Rows [row_begin, row_end) x panels [panel_begin, panel_end) of the product of
 * a (rows, row_stride words) and panels of n_columns columns, into out (rows, n_columns) int32.
 * panel_begin is a multiple of 4. form: 0 xor, 1 and, 2 and with columns of -1, +1. */
int64_t bsk_matmul(int64_t backend, int64_t layout, int64_t form, int64_t n_bits, int64_t a,
                   int64_t row_stride, int64_t panels, int64_t n_columns, int64_t out,
                   int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end)
{
    product p = describe(backend, layout, form, n_bits, a, row_stride, panels, n_columns);
    p.out = ADDRESS(int32_t, out);
    run(&p, (range){row_begin, row_end, panel_begin, panel_end});
    return 0;
}

/* The same, and bit (product >= level) ^ flip of each column into bits (rows, words of 32). */
int64_t bsk_matmul_bits(int64_t backend, int64_t layout, int64_t form, int64_t n_bits, int64_t a,
                        int64_t row_stride, int64_t panels, int64_t n_columns, int64_t level,
                        int64_t flip, int64_t bits, int64_t row_begin, int64_t row_end,
                        int64_t panel_begin, int64_t panel_end)
{
    product p = describe(backend, layout, form, n_bits, a, row_stride, panels, n_columns);
    p.bits = ADDRESS(uint32_t, bits);
    p.level = ADDRESS(const int32_t, level);
    p.flip = ADDRESS(const int32_t, flip);
    run(&p, (range){row_begin, row_end, panel_begin, panel_end});
    return 0;
}

/* The sum over planes of weights[plane] * (product of that plane of a); |sum| < 2^31. */
int64_t bsk_matmul_planes(int64_t backend, int64_t layout, int64_t form, int64_t n_bits, int64_t a,
                          int64_t row_stride, int64_t plane_stride, int64_t n_planes,
                          int64_t weights, int64_t panels, int64_t n_columns, int64_t out,
                          int64_t row_begin, int64_t row_end, int64_t panel_begin,
                          int64_t panel_end)
{
    product p = describe(backend, layout, form, n_bits, a, row_stride, panels, n_columns);
    p.plane_stride = plane_stride;
    p.n_planes = (int32_t)n_planes;
    p.weights = ADDRESS(const int32_t, weights);
    p.out = ADDRESS(int32_t, out);
    run(&p, (range){row_begin, row_end, panel_begin, panel_end});
    return 0;
}
