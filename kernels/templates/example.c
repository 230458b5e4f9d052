/* Runs one image through a model: example model.bspn image.raw
 *
 * image.raw holds the bytes of one input as README.txt describes it. Prints a line for each class:
 * its number, its score, and a star at the best. */
#include "bitspin.h"

#include <stdio.h>
#include <stdlib.h>

/* A whole file; malloc aligns to 8 bytes, as bs_open asks. */
static void *read_file(const char *path, uint64_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) return NULL;
    *n_bytes = (uint64_t)ftell(file);
    rewind(file);
    void *data = malloc((size_t)*n_bytes + 1);
    if (data && fread(data, 1, (size_t)*n_bytes, file) != *n_bytes) data = NULL;
    fclose(file);
    return data;
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    return 2;
}

int main(int argc, char **argv)
{
    if (argc != 3) return fail("usage", "example model.bspn image.raw");
    uint64_t model_bytes, image_bytes;
    void *file = read_file(argv[1], &model_bytes), *image = read_file(argv[2], &image_bytes);
    if (!file || !image) return fail(file ? argv[2] : argv[1], "cannot be read");

    bs_model model;
    int error = bs_open(&model, file, model_bytes);
    if (error) return fail(argv[1], bs_strerror(error));
    if (image_bytes != bs_input_bytes(&model)) return fail(argv[2], "not the size of one input");

    void *arena = malloc((size_t)bs_arena_bytes(&model));
    uint64_t n_scores = bs_output_count(&model), best = 0;
    int32_t *scores = malloc((size_t)n_scores * sizeof *scores);
    if (!arena || !scores) return fail(argv[1], "no memory");
    error = bs_run(&model, arena, image, scores);
    if (error) return fail(argv[1], bs_strerror(error));

    for (uint64_t i = 1; i < n_scores; i++)
        if (scores[i] > scores[best]) best = i; /* of equal scores the first wins */
    for (uint64_t i = 0; i < n_scores; i++)
        printf("%lu %ld%s\n", (unsigned long)i, (long)scores[i], i == best ? " *" : "");
    return 0;
}
