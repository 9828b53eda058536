/* Device registers, common buffers and addresses: what a miniport needs to program its adapter. */
#include "raid.h"

PVOID NTAPI StorPortGetDeviceBase(PVOID HwDeviceExtension, INTERFACE_TYPE BusType, ULONG SystemIoBusNumber,
                                  SCSI_PHYSICAL_ADDRESS IoAddress, ULONG NumberOfBytes, BOOLEAN InIoSpace)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);

    UNREFERENCED_PARAMETER(BusType);
    UNREFERENCED_PARAMETER(SystemIoBusNumber);
    for (ULONG Index = 0; Index < RAID_MAX_MAPPINGS; Index++) {
        RAID_MAPPING *Mapping = &Adapter->Mappings[Index];

        if (Mapping->Virtual != NULL) {
            continue;
        }
        Mapping->Mapped = !InIoSpace;
        Mapping->Length = NumberOfBytes;
        Mapping->Virtual =
            InIoSpace ? (PVOID)(ULONG_PTR)IoAddress.QuadPart : MmMapIoSpace(IoAddress, NumberOfBytes, MmNonCached);
        return Mapping->Virtual;
    }
    return NULL;
}

VOID NTAPI StorPortFreeDeviceBase(PVOID HwDeviceExtension, PVOID MappedAddress)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);

    for (ULONG Index = 0; Index < RAID_MAX_MAPPINGS; Index++) {
        RAID_MAPPING *Mapping = &Adapter->Mappings[Index];

        if (Mapping->Virtual == MappedAddress && MappedAddress != NULL) {
            if (Mapping->Mapped) {
                MmUnmapIoSpace(Mapping->Virtual, Mapping->Length);
            }
            Mapping->Virtual = NULL;
            return;
        }
    }
}

PVOID NTAPI StorPortGetUncachedExtension(PVOID HwDeviceExtension, PPORT_CONFIGURATION_INFORMATION ConfigInfo,
                                         ULONG NumberOfBytes)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);
    PHYSICAL_ADDRESS Lowest = {.QuadPart = 0};
    PHYSICAL_ADDRESS Highest = {
        .QuadPart = ConfigInfo->Dma64BitAddresses & SCSI_DMA64_MINIPORT_SUPPORTED ? -1LL : 0xffffffffLL};
    PHYSICAL_ADDRESS Boundary = {.QuadPart = 0};

    if (Adapter->Uncached != NULL) {
        return NumberOfBytes <= Adapter->UncachedLength ? Adapter->Uncached : NULL;
    }
    Adapter->Uncached = MmAllocateContiguousMemorySpecifyCache(NumberOfBytes, Lowest, Highest, Boundary, MmCached);
    if (Adapter->Uncached != NULL) {
        Adapter->UncachedLength = NumberOfBytes;
        RtlZeroMemory(Adapter->Uncached, NumberOfBytes);
    }
    return Adapter->Uncached;
}

/* One element for each run of pages that are neighbours in physical memory; the list has room for one a page. */
VOID RaidFillScatterGather(PSTOR_SCATTER_GATHER_LIST List, PVOID Buffer, ULONG Length)
{
    PUCHAR Address = Buffer;
    ULONG Count = 0;

    while (Length != 0) {
        ULONG Piece = PAGE_SIZE - BYTE_OFFSET(Address);
        PHYSICAL_ADDRESS Physical = MmGetPhysicalAddress(Address);

        if (Piece > Length) {
            Piece = Length;
        }
        if (Count != 0 &&
            List->List[Count - 1].PhysicalAddress.QuadPart + List->List[Count - 1].Length == Physical.QuadPart) {
            List->List[Count - 1].Length += Piece;
        } else {
            List->List[Count].PhysicalAddress = Physical;
            List->List[Count].Length = Piece;
            List->List[Count].Reserved = 0;
            Count++;
        }
        Address += Piece;
        Length -= Piece;
    }
    List->NumberOfElements = Count;
    List->Reserved = 0;
}

