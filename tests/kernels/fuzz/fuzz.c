/* Damages model files, opens them, and runs what is accepted, under AddressSanitizer and UBSan.
 *
 *     fuzz SEED COUNT MODEL...
 *
 * Everything is in memory of its exact size, so one byte too far is found. Half of the damaged
 * files get checksums that fit, which lets the damage reach the deeper checks. What is accepted
 * has to give the same integers on every back end. Prints how many inputs were executed, and how
 * many of them gave which error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "format.h"

enum { MAX_MODELS = 256, MAX_RUN = 1 << 22, N_ERRORS = BS_ERROR_BACKEND + 1 };

typedef struct {
    uint8_t *bytes;
    uint64_t n;
} file;

static uint64_t state;

/* xorshift64*: Vigna (2016), An experimental exploration of Marsaglia's xorshift generators. */
static uint64_t draw(uint64_t n)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * 0x2545f4914f6cdd1d >> 11) % n;
}

static file load(const char *path)
{
    FILE *stream = fopen(path, "rb");
    if (!stream) exit(2);
    fseek(stream, 0, SEEK_END);
    file f = {0, (uint64_t)ftell(stream)};
    rewind(stream);
    f.bytes = malloc(f.n);
    if (fread(f.bytes, 1, f.n, stream) != f.n) exit(2);
    fclose(stream);
    return f;
}

static uint32_t crc32c(uint32_t crc, const uint8_t *bytes, uint64_t n)
{
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0x82f63b78 : 0);
            table[i] = value;
        }
    for (uint64_t i = 0; i < n; i++) crc = table[(crc ^ bytes[i]) & 0xff] ^ crc >> 8;
    return crc;
}

/* Makes every checksum fit, as far as the tables still make sense. */
static void reseal(file *f)
{
    bs_header *header = (bs_header *)f->bytes;
    if (f->n < sizeof *header || header->n_ops > BS_MAX_OPS || header->n_tensors > BS_MAX_TENSORS)
        return;
    uint64_t first = sizeof *header + header->n_ops * sizeof(bs_op);
    uint64_t end = first + header->n_tensors * sizeof(bs_tensor);
    if (end > f->n) return;
    bs_tensor *tensors = (bs_tensor *)(f->bytes + first);
    for (uint32_t i = 0; i < header->n_tensors; i++) {
        bs_tensor *t = &tensors[i];
        if (t->data_off == 0) t->crc32c = 0;
        else if (t->data_off <= f->n && t->bytes <= f->n - t->data_off)
            t->crc32c = ~crc32c(~0u, f->bytes + t->data_off, t->bytes);
    }
    header->crc32c = 0;
    header->crc32c = ~crc32c(~0u, f->bytes, end);
}

static uint32_t interesting(void)
{
    static const uint32_t values[] = {0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 127,
                                      128, 255, 256, 65535, 65536, 0x3fffffff, 0x40000000,
                                      0x7ffffffe, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe,
                                      0xffffffff};
    return values[draw(sizeof values / sizeof *values)];
}

/* An offset: in the header, among the operations or tensors, or anywhere. */
static uint64_t place(const file *f)
{
    const bs_header *header = (const bs_header *)f->bytes;
    uint64_t first = sizeof *header, ops = (uint64_t)header->n_ops * sizeof(bs_op);
    uint64_t tensors = (uint64_t)header->n_tensors * sizeof(bs_tensor);
    if (!ops || !tensors || first + ops + tensors > f->n) return draw(f->n);
    uint64_t where = draw(20);
    if (where == 0) return draw(first);
    if (where < 9) return first + draw(ops);
    return where < 13 ? first + ops + draw(tensors) : draw(f->n);
}

