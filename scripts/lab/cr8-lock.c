/*
 * Preload shim for qemu-system-x86_64 10.x.
 *
 * A write of CR8 by a nested SVM guest makes QEMU's TCG call tcg_handle_interrupt when a virtual interrupt is pending,
 * without the big QEMU lock: an assertion there aborts QEMU. An NT-like guest writes CR8 at every change of IRQL.
 * Leaving out the assertion alone would let the processor's interrupt_request be changed by two threads at once, so
 * this shim puts a function in front that takes the lock where it is not held.
 *
 * It does so in memory, and only if the function begins with the instructions expected; otherwise it leaves QEMU alone
 * and says so.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* push rbp; mov ebp, esi; push rbx; mov rbx, rdi; sub rsp, 8: they may be executed anywhere. */
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

static bool install(uint8_t *function)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    if (memcmp(function, PROLOGUE, sizeof PROLOGUE) != 0)
        return false;
    uint8_t *page = map_near(function, size);
    if (page == NULL)
        return false;

    memcpy(page, PROLOGUE, sizeof PROLOGUE);
    uint8_t *entry = emit_jump(page + sizeof PROLOGUE, function + sizeof PROLOGUE);
    emit_jump(entry, (const void *)(uintptr_t)handle_interrupt_locked);
    original = (HandleInterrupt *)(uintptr_t)page;

    uint8_t *first = (uint8_t *)((uintptr_t)function & ~(uintptr_t)(size - 1));
    if (mprotect(page, size, PROT_READ | PROT_EXEC) != 0 ||
        mprotect(first, 2 * size, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        return false;
    int32_t displacement = (int32_t)(entry - (function + 5));
    function[0] = 0xe9; /* jmp entry */
    memcpy(function + 1, &displacement, sizeof displacement);
    mprotect(first, 2 * size, PROT_READ | PROT_EXEC);
    return true;
}

__attribute__((constructor)) static void hold_the_lock(void)
{
    uint8_t *function = dlsym(RTLD_DEFAULT, "tcg_handle_interrupt");
    if (function == NULL)
        return; /* Some other program of the same process tree. */
    *(void **)&bql_locked = dlsym(RTLD_DEFAULT, "bql_locked");
    *(void **)&bql_lock_impl = dlsym(RTLD_DEFAULT, "bql_lock_impl");
    *(void **)&bql_unlock = dlsym(RTLD_DEFAULT, "bql_unlock");
    if (bql_locked == NULL || bql_lock_impl == NULL || bql_unlock == NULL || !install(function))
        fprintf(stderr,
                "cr8-lock: tcg_handle_interrupt is not as expected; QEMU may abort when the guest writes CR8\n");
}
