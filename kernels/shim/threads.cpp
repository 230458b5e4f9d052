#include "threads.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_start_switch_fiber(void **saved, const void *bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void *saved, const void **bottom, size_t *size);
extern "C" void __asan_unpoison_memory_region(const void *memory, size_t size);
#endif

namespace shim {

Thread *current;
Index block_index, block_size, grid_size;
unsigned char *shared;
uint32_t block_epoch;
uint32_t warp_epochs[MAX_THREADS / LANES];

namespace {

const size_t PAGE = 4096;
const unsigned char UNWRITTEN = 0xA5; /* what shared memory holds when a block begins */
const unsigned char UNDER_WAY = 0x5C; /* what it holds while a copy to it is under way */

Thread threads[MAX_THREADS];
unsigned char *stacks;
void *scheduler_pointer;
const char *failure;
char message[256];
int32_t order;
size_t shared_size;
void (*thread_body)(void *);
void *thread_context;
uint32_t random_state;
alignas(64) Operand operands[MAX_THREADS / LANES][2][LANES];

/* The warp that runs: the order of its lanes, and how far it is in it. */
int first_thread;
int32_t lanes[LANES];
int position;

#if defined(__SANITIZE_ADDRESS__)
const void *scheduler_bottom;
size_t scheduler_size;
#endif

unsigned char *stack_of(int thread) { return stacks + thread * (STACK_SIZE + PAGE) + PAGE; }

void thread_main();

/* AddressSanitizer has marked the frames that a thread did not leave when it ended. */
void clear_marks(void *memory, size_t size)
{
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory, size);
#else
    (void)memory, (void)size;
#endif
}

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
    "    pop %rcx\n    jmp *%rcx\n" /* a ret would be predicted to return to the other stack */
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

/* Announces the next stack to AddressSanitizer; and the arrival on it. */
#if defined(__SANITIZE_ADDRESS__)
void announce_switch(void **saved, const void *bottom, size_t size)
{
    __sanitizer_start_switch_fiber(saved, bottom, size);
}
void announce_arrival(void *saved) { __sanitizer_finish_switch_fiber(saved, nullptr, nullptr); }
#else
void announce_switch(void **, const void *, size_t) {}
void announce_arrival(void *) {}
#endif

/* The next lane of the running warp that can go on, or NULL. */
Thread *next_lane()
{
    while (position < LANES) {
        Thread *thread = &threads[first_thread + lanes[position++]];
        if (thread->state == READY) return thread;
    }
    return nullptr;
}

/* Leaves the current thread for another one, or for the scheduler. */
void leave(Thread *next)
{
    Thread *thread = current;
    void **saved = thread->state == DONE ? nullptr : &thread->sanitizer_stack;
    current = next;
    if (next) {
        announce_switch(saved, next->stack, STACK_SIZE);
        switch_stacks(&thread->stack_pointer, next->stack_pointer);
    } else {
#if defined(__SANITIZE_ADDRESS__)
        announce_switch(saved, scheduler_bottom, scheduler_size);
#endif
        switch_stacks(&thread->stack_pointer, scheduler_pointer);
    }
    announce_arrival(thread->sanitizer_stack);
}

void wait(State state)
{
    current->state = state;
    leave(next_lane());
}

/* From the scheduler to a thread; back when the warp's last lane has had its turn. */
void enter(Thread *thread)
{
    void *saved = nullptr;
    current = thread;
    announce_switch(&saved, thread->stack, STACK_SIZE);
    switch_stacks(&scheduler_pointer, thread->stack_pointer);
    announce_arrival(saved);
}

void thread_main()
{
#if defined(__SANITIZE_ADDRESS__)
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!scheduler_size) { /* the first one is entered from the scheduler */
        scheduler_bottom = bottom;
        scheduler_size = size;
    }
#endif
    thread_body(thread_context);
    if (current->n_copies) fail("a thread ended with asynchronous copies under way");
    wait(DONE);
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

int count(State state)
{
    int result = 0;
    for (int lane = 0; lane < LANES; lane++) result += threads[first_thread + lane].state == state;
    return result;
}

void release(int first, int n, State state)
{
    for (int i = first; i < first + n; i++)
        if (threads[i].state == state) threads[i].state = READY;
}

void fail_divergent()
{
    static const char *const states[N_STATES] = {"can go on", "is at __syncthreads",
                                                 "is at __syncwarp", "is at a warp function",
                                                 "has ended"};
    const Thread *first = &threads[first_thread], *other = first;
    while (other->state == first->state) other++;
    std::snprintf(message, sizeof message,
                  "divergent barrier: thread %u %s, thread %u of the same warp %s", first->index.x,
                  states[first->state], other->index.x, states[other->state]);
    failure = message;
}

/* Runs a warp until it waits for the block or has ended. */
void run_warp(int warp)
{
    first_thread = warp * LANES;
    while (!failure) {
        arrange(lanes, LANES, order);
        position = 0;
        if (Thread *thread = next_lane()) enter(thread);
        if (failure) return;
        const State state = threads[first_thread].state;
        const int n_alike = count(state);
        if (n_alike == LANES && (state == AT_WARP_BARRIER || state == AT_EXCHANGE)) {
            release(first_thread, LANES, state);
            warp_epochs[warp] += state == AT_WARP_BARRIER;
        } else if (count(AT_BLOCK_BARRIER) + count(DONE) == LANES) {
            return;
        } else {
            fail_divergent();
        }
    }
}

/* Each warp runs as far as it can before the next one does: nothing but a barrier keeps warps
 * together. Threads that have ended count as having come to a barrier, as on the hardware. */
void run_block(int n)
{
    int32_t warps[MAX_THREADS / LANES];
    for (int i = 0; i < n; i++) {
        Thread *thread = &threads[i];
        thread->index = {(uint32_t)i, 0, 0};
        thread->state = READY;
        thread->stack = stack_of(i);
        thread->n_exchanges = thread->copy_group = thread->n_copies = 0;
        clear_marks(thread->stack + STACK_SIZE - PAGE, PAGE);
        prepare_stack(i);
    }
    int n_waiting = n;
    while (!failure && n_waiting) {
        arrange(warps, n / LANES, order);
        for (int i = 0; i < n / LANES && !failure; i++) run_warp(warps[i]);
        n_waiting = 0;
        for (int i = 0; i < n; i++) n_waiting += threads[i].state == AT_BLOCK_BARRIER;
        release(0, n, AT_BLOCK_BARRIER);
        block_epoch++;
    }
}

/* The shared memory is anew for each block and exactly as large as asked for, so that a sanitizer
 * sees its end. */
void run_block_with_memory(const Launch &launch, int block)
{
    const int32_t *grid = launch.grid;
    void *memory = nullptr;
    if (posix_memalign(&memory, 128, shared_size + !shared_size)) {
        failure = "no memory for the shared memory of a block";
        return;
    }
    std::memset(memory, UNWRITTEN, shared_size);
    shared = (unsigned char *)memory;
    block_index = {(uint32_t)(block % grid[0]), (uint32_t)(block / grid[0] % grid[1]),
                   (uint32_t)(block / grid[0] / grid[1])};
    note_block(block);
    run_block(launch.n_threads);
    std::free(memory);
    shared = nullptr;
}

const char *make_stacks()
{
    const size_t size = MAX_THREADS * (STACK_SIZE + PAGE);
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return "no memory for the stacks of the threads";
    stacks = (unsigned char *)memory;
    for (int i = 0; i < MAX_THREADS; i++) mprotect(stack_of(i) - PAGE, PAGE, PROT_NONE);
    return nullptr;
}

} // namespace

