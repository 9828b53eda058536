/*
 * apic.c - the local APIC in its memory-mapped form (Intel SDM vol. 3, chapter 11).
 */
#include "hal.h"
#include "ki.h"
#include "mi.h"
#include "ipi.h"

#define MSR_APIC_BASE 0x1B
#define APIC_BASE_X2APIC 0x400
#define APIC_BASE_ENABLE 0x800
#define LOCAL_APIC_ADDRESS 0xFEE00000ull

#define APIC_ID (0x20 / 4)
#define APIC_SPURIOUS (0xF0 / 4)
#define APIC_ICR_LOW (0x300 / 4)
#define APIC_ICR_HIGH (0x310 / 4)
#define APIC_LVT_TIMER (0x320 / 4)
#define APIC_LVT_LINT0 (0x350 / 4)
#define APIC_LVT_LINT1 (0x360 / 4)
#define APIC_LVT_ERROR (0x370 / 4)
#define APIC_TIMER_INITIAL (0x380 / 4)
#define APIC_TIMER_DIVIDE (0x3E0 / 4)

#define APIC_MASKED 0x10000u
#define APIC_TIMER_PERIODIC 0x20000u
#define APIC_DIVIDE_BY_1 0xBu
#define APIC_ICR_ASSERT 0x4000u
#define APIC_ICR_PENDING 0x1000u
#define APIC_ICR_SELF 0x40000u
#define APIC_ICR_OTHERS 0xC0000u

volatile ULONG *HalpLocalApic;

VOID HalpMapApics(VOID)
{
    MiMapPage(MI_IO_REGION - PAGE_SIZE, LOCAL_APIC_ADDRESS,
              MI_PTE_WRITE | MI_PTE_CACHE_DISABLE | MI_PTE_WRITE_THROUGH | MI_PTE_NX);
    HalpLocalApic = (volatile ULONG *)(MI_IO_REGION - PAGE_SIZE);
    KiInitializeIpi();
}

ULONG HalpEnableLocalApic(VOID)
{
    ULONG64 base = HalpRdmsr(MSR_APIC_BASE);

    if ((base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) != APIC_BASE_ENABLE)
        HalpWrmsr(MSR_APIC_BASE, (base | APIC_BASE_ENABLE) & ~(ULONG64)APIC_BASE_X2APIC);
    HalpLocalApic[APIC_SPURIOUS] = 0x100 | KI_SPURIOUS_VECTOR;
    HalpLocalApic[APIC_LVT_LINT0] = APIC_MASKED;
    HalpLocalApic[APIC_LVT_LINT1] = APIC_MASKED;
    HalpLocalApic[APIC_LVT_ERROR] = APIC_MASKED;
    HalpLocalApic[APIC_LVT_TIMER] = APIC_MASKED;
    return HalpLocalApic[APIC_ID] >> 24;
}

static VOID HalpWriteIcr(ULONG High, ULONG Low)
{
    BOOLEAN enabled = KiDisableSave();

    while (HalpLocalApic[APIC_ICR_LOW] & APIC_ICR_PENDING)
        __asm__ volatile("pause");
    if (!(Low & APIC_ICR_OTHERS))
        HalpLocalApic[APIC_ICR_HIGH] = High;
    HalpLocalApic[APIC_ICR_LOW] = Low;
    KiRestore(enabled);
}

VOID HalpSendIpi(ULONG ApicId, UCHAR Vector)
{
    HalpWriteIcr(ApicId << 24, APIC_ICR_ASSERT | Vector);
}

VOID HalpSendSelfIpi(UCHAR Vector)
{
    HalpWriteIcr(0, APIC_ICR_SELF | APIC_ICR_ASSERT | Vector);
}

VOID HalpSendIpiToOthers(UCHAR Vector)
{
    HalpWriteIcr(0, APIC_ICR_OTHERS | APIC_ICR_ASSERT | Vector);
}

/* Vector 0: counts once without an interrupt, for measuring. */
VOID HalpStartApicTimer(UCHAR Vector, ULONG InitialCount)
{
    HalpLocalApic[APIC_TIMER_DIVIDE] = APIC_DIVIDE_BY_1;
    HalpLocalApic[APIC_LVT_TIMER] = Vector ? APIC_TIMER_PERIODIC | Vector : APIC_MASKED;
    HalpLocalApic[APIC_TIMER_INITIAL] = InitialCount;
}
