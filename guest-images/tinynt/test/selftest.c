/*
 * selftest.c - the kernel tried on itself (command line selftest=1): locks under threads and DPCs, migration, waits.
 *
 * Each test checks one promise and prints one line; a failed one ends in bug check 0x5E1F (test number, expected,
 * found).
 */
#include "ki.h"
#include "lockcall.h"
#include "selftest.h"
#include "workload_support.h"

#define SELF_TEST_FAILED 0x5E1F
#define TEST_EXTRA_THREADS 3 /* more threads than processors, so that some have to move */
#define TEST_ROUNDS 150
#define TEST_DPCS 40
#define TEST_PATIENCE 50000000ull /* 100 ns units that a test goes on for until a thread has migrated: 5 s */

/* Two numbers that differ only while the lock is held. */
typedef struct _TEST_PAIR {
    KSPIN_LOCK Lock;
    ULONG ExLock; /* an EX_SPIN_LOCK */
    volatile ULONG64 A, B;
    volatile ULONG Torn; /* times the pair was seen unequal by an owner */
} TEST_PAIR;

typedef VOID TEST_STEP(TEST_PAIR *Pair);

typedef struct _TEST_RUN {
    TEST_PAIR Pair;
    TEST_STEP *Step, *DpcStep;
    volatile ULONG DpcCount;
    volatile LONG Left; /* threads still at work */
    volatile LONG Migrations;
    volatile LONG Rounds;
    ULONG64 Deadline;
    KEVENT Done;
    KDPC Dpc;
    KTIMER Timer;
} TEST_RUN;

static TEST_RUN TestRun;

VOID TestExpect(ULONG Test, const char *What, ULONG64 Expected, ULONG64 Found)
{
    if (Expected == Found)
        return;
    DbgPrint("selftest: %s: expected %I64u, found %I64u\n", What, Expected, Found);
    KeBugCheckEx(SELF_TEST_FAILED, Test, Expected, Found, 0);
}

static VOID TestTouch(TEST_PAIR *Pair)
{
    if (Pair->A != Pair->B)
        Pair->Torn++;
    Pair->A++;
    for (ULONG i = 0; i < 10; i++)
        __asm__ volatile("pause");
    Pair->B++;
}

static VOID TestSpinLock(TEST_PAIR *Pair)
{
    KIRQL old;

    KeAcquireSpinLock(&Pair->Lock, &old);
    TestTouch(Pair);
    KeReleaseSpinLock(&Pair->Lock, old);
}

static VOID TestSpinLockAtDpc(TEST_PAIR *Pair)
{
    KeAcquireSpinLockAtDpcLevel(&Pair->Lock);
    TestTouch(Pair);
    KeReleaseSpinLockFromDpcLevel(&Pair->Lock);
}

static VOID TestQueuedLock(TEST_PAIR *Pair)
{
    KLOCK_QUEUE_HANDLE handle;

    KeAcquireInStackQueuedSpinLock(&Pair->Lock, &handle);
    TestTouch(Pair);
    KeReleaseInStackQueuedSpinLock(&handle);
}

static VOID TestQueuedLockAtDpc(TEST_PAIR *Pair)
{
    KLOCK_QUEUE_HANDLE handle;

    KeAcquireInStackQueuedSpinLockAtDpcLevel(&Pair->Lock, &handle);
    TestTouch(Pair);
    KeReleaseInStackQueuedSpinLockFromDpcLevel(&handle);
}

KIRQL ExAcquireSpinLockExclusive(volatile ULONG *Lock);
VOID ExReleaseSpinLockExclusive(volatile ULONG *Lock, KIRQL OldIrql);
KIRQL ExAcquireSpinLockShared(volatile ULONG *Lock);
VOID ExReleaseSpinLockShared(volatile ULONG *Lock, KIRQL OldIrql);

static VOID TestExLock(TEST_PAIR *Pair)
{
    KIRQL old = ExAcquireSpinLockExclusive(&Pair->ExLock);

    TestTouch(Pair);
    ExReleaseSpinLockExclusive(&Pair->ExLock, old);
    old = ExAcquireSpinLockShared(&Pair->ExLock);
    if (Pair->A != Pair->B)
        InterlockedIncrement((volatile LONG *)&Pair->Torn);
    ExReleaseSpinLockShared(&Pair->ExLock, old);
}