/* Length: bytes from the address on that are contiguous in physical memory. */
STOR_PHYSICAL_ADDRESS NTAPI StorPortGetPhysicalAddress(PVOID HwDeviceExtension, PSCSI_REQUEST_BLOCK Srb,
                                                       PVOID VirtualAddress, ULONG *Length)
{
    PRAID_ADAPTER Adapter = RaidAdapterOf(HwDeviceExtension);
    PRAID_REQUEST Request = RaidRequestOf(Srb);
    PUCHAR Uncached = Adapter->Uncached;
    PUCHAR Extension = Request != NULL ? Request->SrbExtension : NULL;
    PUCHAR Address = VirtualAddress;

    *Length = PAGE_SIZE - BYTE_OFFSET(Address);
    if (Uncached != NULL && Address >= Uncached && Address < Uncached + Adapter->UncachedLength) {
        *Length = (ULONG)(Uncached + Adapter->UncachedLength - Address);
    } else if (Extension != NULL && Address >= Extension && Address < Extension + Adapter->Config.SrbExtensionSize) {
        *Length = (ULONG)(Extension + Adapter->Config.SrbExtensionSize - Address); /* pool blocks are contiguous */
    }
    return MmGetPhysicalAddress(VirtualAddress);
}

PVOID NTAPI StorPortGetVirtualAddress(PVOID HwDeviceExtension, STOR_PHYSICAL_ADDRESS PhysicalAddress)
{
    UNREFERENCED_PARAMETER(HwDeviceExtension);
    return MmGetVirtualForPhysical(PhysicalAddress);
}

PSTOR_SCATTER_GATHER_LIST NTAPI StorPortGetScatterGatherList(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb)
{
    PRAID_REQUEST Request = RaidRequestOf(Srb);

    UNREFERENCED_PARAMETER(DeviceExtension);
    return Request != NULL ? Request->ScatterGather : NULL;
}

/* The two that are older than 64-bit addresses. */
STOR_PHYSICAL_ADDRESS NTAPI StorPortConvertUlongToPhysicalAddress(ULONG_PTR UlongAddress)
{
    STOR_PHYSICAL_ADDRESS Address = {.QuadPart = (LONGLONG)UlongAddress};

    return Address;
}

ULONG NTAPI StorPortConvertPhysicalAddressToUlong(STOR_PHYSICAL_ADDRESS Address)
{
    return Address.u.LowPart;
}

STOR_PHYSICAL_ADDRESS NTAPI StorPortConvertUlong64ToPhysicalAddress(ULONG64 UlongAddress)
{
    STOR_PHYSICAL_ADDRESS Address = {.QuadPart = (LONGLONG)UlongAddress};

    return Address;
}

ULONG64 NTAPI StorPortConvertPhysicalAddressToUlong64(STOR_PHYSICAL_ADDRESS Address)
{
    return (ULONG64)Address.QuadPart;
}

BOOLEAN NTAPI StorPortValidateRange(PVOID HwDeviceExtension, INTERFACE_TYPE BusType, ULONG SystemIoBusNumber,
                                    STOR_PHYSICAL_ADDRESS IoAddress, ULONG NumberOfBytes, BOOLEAN InIoSpace)
{
    UNREFERENCED_PARAMETER(HwDeviceExtension);
    UNREFERENCED_PARAMETER(BusType);
    UNREFERENCED_PARAMETER(SystemIoBusNumber);
    UNREFERENCED_PARAMETER(IoAddress);
    UNREFERENCED_PARAMETER(NumberOfBytes);
    UNREFERENCED_PARAMETER(InIoSpace);
    return TRUE;
}

VOID NTAPI StorPortMoveMemory(PVOID WriteBuffer, PVOID ReadBuffer, ULONG Length)
{
    RtlMoveMemory(WriteBuffer, ReadBuffer, Length);
}

/* The adapter's own configuration space; miniports name it by the bus data type or by the interface type. */
static BUS_DATA_TYPE BusDataTypeOf(PRAID_ADAPTER Adapter, ULONG BusDataType)
{
    return Adapter->Hw.AdapterInterfaceType == PCIBus && BusDataType == (ULONG)PCIBus ? PCIConfiguration
                                                                                      : (BUS_DATA_TYPE)BusDataType;
}

ULONG NTAPI StorPortGetBusData(PVOID DeviceExtension, ULONG BusDataType, ULONG SystemIoBusNumber, ULONG SlotNumber,
                               PVOID Buffer, ULONG Length)
{
    return HalGetBusDataByOffset(BusDataTypeOf(RaidAdapterOf(DeviceExtension), BusDataType), SystemIoBusNumber,
                                 SlotNumber, Buffer, 0, Length);
}

ULONG NTAPI StorPortSetBusDataByOffset(PVOID DeviceExtension, ULONG BusDataType, ULONG SystemIoBusNumber,
                                       ULONG SlotNumber, PVOID Buffer, ULONG Offset, ULONG Length)
{
    return HalSetBusDataByOffset(BusDataTypeOf(RaidAdapterOf(DeviceExtension), BusDataType), SystemIoBusNumber,
                                 SlotNumber, Buffer, Offset, Length);
}
