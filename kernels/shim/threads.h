/* Runs the threads of a CUDA block one at a time on the CPU, each on a stack of its own, and lets
 * them wait for each other. Everything that a kernel must not do is an error with a message:
 * a barrier that not all threads reach, a warp function called by part of a warp. */
#ifndef BITSPIN_SHIM_THREADS_H
#define BITSPIN_SHIM_THREADS_H

#include <cstddef>
#include <cstdint>

namespace shim {

enum { LANES = 32, MAX_THREADS = 1024, MAX_OPERAND = 64, MAX_COPIES = 512 };
enum : size_t { STACK_SIZE = 256 << 10 };

enum Order : int32_t { FORWARD = 0, REVERSE = 1, RANDOM = 2 };

/* A tensor among the arguments. */
struct Array {
    const char *name;
    unsigned char *begin;
    int64_t size; /* bytes */
};

/* What the host asks for: kernels/cuda_shim.py has the same fields. */
struct Launch {
    int32_t grid[3];
    int32_t n_threads;
    int64_t shared_bytes;
    int32_t order;
    uint32_t seed; /* of a random order */
    const Array *arrays;
    int32_t n_arrays;
};

struct Index {
    uint32_t x, y, z;
};

/* One asynchronous copy that has been issued and not waited for. */
struct Copy {
    void *to;
    unsigned char data[16];
    uint32_t size, group;
};

enum State : int32_t { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_EXCHANGE, DONE, N_STATES };

struct Thread {
    Index index;
    State state;
    void *stack_pointer;
    unsigned char *stack; /* its lowest byte, of STACK_SIZE */
    void *sanitizer_stack;
    uint32_t n_exchanges;
    uint32_t copy_group, n_copies;
    Copy copies[MAX_COPIES];
};

extern Thread *current;
extern Index block_index, block_size, grid_size;
extern unsigned char *shared;
extern uint32_t block_epoch; /* rises with every block and every block barrier of a launch */
extern uint32_t warp_epochs[MAX_THREADS / LANES]; /* warp barriers passed, warp by warp */

/* Runs body(context) once per thread of every block; returns a message, or NULL. */
const char *run(const Launch &launch, void (*body)(void *), void *context);

[[noreturn]] void fail(const char *message);

void block_barrier();
void warp_barrier();

/* All lanes give `size` bytes: those of lane l lie at [l], until the lane's next exchange. */
typedef unsigned char Operand[MAX_OPERAND];
const Operand *exchange(const void *mine, size_t size);

/* The same, copied to `all`, lane by lane. */
void exchange(const void *mine, size_t size, void *all);

void copy_async(void *to, const void *from, uint32_t size, bool is_valid);
void copy_async_commit();
void copy_async_wait(uint32_t n_under_way);

uint32_t atomic_add(uint32_t *address, uint32_t value);
uint64_t atomic_add(uint64_t *address, uint64_t value);
float atomic_add(float *address, float value);
uint32_t atomic_or(uint32_t *address, uint32_t value);

/* What instructions read or write without the compiler seeing it: for shim/races.cpp. */
#if defined(BITSPIN_SHIM_RACES)
void note_read(const void *address, size_t size);
void note_write(const void *address, size_t size);
void note_atomic(const void *address, size_t size);
void note_copy(const void *address, size_t size, bool is_under_way);
void note_launch(const Launch &launch);
void note_block(int block); /* shared, block_index and block_epoch are the block's */
#else
inline void note_read(const void *, size_t) {}
inline void note_write(const void *, size_t) {}
inline void note_atomic(const void *, size_t) {}
inline void note_copy(const void *, size_t, bool) {}
inline void note_launch(const Launch &) {}
inline void note_block(int) {}
#endif

} // namespace shim
#endif
