/* WorkloadMain: settings, every disk in turn, the result line, an orderly stop. */
#include "workload.h"

WORKLOAD_SETTINGS WorkloadSettings;
WORKLOAD_TOTALS WorkloadTotals;

static ULONG Setting(const char *Key, ULONG Default, ULONG Minimum, ULONG Maximum)
{
    ULONG64 Value = KiCommandLineNumber(Key, Default);

    return Value < Minimum ? Minimum : Value > Maximum ? Maximum : (ULONG)Value;
}

static VOID ReadSettings(VOID)
{
    WorkloadSettings.Seed = KiCommandLineNumber("seed", KiLoaderSeed());
    WorkloadSettings.Operations = Setting("ops", 160, 1, 100 * 1000 * 1000);
    WorkloadSettings.Threads = Setting("threads", 4, 1, MAX_THREADS);
    WorkloadSettings.Depth = Setting("depth", 2, 1, MAX_DEPTH);
    WorkloadSettings.TimeOutSeconds = Setting("timeout", 60, 1, 600);
    WorkloadSettings.SpanBlocks = (Setting("span", 128 * 1024, 64 * 1024, 64 * 1024 * 1024) & ~0xffffu) / BLOCK_SIZE;
}

/* A disk too small for all threads has as many as find a few blocks each; the smallest has one thread. */
static VOID FitThreads(PWORKLOAD_DISK Disk)
{
    ULONG64 Fair = Disk->Blocks / LEAST_SPAN_BLOCKS;

    Disk->Threads = WorkloadSettings.Threads;
    if (Disk->Threads > Fair) {
        Disk->Threads = Fair != 0 ? (ULONG)Fair : 1;
    }
    Fair = Disk->Blocks / Disk->Threads;
    Disk->SpanBlocks = WorkloadSettings.SpanBlocks;
    if (Disk->SpanBlocks > Fair) {
        Disk->SpanBlocks = (ULONG)Fair;
    }
}

static VOID PrintResult(ULONG Disks)
{
    DbgPrint("workload: PASS seed=%llu disks=%lu threads=%lu depth=%lu reads=%lld writes=%lld blocks=%lld flushes=%lld "
             "unmaps=%lld expected-failures=%lld unsupported=%lld retries=%lld\n",
             WorkloadSettings.Seed, Disks, WorkloadSettings.Threads, WorkloadSettings.Depth, WorkloadTotals.Reads,
             WorkloadTotals.Writes, WorkloadTotals.Blocks, WorkloadTotals.Flushes, WorkloadTotals.Unmaps,
             WorkloadTotals.ExpectedFailures, WorkloadTotals.Unsupported, WorkloadTotals.Retries);
}

VOID WorkloadMain(VOID)
{
    static WORKLOAD_DISK Disks[MAX_DISKS];
    ULONG Count;

    ReadSettings();
    Count = DiskFindAll(Disks, MAX_DISKS);
    for (ULONG Index = 0; Index < Count; Index++) {
        PWORKLOAD_DISK Disk = &Disks[Index];

        DbgPrint("workload: disk %lu: %llu blocks, at most %lu a command\n", Index, Disk->Blocks, Disk->MaximumBlocks);
        ProbeRun(Disk);
        FitThreads(Disk);
        DiskLookForData(Disk);
        if (Disk->Used) {
            DbgPrint("workload: disk %lu is not empty: what is worked on is cleared first\n", Index);
        }
        ThreadsRun(Disk);
        EpilogueRun(Disk);
    }
    DiskStopAll(Disks, Count);
    PrintResult(Count);
}
