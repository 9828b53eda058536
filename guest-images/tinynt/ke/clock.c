/*
 * clock.c - time from the TSC, and the clock tick of each processor from its local APIC timer.
 */
#include "hal.h"
#include "ki.h"
#include "mi.h"
#include "workload_support.h"

#define KI_TICKS_PER_SECOND 10000000ull /* units of interrupt time and of the performance counter */
#define KI_CALIBRATION_COUNT 2000000u   /* APIC timer counts: 2 ms on KVM */

ULONG64 KiTscFrequency;
static ULONG64 KiTscAtStart;
static ULONG64 KiTscScale; /* 2^32 * 100 ns units per TSC count */
static ULONG KiTickHz;

static ULONG64 KiMeasureTsc(ULONG64 ApicFrequency)
{
    ULONG64 start, end;

    HalpStartApicTimer(0, 0xFFFFFFFF);
    start = HalpRdtsc();
    while (0xFFFFFFFF - HalpReadApicTimer() < KI_CALIBRATION_COUNT)
        __asm__ volatile("pause");
    end = HalpRdtsc();
    return (end - start) * (ApicFrequency / KI_CALIBRATION_COUNT);
}

VOID KiInitializeTime(VOID)
{
    KiTscFrequency = KiLoaderBlock->TscFrequency;
    if (!KiTscFrequency)
        KiTscFrequency = KiMeasureTsc(KiLoaderBlock->ApicTimerFrequency);
    if (KiTscFrequency < 1000000)
        KiTscFrequency = 1000000000;
    KiTscScale = (KI_TICKS_PER_SECOND << 32) / KiTscFrequency;
    KiTscAtStart = HalpRdtsc();
    KiTickHz = (ULONG)KiCommandLineNumber("tick_hz", 100);
    if (KiTickHz == 0 || KiTickHz > 100000)
        KiTickHz = 100;
}

ULONG64 KiInterruptTime(VOID)
{
    LONG64 delta = (LONG64)(HalpRdtsc() - KiTscAtStart);

    if (delta < 0) /* another processor's TSC may be a little behind */
        return 0;
    return (ULONG64)(((unsigned __int128)(ULONG64)delta * KiTscScale) >> 32);
}

static VOID KiStoreSystemTime(volatile KSYSTEM_TIME *Time, ULONG64 Value)
{
    Time->High2Time = (LONG)(Value >> 32);
    __asm__ volatile("" : : : "memory");
    *(volatile ULONG64 *)Time = Value; /* LowPart and High1Time at once */
}

static VOID KiUpdateSharedTime(VOID)
{
    KUSER_SHARED_DATA *shared = MiSharedData();
    LARGE_INTEGER system;
    extern VOID KiQuerySystemTimeExport(PLARGE_INTEGER CurrentTime);

    KiQuerySystemTimeExport(&system);
    KiStoreSystemTime(&shared->InterruptTime, KiInterruptTime());
    KiStoreSystemTime(&shared->SystemTime, (ULONG64)system.QuadPart);
    KiStoreSystemTime((volatile KSYSTEM_TIME *)&shared->TickCount, KiPrcb()->ClockTicks);
}

static VOID KiClockInterrupt(ULONG Vector, PVOID Context)
{
    KPRCB *prcb = KiPrcb();
    PKTHREAD thread = prcb->CurrentThread;
    BOOLEAN dispatch = KiTimersDue();

    prcb->ClockTicks++;
    if (prcb->Number == 0)
        KiUpdateSharedTime();
    if (thread != prcb->IdleThread && --thread->Quantum <= 0) {
        prcb->QuantumEnd = TRUE;
        dispatch = TRUE;
    }
    if (dispatch)
        KiRequestDispatch(prcb->Number);
}

VOID KiStartClock(VOID)
{
    KiSetVectorHandler(KI_CLOCK_VECTOR, KiClockInterrupt, NULL);
    HalpStartApicTimer(KI_CLOCK_VECTOR, (ULONG)(KiLoaderBlock->ApicTimerFrequency / KiTickHz));
}

LARGE_INTEGER KeQueryPerformanceCounter(PLARGE_INTEGER PerformanceFrequency)
{
    LARGE_INTEGER now;

    if (PerformanceFrequency)
        PerformanceFrequency->QuadPart = KI_TICKS_PER_SECOND;
    now.QuadPart = (LONG64)KiInterruptTime();
    return now;
}

ULONG64 KiQueryInterruptTimeExport(VOID);
ULONG64 KiQueryInterruptTimeExport(VOID)
{
    return KiInterruptTime();
}

ULONGLONG KeQueryUnbiasedInterruptTime(VOID)
{
    return KiInterruptTime();
}

VOID KiQueryTickCountExport(PLARGE_INTEGER TickCount);
VOID KiQueryTickCountExport(PLARGE_INTEGER TickCount)
{
    TickCount->QuadPart = KiPrcbOf(0)->ClockTicks;
}

ULONG KeQueryTimeIncrement(VOID)
{
    return (ULONG)(KI_TICKS_PER_SECOND / KiTickHz);
}

VOID KeStallExecutionProcessor(ULONG MicroSeconds)
{
    ULONG64 start = HalpRdtsc();
    ULONG64 wait = KiTscFrequency / 1000000 * MicroSeconds;

    while (HalpRdtsc() - start < wait)
        __asm__ volatile("pause");
}
