/* Bitspin runtime: runs integer networks from .bspn files.
 *
 * C99 without libc: no allocation, no globals, no calls out. The caller owns all memory and all
 * threads. A typical caller:
 *
 *     bs_model model;                                  // on the stack or static
 *     int error = bs_open(&model, file, file_bytes);   // file: mmap'ed, or read into 8-byte
 *     if (error) return fail(bs_strerror(error));      //   aligned memory; stays there
 *     void *arena = malloc(bs_arena_bytes(&model));    // one per thread
 *     bs_run(&model, arena, image, scores);            // int32_t scores[bs_output_count(&model)]
 *
 * After bs_open the model is constant: any number of threads may run it at once, each with an
 * arena of its own. Every result is an exact integer, the same on every target.
 */
#ifndef BITSPIN_H
#define BITSPIN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BS_API __attribute__((visibility("default")))
#else
#define BS_API
#endif

/* An open model. The fields are private; the size is 64 bytes on every target. */
typedef struct bs_model {
    uint64_t file; /* its address */
    uint64_t arena_bytes;
    uint64_t scratch_offset;
    uint32_t n_ops;
    uint32_t n_tensors;
    uint32_t backend;
    uint32_t minor;
    uint32_t reserved[6];
} bs_model;

/* What a function returns; bs_strerror gives the sentence. */
enum bs_error {
    BS_OK = 0,
    BS_ERROR_ARGUMENT = 1,   /* a null pointer, or one that is not aligned as asked */
    BS_ERROR_SIZE = 2,       /* the file is shorter or longer than it says */
    BS_ERROR_MAGIC = 3,      /* not a .bspn file */
    BS_ERROR_VERSION = 4,    /* a version of the format that this runtime does not know */
    BS_ERROR_HEADER = 5,     /* a header field has an impossible value */
    BS_ERROR_CHECKSUM = 6,   /* tables or constants are damaged */
    BS_ERROR_TENSOR = 7,     /* element type, layout, dimensions or size of a tensor */
    BS_ERROR_OFFSET = 8,     /* a constant is not where it has to be, or a gap is not zero */
    BS_ERROR_PADDING = 9,    /* a bit past the last channel is not zero */
    BS_ERROR_OP = 10,        /* unknown operation, flag or parameter */
    BS_ERROR_OPERAND = 11,   /* an operand is missing, superfluous or of the wrong type */
    BS_ERROR_SHAPE = 12,     /* shapes of an operation do not belong together */
    BS_ERROR_ORDER = 13,     /* a tensor is read before it is written, written twice or unused */
    BS_ERROR_OVERFLOW = 14,  /* an accumulator could leave int32 */
    BS_ERROR_THRESHOLD = 15, /* a threshold is out of reach, or a flip is not 0 or 1 */
    BS_ERROR_ARENA = 16,     /* arena size or offset, or tensors that live together overlap */
    BS_ERROR_LAYOUT = 17,    /* weights are packed for another kind of processor */
    BS_ERROR_INTERVAL = 18,  /* the declared interval of an output is not that of the operation */
    BS_ERROR_BACKEND = 19    /* this processor or this library does not have the back end */
};

/* Checks the whole file and fills in the model. The file must be 8-byte aligned and stay where it
 * is, unchanged, as long as the model is used. After BS_OK no run can fail or leave its memory;
 * after an error the model must not be used. */
BS_API int bs_open(bs_model *model, const void *file, uint64_t file_bytes);

/* bs_open chooses the fastest back end that this processor has; this forces another one, before
 * the model is shared. Codes: 0 portable, 1 AVX2, 2 AVX-512, 3 NEON, 4 NEON with the dot product
 * of Armv8.2, which is for layers with int8 weights. bs_open chooses that on macOS only: elsewhere
 * only the caller can know that it is there, and without it a run is a fault. Linux and Android:
 * pass 4 if getauxval(AT_HWCAP) & HWCAP_ASIMDDP; iOS: if sysctlbyname gives 1 for
 * "hw.optional.arm.FEAT_DotProd". */
BS_API int bs_set_backend(bs_model *model, uint32_t backend);

/* Bytes of working memory that one call of bs_run needs. */
BS_API uint64_t bs_arena_bytes(const bs_model *model);

/* Bytes of one input: uint8, int8 or int32 (H, W, C), or packed bits, each pixel's channels in
 * ceil(C / 32) little-endian 32-bit words whose spare bits are zero. */
BS_API uint64_t bs_input_bytes(const bs_model *model);

/* Number of int32 values of one output. */
BS_API uint64_t bs_output_count(const bs_model *model);

/* Runs one input. The arena must be 8-byte aligned and needs no initialisation; input of bytes may
 * have any address, packed bits, int32 and the output must be 4-byte aligned. */
BS_API int bs_run(const bs_model *model, void *arena, const void *input, int32_t *output);

/* One line of English about an error; never null. */
BS_API const char *bs_strerror(int error);

/* Version of the format that this runtime reads: major << 16 | minor. */
BS_API uint32_t bs_version(void);

#ifdef __cplusplus
}
#endif

#endif
