/* Convolutions with int8 weights: the first layer (uint8 or int8 data) and the last one (bits).
 *
 * The patches of a strip of positions are copied into the scratch memory, integers as int16 and
 * bits as int8, then weights pass by, 64 channels at a time. Where the processor multiplies int8
 * (BS_DOTPROD), integers are int8 as well: int8 as they are, uint8 as x - 128. */
#include "conv_strip.h"
#include "dot_i8.h"

#if BS_ARM
#include <arm_neon.h>
#endif

typedef struct {
    const bs_conv *conv;
    int32_t group, group_channels, pixel_words;
    int64_t last_pixel; /* with which a patch may begin that is read eight values at a time */
    int32_t k; /* values of a patch */
    int is_bits, is_signed; /* data of bits; of int8, not uint8 */
    int is_wide;            /* patches of int16, not int8 */
    int8_t outside;         /* what a patch of int8 has outside the image; 0 - 128 for uint8 */
    int64_t patch_stride, acc_stride;
    int16_t *panels; /* of whatever the back end multiplies: transposed weights, or null */
    uint8_t *patches; /* at the end, so that copies may write up to 16 values too many */
    int32_t *acc;
} strip;

typedef uint8_t u8x8 __attribute__((vector_size(8), aligned(1)));
typedef int8_t i8x8 __attribute__((vector_size(8), aligned(1)));
typedef uint64_t eight __attribute__((aligned(1)));
typedef int16_t i16x8 __attribute__((vector_size(16), aligned(2)));

/* n bytes, widened. Reads and writes eight at a time as long as `room` bytes may be read. */
BS_INLINE void widen_u8(int16_t *to, const uint8_t *from, int32_t n, int64_t room)
{
    int32_t i = 0;
    for (; i < n && i + 8 <= room; i += 8)
        *(i16x8 *)(to + i) = __builtin_convertvector(*(const u8x8 *)(from + i), i16x8);
    for (; i < n; i++) to[i] = from[i];
}

BS_INLINE void widen_i8(int16_t *to, const int8_t *from, int32_t n, int64_t room)
{
    int32_t i = 0;
    for (; i < n && i + 8 <= room; i += 8)
        *(i16x8 *)(to + i) = __builtin_convertvector(*(const i8x8 *)(from + i), i16x8);
    for (; i < n; i++) to[i] = from[i];
}

/* n integers as values `at`... of a patch. */
static void copy_values(const strip *s, void *patch, int32_t at, const uint8_t *from, int32_t n,
                        int64_t room)
{
    if (!s->is_wide) { /* of int8: x - 128 turns the highest bit over */
        uint8_t *to = (uint8_t *)patch + at;
        for (int32_t i = 0; i < n; i++) to[i] = from[i] ^ (uint8_t)s->outside;
    } else if (s->is_signed) {
        widen_i8((int16_t *)patch + at, (const int8_t *)from, n, room);
    } else {
        widen_u8((int16_t *)patch + at, from, n, room);
    }
}