static VOID TestDpc(PKDPC Dpc, PVOID Context, PVOID SystemArgument1, PVOID SystemArgument2)
{
    TEST_RUN *run = Context;

    run->DpcStep(&run->Pair);
    InterlockedIncrement((volatile LONG *)&run->DpcCount); /* a DPC may run on two processors at once */
}

/* On several processors until a migration was seen, which takes a few clock ticks. */
static BOOLEAN TestGoesOn(TEST_RUN *Run, ULONG Round)
{
    if (Round < TEST_ROUNDS)
        return TRUE;
    return KeNumberProcessors > 1 && Run->Migrations == 0 && KiInterruptTime() < Run->Deadline;
}

static VOID TestThread(PVOID Context)
{
    TEST_RUN *run = Context;
    ULONG last = KiProcessorNumber();

    for (ULONG i = 0; TestGoesOn(run, i); i++) {
        run->Step(&run->Pair);
        InterlockedIncrement(&run->Rounds);
        if (run->DpcStep && i % (TEST_ROUNDS / TEST_DPCS) == 0)
            KeInsertQueueDpc(&run->Dpc, NULL, NULL);
        if (KiProcessorNumber() != last) {
            last = KiProcessorNumber();
            InterlockedIncrement(&run->Migrations);
        }
    }
    if (InterlockedDecrement(&run->Left) == 0)
        KeSetEvent(&run->Done, 0, FALSE);
}

/* Threads and a DPC share one lock: no update is lost and nobody sees a torn pair. */
static VOID TestLock(ULONG Test, const char *What, TEST_STEP *Step, TEST_STEP *DpcStep)
{
    TEST_RUN *run = &TestRun;

    RtlZeroMemory(run, sizeof(*run));
    run->Step = Step;
    run->DpcStep = DpcStep;
    run->Left = KeNumberProcessors + TEST_EXTRA_THREADS;
    run->Deadline = KiInterruptTime() + TEST_PATIENCE;
    KeInitializeEvent(&run->Done, NotificationEvent, FALSE);
    KeInitializeDpc(&run->Dpc, TestDpc, run);
    for (LONG i = 0; i < KeNumberProcessors + TEST_EXTRA_THREADS; i++) {
        PKTHREAD thread = KiCreateThread(TestThread, run, 8);
        TestExpect(Test, "thread created", 1, thread != NULL);
        ObfDereferenceObject(thread);
    }
    KeWaitForSingleObject(&run->Done, Executive, KernelMode, FALSE, NULL);
    KeFlushQueuedDpcs();
    TestExpect(Test, "torn pairs", 0, run->Pair.Torn);
    TestExpect(Test, "updates", (ULONG)run->Rounds + run->DpcCount, run->Pair.A);
    DbgPrint("selftest: %s: %u DPCs, %d migrations\n", What, run->DpcCount, run->Migrations);
}

static VOID TestTimerDpc(PKDPC Dpc, PVOID Context, PVOID SystemArgument1, PVOID SystemArgument2)
{
    KeSetEvent(Context, 0, FALSE);
}

/* A timer's DPC runs, and not before the timer is due. */
static VOID TestTimer(ULONG Test)
{
    TEST_RUN *run = &TestRun;
    LARGE_INTEGER due = {.QuadPart = -200000}; /* 20 ms */
    ULONG64 start = KiInterruptTime();

    KeInitializeEvent(&run->Done, SynchronizationEvent, FALSE);
    KeInitializeDpc(&run->Dpc, TestTimerDpc, &run->Done);
    KeInitializeTimer(&run->Timer);
    KeSetTimer(&run->Timer, due, &run->Dpc);
    TestExpect(Test, "wait on the timer's event", STATUS_SUCCESS,
               (ULONG)KeWaitForSingleObject(&run->Done, Executive, KernelMode, FALSE, NULL));
    TestExpect(Test, "timer not early", 1, KiInterruptTime() - start >= 200000);
    TestExpect(Test, "cancel of an expired timer", FALSE, KeCancelTimer(&run->Timer));
}

