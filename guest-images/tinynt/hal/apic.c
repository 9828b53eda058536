/*
 * apic.c - the local APIC as x2APIC: model-specific registers (Intel SDM vol. 3, 11.12).
 *
 * The memory-mapped form would make a hypervisor decode an instruction at every end of interrupt.
 */
#include "hal.h"
#include "ki.h"

#define MSR_APIC_BASE 0x1B
#define APIC_BASE_X2APIC 0x400
#define APIC_BASE_ENABLE 0x800

#define MSR_X2APIC_ID 0x802
#define MSR_X2APIC_SPURIOUS 0x80F
#define MSR_X2APIC_ICR 0x830
#define MSR_X2APIC_LVT_TIMER 0x832
#define MSR_X2APIC_LVT_LINT0 0x835
#define MSR_X2APIC_LVT_LINT1 0x836
#define MSR_X2APIC_LVT_ERROR 0x837
#define MSR_X2APIC_TIMER_INITIAL 0x838
#define MSR_X2APIC_TIMER_CURRENT 0x839
#define MSR_X2APIC_TIMER_DIVIDE 0x83E
#define MSR_X2APIC_SELF_IPI 0x83F

#define APIC_MASKED 0x10000u
#define APIC_TIMER_PERIODIC 0x20000u
#define APIC_DIVIDE_BY_1 0xBu
#define APIC_ICR_ASSERT 0x4000u
#define APIC_ICR_OTHERS 0xC0000u

ULONG HalpEnableLocalApic(VOID)
{
    HalpWrmsr(MSR_APIC_BASE, HalpRdmsr(MSR_APIC_BASE) | APIC_BASE_ENABLE | APIC_BASE_X2APIC);
    HalpWrmsr(MSR_X2APIC_SPURIOUS, 0x100 | KI_SPURIOUS_VECTOR);
    HalpWrmsr(MSR_X2APIC_LVT_LINT0, APIC_MASKED);
    HalpWrmsr(MSR_X2APIC_LVT_LINT1, APIC_MASKED);
    HalpWrmsr(MSR_X2APIC_LVT_ERROR, APIC_MASKED);
    HalpWrmsr(MSR_X2APIC_LVT_TIMER, APIC_MASKED);
    return (ULONG)HalpRdmsr(MSR_X2APIC_ID);
}

/* What was stored before is to be seen by whoever is interrupted; a write of an x2APIC register does not see to that.
 */
static VOID HalpWriteIpi(ULONG Msr, ULONG64 Value)
{
    __sync_synchronize();
    HalpWrmsr(Msr, Value);
}

VOID HalpSendIpi(ULONG ApicId, UCHAR Vector)
{
    HalpWriteIpi(MSR_X2APIC_ICR, (ULONG64)ApicId << 32 | APIC_ICR_ASSERT | Vector);
}

VOID HalpSendSelfIpi(UCHAR Vector)
{
    HalpWriteIpi(MSR_X2APIC_SELF_IPI, Vector);
}

VOID HalpSendIpiToOthers(UCHAR Vector)
{
    HalpWriteIpi(MSR_X2APIC_ICR, APIC_ICR_OTHERS | APIC_ICR_ASSERT | Vector);
}

/* Vector 0: counts once without an interrupt, for measuring. */
VOID HalpStartApicTimer(UCHAR Vector, ULONG InitialCount)
{
    HalpWrmsr(MSR_X2APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
    HalpWrmsr(MSR_X2APIC_LVT_TIMER, Vector ? APIC_TIMER_PERIODIC | Vector : APIC_MASKED);
    HalpWrmsr(MSR_X2APIC_TIMER_INITIAL, InitialCount);
}

ULONG HalpReadApicTimer(VOID)
{
    return (ULONG)HalpRdmsr(MSR_X2APIC_TIMER_CURRENT);
}
