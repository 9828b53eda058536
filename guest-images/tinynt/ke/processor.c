/*
 * processor.c - per-processor tables: control region, GDT, TSS, IDT, system call MSRs.
 */
#include "hal.h"
#include "ki.h"

#define MSR_EFER 0xC0000080
#define MSR_STAR 0xC0000081
#define MSR_LSTAR 0xC0000082
#define MSR_FMASK 0xC0000084
#define MSR_GS_BASE 0xC0000101
#define MSR_KERNEL_GS_BASE 0xC0000102

typedef struct _KI_GDT {
    ULONG64 Entries[10]; /* selector 40h is the TSS, two entries */
} KI_GDT;

typedef struct __attribute__((packed)) _KI_TABLE_POINTER {
    USHORT Limit;
    ULONG64 Base;
} KI_TABLE_POINTER;

typedef struct _KI_GATE {
    USHORT OffsetLow;
    USHORT Selector;
    USHORT Attributes;
    USHORT OffsetMiddle;
    ULONG OffsetHigh;
    ULONG Reserved;
} KI_GATE;

#define KI_FAULT_STACK_SIZE 0x1000

__attribute__((aligned(4096))) KIPCR KiProcessorControlRegions[KI_MAXIMUM_PROCESSORS];
KPRCB *KiProcessorBlock[KI_MAXIMUM_PROCESSORS];
static __attribute__((aligned(16))) UCHAR KiProcessorContexts[KI_MAXIMUM_PROCESSORS][KI_CONTEXT_SIZE];
static KI_GDT KiGdts[KI_MAXIMUM_PROCESSORS];
static KTSS64 KiTss[KI_MAXIMUM_PROCESSORS];
static __attribute__((aligned(16))) UCHAR KiDoubleFaultStacks[KI_MAXIMUM_PROCESSORS][KI_FAULT_STACK_SIZE];
static __attribute__((aligned(16))) KI_GATE KiIdt[256];
static volatile LONG KiIdtReady;

volatile CCHAR KeNumberProcessors;
KAFFINITY KiActiveProcessors;

VOID KiSetInterruptGate(ULONG Vector, PVOID Handler, ULONG Ist)
{
    ULONG64 address = (ULONG64)Handler;
    KI_GATE *gate = &KiIdt[Vector];
    gate->OffsetLow = (USHORT)address;
    gate->Selector = KI_KERNEL_CS;
    gate->Attributes = (USHORT)(0x8E00 | Ist);
    gate->OffsetMiddle = (USHORT)(address >> 16);
    gate->OffsetHigh = (ULONG)(address >> 32);
}

static VOID KiInitializeGdt(ULONG Number)
{
    KI_GDT *gdt = &KiGdts[Number];
    KTSS64 *tss = &KiTss[Number];
    ULONG64 base = (ULONG64)tss;

    gdt->Entries[2] = 0x00209B0000000000ull; /* 10h kernel code */
    gdt->Entries[3] = 0x00CF93000000FFFFull; /* 18h kernel data */
    gdt->Entries[4] = 0x00CFFB000000FFFFull; /* 20h user code, 32 bit */
    gdt->Entries[5] = 0x00CFF3000000FFFFull; /* 28h user data */
    gdt->Entries[6] = 0x0020FB0000000000ull; /* 30h user code */
    gdt->Entries[8] =
        (sizeof(KTSS64) - 1) | ((base & 0xFFFFFF) << 16) | 0x0000890000000000ull | ((base >> 24 & 0xFF) << 56);
    gdt->Entries[9] = base >> 32;
    tss->IoMapBase = sizeof(KTSS64);
    tss->Ist[1] = (ULONG64)KiDoubleFaultStacks[Number] + KI_FAULT_STACK_SIZE;
}

static VOID KiLoadTables(ULONG Number)
{
    KI_TABLE_POINTER gdt = {sizeof(KI_GDT) - 1, (ULONG64)&KiGdts[Number]};
    KI_TABLE_POINTER idt = {sizeof(KiIdt) - 1, (ULONG64)KiIdt};

    __asm__ volatile("lgdt %0\n\t"
                     "pushq %2\n\t"
                     "leaq 1f(%%rip), %%rax\n\t"
                     "pushq %%rax\n\t"
                     "lretq\n"
                     "1:\n\t"
                     "movw %w3, %%ss\n\t"
                     "movw %w4, %%ds\n\t"
                     "movw %w4, %%es\n\t"
                     "lidt %1\n\t"
                     "ltr %w5"
                     :
                     : "m"(gdt), "m"(idt), "i"(KI_KERNEL_CS), "r"(KI_KERNEL_SS), "r"(0), "r"(KI_TSS_SELECTOR)
                     : "rax", "memory");
}

/* The first processor fills the table that all share. */
static VOID KiInitializeIdt(ULONG Number)
{
    if (Number == 0) {
        for (ULONG vector = 0; vector < 256; vector++)
            KiSetInterruptGate(vector, KiTrapStubs + 16 * vector, vector == 8 ? 1 : 0);
        __atomic_store_n(&KiIdtReady, 1, __ATOMIC_RELEASE);
    } else {
        while (!__atomic_load_n(&KiIdtReady, __ATOMIC_ACQUIRE))
            __asm__ volatile("pause");
    }
}

static VOID KiInitializeControlRegion(ULONG Number, ULONG_PTR StackTop)
{
    KIPCR *region = &KiProcessorControlRegions[Number];
    region->Pcr.GdtBase = (PVOID)&KiGdts[Number];
    region->Pcr.TssBase = &KiTss[Number];
    region->Pcr.Self = &region->Pcr;
    region->Pcr.CurrentPrcb = &region->Prcb;
    region->Pcr.IdtBase = (PVOID)KiIdt;
    region->Pcr.MajorVersion = 1;
    region->Pcr.MinorVersion = 1;
    region->Prcb.LegacyNumber = (UCHAR)Number;
    region->Prcb.Number = Number;
    region->Prcb.SetMember = 1ull << Number;
    region->Prcb.RspBase = StackTop;
    region->Prcb.MxCsr = 0x1F80;
    region->Prcb.Context = KiProcessorContexts[Number];
    KiProcessorBlock[Number] = &region->Prcb;
    InitializeListHead(&region->Prcb.DpcListHead);
}

VOID KiInitializeProcessor(ULONG Number, ULONG_PTR StackTop)
{
    KiInitializeGdt(Number);
    KiInitializeControlRegion(Number, StackTop);
    KiInitializeIdt(Number);
    KiLoadTables(Number);
    HalpWrmsr(MSR_GS_BASE, (ULONG64)&KiProcessorControlRegions[Number]);
    HalpWrmsr(MSR_KERNEL_GS_BASE, 0);
    HalpWrmsr(MSR_STAR, ((ULONG64)(0x20 | 3) << 48) | ((ULONG64)KI_KERNEL_CS << 32));
    HalpWrmsr(MSR_LSTAR, (ULONG64)KiSystemCall64);
    HalpWrmsr(MSR_FMASK, 0x4700);
}
