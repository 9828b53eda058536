/*
 * scheduler.c - one ready queue for all processors, strict priorities, round robin within one.
 *
 * A processor that has to choose prefers a thread that ran elsewhere last: threads below DISPATCH_LEVEL migrate often,
 * which is what drivers and monitors are to be tried against. All of it is under the dispatcher lock.
 */
#include "hal.h"
#include "ki.h"
#include "workload_support.h"

#define KI_PRIORITIES 32
#define KI_CHOICE_DEPTH 4 /* ready threads looked at for one that ran elsewhere */

ULONG_PTR KiDispatcherLock;
LONG KiQuantum; /* clock ticks */
static LIST_ENTRY KiReadyLists[KI_PRIORITIES];
static volatile ULONG KiReadySummary;
static KAFFINITY KiIdleSummary;
static KTHREAD KiIdleThreads[KI_MAXIMUM_PROCESSORS];

VOID KiInitializeScheduler(VOID)
{
    for (ULONG i = 0; i < KI_PRIORITIES; i++)
        InitializeListHead(&KiReadyLists[i]);
    KiQuantum = (LONG)KiCommandLineNumber("quantum", 1);
}

/* Removes and returns the thread that processor Number should run, of at least Minimum priority. */
static PKTHREAD KiSelectThread(ULONG Number, KPRIORITY Minimum)
{
    for (KPRIORITY priority = KI_PRIORITIES - 1; priority >= Minimum; priority--) {
        PKTHREAD found = NULL;
        ULONG looked = 0;
        if (!(KiReadySummary & (1u << priority)))
            continue;
        for (PLIST_ENTRY entry = KiReadyLists[priority].Flink; entry != &KiReadyLists[priority]; entry = entry->Flink) {
            PKTHREAD thread = CONTAINING_RECORD(entry, KTHREAD, ReadyListEntry);
            if (!(thread->Affinity & (1ull << Number)))
                continue;
            if (!found)
                found = thread;
            if (thread->LastProcessor != Number) {
                found = thread;
                break;
            }
            if (++looked == KI_CHOICE_DEPTH)
                break;
        }
        if (found) {
            if (RemoveEntryList(&found->ReadyListEntry))
                KiReadySummary &= ~(1u << priority);
            return found;
        }
    }
    return NULL;
}

static VOID KiInsertReady(PKTHREAD Thread)
{
    Thread->State = KiThreadReady;
    InsertTailList(&KiReadyLists[Thread->Priority], &Thread->ReadyListEntry);
    KiReadySummary |= 1u << Thread->Priority;
}

/* Asks an idle processor, else the one that runs the lowest priority below the thread's, to look at the queue. */
static VOID KiWakeProcessorFor(PKTHREAD Thread)
{
    KAFFINITY idle = KiIdleSummary & Thread->Affinity;
    KPRIORITY lowest = Thread->Priority;
    ULONG target = KI_MAXIMUM_PROCESSORS;

    if (idle) {
        KAFFINITY elsewhere = idle & ~(1ull << Thread->LastProcessor);
        target = (ULONG)__builtin_ctzll(elsewhere ? elsewhere : idle);
        KiIdleSummary &= ~(1ull << target);
        KiRequestDispatch(target);
        return;
    }
    for (ULONG i = 0; i < (ULONG)KeNumberProcessors; i++) {
        PKTHREAD running = KiPrcbOf(i)->CurrentThread;
        if ((Thread->Affinity & (1ull << i)) && running && running != KiPrcbOf(i)->IdleThread &&
            running->Priority < lowest) {
            lowest = running->Priority;
            target = i;
        }
    }
    if (target != KI_MAXIMUM_PROCESSORS)
        KiRequestDispatch(target);
}

VOID KiReadyThread(PKTHREAD Thread)
{
    Thread->Quantum = KiQuantum;
    KiInsertReady(Thread);
    KiWakeProcessorFor(Thread);
}

static VOID KiSwitchTo(KPRCB *Prcb, PKTHREAD Next)
{
    PKTHREAD old = Prcb->CurrentThread;

    Next->State = KiThreadRunning;
    Next->LastProcessor = Prcb->Number;
    if (Next == Prcb->IdleThread)
        KiIdleSummary |= Prcb->SetMember;
    else
        KiIdleSummary &= ~Prcb->SetMember;
    if (Next == old)
        return;
    Prcb->QuantumEnd = 0;
    Prcb->CurrentThread = Next;
    Prcb->ContextSwitches++;
    KiSwapContext(&old->KernelStack, Next->KernelStack);
}

VOID KiSwapThread(VOID)
{
    KPRCB *prcb = KiPrcb();
    PKTHREAD next = KiSelectThread(prcb->Number, 0);

    KiSwitchTo(prcb, next ? next : prcb->IdleThread);
}

/* At the end of the dispatch interrupt: does another thread deserve this processor? */
VOID KiPreemptCheck(VOID)
{
    KPRCB *prcb = KiPrcb();
    PKTHREAD current = prcb->CurrentThread;
    BOOLEAN idle = current == prcb->IdleThread;
    PKTHREAD next;

    if (prcb->DpcRoutineActive || (!idle && !prcb->QuantumEnd && !KiReadySummary))
        return;
    KxLock(&KiDispatcherLock);
    BOOLEAN quantumEnd = prcb->QuantumEnd;
    prcb->QuantumEnd = 0;
    if (quantumEnd)
        current->Quantum = KiQuantum;
    if (idle)
        next = KiSelectThread(prcb->Number, 0);
    else
        next = KiSelectThread(prcb->Number, quantumEnd ? current->Priority : current->Priority + 1);
    if (idle && !next)
        KiIdleSummary |= prcb->SetMember;
    if (next) {
        if (!idle) {
            KiInsertReady(current);
            KiWakeProcessorFor(current);
        }
        KiSwitchTo(prcb, next);
    }
    KxUnlock(&KiDispatcherLock);
}

/* The code that called this becomes its processor's idle thread. */
VOID KiAdoptIdleThread(ULONG_PTR StackTop)
{
    KPRCB *prcb = KiPrcb();
    PKTHREAD thread = &KiIdleThreads[prcb->Number];

    KiInitializeThread(thread, NULL, NULL, 0);
    thread->StackBase = StackTop;
    thread->StackLimit = StackTop - KI_STACK_SIZE;
    thread->State = KiThreadRunning;
    thread->Affinity = prcb->SetMember;
    thread->LastProcessor = prcb->Number;
    prcb->IdleThread = thread;
    prcb->CurrentThread = thread;
}

VOID KiIdleLoop(VOID)
{
    KiRequestDispatch(KiProcessorNumber());
    KiWriteCr8(PASSIVE_LEVEL);
    for (;;)
        __asm__ volatile("sti\n\thlt");
}