static void mutate(file *f)
{
    uint64_t at = place(f);
    switch (draw(8)) {
    case 0: f->bytes[at] ^= (uint8_t)(1u << draw(8)); break;
    case 1: f->bytes[at] = (uint8_t)draw(256); break;
    case 2: f->bytes[at] += draw(2) ? 1 : 255; break;
    case 3:
    case 4: { /* a whole field */
        uint32_t value = interesting();
        at -= at % 4;
        if (at + 4 <= f->n) memcpy(f->bytes + at, &value, 4);
        break;
    }
    case 5: { /* a piece of the file over another one, at the same place of a record */
        uint64_t from = place(f), length = 4 << draw(5);
        at -= at % 4;
        from -= from % 4;
        if (at + length <= f->n && from + length <= f->n)
            memmove(f->bytes + at, f->bytes + from, length);
        break;
    }
    case 6: { /* two fields change together, such as dimensions of two tensors */
        uint32_t value = (uint32_t)draw(8);
        uint64_t other = place(f);
        at -= at % 4;
        other -= other % 4;
        if (at + 4 <= f->n) memcpy(f->bytes + at, &value, 4);
        if (other + 4 <= f->n) memcpy(f->bytes + other, &value, 4);
        break;
    }
    default: /* cut off, or more than it says */
        if (draw(8) == 0) f->n = draw(f->n) + 1;
        else f->bytes[at] = 0;
    }
}

/* Runs a random input on all back ends of this processor, which have to agree. */
static void run(bs_model *model)
{
    uint64_t arena_bytes = bs_arena_bytes(model), n_input = bs_input_bytes(model);
    uint64_t n_output = bs_output_count(model);
    if (arena_bytes > MAX_RUN || n_input > MAX_RUN || n_output > MAX_RUN) return;
    void *arena = malloc(arena_bytes ? arena_bytes : 1);
    uint8_t *input = malloc(n_input);
    int32_t *output = malloc(n_output * 4), *expected = malloc(n_output * 4);
    for (uint64_t i = 0; i < n_input; i++) input[i] = (uint8_t)draw(256);
    const bs_tensor *t = bs_tensors(model);
    uint32_t n_words = bs_words(t->dims[2]);
    for (uint64_t i = 0; t->dtype == BS_BITS && i < n_input / 4; i++)
        if (t->dims[2] % 32 && (i + 1) % n_words == 0) /* spare bits of a pixel are zero */
            ((uint32_t *)input)[i] &= ~(~0u << t->dims[2] % 32);
    if (bs_set_backend(model, BS_PORTABLE) || bs_run(model, arena, input, expected)) abort();
    for (uint32_t backend = BS_PORTABLE + 1; backend < BS_BACKENDS; backend++) {
        if (bs_set_backend(model, backend) != BS_OK) continue;
        memset(arena, 0xa5, arena_bytes); /* what was there before is no matter */
        if (bs_run(model, arena, input, output) != BS_OK) abort();
        if (memcmp(output, expected, n_output * 4) != 0) abort();
    }
    free(expected);
    free(output);
    free(input);
    free(arena);
}

/* One damaged file: the error of bs_open; runs it if there is none. */
static int try_one(const file *seed)
{
    file f = {malloc(seed->n), seed->n};
    memcpy(f.bytes, seed->bytes, seed->n);
    for (uint64_t i = 1 + draw(3); i-- > 0;) mutate(&f);
    if (draw(2)) reseal(&f);
    uint8_t *exact = malloc(f.n);
    memcpy(exact, f.bytes, f.n);
    free(f.bytes);
    bs_model model;
    int error = bs_open(&model, exact, f.n);
    if (error < 0 || error >= N_ERRORS || !*bs_strerror(error)) abort();
    if (error == BS_OK) run(&model);
    free(exact);
    return error;
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 3 + MAX_MODELS) return 2;
    uint64_t count = strtoull(argv[2], 0, 10), n_models = (uint64_t)argc - 3;
    state = strtoull(argv[1], 0, 10) * 2 + 1;
    static file models[MAX_MODELS];
    static uint64_t counts[N_ERRORS];
    for (uint64_t i = 0; i < n_models; i++) models[i] = load(argv[3 + i]);
    for (uint64_t i = 0; i < count; i++) counts[try_one(&models[draw(n_models)])]++;
    printf("%llu executed\n", (unsigned long long)count);
    for (int i = 0; i < N_ERRORS; i++)
        if (counts[i]) printf("%llu %s\n", (unsigned long long)counts[i], bs_strerror(i));
    for (uint64_t i = 0; i < n_models; i++) free(models[i].bytes);
    return 0;
}
