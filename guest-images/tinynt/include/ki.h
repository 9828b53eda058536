/*
 * ki.h - the kernel's own processor, thread and scheduler structures.
 *
 * Only the offsets asserted below are Windows'; the rest of each structure is private.
 */
#ifndef TINYNT_KI_H
#define TINYNT_KI_H

#include "nt.h"

#define KI_MAXIMUM_PROCESSORS 64
#define KI_STACK_SIZE 0x4000u /* bytes; what the loader gives each processor, and what each thread gets */

/* Interrupt vectors; the IRQL of a vector is its upper four bits. */
#define KI_DISPATCH_VECTOR 0x2F
#define KI_FIRST_DEVICE_VECTOR 0x30
#define KI_LAST_DEVICE_VECTOR 0xBF
#define KI_CLOCK_VECTOR 0xD1
#define KI_IPI_VECTOR 0xE1
#define KI_SPURIOUS_VECTOR 0xFF

#define KI_KERNEL_CS 0x10
#define KI_KERNEL_SS 0x18
#define KI_TSS_SELECTOR 0x40

/* DISPATCHER_HEADER.Type, as on Windows (EVENT_TYPE and TIMER_TYPE give 0, 1 and +8). */
typedef enum _KI_OBJECT_TYPE {
    KiNotificationEvent = 0,
    KiSynchronizationEvent = 1,
    KiMutant = 2,
    KiSemaphore = 5,
    KiThreadObject = 6,
    KiNotificationTimer = 8,
    KiSynchronizationTimer = 9,
    KiDpcObject = 0x13,
    KiThreadedDpcObject = 0x18,
} KI_OBJECT_TYPE;

typedef enum _KI_THREAD_STATE {
    KiThreadInitialized,
    KiThreadReady,
    KiThreadRunning,
    KiThreadWaiting,
    KiThreadTerminated,
} KI_THREAD_STATE;

typedef struct _KTHREAD {
    DISPATCHER_HEADER Header; /* signalled when the thread has ended */
    PVOID KernelStack;        /* saved stack pointer while not running */
    ULONG_PTR StackBase;      /* highest address + 1 */
    ULONG_PTR StackLimit;
    LIST_ENTRY ReadyListEntry;
    KI_THREAD_STATE State;
    KPRIORITY Priority;
    LONG Quantum; /* clock ticks left */
    ULONG LastProcessor;
    KAFFINITY Affinity;
    KAFFINITY UserAffinity;
    NTSTATUS WaitStatus;
    ULONG WaitCount;
    WAIT_TYPE WaitType;
    PKWAIT_BLOCK WaitBlocks;
    KWAIT_BLOCK OwnWaitBlocks[4]; /* three objects and the timer */
    KTIMER Timer;
    LONG CriticalRegionDepth;
    ULONG UniqueThread;
    PKSTART_ROUTINE StartRoutine;
    PVOID StartContext;
    NTSTATUS ExitStatus;
} KTHREAD;

/* Kernel queues, which ntddk.h lacks, in Windows' layout; the header is a semaphore's, counting the entries. */
typedef struct _KQUEUE {
    DISPATCHER_HEADER Header;
    LIST_ENTRY EntryListHead;
    volatile ULONG CurrentCount;
    ULONG MaximumCount;
    LIST_ENTRY ThreadListHead;
} KQUEUE, *PKQUEUE;

VOID KeInitializeQueue(PKQUEUE Queue, ULONG Count);
LONG KeReadStateQueue(PKQUEUE Queue);
LONG KeInsertQueue(PKQUEUE Queue, PLIST_ENTRY Entry);
PLIST_ENTRY KeRemoveQueue(PKQUEUE Queue, KPROCESSOR_MODE WaitMode, PLARGE_INTEGER Timeout);
PLIST_ENTRY KeRundownQueue(PKQUEUE Queue);

/* The task state segment of the processor (AMD64 APM vol. 2, 12.2.5). */
typedef struct __attribute__((packed)) _KTSS64 {
    ULONG Reserved0;
    ULONG64 Rsp[3];
    ULONG64 Ist[8]; /* Ist[0] is reserved */
    ULONG64 Reserved1;
    USHORT Reserved2;
    USHORT IoMapBase;
} KTSS64;

typedef struct _KPRCB {
    ULONG MxCsr;
    UCHAR LegacyNumber; /* gs:[184h], read by the DDK's KeGetCurrentProcessorNumber */
    UCHAR ReservedMustBeZero[3];
    PKTHREAD CurrentThread; /* gs:[188h] */
    PKTHREAD NextThread;
    PKTHREAD IdleThread;
    UCHAR NestingLevel;
    UCHAR Reserved0[3];
    ULONG Number; /* gs:[1A4h] */
    ULONG64 RspBase;
    ULONG64 Reserved1[2];
    /* Private from here (KPRCB + 40h). */
    volatile UCHAR DpcRoutineActive;
    volatile UCHAR ThreadedDpcActive;
    volatile UCHAR QuantumEnd;
    UCHAR Reserved2[5];
    KSPIN_LOCK DpcLock;
    LIST_ENTRY DpcListHead;
    ULONG ApicId;
    ULONG ClockTicks;
    KAFFINITY SetMember;
    ULONG64 DpcCount;
    ULONG64 InterruptCount;
    ULONG64 ContextSwitches;
} KPRCB, *PKPRCB;

