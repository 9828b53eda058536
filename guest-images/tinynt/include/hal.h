/*
 * hal.h - the machine: local APIC, I/O APIC, serial port, PCI configuration, power.
 */
#ifndef TINYNT_HAL_H
#define TINYNT_HAL_H

#include "nt.h"

static inline void HalpOut8(USHORT Port, UCHAR Value)
{
    __asm__ volatile("outb %0, %1" : : "a"(Value), "Nd"(Port));
}

static inline UCHAR HalpIn8(USHORT Port)
{
    UCHAR value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(Port));
    return value;
}

static inline void HalpOut16(USHORT Port, USHORT Value)
{
    __asm__ volatile("outw %0, %1" : : "a"(Value), "Nd"(Port));
}

static inline void HalpOut32(USHORT Port, ULONG Value)
{
    __asm__ volatile("outl %0, %1" : : "a"(Value), "Nd"(Port));
}

static inline ULONG HalpIn32(USHORT Port)
{
    ULONG value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(Port));
    return value;
}

static inline ULONG64 HalpRdtsc(void)
{
    ULONG low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return ((ULONG64)high << 32) | low;
}

static inline void HalpWrmsr(ULONG Msr, ULONG64 Value)
{
    __asm__ volatile("wrmsr" : : "c"(Msr), "a"((ULONG)Value), "d"((ULONG)(Value >> 32)) : "memory");
}

static inline ULONG64 HalpRdmsr(ULONG Msr)
{
    ULONG low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(Msr));
    return ((ULONG64)high << 32) | low;
}

/* apic.c */
#define MSR_X2APIC_EOI 0x80B
ULONG HalpEnableLocalApic(VOID); /* returns the APIC ID */
VOID HalpSendIpi(ULONG ApicId, UCHAR Vector);
VOID HalpSendSelfIpi(UCHAR Vector);
VOID HalpSendIpiToOthers(UCHAR Vector);
VOID HalpStartApicTimer(UCHAR Vector, ULONG InitialCount);
ULONG HalpReadApicTimer(VOID);

static inline void HalpEndOfInterrupt(void)
{
    HalpWrmsr(MSR_X2APIC_EOI, 0);
}

/* ioapic.c */
VOID HalpRouteIoApicPin(ULONG Pin, UCHAR Vector, ULONG ApicId, BOOLEAN Level, BOOLEAN ActiveLow);
VOID HalpMaskIoApicPin(ULONG Pin);

/* serial.c */
VOID HalpInitializeSerial(VOID);
VOID HalpWriteSerial(const char *Text, SIZE_T Length); /* any IRQL; whole strings do not mix */

/* pci.c */
#define HALP_PCI_MSI_CAPABILITY 0x05
#define HALP_PCI_MSIX_CAPABILITY 0x11
ULONG HalpReadPci32(ULONG Bus, ULONG Slot, ULONG Offset); /* Slot is a PCI_SLOT_NUMBER; Offset a multiple of 4 */
VOID HalpWritePci32(ULONG Bus, ULONG Slot, ULONG Offset, ULONG Value);
ULONG HalpFindPciCapability(ULONG Bus, ULONG Slot, UCHAR Id); /* configuration offset, 0 = none */

/* power.c */
DECLSPEC_NORETURN VOID HalpPowerOff(VOID);
DECLSPEC_NORETURN VOID HalpReset(VOID);

#endif
