/*
 * Preload shim for qemu-system-x86_64 10.x: mends faults of its processor emulation that an NT-like nested guest under
 * breakpoints runs into. Each is mended in memory, and only if the instructions are those expected; otherwise QEMU is
 * left alone and one line says what may then happen.
 *
 * 1. A write of CR8 by a nested SVM guest calls tcg_handle_interrupt when a virtual interrupt is pending, without the
 *    big QEMU lock: an assertion there aborts QEMU. An NT-like guest writes CR8 at every change of IRQL. Leaving out
 *    the assertion alone would let the processor's interrupt_request be changed by two threads at once, so a function
 *    is put in front that takes the lock where it is not held.
 * 2. Delivery of an external interrupt pushes RFLAGS with RF set, as for a fault (do_interrupt_all decides by the
 *    vector alone; AMD APM volume 2, 8.9: only a fault sets it). So an instruction that was interrupted just before it
 *    ran runs after IRET with its breakpoint ignored: a call that nobody sees. Vectors above 18 now push what RF was.
 *    The exceptions 19 to 31 among them lose their RF, which nothing here depends on.
 * 3. VMRUN with an interrupt to inject (helper_vmrun) delivers it and leaves its vector in the processor's
 *    exception_index. If the next thing that happens to the processor is a request to leave its loop, the vector is
 *    delivered again, whatever IRQL and in-service bits say: an interrupt routine that interrupts itself and waits for
 *    its own lock for ever. The vector is no longer stored there.
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

/* Overwrites `size` bytes of code. */
static bool rewrite(uint8_t *at, const void *bytes, size_t size)
{
    if (!protect(at, size, PROT_WRITE))
        return false;
    memcpy(at, bytes, size);
    return protect(at, size, 0);
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

    int32_t displacement = (int32_t)(entry - (function + 5));
    uint8_t jump[5] = {0xe9}; /* jmp entry */
    memcpy(jump + 1, &displacement, sizeof displacement);
    return mprotect(page, size, PROT_READ | PROT_EXEC) == 0 && rewrite(function, jump, sizeof jump);
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
    const uint8_t no = 0;
    return count == PATHS && rewrite(found[0] + LENGTH - 1, &no, 1) && rewrite(found[1] + LENGTH - 1, &no, 1);
}

static bool calls(const uint8_t *at, const uint8_t *function)
{
    int32_t displacement;
    memcpy(&displacement, at + 1, sizeof displacement);
    return at[0] == 0xe8 && at + 5 + displacement == function;
}

/* Whether `at` is: mov [rbx-x], esi, with rbx the processor's registers: a member of what lies before them. */
static bool stores_before_registers(const uint8_t *at)
{
    int32_t displacement;
    memcpy(&displacement, at + 2, sizeof displacement);
    return at[0] == 0x89 && at[1] == 0xb3 && displacement < 0 && displacement > -0x4000;
}

/* Takes the store of the vector out of the code from `first` to `end` that delivers an interrupt by `deliver`. */
static bool leave_no_vector(uint8_t *first, const uint8_t *end, const uint8_t *deliver)
{
    enum { DISTANCE = 64 };
    static const uint8_t nop[] = {0x66, 0x0f, 0x1f, 0x44, 0, 0};
    uint8_t *call = first + DISTANCE;
    while (call + 5 <= end && !calls(call, deliver))
        call++;
    if (call + 5 > end)
        return false;
    uint8_t *store = NULL;
    for (uint8_t *at = call - DISTANCE; at + sizeof nop <= call; at++) {
        if (!stores_before_registers(at))
            continue;
        if (store != NULL)
            return false;
        store = at;
    }
    return store != NULL && rewrite(store, nop, sizeof nop);
}

typedef void RaiseInterrupt(void *env, int vector, int length);
typedef void CheckIntercept(void *env, uint32_t code, uint64_t parameter, uintptr_t return_address);

static RaiseInterrupt *raise_interrupt;
static CheckIntercept *check_intercept;

/* The processor's state is up to date when a helper is called for INTn, so that there is no return address to restore
 * it from. Does not return where the hypervisor wants to know. */
static void raise_interrupt_checked(void *env, int vector, int length)
{
    enum { BREAKPOINT = 3, EXIT_EXCEPTION = 0x40 };
    if (vector == BREAKPOINT)
        check_intercept(env, EXIT_EXCEPTION + BREAKPOINT, 0, 0);
    raise_interrupt(env, vector, length);
}

/* Puts raise_interrupt_checked in the place of helper_raise_interrupt, which is: sub rsp, 8; call raise_interrupt; and
 * nothing to the next multiple of 16. */
static bool tell_breakpoints(uint8_t *helper)
{
    static const uint8_t make_room[] = {0x48, 0x83, 0xec, 0x08};
    *(void **)&raise_interrupt = dlsym(RTLD_DEFAULT, "raise_interrupt");
    *(void **)&check_intercept = dlsym(RTLD_DEFAULT, "cpu_svm_check_intercept_param");
    if (helper == NULL || raise_interrupt == NULL || check_intercept == NULL || (uintptr_t)helper % 16 != 0 ||
        memcmp(helper, make_room, sizeof make_room) != 0 ||
        !calls(helper + sizeof make_room, (const uint8_t *)(uintptr_t)raise_interrupt))
        return false;
    uint8_t jump[16];
    size_t length = (size_t)(emit_jump(jump, (const void *)(uintptr_t)raise_interrupt_checked) - jump);
    return rewrite(helper, jump, length);
}

static void complain(const char *function, const char *consequence)
{
    fprintf(stderr, "qemu-fixes: %s is not as expected: %s\n", function, consequence);
}

__attribute__((constructor)) static void mend(void)
{
    uint8_t *handle = dlsym(RTLD_DEFAULT, "tcg_handle_interrupt");
    uint8_t *all = dlsym(RTLD_DEFAULT, "do_interrupt_all");
    uint8_t *hard = dlsym(RTLD_DEFAULT, "do_interrupt_x86_hardirq");
    uint8_t *vmrun = dlsym(RTLD_DEFAULT, "helper_vmrun");
    uint8_t *vmexit = dlsym(RTLD_DEFAULT, "do_vmexit");
    if (handle == NULL)
        return; /* Some other program of the same process tree. */
    if (!take_the_lock(handle))
        complain("tcg_handle_interrupt", "QEMU may abort when a guest writes CR8");
    if (all == NULL || hard <= all || !leave_rf_alone(all, hard))
        complain("do_interrupt_all", "a breakpoint may be missed where an interrupt came just before it");
    if (vmrun == NULL || vmexit <= vmrun || !leave_no_vector(vmrun, vmexit, hard))
        complain("helper_vmrun", "a guest's interrupt may be delivered twice");
    if (!tell_breakpoints(dlsym(RTLD_DEFAULT, "helper_raise_interrupt")))
        complain("helper_raise_interrupt", "breakpoints by int3 do not stop");
}