/* Bits [first, first + n) of a pixel as -1 and +1. May write up to 16 values too many. */
BS_INLINE void expand(int8_t *to, const uint32_t *pixel, int32_t first, int32_t n)
{
    int32_t i = 0;
#if BS_ARM
    static const uint8_t bits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint8_t *bytes = (const uint8_t *)pixel + first / 8;
    uint8x16_t masks_u8x16 = vcombine_u8(vld1_u8(bits), vld1_u8(bits));
    for (; first % 8 == 0 && i + 16 <= n; i += 16, bytes += 2) {
        uint8x16_t both_u8x16 = vcombine_u8(vld1_dup_u8(bytes), vld1_dup_u8(bytes + 1));
        uint8x16_t set_u8x16 = vtstq_u8(both_u8x16, masks_u8x16);
        vst1q_s8(to + i, vreinterpretq_s8_u8(vornq_u8(vdupq_n_u8(1), set_u8x16)));
    }
#else
    const uint8_t *bytes = (const uint8_t *)pixel + first / 8;
    for (; first % 8 == 0 && i + 8 <= n; i += 8) {
        /* Byte j keeps bit j of its copy, becomes 0 or 1, and then -1 or 1. */
        uint64_t set = *bytes++ * 0x0101010101010101u & 0x8040201008040201u;
        set = (set + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
        *(eight *)(to + i) = ~(set * 0xfe);
    }
#endif
    for (; i < n; i++) {
        int32_t at = first + i;
        to[i] = (int8_t)((int32_t)(pixel[at / 32] >> at % 32 & 1) * 2 - 1);
    }
}

/* `n_taps` neighbouring taps from pixel number `pixel` on, as values `at`... of a patch. */
static void copy_taps(const strip *s, void *patch, int32_t at, int64_t pixel, int32_t n_taps)
{
    const bs_conv *conv = s->conv;
    int32_t n = s->group_channels, first = s->group * n;
    if (!s->is_bits) {
        int64_t offset = pixel * conv->channels + first;
        int64_t room = (int64_t)conv->size[0] * conv->size[1] * conv->channels - offset;
        const uint8_t *from = (const uint8_t *)conv->data + offset;
        if (conv->groups == 1) {
            copy_values(s, patch, at, from, n * n_taps, room);
            return;
        }
        for (int32_t tap = 0; tap < n_taps; tap++, at += n, from += conv->channels)
            copy_values(s, patch, at, from, n, room - (int64_t)tap * conv->channels);
        return;
    }
    const uint32_t *from = (const uint32_t *)conv->data + pixel * s->pixel_words;
    for (int32_t tap = 0; tap < n_taps; tap++, at += n, from += s->pixel_words)
        expand((int8_t *)patch + at, from, first, n);
}

/* n values of a patch that lie outside the image. */
static void fill(const strip *s, void *patch, int32_t at, int32_t n)
{
    if (s->is_wide) {
        int16_t *to = (int16_t *)patch + at;
        for (int32_t i = 0; i < n; i++) to[i] = 0;
    } else {
        int8_t *to = (int8_t *)patch + at;
        for (int32_t i = 0; i < n; i++) to[i] = s->outside;
    }
}

/* What a patch inside the image is of. */
typedef struct {
    int32_t n_rows, n; /* of the kernel, and values in each */
    int64_t row_bytes; /* of the image */
} window;

/* Eight values; is_signed is a compile-time constant. */
BS_INLINE void widen_eight(int16_t *to, const uint8_t *from, int is_signed)
{
    if (is_signed) *(i16x8 *)to = __builtin_convertvector(*(const i8x8 *)from, i16x8);
    else *(i16x8 *)to = __builtin_convertvector(*(const u8x8 *)from, i16x8);
}

/* A patch inside the image, eight values at a time; most rows of a first layer are no longer. */
BS_INLINE void copy_wide(int16_t *to, const uint8_t *from, window w, int is_signed)
{
    do {
        widen_eight(to, from, is_signed);
        for (int32_t j = 8; j < w.n; j += 8) widen_eight(to + j, from + j, is_signed);
        to += w.n;
        from += w.row_bytes;
    } while (--w.n_rows > 0);
}

/* The same as int8. */
BS_INLINE void copy_narrow(uint8_t *to, const uint8_t *from, window w, u8x8 turned)
{
    do {
        *(u8x8 *)to = *(const u8x8 *)from ^ turned;
        for (int32_t j = 8; j < w.n; j += 8)
            *(u8x8 *)(to + j) = *(const u8x8 *)(from + j) ^ turned;
        to += w.n;
        from += w.row_bytes;
    } while (--w.n_rows > 0);
}

/* A patch that sticks out of the image, or is not read in eights. */
BS_RARE void copy_cut(const strip *s, void *patch, int32_t top, int32_t left)
{
    const bs_conv *conv = s->conv;
    int32_t width = conv->size[1], n_taps = conv->kernel[1], n = s->group_channels;
    int32_t begin = left < 0 ? -left : 0; /* taps [begin, end) of a row are inside */
    int32_t end = n_taps < width - left ? n_taps : width - left;
    for (int32_t i = 0, at = 0; i < conv->kernel[0]; i++, at += n_taps * n) {
        int32_t y = top + i;
        if (y < 0 || y >= conv->size[0]) {
            fill(s, patch, at, n_taps * n);
            continue;
        }
        fill(s, patch, at, begin * n);
        copy_taps(s, patch, at + begin * n, (int64_t)y * width + left + begin, end - begin);
        fill(s, patch, at + end * n, (n_taps - end) * n);
    }
}

/* Patches of at most n positions from `at` on, side by side and inside the image: their number. */
static int32_t copy_run(const strip *s, uint8_t *to, int64_t patch_bytes, const bs_position *at,
                        int32_t n)
{
    const bs_conv *conv = s->conv;
    int32_t top = bs_top(conv, at), last_left = conv->size[1] - conv->kernel[1], i = 0;
    int64_t left = bs_left(conv, at), step = conv->stride[1];
    int64_t pixel = (int64_t)top * conv->size[1] + left, last_pixel = s->last_pixel;
    if (top < 0 || left < 0) return 0;
    if (conv->pool[0] != 1 || conv->pool[1] != 1) n = 1;
    else if (n > conv->out_size[1] - at->x) n = conv->out_size[1] - at->x;
    const uint8_t *from = (const uint8_t *)conv->data + pixel * conv->channels;
    int64_t step_bytes = step * conv->channels;
    const u8x8 turned = (u8x8)((uint8_t)s->outside * 0x0101010101010101u);
    window w = {conv->kernel[0], conv->kernel[1] * conv->channels,
                (int64_t)conv->size[1] * conv->channels};
    int is_wide = s->is_wide, is_signed = s->is_signed;
    for (; i < n && left <= last_left && pixel <= last_pixel; i++) {
        if (!is_wide) copy_narrow(to, from, w, turned);
        else if (is_signed) copy_wide((int16_t *)to, from, w, 1);
        else copy_wide((int16_t *)to, from, w, 0);
        to += patch_bytes;
        from += step_bytes;
        left += step;
        pixel += step;
    }
    return i;
}

/* Patches of n positions. */
static void copy_patches(const strip *s, uint8_t *to, bs_position at, int32_t n)
{
    const bs_conv *conv = s->conv;
    int64_t patch_bytes = s->patch_stride * (s->is_wide ? 2 : 1);
    while (n > 0) {
        int32_t run = copy_run(s, to, patch_bytes, &at, n);
        if (run > 1) {
            bs_skip_pixels(conv, &at, run);
        } else {
            if (run == 0) copy_cut(s, to, bs_top(conv, &at), bs_left(conv, &at));
            bs_advance(conv, &at);
            run = 1;
        }
        to += run * patch_bytes;
        n -= run;
    }
}

static void multiply(const strip *s, int32_t n_rows, int32_t column, int32_t n, int32_t *acc)
{
    const bs_conv *conv = s->conv;
    int32_t first = s->group * (conv->n_out / conv->groups) + column;
    bs_dots dots = {s->patches, s->patch_stride, 0, acc, s->acc_stride, n_rows, n, s->k};
    dots.weights = (const int8_t *)conv->weights + (int64_t)first * s->k;
    if (s->panels)
        dots.weights = s->panels + (int64_t)column * ((s->k + BS_PANEL_GROUP - 1) /
                                                      BS_PANEL_GROUP * BS_PANEL_GROUP);
#if BS_X86
    if (conv->backend == BS_AVX512 && s->panels) {
        bs_dot_panels_avx512(&dots);
        return;
    }
    if (conv->backend == BS_AVX512 || conv->backend == BS_AVX2) {
        if (s->panels) bs_dot_panels_avx2(&dots);
        else if (s->is_wide) bs_dot_i16_avx2(&dots);
        else bs_dot_pm1_avx2(&dots);
        return;
    }
#elif BS_ARM
#if BS_ARM_DOTPROD
    if (conv->backend == BS_DOTPROD && !s->is_wide) {
        if (s->panels)
            dots.weights = (int8_t *)s->panels + column / 16 * BS_DOTPROD_PANEL(s->k);
        if (s->panels) bs_dot_panels_dotprod(&dots);
        else bs_dot_i8_dotprod(&dots);
        return;
    }
#endif
    if (conv->backend == BS_NEON || conv->backend == BS_DOTPROD) {
        if (s->panels) bs_dot_panels_neon(&dots);
        else if (s->is_wide) bs_dot_i16_neon(&dots);
        else bs_dot_pm1_neon(&dots);
        return;
    }
#endif
    if (s->is_wide) bs_dot_i16_portable(&dots);
    else bs_dot_pm1_portable(&dots);
}

static void run_strip(strip *s, bs_position at, int64_t pixel, int32_t n_pixels)
{
    const bs_conv *conv = s->conv;
    int32_t n = n_pixels * conv->pool[0] * conv->pool[1];
    int32_t group_out = conv->n_out / conv->groups, n_out = conv->n_out;
    for (s->group = 0; s->group < conv->groups; s->group++) {
        copy_patches(s, s->patches, at, n);
        if (conv->groups > 1) {
            multiply(s, n, 0, group_out, s->acc + s->group * group_out);
            continue;
        }
        for (int32_t c = 0; c < n_out; c += BS_BLOCK) {
            int32_t width = n_out - c < BS_BLOCK ? n_out - c : BS_BLOCK;
            multiply(s, n, c, width, s->acc);
            bs_conv_finish(conv, s->acc, s->acc_stride, pixel, n_pixels, c, width);
        }
    }
    if (conv->groups > 1)
        bs_conv_finish(conv, s->acc, s->acc_stride, pixel, n_pixels, 0, n_out);
}

/* Weights into panels of 16 columns, which take four patches or more: BS_MANY = 8 positions are
 * one strip of them, or strips of at least 9 (half of 24, in whole windows).
 * Columns and values that do not exist are zeros. */
BS_RARE void transpose(const strip *s)
{
    const int8_t *weights = s->conv->weights;
#if BS_ARM_DOTPROD
    if (!s->is_wide) { /* ceil_4(k) + 4 bytes per column where there are 2 * ceil_32(k) */
        bs_make_panels_dotprod(weights, s->k, s->conv->n_out, !s->is_signed, (int8_t *)s->panels);
        return;
    }
#endif
    int32_t group = BS_PANEL_GROUP, width = BS_PANEL_I16, n_out = s->conv->n_out;
    int32_t k = (s->k + group - 1) / group * group;
    int16_t *panel = s->panels;
    for (int32_t column = 0; column < n_out; column += width, panel += width * (int64_t)k) {
        for (int32_t c = 0; c < width; c++) {
            const int8_t *row = weights + (int64_t)(column + c) * s->k;
            int32_t n = column + c < n_out ? s->k : 0;
            for (int32_t i = 0; i < k; i++)
                panel[(i / group * width + c) * group + i % group] = i < n ? row[i] : 0;
        }
    }
}

BS_RARE void set_up(strip *s, const bs_conv *conv)
{
    int64_t n_rows = (int64_t)bs_strip_positions(conv);
    int has_panels = conv->backend != BS_PORTABLE && bs_is_transposed(conv);
    s->conv = conv;
    s->is_bits = conv->kind == BS_B1_I8;
    s->is_signed = conv->kind == BS_I8_I8;
    /* uint8 without panels has nowhere to keep 128 * (sum of the weights). */
    int has_int8 = BS_ARM_DOTPROD && conv->backend == BS_DOTPROD && (s->is_signed || has_panels);
    s->is_wide = !s->is_bits && !has_int8;
    s->outside = (int8_t)(s->is_bits ? conv->border : s->is_signed ? 0 : -128);
    s->group_channels = conv->channels / conv->groups;
    s->pixel_words = (conv->channels + 31) / 32;
    s->k = conv->kernel[0] * conv->kernel[1] * s->group_channels;
    s->patch_stride = ((int64_t)s->k + 31) / 32 * 32;
    s->last_pixel = -1;
    int64_t room = (int64_t)conv->size[0] * conv->size[1] * conv->channels -
                   ((int64_t)conv->kernel[1] * conv->channels + 7) / 8 * 8;
    if (!s->is_bits && conv->groups == 1 && room >= 0 && room <= INT32_MAX)
        s->last_pixel = (int32_t)((uint32_t)room / (uint32_t)conv->channels) -
                        (int64_t)(conv->kernel[0] - 1) * conv->size[1];
    s->acc_stride = conv->groups == 1 ? BS_BLOCK : ((int64_t)conv->n_out + 63) / 64 * 64 + 64;
    s->acc = conv->scratch;
    int16_t *rest = (int16_t *)(s->acc + n_rows * s->acc_stride);
    s->panels = has_panels ? rest : 0;
    if (has_panels) rest += s->patch_stride * (((int64_t)conv->n_out + 31) / 32 * 32);
    s->patches = (uint8_t *)rest;
    if (has_panels) transpose(s);
}

void bs_conv_i8(const bs_conv *conv)
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
