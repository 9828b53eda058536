/*
 * kddata.c - KdDebuggerDataBlock, the table by which kernel debuggers find what is not exported.
 *
 * It is as Windows has it where it was started with kernel debugging on: plain, in the kernel's data, not exported.
 * Layout: KDDEBUGGER_DATA64 of wdbgexts.h. What this kernel does not have is 0.
 */
#include "foreign.h"
#include "ki.h"

#define KD_OWNER_TAG 0x4742444B /* "KDBG" */
#define KD_LEAST_SIZE 0x318     /* Windows Server 2003 */

typedef struct _KDDEBUGGER_DATA64 {
    LIST_ENTRY List;
    ULONG OwnerTag;
    ULONG Size;
    PVOID KernBase;
    ULONG64 Reserved1[5];
    PVOID PsLoadedModuleList;
    ULONG64 Reserved2[7];
    PVOID KiBugcheckData;
    ULONG64 Reserved3[49];
    PVOID KiProcessorBlock;
    ULONG64 Reserved4[15];
    USHORT Reserved5[12];
    USHORT SizePrcb;
    USHORT Reserved6;
    USHORT OffsetPrcbCurrentThread;
    USHORT Reserved7[4];
    USHORT OffsetPrcbNumber;
    USHORT Reserved8[4];
    ULONG64 Reserved9[3];
    USHORT SizePcr;
    USHORT OffsetPcrSelfPcr;
    USHORT OffsetPcrCurrentPrcb;
    USHORT OffsetPcrContainedPrcb;
    USHORT Reserved10[16];
    ULONG64 Reserved11[6];
    USHORT OffsetPrcbContext;
    USHORT Reserved12[3];
    ULONG64 Reserved13[24]; /* what later kernels have appended */
} KDDEBUGGER_DATA64;

_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, OwnerTag) == 0x10, "OwnerTag");
_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, PsLoadedModuleList) == 0x48, "PsLoadedModuleList");
_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, KiBugcheckData) == 0x88, "KiBugcheckData");
_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, KiProcessorBlock) == 0x218, "KiProcessorBlock");
_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, SizePrcb) == 0x2B0, "SizePrcb");
_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, OffsetPrcbNumber) == 0x2BE, "OffsetPrcbNumber");
_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, SizePcr) == 0x2E0, "SizePcr");
_Static_assert(FIELD_OFFSET(KDDEBUGGER_DATA64, OffsetPrcbContext) == 0x338, "OffsetPrcbContext");

extern UCHAR __ImageBase[];
extern LIST_ENTRY PsLoadedModuleList;
extern ULONG64 KiBugCheckData[5];

static LIST_ENTRY KdpDebuggerDataListHead;

__attribute__((used)) KDDEBUGGER_DATA64 KdDebuggerDataBlock = {
    .List = {&KdpDebuggerDataListHead, &KdpDebuggerDataListHead},
    .OwnerTag = KD_OWNER_TAG,
    .Size = FIELD_OFFSET(KDDEBUGGER_DATA64, Reserved13),
    .KernBase = __ImageBase,
    .PsLoadedModuleList = &PsLoadedModuleList,
    .KiBugcheckData = KiBugCheckData,
    .KiProcessorBlock = KiProcessorBlock,
    .SizePrcb = sizeof(KPRCB),
    .OffsetPrcbCurrentThread = FIELD_OFFSET(KPRCB, CurrentThread),
    .OffsetPrcbNumber = FIELD_OFFSET(KPRCB, Number),
    .SizePcr = sizeof(KPCR),
    .OffsetPcrSelfPcr = FIELD_OFFSET(KPCR, Self),
    .OffsetPcrCurrentPrcb = FIELD_OFFSET(KPCR, CurrentPrcb),
    .OffsetPcrContainedPrcb = FIELD_OFFSET(KIPCR, Prcb),
    .OffsetPrcbContext = FIELD_OFFSET(KPRCB, Context),
};

static LIST_ENTRY KdpDebuggerDataListHead = {&KdDebuggerDataBlock.List, &KdDebuggerDataBlock.List};

/* Another kernel's size, another module list; or no block at all. Fields behind the size are not there. */
VOID KdChangeDebuggerData(ULONG Size, PVOID ModuleList, BOOLEAN Present)
{
    KDDEBUGGER_DATA64 *data = &KdDebuggerDataBlock;

    data->OwnerTag = Present ? KD_OWNER_TAG : 0;
    data->PsLoadedModuleList = ModuleList;
    if (Size < KD_LEAST_SIZE || Size > sizeof(*data))
        return;
    data->Size = Size;
    if (Size < FIELD_OFFSET(KDDEBUGGER_DATA64, OffsetPrcbContext) + sizeof(USHORT))
        data->OffsetPrcbContext = 0;
}