const char *run(const Launch &launch, void (*body)(void *), void *context)
{
    const int n = launch.n_threads;
    if (n < LANES || n > MAX_THREADS || n % LANES) return "threads of a block: 32 to 1024, by 32";
    failure = stacks ? nullptr : make_stacks();
    thread_body = body;
    thread_context = context;
    order = launch.order;
    shared_size = (size_t)launch.shared_bytes;
    block_epoch = 1;
    random_state = launch.seed * 2654435761u | 1u;
    block_size = {(uint32_t)n, 1, 1};
    grid_size = {(uint32_t)launch.grid[0], (uint32_t)launch.grid[1], (uint32_t)launch.grid[2]};
#if defined(__SANITIZE_ADDRESS__)
    scheduler_size = 0; /* who launches may be another thread of the process than before */
#endif
    note_launch(launch);
    const int n_blocks = launch.grid[0] * launch.grid[1] * launch.grid[2];
    int32_t *blocks = (int32_t *)std::malloc(sizeof *blocks * (size_t)n_blocks);
    arrange(blocks, n_blocks, order);
    for (int i = 0; i < n_blocks && !failure; i++) run_block_with_memory(launch, blocks[i]);
    std::free(blocks);
    if (failure) clear_marks(stacks, MAX_THREADS * (STACK_SIZE + PAGE));
    return failure;
}