/* A wait ends by its time-out, and the event is still good afterwards. */
static VOID TestTimeout(ULONG Test)
{
    TEST_RUN *run = &TestRun;
    LARGE_INTEGER interval = {.QuadPart = -50000};

    KeInitializeEvent(&run->Done, SynchronizationEvent, FALSE);
    TestExpect(Test, "time-out", STATUS_TIMEOUT,
               (ULONG)KeWaitForSingleObject(&run->Done, Executive, KernelMode, FALSE, &interval));
    KeSetEvent(&run->Done, 0, FALSE);
    TestExpect(Test, "signalled event", STATUS_SUCCESS,
               (ULONG)KeWaitForSingleObject(&run->Done, Executive, KernelMode, FALSE, &interval));
    TestExpect(Test, "synchronization event resets itself", 0, (ULONG)KeReadStateEvent(&run->Done));
}

/* Releasing by a handle that owns nothing changes nothing and does not hang. */
static VOID TestBadRelease(ULONG Test)
{
    KLOCK_QUEUE_HANDLE owner, stranger = {.LockQueue = {NULL, &TestRun.Pair.Lock}, .OldIrql = DISPATCH_LEVEL};
    ULONG64 before = KiLockEventCounters[KiEventBadRelease].Count;

    TestRun.Pair.Lock = 0;
    KeAcquireInStackQueuedSpinLock(&TestRun.Pair.Lock, &owner);
    KeReleaseInStackQueuedSpinLock(&stranger);
    TestExpect(Test, "lock still held", 1, TestRun.Pair.Lock != 0);
    KeReleaseInStackQueuedSpinLock(&owner);
    TestExpect(Test, "lock free", 0, TestRun.Pair.Lock);
    TestExpect(Test, "bad releases", before + 1, KiLockEventCounters[KiEventBadRelease].Count);
}

/* An affinity of one processor is kept at once. */
static VOID TestAffinity(ULONG Test)
{
    for (ULONG i = 0; i < (ULONG)KeNumberProcessors; i++) {
        KeSetSystemAffinityThreadEx(1ull << i);
        TestExpect(Test, "processor", i, KiProcessorNumber());
    }
    KeRevertToUserAffinityThread();
}

static ULONG_PTR TestBroadcast(ULONG_PTR Argument)
{
    InterlockedIncrement((volatile LONG *)Argument);
    return 0;
}

static VOID TestIpi(ULONG Test)
{
    volatile LONG count = 0;

    KeIpiGenericCall(TestBroadcast, (ULONG_PTR)&count);
    TestExpect(Test, "processors reached", (ULONG64)KeNumberProcessors, (ULONG64)count);
}

/* Whether XMM0, which interrupts save, and XMM6, which thread switches save, keep a pattern for a while. */
static BOOLEAN TestVectorsAreKept(ULONG64 Pattern)
{
    ULONG64 in[2] = {Pattern, ~Pattern}, volatileOut[2], keptOut[2];
    ULONG count = 20000;

    __asm__ volatile("movups %3, %%xmm0\n\tmovups %3, %%xmm6\n"
                     "1:\tpause\n\tdecl %2\n\tjnz 1b\n\t"
                     "movups %%xmm0, %0\n\tmovups %%xmm6, %1"
                     : "=m"(volatileOut), "=m"(keptOut), "+r"(count)
                     : "m"(in));
    return !memcmp(in, volatileOut, sizeof(in)) && !memcmp(in, keptOut, sizeof(in));
}

static VOID TestVectorThread(PVOID Context)
{
    KeSetSystemAffinityThreadEx(1);
    for (ULONG i = 0; i < 8; i++)
        TestExpect(13, "vectors of the other thread", TRUE, TestVectorsAreKept(0x5555555500000000ull + i));
    KeSetEvent(Context, 0, FALSE);
}

/* Two threads on one processor, each with its own patterns. */
static VOID TestVectors(ULONG Test)
{
    KEVENT done;

    KeInitializeEvent(&done, NotificationEvent, FALSE);
    KiCreateThread(TestVectorThread, &done, 8);
    KeSetSystemAffinityThreadEx(1);
    for (ULONG i = 0; i < 8; i++)
        TestExpect(Test, "vectors", TRUE, TestVectorsAreKept(0xAAAAAAAA00000000ull + i));
    KeRevertToUserAffinityThread();
    KeWaitForSingleObject(&done, Executive, KernelMode, FALSE, NULL);
}