/* The processor control region, GS base in kernel mode. The DDK's public KPCR ends before Prcb. */
typedef struct _KIPCR {
    KPCR Pcr;
    UCHAR Fill[0x180 - sizeof(KPCR)];
    KPRCB Prcb;
} KIPCR;

_Static_assert(FIELD_OFFSET(KPCR, Self) == 0x18, "KPCR.Self");
_Static_assert(FIELD_OFFSET(KPCR, CurrentPrcb) == 0x20, "KPCR.CurrentPrcb");
_Static_assert(FIELD_OFFSET(KPCR, IdtBase) == 0x38, "KPCR.IdtBase");
_Static_assert(FIELD_OFFSET(KPCR, Irql) == 0x50, "KPCR.Irql");
_Static_assert(FIELD_OFFSET(KIPCR, Prcb) == 0x180, "KPCR.Prcb");
_Static_assert(FIELD_OFFSET(KIPCR, Prcb.LegacyNumber) == 0x184, "KPRCB.LegacyNumber");
_Static_assert(FIELD_OFFSET(KIPCR, Prcb.CurrentThread) == 0x188, "KPRCB.CurrentThread");
_Static_assert(FIELD_OFFSET(KIPCR, Prcb.Number) == 0x1A4, "KPRCB.Number");
_Static_assert(FIELD_OFFSET(KIPCR, Prcb.DpcRoutineActive) == 0x1C0, "private fields start at +1C0h");
_Static_assert(FIELD_OFFSET(KLOCK_QUEUE_HANDLE, LockQueue.Lock) == 8, "KLOCK_QUEUE_HANDLE.Lock");
_Static_assert(FIELD_OFFSET(KLOCK_QUEUE_HANDLE, OldIrql) == 0x10, "KLOCK_QUEUE_HANDLE.OldIrql");
_Static_assert(sizeof(DISPATCHER_HEADER) == 0x18, "DISPATCHER_HEADER");

/* What the processor pushes on an interrupt. */
typedef struct _KI_MACHINE_FRAME {
    ULONG64 Rip;
    ULONG64 Cs;
    ULONG64 Rflags;
    ULONG64 Rsp;
    ULONG64 Ss;
} KI_MACHINE_FRAME;

/* What the exception stub leaves on the stack, lowest address first. */
typedef struct _KI_EXCEPTION_FRAME {
    ULONG64 R15, R14, R13, R12, R11, R10, R9, R8, Rbp, Rdi, Rsi, Rdx, Rcx, Rbx, Rax;
    ULONG64 Vector;
    ULONG64 ErrorCode;
    KI_MACHINE_FRAME Machine;
} KI_EXCEPTION_FRAME;

extern KIPCR KiProcessorControlRegions[KI_MAXIMUM_PROCESSORS];
extern LOADER_BLOCK *KiLoaderBlock;
extern KAFFINITY KiActiveProcessors;

static inline KPRCB *KiPrcb(void)
{
    KPRCB *prcb;
    __asm__ volatile("movq %%gs:0x20, %0" : "=r"(prcb));
    return prcb;
}

static inline PKTHREAD KiCurrentThread(void)
{
    PKTHREAD thread;
    __asm__ volatile("movq %%gs:0x188, %0" : "=r"(thread));
    return thread;
}

static inline ULONG KiProcessorNumber(void)
{
    ULONG number;
    __asm__ volatile("movl %%gs:0x1A4, %0" : "=r"(number));
    return number;
}

static inline KPRCB *KiPrcbOf(ULONG Number)
{
    return &KiProcessorControlRegions[Number].Prcb;
}

static inline ULONG64 KiReadCr8(void)
{
    ULONG64 value;
    __asm__ volatile("movq %%cr8, %0" : "=r"(value));
    return value;
}

static inline void KiWriteCr8(ULONG64 Irql)
{
    __asm__ volatile("movq %0, %%cr8" : : "r"(Irql) : "memory");
}

