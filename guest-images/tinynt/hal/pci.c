/*
 * pci.c - PCI configuration space by the CF8h/CFCh ports, and the Hal bus data routines over it.
 */
#include "hal.h"
#include "ki.h"

#define PCI_CONFIG_ADDRESS 0xCF8
#define PCI_CONFIG_DATA 0xCFC
#define PCI_CONFIG_ENABLE 0x80000000u
#define PCI_CONFIG_SIZE 256u
#define PCI_STATUS_HAS_CAPABILITIES 0x10u

static ULONG_PTR HalpPciLock;

static ULONG HalpPciAddress(ULONG Bus, ULONG Slot, ULONG Offset)
{
    PCI_SLOT_NUMBER slot;

    slot.u.AsULONG = Slot;
    return PCI_CONFIG_ENABLE | (Bus & 0xFF) << 16 | (ULONG)slot.u.bits.DeviceNumber << 11 |
           (ULONG)slot.u.bits.FunctionNumber << 8 | (Offset & 0xFC);
}

ULONG HalpReadPci32(ULONG Bus, ULONG Slot, ULONG Offset)
{
    KIRQL old = KxLockRaise(&HalpPciLock);
    ULONG value;

    HalpOut32(PCI_CONFIG_ADDRESS, HalpPciAddress(Bus, Slot, Offset));
    value = HalpIn32(PCI_CONFIG_DATA);
    KxUnlockLower(&HalpPciLock, old);
    return value;
}

VOID HalpWritePci32(ULONG Bus, ULONG Slot, ULONG Offset, ULONG Value)
{
    KIRQL old = KxLockRaise(&HalpPciLock);

    HalpOut32(PCI_CONFIG_ADDRESS, HalpPciAddress(Bus, Slot, Offset));
    HalpOut32(PCI_CONFIG_DATA, Value);
    KxUnlockLower(&HalpPciLock, old);
}

ULONG HalpFindPciCapability(ULONG Bus, ULONG Slot, UCHAR Id)
{
    ULONG offset;

    if (!(HalpReadPci32(Bus, Slot, 4) >> 16 & PCI_STATUS_HAS_CAPABILITIES))
        return 0;
    offset = HalpReadPci32(Bus, Slot, 0x34) & 0xFC;
    for (ULONG i = 0; offset >= 0x40 && i < 48; i++) { /* 48 capabilities fit at most */
        ULONG header = HalpReadPci32(Bus, Slot, offset);
        if ((header & 0xFF) == Id)
            return offset;
        offset = header >> 8 & 0xFC;
    }
    return 0;
}

/* Returns the bytes read; 2 bytes of FFFFh for an empty slot, as documented. */
ULONG HalGetBusDataByOffset(BUS_DATA_TYPE BusDataType, ULONG BusNumber, ULONG SlotNumber, PVOID Buffer, ULONG Offset,
                            ULONG Length)
{
    PUCHAR out = Buffer;
    ULONG value = 0;

    if (BusDataType != PCIConfiguration || Offset >= PCI_CONFIG_SIZE || Length == 0)
        return 0;
    if ((HalpReadPci32(BusNumber, SlotNumber, 0) & 0xFFFF) == 0xFFFF) {
        out[0] = 0xFF;
        if (Length > 1)
            out[1] = 0xFF;
        return 2;
    }
    if (Length > PCI_CONFIG_SIZE - Offset)
        Length = PCI_CONFIG_SIZE - Offset;
    for (ULONG i = 0; i < Length; i++) {
        ULONG at = Offset + i;
        if (i == 0 || at % 4 == 0)
            value = HalpReadPci32(BusNumber, SlotNumber, at & ~3u);
        out[i] = (UCHAR)(value >> 8 * (at % 4));
    }
    return Length;
}

/* A byte or word is written alone: neighbours in the dword may be write-1-to-clear status bits. */
static VOID HalpWritePciBytes(ULONG Bus, ULONG Slot, ULONG Offset, const UCHAR *Bytes, ULONG Length)
{
    KIRQL old = KxLockRaise(&HalpPciLock);

    HalpOut32(PCI_CONFIG_ADDRESS, HalpPciAddress(Bus, Slot, Offset));
    if (Length == 4)
        HalpOut32(PCI_CONFIG_DATA, *(const ULONG UNALIGNED *)Bytes);
    else if (Length == 2)
        HalpOut16((USHORT)(PCI_CONFIG_DATA + Offset % 4), *(const USHORT UNALIGNED *)Bytes);
    else
        HalpOut8((USHORT)(PCI_CONFIG_DATA + Offset % 4), *Bytes);
    KxUnlockLower(&HalpPciLock, old);
}

ULONG HalSetBusDataByOffset(BUS_DATA_TYPE BusDataType, ULONG BusNumber, ULONG SlotNumber, PVOID Buffer, ULONG Offset,
                            ULONG Length)
{
    const UCHAR *in = Buffer;
    ULONG done = 0;

    if (BusDataType != PCIConfiguration || Offset >= PCI_CONFIG_SIZE)
        return 0;
    if (Length > PCI_CONFIG_SIZE - Offset)
        Length = PCI_CONFIG_SIZE - Offset;
    while (done < Length) {
        ULONG at = Offset + done;
        ULONG left = Length - done;
        ULONG step = at % 4 == 0 && left >= 4 ? 4 : (at % 2 == 0 && left >= 2 ? 2 : 1);
        HalpWritePciBytes(BusNumber, SlotNumber, at, in + done, step);
        done += step;
    }
    return done;
}
