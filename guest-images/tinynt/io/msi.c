/*
 * msi.c - the MSI capability of a PCI function (PCI Local Bus Specification 3.0, 6.8.1).
 */
#include "hal.h"
#include "io_internal.h"

#define MSI_ENABLE 0x10000u
#define MSI_CAPABLE_SHIFT 17
#define MSI_ALLOCATED_SHIFT 20
#define MSI_ADDRESS_64 0x800000u
/* More would need vectors of more than one IRQL. */
#define MSI_MAXIMUM_MESSAGES 16
#define PCI_COMMAND_REGISTER 4
#define PCI_COMMAND_MASTER 0x4u

static ULONG IopFindMsi(PDO_EXTENSION *Pdo)
{
    return Pdo->IsPci ? HalpFindPciCapability(Pdo->Bus, Pdo->Slot, HALP_PCI_MSI_CAPABILITY) : 0;
}

/* Messages that the function asks for and can be given, a power of two; 0: it has no MSI. */
ULONG IopMsiMessages(PDO_EXTENSION *Pdo)
{
    ULONG capability = IopFindMsi(Pdo), count;

    if (!capability)
        return 0;
    count = 1u << (HalpReadPci32(Pdo->Bus, Pdo->Slot, capability) >> MSI_CAPABLE_SHIFT & 7);
    return count < MSI_MAXIMUM_MESSAGES ? count : MSI_MAXIMUM_MESSAGES;
}

VOID IopEnableMsi(PDO_EXTENSION *Pdo, ULONG64 Address, ULONG Data, ULONG Count)
{
    ULONG capability = IopFindMsi(Pdo), control, command;

    control = HalpReadPci32(Pdo->Bus, Pdo->Slot, capability) & ~(MSI_ENABLE | 7u << MSI_ALLOCATED_SHIFT);
    HalpWritePci32(Pdo->Bus, Pdo->Slot, capability + 4, (ULONG)Address);
    if (control & MSI_ADDRESS_64)
        HalpWritePci32(Pdo->Bus, Pdo->Slot, capability + 8, (ULONG)(Address >> 32));
    HalpWritePci32(Pdo->Bus, Pdo->Slot, capability + (control & MSI_ADDRESS_64 ? 12 : 8), Data);
    command = HalpReadPci32(Pdo->Bus, Pdo->Slot, PCI_COMMAND_REGISTER) & 0xFFFF;
    HalpWritePci32(Pdo->Bus, Pdo->Slot, PCI_COMMAND_REGISTER, command | PCI_COMMAND_MASTER);
    control |= (ULONG)__builtin_ctz(Count) << MSI_ALLOCATED_SHIFT;
    HalpWritePci32(Pdo->Bus, Pdo->Slot, capability, control | MSI_ENABLE);
}

VOID IopDisableMsi(PDO_EXTENSION *Pdo)
{
    ULONG capability = IopFindMsi(Pdo);

    HalpWritePci32(Pdo->Bus, Pdo->Slot, capability, HalpReadPci32(Pdo->Bus, Pdo->Slot, capability) & ~MSI_ENABLE);
}