static inline void KiDisable(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void KiEnable(void)
{
    __asm__ volatile("sti" : : : "memory");
}

/* Disables interrupts; tells whether they were on. */
static inline BOOLEAN KiDisableSave(void)
{
    ULONG64 flags;
    __asm__ volatile("pushfq\n\tpopq %0\n\tcli" : "=r"(flags) : : "memory");
    return (flags & 0x200) != 0;
}

static inline void KiRestore(BOOLEAN Enable)
{
    if (Enable)
        KiEnable();
}

/*
 * The kernel's own locking: inline primitives, as in Windows, so that the exported routines are entered by drivers
 * only.
 */
static inline BOOLEAN KxTryLock(volatile ULONG_PTR *Lock)
{
    BOOLEAN wasSet;
    __asm__ volatile("lock btsq $0, %0\n\tsetc %1" : "+m"(*Lock), "=q"(wasSet) : : "memory", "cc");
    return !wasSet;
}

static inline void KxLock(volatile ULONG_PTR *Lock)
{
    while (!KxTryLock(Lock)) {
        while (*Lock & 1)
            __asm__ volatile("pause");
    }
}

static inline void KxUnlock(volatile ULONG_PTR *Lock)
{
    __asm__ volatile("" : : : "memory");
    *Lock = 0;
}

static inline KIRQL KxLockRaise(volatile ULONG_PTR *Lock)
{
    KIRQL old = (KIRQL)KiReadCr8();
    if (old < DISPATCH_LEVEL)
        KiWriteCr8(DISPATCH_LEVEL);
    KxLock(Lock);
    return old;
}

static inline void KxUnlockLower(volatile ULONG_PTR *Lock, KIRQL Old)
{
    KxUnlock(Lock);
    if (Old < DISPATCH_LEVEL)
        KiWriteCr8(Old);
}

/* start.c */
VOID KiSystemStartup(LOADER_BLOCK *LoaderBlock, ULONG64 Number);
VOID KiPhase1(PVOID Context);

/* processor.c: GDT, TSS, IDT, MSRs, control region */
VOID KiInitializeProcessor(ULONG Number, ULONG_PTR StackTop);
VOID KiSetInterruptGate(ULONG Vector, PVOID Handler, ULONG Ist);

/* trap.S */
extern UCHAR KiTrapStubs[];
VOID KiSystemCall64(VOID);
VOID KiSwapContext(PVOID *OldStack, PVOID NewStack);
VOID KiThreadStartup(VOID);

/* interrupt.c */
typedef VOID KI_INTERRUPT_HANDLER(ULONG Vector, PVOID Context);
VOID KiInterruptDispatch(ULONG Vector, KI_MACHINE_FRAME *Frame);
ULONG KiFindVectors(ULONG Count);
ULONG KiAllocateVector(KI_INTERRUPT_HANDLER *Handler, PVOID Context);
VOID KiFreeVector(ULONG Vector);
VOID KiSetVectorHandler(ULONG Vector, KI_INTERRUPT_HANDLER *Handler, PVOID Context);
VOID KiRequestDispatch(ULONG Number);

/* scheduler.c; the dispatcher lock is held where said */
extern ULONG_PTR KiDispatcherLock;
extern LONG KiQuantum;
VOID KiInitializeScheduler(VOID);
VOID KiReadyThread(PKTHREAD Thread); /* locked */
VOID KiSwapThread(VOID);             /* locked; the current thread's state is not Running */
VOID KiPreemptCheck(VOID);
VOID KiAdoptIdleThread(ULONG_PTR StackTop);
DECLSPEC_NORETURN VOID KiIdleLoop(VOID);

/* thread.c */
PKTHREAD KiCreateThread(PKSTART_ROUTINE Start, PVOID Context, KPRIORITY Priority);
VOID KiInitializeThread(PKTHREAD Thread, PKSTART_ROUTINE Start, PVOID Context, KPRIORITY Priority);
VOID KiThreadEntry(VOID);

/* wait.c */
VOID KiSignalObject(PVOID Object);                     /* locked; the object's SignalState was set */
VOID KiUnwaitThread(PKTHREAD Thread, NTSTATUS Status); /* locked */
VOID KiInitializeHeader(DISPATCHER_HEADER *Header, KI_OBJECT_TYPE Type, ULONG Size, LONG SignalState);

/* timer.c */
VOID KiExpireTimers(VOID);
BOOLEAN KiTimersDue(VOID);
VOID KiInsertTimer(PKTIMER Timer, LARGE_INTEGER DueTime, ULONG Period, PKDPC Dpc); /* locked */
BOOLEAN KiRemoveTimer(PKTIMER Timer);                                              /* locked */

/* dpc.c */
VOID KiRetireDpcs(VOID);

/* clock.c */
VOID KiInitializeTime(VOID);
VOID KiStartClock(VOID);
ULONG64 KiInterruptTime(VOID); /* 100 ns since start */
extern ULONG64 KiTscFrequency; /* Hz */

/* counters.c, lockcall.S */
VOID KiNoteBadRelease(VOID);
VOID KiPrintLockCounters(VOID);

/* cmdline.c */
const char *KiCommandLine(void);

/* bugcheck.c */
VOID KiCallBugCheckCallbacks(ULONG Code); /* bugcheckcallback.c */
DECLSPEC_NORETURN VOID KiBugCheck(ULONG Code, ULONG_PTR P1, ULONG_PTR P2, ULONG_PTR P3, ULONG_PTR P4,
                                  KI_EXCEPTION_FRAME *Frame);
VOID KiExceptionDispatch(KI_EXCEPTION_FRAME *Frame);

/* selftest.c */
DECLSPEC_NORETURN VOID KiSelfTest(VOID); /* powers off */

#endif