void fail(const char *text)
{
    if (!failure) {
        std::snprintf(message, sizeof message, "%s", text);
        failure = message;
    }
    for (;;) leave(nullptr); /* never entered again: the launch is over */
}

void block_barrier() { wait(AT_BLOCK_BARRIER); }
void warp_barrier() { wait(AT_WARP_BARRIER); }

/* Two places by turns: who writes the next operand may be ahead of who still reads this one. */
const Operand *exchange(const void *mine, size_t size)
{
    if (size > MAX_OPERAND) fail("an operand of a warp function is larger than 64 bytes");
    const uint32_t warp = current->index.x / LANES, lane = current->index.x % LANES;
    Operand *slots = operands[warp][current->n_exchanges++ % 2];
    std::memcpy(slots[lane], mine, size);
    wait(AT_EXCHANGE);
    return slots;
}

void exchange(const void *mine, size_t size, void *all)
{
    const Operand *slots = exchange(mine, size);
    for (int i = 0; i < LANES; i++) std::memcpy((unsigned char *)all + i * size, slots[i], size);
}

void copy_async(void *to, const void *from, uint32_t size, bool is_valid)
{
    if ((uintptr_t)to % size || (uintptr_t)from % size)
        fail("cp.async: an address is not aligned to the size of the copy");
    if ((size_t)((unsigned char *)to - shared) > shared_size - size || shared_size < size)
        fail("cp.async: the destination is not in the shared memory of the block");
    if (current->n_copies == MAX_COPIES) fail("cp.async: more than 512 copies of one thread");
    Copy *copy = &current->copies[current->n_copies++];
    *copy = {to, {}, size, current->copy_group};
    if (is_valid) {
        note_read(from, size);
        std::memcpy(copy->data, from, size);
    }
    note_copy(to, size, true);
    std::memset(to, UNDER_WAY, size);
}

void copy_async_commit() { current->copy_group++; }

void copy_async_wait(uint32_t n_under_way)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < current->n_copies; i++) {
        const Copy *copy = &current->copies[i];
        if (copy->group + n_under_way < current->copy_group) {
            note_copy(copy->to, copy->size, false);
            std::memcpy(copy->to, copy->data, copy->size);
        } else {
            current->copies[kept++] = *copy;
        }
    }
    current->n_copies = kept;
}

template <typename T> static T add(T *address, T value)
{
    note_atomic(address, sizeof *address);
    const T old = *address;
    *address = old + value;
    return old;
}

uint32_t atomic_add(uint32_t *address, uint32_t value) { return add(address, value); }
uint64_t atomic_add(uint64_t *address, uint64_t value) { return add(address, value); }
float atomic_add(float *address, float value) { return add(address, value); }
uint32_t atomic_or(uint32_t *address, uint32_t value)
{
    note_atomic(address, sizeof *address);
    const uint32_t old = *address;
    *address = old | value;
    return old;
}

} // namespace shim
