/* Watches what the threads read and write, as compute-sanitizer does on a GPU: two threads at the
 * same byte with no barrier between and at least one of them writing; shared memory read before
 * it is written; addresses that belong to nothing the kernel was given.
 *
 * The compiler's instrumentation for ThreadSanitizer calls the functions at the end of this file
 * before each access of a kernel; its own library is not linked. What orders two accesses of one
 * block is a block barrier (block_epoch differs) or, within a warp, a warp barrier (its epoch
 * differs); shuffles and ballots order nothing. Blocks are never ordered. */
#include "threads.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <link.h>

namespace shim {
namespace {

enum Kind { READ, WRITE, ATOMIC };

enum Flags : uint16_t {
    IS_SPLIT = 1,   /* of a word: its bytes are watched one by one */
    IS_ATOMIC = 2,  /* the last write was */
    BY_LANES = 4,   /* it was, by several lanes of a warp with no barrier between */
    BY_WARPS = 8,   /* by several warps */
    BY_BLOCKS = 16, /* by several blocks */
    UNDER_WAY = 32, /* an asynchronous copy */
};

/* What happened to a byte, or alike to the four bytes of a word. An epoch 0 is never. */
struct Cell {
    uint32_t write_epoch, write_warp_epoch; /* of the last write */
    uint32_t read_epoch, read_warp_epoch;   /* of the last reads of this block */
    uint32_t other_read_epoch;              /* of a read by a block before this one */
    uint16_t writer, reader, other_reader;  /* threads */
    uint16_t lane_reader; /* another reader of the same warp since its last barrier, or reader */
    uint16_t far_reader;  /* a reader in another warp in the same epoch, or reader */
    uint16_t flags;
};
static_assert(sizeof(Cell) == 32, "a cell is half a cache line");

struct Space {
    const char *name;
    uintptr_t begin, end;
    Cell *words, *bytes; /* by the distance from begin, rounded down to 4 */
};

struct Began {
    uint32_t epoch;
    int block;
};

const int MAX_SPACES = 64;
Space spaces[MAX_SPACES]; /* the first one is shared memory */
int n_spaces;
Space *last_space;
uintptr_t library_begin, library_end;
Began *began; /* the blocks so far, the current one last */
int n_began;
char text[256];

uint16_t me() { return (uint16_t)current->index.x; }
uint32_t block_start() { return began[n_began - 1].epoch; }
bool is_shared(const Space &space) { return &space == spaces; }

int block_of(uint32_t epoch)
{
    int i = n_began - 1;
    while (i > 0 && began[i].epoch > epoch) i--;
    return began[i].block;
}

[[noreturn]] void fail_race(const Space &space, uintptr_t offset, Kind kind, const char *did,
                            uint32_t epoch, uint16_t thread)
{
    static const char *const verbs[] = {"reads", "writes", "changes atomically"};
    char here[24] = "", there[24] = "";
    if (epoch < block_start()) {
        std::snprintf(here, sizeof here, "block %d, ", block_of(block_epoch));
        std::snprintf(there, sizeof there, "block %d, ", block_of(epoch));
    }
    std::snprintf(text, sizeof text, "race in %s: %sthread %u %s byte %zu that %sthread %u %s, %s",
                  space.name, here, me(), verbs[kind], (size_t)offset, there, thread, did,
                  *here ? "and blocks have no order" : "no barrier between");
    fail(text);
}

/* Whether an earlier access came before what the current thread does now. */
bool is_before(uint32_t epoch, uint32_t warp_epoch, uint16_t thread, bool by_lanes, bool by_warps)
{
    if (epoch != block_epoch) return true;
    if (by_warps || thread / LANES != me() / LANES) return false;
    return warp_epoch != warp_epochs[me() / LANES] || (thread == me() && !by_lanes);
}

bool is_before(uint32_t epoch, uint32_t warp_epoch, uint16_t thread)
{
    return is_before(epoch, warp_epoch, thread, false, false);
}

/* Compares with the last write. */
void check_write(const Space &space, Cell &cell, Kind kind, uintptr_t offset)
{
    const bool is_old = cell.write_epoch < block_start();
    if (is_shared(space)) {
        if (is_old && kind == WRITE) return;
        if (is_old) {
            std::snprintf(text, sizeof text, "thread %u reads byte %zu of shared memory before any "
                          "thread of the block has written it", me(), (size_t)offset);
            fail(text);
        }
        if (cell.flags & UNDER_WAY) {
            std::snprintf(text, sizeof text, "thread %u is at byte %zu of shared memory while an "
                          "asynchronous copy of thread %u to it is under way", me(), (size_t)offset,
                          cell.writer);
            fail(text);
        }
    }
    if (!cell.write_epoch || (kind == ATOMIC && cell.flags & IS_ATOMIC)) return;
    if (is_old ? true
               : !is_before(cell.write_epoch, cell.write_warp_epoch, cell.writer,
                            cell.flags & BY_LANES, cell.flags & BY_WARPS))
        fail_race(space, offset, kind, cell.flags & IS_ATOMIC ? "changed atomically" : "wrote",
                  cell.write_epoch, cell.writer);
    if (cell.flags & BY_BLOCKS)
        fail_race(space, offset, kind, "and other blocks changed atomically", cell.write_epoch,
                  cell.writer);
}

/* Compares a write with the reads since the last one. */
void check_reads(const Space &space, Cell &cell, Kind kind, uintptr_t offset)
{
    if (cell.other_read_epoch && !is_shared(space))
        fail_race(space, offset, kind, "read", cell.other_read_epoch, cell.other_reader);
    if (!cell.read_epoch) return;
    if (cell.read_epoch < block_start()) {
        if (!is_shared(space)) fail_race(space, offset, kind, "read", cell.read_epoch, cell.reader);
        return;
    }
    for (uint16_t thread : {cell.reader, cell.lane_reader, cell.far_reader})
        if (!is_before(cell.read_epoch, cell.read_warp_epoch, thread))
            fail_race(space, offset, kind, "read", cell.read_epoch, thread);
}

void note_reader(Cell &cell)
{
    const uint32_t warp_epoch = warp_epochs[me() / LANES];
    if (cell.read_epoch && cell.read_epoch < block_start()) {
        cell.other_read_epoch = cell.read_epoch;
        cell.other_reader = cell.reader;
    }
    if (cell.read_epoch != block_epoch) {
        cell.read_epoch = block_epoch;
        cell.read_warp_epoch = warp_epoch;
        cell.reader = cell.lane_reader = cell.far_reader = me();
    } else if (cell.reader / LANES != me() / LANES) {
        cell.far_reader = me();
    } else if (cell.read_warp_epoch != warp_epoch) {
        const bool is_alone = cell.far_reader / LANES == me() / LANES;
        cell.read_warp_epoch = warp_epoch;
        cell.reader = cell.lane_reader = me();
        if (is_alone) cell.far_reader = me();
    } else if (cell.reader != me()) {
        cell.lane_reader = me();
    }
}

void note_writer(Cell &cell, Kind kind)
{
    const uint32_t warp_epoch = warp_epochs[me() / LANES];
    uint16_t flags = cell.flags & IS_SPLIT;
    if (kind == ATOMIC) {
        flags |= IS_ATOMIC;
        if (cell.write_epoch && cell.flags & IS_ATOMIC) {
            flags |= cell.flags & BY_BLOCKS;
            if (cell.write_epoch < block_start()) flags |= BY_BLOCKS;
            if (cell.write_epoch == block_epoch) {
                flags |= cell.flags & BY_WARPS;
                if (cell.writer / LANES != me() / LANES) flags |= BY_WARPS;
                if (cell.write_warp_epoch == warp_epoch) {
                    flags |= cell.flags & BY_LANES;
                    if (cell.writer != me()) flags |= BY_LANES;
                }
            }
        }
    }
    cell.flags = flags;
    cell.write_epoch = block_epoch;
    cell.write_warp_epoch = warp_epoch;
    cell.writer = me();
}

void touch(const Space &space, Cell &cell, Kind kind, uintptr_t offset)
{
    if (kind == READ && cell.read_epoch == block_epoch && cell.reader == me() &&
        cell.read_warp_epoch == warp_epochs[me() / LANES] && !(cell.flags & UNDER_WAY))
        return; /* has been checked, and a write since then too */
    check_write(space, cell, kind, offset);
    if (kind == READ) {
        note_reader(cell);
    } else {
        check_reads(space, cell, kind, offset);
        note_writer(cell, kind);
    }
}

[[noreturn]] void fail_bounds(uintptr_t address, size_t size, Kind kind)
{
    static const char *const verbs[] = {"reads", "writes", "changes"};
    const Space *near = nullptr;
    uintptr_t distance = 1 << 20;
    for (int i = 0; i < n_spaces; i++) {
        const Space &space = spaces[i];
        const bool is_before = address < space.begin;
        const uintptr_t away = is_before ? space.begin - address : address - space.begin;
        if (away < distance || (address >= space.begin && address <= space.end)) {
            near = &space;
            distance = away;
        }
    }
    int n = std::snprintf(text, sizeof text, "out of bounds: block %d, thread %u %s %zu bytes at ",
                          block_of(block_epoch), me(), verbs[kind], size);
    if (near)
        std::snprintf(text + n, sizeof text - (size_t)n, "%lld of %s, which has %zu bytes",
                      (long long)(address - near->begin), near->name,
                      (size_t)(near->end - near->begin));
    else
        std::snprintf(text + n, sizeof text - (size_t)n, "%s",
                      address < 4096 ? "a null pointer" : "an address of nothing it was given");
    fail(text);
}

/* Not found: NULL for what is the thread's or the library's own. */
Space *space_of(uintptr_t address, size_t size, Kind kind)
{
    if (address - (uintptr_t)current->stack < STACK_SIZE) return nullptr;
    if (address - library_begin < library_end - library_begin) return nullptr;
    if (address < last_space->begin || address >= last_space->end) {
        int i = 0;
        while (i < n_spaces && (address < spaces[i].begin || address >= spaces[i].end)) i++;
        if (i == n_spaces) fail_bounds(address, size, kind);
        last_space = &spaces[i];
    }
    if (size > last_space->end - address) fail_bounds(address, size, kind);
    return last_space;
}

/* An access that covers part of a word splits it for good. */
void access(const void *address, size_t size, Kind kind)
{
    if (!current) return;
    Space *space = space_of((uintptr_t)address, size, kind);
    if (!space) return;
    const uintptr_t base = space->begin / 4 * 4, skew = space->begin - base;
    const uintptr_t first = (uintptr_t)address - base, end = first + size;
    for (uintptr_t i = first; i < end;) {
        Cell &word = space->words[i / 4];
        const uintptr_t next = i / 4 * 4 + 4 < end ? i / 4 * 4 + 4 : end;
        if (next - i == 4 && !(word.flags & IS_SPLIT)) {
            touch(*space, word, kind, i - skew);
        } else {
            if (!(word.flags & IS_SPLIT))
                for (int j = 0; j < 4; j++) space->bytes[i / 4 * 4 + j] = word;
            word.flags |= IS_SPLIT;
            for (uintptr_t j = i; j < next; j++) touch(*space, space->bytes[j], kind, j - skew);
        }
        i = next;
    }
}

/* A word of shared memory. */
void set_under_way(uintptr_t i, bool is_under_way)
{
    Cell *cell = &spaces[0].words[i];
    const bool is_split = cell->flags & IS_SPLIT;
    if (is_split) cell = &spaces[0].bytes[4 * i];
    for (int j = 0; j < (is_split ? 4 : 1); j++)
        cell[j].flags = (uint16_t)(is_under_way ? cell[j].flags | UNDER_WAY
                                                : cell[j].flags & ~UNDER_WAY);
}

int find_library(dl_phdr_info *info, size_t, void *)
{
    uintptr_t begin = UINTPTR_MAX, end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &part = info->dlpi_phdr[i];
        if (part.p_type != PT_LOAD) continue;
        const uintptr_t from = info->dlpi_addr + part.p_vaddr;
        if (from < begin) begin = from;
        if (from + part.p_memsz > end) end = from + part.p_memsz;
    }
    const uintptr_t mine = (uintptr_t)&n_spaces;
    if (mine < begin || mine >= end) return 0;
    library_begin = begin;
    library_end = end;
    return 1;
}

void add_space(const char *name, uintptr_t begin, size_t size)
{
    const size_t n = size / 4 + 2;
    spaces[n_spaces++] = {name, begin, begin + size, (Cell *)std::calloc(n, sizeof(Cell)),
                          (Cell *)std::calloc(4 * n, sizeof(Cell))};
}

} // namespace

