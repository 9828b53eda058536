/*
 * Preload shim for qemu-system-x86_64 10.x: mends two faults of its processor emulation that an NT-like nested guest
 * under breakpoints runs into. Each is mended in memory, and only if the instructions are those expected; otherwise
 * QEMU is left alone and one line says what may then happen.
 *
 * 1. A write of CR8 by a nested SVM guest calls tcg_handle_interrupt when a virtual interrupt is pending, without the
 * big QEMU lock: an assertion there aborts QEMU. An NT-like guest writes CR8 at every change of IRQL. Leaving out the
 *    assertion alone would let the processor's interrupt_request be changed by two threads at once, so a function is
 *    put in front that takes the lock where it is not held.
 * 2. Delivery of an external interrupt pushes RFLAGS with RF set, as for a fault (do_interrupt_all decides by the
 * vector alone; AMD APM volume 2, 8.9: only a fault sets it). So an instruction that was interrupted just before it ran
 *    runs after IRET with its breakpoint ignored: a call that nobody sees. Vectors above 18 now push what RF was.
 *    The exceptions 19 to 31 among them lose their RF, which nothing here depends on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The part of tcg_handle_interrupt that makes room for a jump. Its instructions may be executed anywhere:
 * push rbp; mov ebp, esi; push rbx; mov rbx, rdi; sub rsp, 8 */
static const uint8_t PROLOGUE[] = {0x55, 0x89, 0xf5, 0x53, 0x48, 0x89, 0xfb, 0x48, 0x83, 0xec, 0x08};

typedef void HandleInterrupt(void *cpu, int mask);

static bool (*bql_locked)(void);
static void (*bql_lock_impl)(const char *file, int line);
static void (*bql_unlock)(void);
static HandleInterrupt *original;

static void handle_interrupt_locked(void *cpu, int mask)
{
    bool held = bql_locked();
    if (!held)
        bql_lock_impl(__FILE__, __LINE__);
    original(cpu, mask);
    if (!held)
        bql_unlock();
}

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Makes `size` bytes of code writable, or executable again. */
static bool protect(const uint8_t *code, size_t size, int extra)
{
    uintptr_t first = (uintptr_t)code & ~(uintptr_t)(page_size() - 1);
    return mprotect((void *)first, (uintptr_t)code + size - first, PROT_READ | PROT_EXEC | extra) == 0;
}

/* jmp [rip+0]; the address follows. */
static uint8_t *emit_jump(uint8_t *at, const void *target)
{
    static const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};
    memcpy(at, jump, sizeof jump);
    memcpy(at + sizeof jump, &target, sizeof target);
    return at + sizeof jump + sizeof target;
}

/* A page that a 32-bit displacement reaches from `near`. */
static uint8_t *map_near(const uint8_t *near, size_t size)
{
    for (uintptr_t distance = 1 << 24; distance < 1u << 30; distance += 1 << 24) {
        void *hint = (void *)(((uintptr_t)near - distance) & ~(uintptr_t)(size - 1));
        void *page = mmap(hint, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (page == hint)
            return page;
        if (page != MAP_FAILED)
            munmap(page, size);
    }
    return NULL;
}

/* Puts handle_interrupt_locked in front of tcg_handle_interrupt. */
static bool take_the_lock(uint8_t *function)
{
    *(void **)&bql_locked = dlsym(RTLD_DEFAULT, "bql_locked");
    *(void **)&bql_lock_impl = dlsym(RTLD_DEFAULT, "bql_lock_impl");
    *(void **)&bql_unlock = dlsym(RTLD_DEFAULT, "bql_unlock");
    if (bql_locked == NULL || bql_lock_impl == NULL || bql_unlock == NULL ||
        memcmp(function, PROLOGUE, sizeof PROLOGUE) != 0)
        return false;
    size_t size = page_size();
    uint8_t *page = map_near(function, size);
    if (page == NULL)
        return false;

    memcpy(page, PROLOGUE, sizeof PROLOGUE);
    uint8_t *entry = emit_jump(page + sizeof PROLOGUE, function + sizeof PROLOGUE);
    emit_jump(entry, (const void *)(uintptr_t)handle_interrupt_locked);
    original = (HandleInterrupt *)(uintptr_t)page;

    if (mprotect(page, size, PROT_READ | PROT_EXEC) != 0 || !protect(function, sizeof PROLOGUE, PROT_WRITE))
        return false;
    int32_t displacement = (int32_t)(entry - (function + 5));
    function[0] = 0xe9; /* jmp entry */
    memcpy(function + 1, &displacement, sizeof displacement);
    return protect(function, sizeof PROLOGUE, 0);
}

/* Whether `at` is: cmp r14d, 18; jbe elsewhere; mov byte [rsp+x], 1. Where it is, all vectors above 18 come by. */
static bool sets_rf_above_18(const uint8_t *at)
{
    static const uint8_t compare[] = {0x41, 0x83, 0xfe, 0x12, 0x0f, 0x86};
    static const uint8_t store[] = {0xc6, 0x44, 0x24};
    return memcmp(at, compare, sizeof compare) == 0 && memcmp(at + 10, store, sizeof store) == 0 && at[14] == 1;
}

/* Clears the flag "set RF" in the two delivery paths, protected and long mode, of the code from `first` to `end`. */
static bool leave_rf_alone(uint8_t *first, const uint8_t *end)
{
    enum { LENGTH = 15, PATHS = 2 };
    uint8_t *found[PATHS];
    int count = 0;
    for (uint8_t *at = first; at + LENGTH <= end; at++) {
        if (!sets_rf_above_18(at))
            continue;
        if (count == PATHS)
            return false;
        found[count++] = at;
    }
    size_t size = (size_t)(end - first);
    if (count != PATHS || !protect(first, size, PROT_WRITE))
        return false;
    for (int i = 0; i < PATHS; i++)
        found[i][LENGTH - 1] = 0;
    return protect(first, size, 0);
}

__attribute__((constructor)) static void mend(void)
{
    uint8_t *handle = dlsym(RTLD_DEFAULT, "tcg_handle_interrupt");
    uint8_t *deliver = dlsym(RTLD_DEFAULT, "do_interrupt_all");
    uint8_t *after = dlsym(RTLD_DEFAULT, "do_interrupt_x86_hardirq");
    if (handle == NULL)
        return; /* Some other program of the same process tree. */
    if (!take_the_lock(handle))
        fprintf(stderr,
                "qemu-fixes: tcg_handle_interrupt is not as expected: QEMU may abort when a guest writes CR8\n");
    if (deliver == NULL || after <= deliver || !leave_rf_alone(deliver, after))
        fprintf(stderr,
                "qemu-fixes: do_interrupt_all is not as expected: a breakpoint may be missed where an interrupt "
                "came just before it\n");
}
