/*
 * msix.c - the MSI-X capability of a PCI function (PCI Local Bus Specification 3.0, 6.8.2).
 */
#include "hal.h"
#include "io_internal.h"

#define MSIX_ENABLE 0x80000000u
#define MSIX_FUNCTION_MASK 0x40000000u
#define PCI_COMMAND_REGISTER 4
#define PCI_COMMAND_MEMORY_AND_MASTER 0x6u

ULONG IopMsixTableSize(PDO_EXTENSION *Pdo)
{
    ULONG capability = Pdo->IsPci ? HalpFindPciCapability(Pdo->Bus, Pdo->Slot, HALP_PCI_MSIX_CAPABILITY) : 0;

    return capability ? (HalpReadPci32(Pdo->Bus, Pdo->Slot, capability) >> 16 & 0x7FF) + 1 : 0;
}

volatile ULONG *IopMapMsixTable(PDO_EXTENSION *Pdo)
{
    ULONG capability = HalpFindPciCapability(Pdo->Bus, Pdo->Slot, HALP_PCI_MSIX_CAPABILITY);
    ULONG place = HalpReadPci32(Pdo->Bus, Pdo->Slot, capability + 4);
    ULONG command = HalpReadPci32(Pdo->Bus, Pdo->Slot, PCI_COMMAND_REGISTER);
    PHYSICAL_ADDRESS address;
    ULONG64 base, length;
    BOOLEAN io;

    if (!PnpQueryBar(Pdo, place & 7, &base, &length, &io) || io)
        return NULL;
    HalpWritePci32(Pdo->Bus, Pdo->Slot, PCI_COMMAND_REGISTER, (command & 0xFFFF) | PCI_COMMAND_MEMORY_AND_MASTER);
    address.QuadPart = (LONG64)(base + (place & ~7u));
    return MmMapIoSpace(address, (SIZE_T)IopMsixTableSize(Pdo) * 16, MmNonCached);
}

VOID IopEnableMsix(PDO_EXTENSION *Pdo, BOOLEAN Enable)
{
    ULONG capability = HalpFindPciCapability(Pdo->Bus, Pdo->Slot, HALP_PCI_MSIX_CAPABILITY);
    ULONG control = HalpReadPci32(Pdo->Bus, Pdo->Slot, capability) & ~(MSIX_ENABLE | MSIX_FUNCTION_MASK);

    HalpWritePci32(Pdo->Bus, Pdo->Slot, capability, control | (Enable ? MSIX_ENABLE : 0));
}
