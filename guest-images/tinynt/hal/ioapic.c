/*
 * ioapic.c - the I/O APIC's redirection entries (Intel 82093AA).
 */
#include "hal.h"
#include "ki.h"
#include "mi.h"

#define IO_APIC_ADDRESS 0xFEC00000ull
#define IO_APIC_SELECT 0
#define IO_APIC_WINDOW (0x10 / 4)
#define IO_APIC_REDIRECTION 0x10
#define IO_APIC_MASKED 0x10000u
#define IO_APIC_LEVEL 0x8000u
#define IO_APIC_ACTIVE_LOW 0x2000u

static ULONG_PTR HalpIoApicLock;
static volatile ULONG *HalpIoApic;

static VOID HalpWriteIoApic(ULONG Register, ULONG Value)
{
    HalpIoApic[IO_APIC_SELECT] = Register;
    HalpIoApic[IO_APIC_WINDOW] = Value;
}

static VOID HalpSetEntry(ULONG Pin, ULONG High, ULONG Low)
{
    KIRQL old = KxLockRaise(&HalpIoApicLock);

    if (!HalpIoApic) {
        MiMapPage(MI_IO_REGION - 2 * PAGE_SIZE, IO_APIC_ADDRESS,
                  MI_PTE_WRITE | MI_PTE_CACHE_DISABLE | MI_PTE_WRITE_THROUGH | MI_PTE_NX);
        HalpIoApic = (volatile ULONG *)(MI_IO_REGION - 2 * PAGE_SIZE);
    }
    HalpWriteIoApic(IO_APIC_REDIRECTION + 2 * Pin, IO_APIC_MASKED);
    HalpWriteIoApic(IO_APIC_REDIRECTION + 2 * Pin + 1, High);
    HalpWriteIoApic(IO_APIC_REDIRECTION + 2 * Pin, Low);
    KxUnlockLower(&HalpIoApicLock, old);
}

VOID HalpRouteIoApicPin(ULONG Pin, UCHAR Vector, ULONG ApicId, BOOLEAN Level, BOOLEAN ActiveLow)
{
    HalpSetEntry(Pin, ApicId << 24, Vector | (Level ? IO_APIC_LEVEL : 0) | (ActiveLow ? IO_APIC_ACTIVE_LOW : 0));
}

VOID HalpMaskIoApicPin(ULONG Pin)
{
    HalpSetEntry(Pin, 0, IO_APIC_MASKED);
}
