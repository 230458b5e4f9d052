#include "threads.h"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_start_switch_fiber(void **saved, const void *bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void *saved, const void **bottom, size_t *size);
#endif

namespace shim {

Thread *current;
Index block_index, block_size, grid_size;
unsigned char *shared;
uint32_t block_epoch;

namespace {

const size_t STACK_SIZE = 256 << 10, PAGE = 4096;
const unsigned char UNWRITTEN = 0xA5; /* what shared memory holds when a block begins */
const unsigned char UNDER_WAY = 0x5C; /* what it holds while a copy to it is under way */

Thread threads[MAX_THREADS];
unsigned char *stacks;
void *scheduler_pointer;
const char *failure;
void (*thread_body)(void *);
void *thread_context;
uint32_t random_state;
unsigned char operands[MAX_THREADS / LANES][2][LANES][MAX_OPERAND];
#if defined(__SANITIZE_ADDRESS__)
const void *scheduler_bottom;
size_t scheduler_size;
#endif

unsigned char *stack_of(int thread) { return stacks + thread * (STACK_SIZE + PAGE) + PAGE; }

void thread_main();

#if defined(__x86_64__)

/* Saves the registers that a call must keep, and goes on where the other stack was left. */
extern "C" void shim_switch(void **save, void *load);
asm(".text\n"
    ".type shim_switch,@function\n"
    "shim_switch:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
    "    ret\n"
    ".size shim_switch, .-shim_switch\n");

void prepare_stack(int thread)
{
    void **top = (void **)(stack_of(thread) + STACK_SIZE) - 2; /* aligned as after a call */
    *top = (void *)thread_main;
    std::memset(top - 6, 0, 6 * sizeof *top);
    threads[thread].stack_pointer = top - 6;
}

void switch_stacks(void **save, void *load) { shim_switch(save, load); }

#else

ucontext_t contexts[MAX_THREADS], scheduler_context;

void prepare_stack(int thread)
{
    ucontext_t *context = &contexts[thread];
    getcontext(context);
    context->uc_stack.ss_sp = stack_of(thread);
    context->uc_stack.ss_size = STACK_SIZE;
    context->uc_link = nullptr;
    makecontext(context, thread_main, 0);
    threads[thread].stack_pointer = context;
}

void switch_stacks(void **save, void *load)
{
    if (save == &scheduler_pointer) *save = &scheduler_context;
    swapcontext((ucontext_t *)*save, (ucontext_t *)load);
}

#endif

void leave_to_scheduler()
{
    Thread *thread = current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(thread->state == DONE ? nullptr : &thread->sanitizer_stack,
                                   scheduler_bottom, scheduler_size);
#endif
    switch_stacks(&thread->stack_pointer, scheduler_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(thread->sanitizer_stack, nullptr, nullptr);
#endif
}

void enter(int thread)
{
    current = &threads[thread];
#if defined(__SANITIZE_ADDRESS__)
    void *saved;
    __sanitizer_start_switch_fiber(&saved, stack_of(thread), STACK_SIZE);
#endif
    switch_stacks(&scheduler_pointer, threads[thread].stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#endif
    current = nullptr;
}

void thread_main()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
    thread_body(thread_context);
    if (current->n_copies) fail("a thread ended with asynchronous copies under way");
    current->state = DONE;
    leave_to_scheduler();
    std::abort(); /* a thread that is done is never entered */
}

uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

void arrange(int32_t *order, int n, int32_t kind)
{
    for (int i = 0; i < n; i++) order[i] = kind == REVERSE ? n - 1 - i : i;
    if (kind != RANDOM) return;
    for (int i = n - 1; i > 0; i--) {
        const uint32_t j = random_below((uint32_t)i + 1);
        const int32_t other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
}

int count(int first, int n, State state)
{
    int result = 0;
    for (int i = first; i < first + n; i++) result += threads[i].state == state;
    return result;
}

void release(int first, int n, State state)
{
    for (int i = first; i < first + n; i++)
        if (threads[i].state == state) threads[i].state = READY;
}

/* Lets those go on whom all have joined whom they wait for; whether there was anyone. */
bool release_barriers(int n)
{
    bool any = false;
    for (int warp = 0; warp < n / LANES; warp++)
        if (count(warp * LANES, LANES, AT_WARP_BARRIER) == LANES) {
            release(warp * LANES, LANES, AT_WARP_BARRIER);
            any = true;
        }
    const int waiting = count(0, n, AT_BLOCK_BARRIER);
    if (waiting && waiting + count(0, n, DONE) == n) {
        release(0, n, AT_BLOCK_BARRIER);
        block_epoch++;
        any = true;
    }
    return any;
}

void run_block(int n, int32_t kind)
{
    int32_t order[MAX_THREADS];
    for (int i = 0; i < n; i++) {
        threads[i].index = {(uint32_t)i, 0, 0};
        threads[i].state = READY;
        threads[i].n_exchanges = threads[i].copy_group = threads[i].n_copies = 0;
        prepare_stack(i);
    }
    while (!failure && count(0, n, DONE) < n) {
        arrange(order, n, kind);
        for (int i = 0; i < n && !failure; i++)
            if (threads[order[i]].state == READY) enter(order[i]);
        if (!failure && !release_barriers(n) && count(0, n, DONE) < n)
            failure = "divergent barrier: threads wait for others that never come";
    }
}

} // namespace

const char *run(const Launch &launch, void (*body)(void *), void *context)
{
    const int n = launch.n_threads;
    if (n < LANES || n > MAX_THREADS || n % LANES) return "threads of a block: 32 to 1024, by 32";
    if (!stacks) {
        const size_t size = MAX_THREADS * (STACK_SIZE + PAGE);
        void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return "no memory for the stacks of the threads";
        stacks = (unsigned char *)memory;
        for (int i = 0; i < MAX_THREADS; i++) mprotect(stack_of(i) - PAGE, PAGE, PROT_NONE);
    }
    thread_body = body;
    thread_context = context;
    random_state = launch.seed * 2654435761u | 1u;
    failure = nullptr;
    block_size = {(uint32_t)n, 1, 1};
    grid_size = {(uint32_t)launch.grid[0], (uint32_t)launch.grid[1], (uint32_t)launch.grid[2]};
    const int n_blocks = launch.grid[0] * launch.grid[1] * launch.grid[2];
    int32_t *blocks = (int32_t *)std::malloc(sizeof *blocks * (size_t)n_blocks);
    arrange(blocks, n_blocks, launch.order);
    for (int i = 0; i < n_blocks && !failure; i++) {
        const int block = blocks[i];
        block_index = {(uint32_t)(block % launch.grid[0]),
                       (uint32_t)(block / launch.grid[0] % launch.grid[1]),
                       (uint32_t)(block / launch.grid[0] / launch.grid[1])};
        /* Anew for each block and exactly as large as asked for, so that a sanitizer sees its end. */
        void *memory = nullptr;
        if (posix_memalign(&memory, 128, (size_t)launch.shared_bytes + !launch.shared_bytes))
            failure = "no memory for the shared memory of a block";
        shared = (unsigned char *)memory;
        if (!failure) std::memset(shared, UNWRITTEN, (size_t)launch.shared_bytes);
        run_block(n, launch.order);
        std::free(memory);
    }
    std::free(blocks);
    shared = nullptr;
    return failure;
}

void fail(const char *message)
{
    if (!failure) failure = message;
    for (;;) leave_to_scheduler(); /* never entered again: the launch is over */
}

void block_barrier()
{
    current->state = AT_BLOCK_BARRIER;
    leave_to_scheduler();
}

void warp_barrier()
{
    current->state = AT_WARP_BARRIER;
    leave_to_scheduler();
}

void exchange(const void *mine, size_t size, void *all)
{
    if (size > MAX_OPERAND) fail("an operand of a warp function is larger than 64 bytes");
    const uint32_t warp = current->index.x / LANES, lane = current->index.x % LANES;
    unsigned char(*slots)[MAX_OPERAND] = operands[warp][current->n_exchanges++ % 2];
    std::memcpy(slots[lane], mine, size);
    current->state = AT_WARP_BARRIER;
    leave_to_scheduler();
    for (int i = 0; i < LANES; i++) std::memcpy((unsigned char *)all + i * size, slots[i], size);
}

void copy_async(void *to, const void *from, uint32_t size, bool is_valid)
{
    if ((uintptr_t)to % size || (uintptr_t)from % size)
        fail("cp.async: an address is not aligned to the size of the copy");
    if (current->n_copies == MAX_COPIES) fail("cp.async: more than 512 copies of one thread");
    Copy *copy = &current->copies[current->n_copies++];
    *copy = {to, {}, size, current->copy_group};
    if (is_valid) std::memcpy(copy->data, from, size);
    note_write(to, size);
    std::memset(to, UNDER_WAY, size);
}

void copy_async_commit() { current->copy_group++; }

void copy_async_wait(uint32_t n_under_way)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < current->n_copies; i++) {
        const Copy *copy = &current->copies[i];
        if (copy->group + n_under_way < current->copy_group) {
            note_write(copy->to, copy->size);
            std::memcpy(copy->to, copy->data, copy->size);
        } else {
            current->copies[kept++] = *copy;
        }
    }
    current->n_copies = kept;
}

template <typename T> static T add(T *address, T value)
{
    const T old = *address;
    *address = old + value;
    return old;
}

uint32_t atomic_add(uint32_t *address, uint32_t value) { return add(address, value); }
uint64_t atomic_add(uint64_t *address, uint64_t value) { return add(address, value); }
float atomic_add(float *address, float value) { return add(address, value); }
uint32_t atomic_or(uint32_t *address, uint32_t value)
{
    const uint32_t old = *address;
    *address = old | value;
    return old;
}

void note_read(const void *address, size_t size) { (void)address, (void)size; }
void note_write(const void *address, size_t size) { (void)address, (void)size; }

} // namespace shim