void note_launch(const Launch &launch)
{
    for (int i = 0; i < n_spaces; i++) std::free(spaces[i].words), std::free(spaces[i].bytes);
    std::free(began);
    dl_iterate_phdr(find_library, nullptr);
    const size_t n_blocks = (size_t)launch.grid[0] * launch.grid[1] * launch.grid[2];
    began = (Began *)std::calloc(n_blocks + 1, sizeof *began);
    n_began = n_spaces = 0;
    add_space("shared memory", 0, (size_t)launch.shared_bytes);
    for (int i = 0; i < launch.n_arrays && n_spaces < MAX_SPACES; i++)
        add_space(launch.arrays[i].name, (uintptr_t)launch.arrays[i].begin,
                  (size_t)launch.arrays[i].size);
    last_space = spaces;
}

void note_block(int block)
{
    began[n_began++] = {block_epoch, block};
    spaces[0].end = (uintptr_t)shared + (spaces[0].end - spaces[0].begin);
    spaces[0].begin = (uintptr_t)shared;
}

void note_read(const void *address, size_t size) { access(address, size, READ); }
void note_write(const void *address, size_t size) { access(address, size, WRITE); }
void note_atomic(const void *address, size_t size) { access(address, size, ATOMIC); }

/* Copies are of 4 or 16 bytes, to addresses aligned to it. */
void note_copy(const void *address, size_t size, bool is_under_way)
{
    const uintptr_t first = ((uintptr_t)address - spaces[0].begin) / 4;
    for (uintptr_t i = first; i < first + size / 4; i++) set_under_way(i, false);
    note_write(address, size);
    for (uintptr_t i = first; i < first + size / 4; i++) set_under_way(i, is_under_way);
}

} // namespace shim

using namespace shim;

#define ACCESSES(bytes)                                                                            \
    void __tsan_read##bytes(void *address) { access(address, bytes, READ); }                       \
    void __tsan_write##bytes(void *address) { access(address, bytes, WRITE); }                     \
    void __tsan_unaligned_read##bytes(void *address) { access(address, bytes, READ); }             \
    void __tsan_unaligned_write##bytes(void *address) { access(address, bytes, WRITE); }           \
    void __tsan_volatile_read##bytes(void *address) { access(address, bytes, READ); }              \
    void __tsan_volatile_write##bytes(void *address) { access(address, bytes, WRITE); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void *address, size_t size) { access(address, size, READ); }
void __tsan_write_range(void *address, size_t size) { access(address, size, WRITE); }
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
/* What clang calls for the functions of the same names. */
void *__tsan_memcpy(void *to, const void *from, size_t size)
{
    access(from, size, READ);
    access(to, size, WRITE);
    return std::memcpy(to, from, size);
}
void *__tsan_memset(void *to, int value, size_t size)
{
    access(to, size, WRITE);
    return std::memset(to, value, size);
}
}
