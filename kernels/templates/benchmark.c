/* Times a model on the device itself: benchmark model.bspn [RUNS [WARMUPS]]
 *
 * Prints the least and the median time of one image in microseconds, on one core. The input is all
 * zeros: no operation takes a different path for different values. */
#define _POSIX_C_SOURCE 200809L
#include "bitspin.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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

static double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    return 2;
}

int main(int argc, char **argv)
{
    long n_runs = argc > 2 ? atol(argv[2]) : 200, n_warmups = argc > 3 ? atol(argv[3]) : 20;
    if (argc < 2 || argc > 4 || n_runs < 1 || n_runs > 1000000 || n_warmups < 0)
        return fail("usage", "benchmark model.bspn [RUNS 1..1000000 [WARMUPS]]");
    uint64_t model_bytes;
    void *file = read_file(argv[1], &model_bytes);
    if (!file) return fail(argv[1], "cannot be read");

    bs_model model;
    int error = bs_open(&model, file, model_bytes);
    if (error) return fail(argv[1], bs_strerror(error));
    uint64_t arena_bytes = bs_arena_bytes(&model), n_scores = bs_output_count(&model);
    void *arena = malloc((size_t)arena_bytes);
    void *image = calloc((size_t)bs_input_bytes(&model), 1);
    int32_t *scores = malloc((size_t)n_scores * sizeof *scores);
    double *times = malloc((size_t)n_runs * sizeof *times);
    if (!arena || !image || !scores || !times) return fail(argv[1], "no memory");

    for (long i = -n_warmups; i < n_runs; i++) {
        double start = microseconds();
        error = bs_run(&model, arena, image, scores);
        if (error) return fail(argv[1], bs_strerror(error));
        if (i >= 0) times[i] = microseconds() - start;
    }
    qsort(times, (size_t)n_runs, sizeof *times, ascending);
    printf("model %lu bytes, input %lu bytes, arena %lu bytes, %lu scores\n",
           (unsigned long)model_bytes, (unsigned long)bs_input_bytes(&model),
           (unsigned long)arena_bytes, (unsigned long)n_scores);
    printf("min %.3f us, median %.3f us per image, %ld runs\n", times[0], times[n_runs / 2],
           n_runs);
    return 0;
}