/* Two who read share it, who writes waits for them; the owner may take it again. */
static VOID TestResource(ULONG Test)
{
    static ERESOURCE resource;

    ExInitializeResourceLite(&resource);
    ExAcquireResourceSharedLite(&resource, TRUE);
    TestExpect(Test, "shared twice", TRUE, ExAcquireResourceSharedLite(&resource, FALSE));
    TestExpect(Test, "exclusive while shared", FALSE, ExAcquireResourceExclusiveLite(&resource, FALSE));
    ExReleaseResourceLite(&resource);
    ExReleaseResourceLite(&resource);
    TestExpect(Test, "exclusive", TRUE, ExAcquireResourceExclusiveLite(&resource, FALSE));
    TestExpect(Test, "exclusive again", TRUE, ExAcquireResourceExclusiveLite(&resource, FALSE));
    ExReleaseResourceLite(&resource);
    TestExpect(Test, "still exclusive", TRUE, ExIsResourceAcquiredExclusiveLite(&resource));
    ExReleaseResourceLite(&resource);
    TestExpect(Test, "released", FALSE, ExIsResourceAcquiredExclusiveLite(&resource));
    ExDeleteResourceLite(&resource);
}

static VOID TestRundown(ULONG Test)
{
    EX_RUNDOWN_REF reference;

    ExInitializeRundownProtection(&reference);
    TestExpect(Test, "protection", TRUE, ExAcquireRundownProtection(&reference));
    ExReleaseRundownProtection(&reference);
    ExWaitForRundownProtectionRelease(&reference);
    TestExpect(Test, "protection after the rundown", FALSE, ExAcquireRundownProtection(&reference));
}

static VOID TestBitMap(ULONG Test)
{
    ULONG bits[2] = {0, 0};
    RTL_BITMAP map;

    RtlInitializeBitMap(&map, bits, 40);
    RtlSetBits(&map, 0, 30);
    TestExpect(Test, "run across words", 30, RtlFindClearBitsAndSet(&map, 8, 3));
    TestExpect(Test, "bits set", 38, RtlNumberOfSetBits(&map));
    TestExpect(Test, "no run left", ~0u, RtlFindClearBits(&map, 3, 0));
}

/* The physical address of each page of a block: none of paged memory. */
static VOID TestPagedPool(ULONG Test)
{
    static const POOL_TYPE pools[] = {PagedPool, NonPagedPool, PagedPool};

    for (ULONG i = 0; i < RTL_NUMBER_OF(pools); i++) {
        PUCHAR block = ExAllocatePoolWithTag(pools[i], 3 * PAGE_SIZE, 'tset');

        for (ULONG page = 0; page < 3; page++) {
            BOOLEAN found = MmGetPhysicalAddress(block + page * PAGE_SIZE).QuadPart != 0;
            TestExpect(Test, "physical address", pools[i] == NonPagedPool, found);
        }
        ExFreePoolWithTag(block, 'tset');
    }
}

/* Code in nonpaged pool, as in Windows: of more than a page, and not of the pool that says so. */
static VOID TestExecutablePool(ULONG Test)
{
    static const UCHAR code[] = {0xB8, 0x2A, 0, 0, 0, 0xC3}; /* mov eax, 2Ah; ret */
    PUCHAR block = ExAllocatePoolWithTag(NonPagedPool, 2 * PAGE_SIZE, 'tset');

    RtlCopyMemory(block + PAGE_SIZE, code, sizeof(code));
    TestExpect(Test, "code in pool", 0x2A, ((ULONG(*)(VOID))(block + PAGE_SIZE))());
    ExFreePoolWithTag(block, 'tset');
}

VOID KiSelfTest(VOID)
{
    TestLock(1, "spin lock", TestSpinLock, TestSpinLockAtDpc);
    if (KeNumberProcessors > 1)
        TestExpect(1, "migration seen", 1, TestRun.Migrations > 0);
    TestLock(2, "queued spin lock", TestQueuedLock, TestQueuedLockAtDpc);
    TestLock(3, "reader-writer spin lock", TestExLock, NULL);
    TestTimer(4);
    TestTimeout(5);
    TestBadRelease(6);
    TestAffinity(7);
    TestIpi(8);
    TestResource(10);
    TestRundown(11);
    TestBitMap(12);
    TestVectors(13);
    TestPagedPool(14);
    TestExecutablePool(20);
    KiSelfTestServices();
    KiSelfTestControls();
    TestExpect(9, "IRQL", PASSIVE_LEVEL, KiReadCr8());
    DbgPrint("selftest: passed\n");
    PoShutdown();
}
