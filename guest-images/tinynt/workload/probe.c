/*
 * Commands that a class driver sends to every disk and can do without: what the unit says of itself, and whether it is
 * ready. Each must complete; a unit may refuse it.
 */
#include "workload.h"

#define PROBE_BYTES 252

typedef struct _WORKLOAD_PROBE {
    const char *Name;
    UCHAR CdbLength;
    UCHAR Bytes; /* to read */
    UCHAR Cdb[10];
} WORKLOAD_PROBE;

static const WORKLOAD_PROBE Probes[] = {
    {"INQUIRY", 6, 36, {SCSIOP_INQUIRY, 0, 0, 0, 36}},
    {"VPD 00", 6, PROBE_BYTES, {SCSIOP_INQUIRY, 1, 0x00, 0, PROBE_BYTES}},
    {"VPD 80", 6, PROBE_BYTES, {SCSIOP_INQUIRY, 1, 0x80, 0, PROBE_BYTES}},
    {"VPD 83", 6, PROBE_BYTES, {SCSIOP_INQUIRY, 1, 0x83, 0, PROBE_BYTES}},
    {"VPD B1", 6, PROBE_BYTES, {SCSIOP_INQUIRY, 1, 0xb1, 0, PROBE_BYTES}},
    {"TEST UNIT READY", 6, 0, {SCSIOP_TEST_UNIT_READY}},
    {"MODE SENSE(6)", 6, 192, {SCSIOP_MODE_SENSE, 0, 0x3f, 0, 192}},
    {"MODE SENSE(10)", 10, 192, {SCSIOP_MODE_SENSE10, 0, 0x08, 0, 0, 0, 0, 0, 192}},
};

static BOOLEAN Answers(PWORKLOAD_COMMAND Command, const WORKLOAD_PROBE *Probe, PVOID Buffer)
{
    UCHAR Status;

    CommandPrepare(Command, SRB_FUNCTION_EXECUTE_SCSI, Probe->Bytes != 0 ? Buffer : NULL, Probe->Bytes, FALSE);
    RtlCopyMemory(Command->Srb.Cdb, Probe->Cdb, sizeof(Probe->Cdb));
    Command->Srb.CdbLength = Probe->CdbLength;
    Status = CommandSendAndWait(Command);
    return Status == SRB_STATUS_SUCCESS || Status == SRB_STATUS_DATA_OVERRUN;
}

VOID ProbeRun(PWORKLOAD_DISK Disk)
{
    PUCHAR Buffer = ExAllocatePoolWithTag(NonPagedPool, BLOCK_SIZE, WORKLOAD_TAG);
    WORKLOAD_COMMAND Command;

    if (Buffer == NULL || !CommandInitialize(&Command, Disk)) {
        return;
    }
    for (ULONG Index = 0; Index < RTL_NUMBER_OF(Probes); Index++) {
        if (!Answers(&Command, &Probes[Index], Buffer)) {
            DbgPrint("workload: %s is refused with SRB status 0x%x\n", Probes[Index].Name, Command.Srb.SrbStatus);
        }
    }
    CommandFree(&Command);
    ExFreePoolWithTag(Buffer, WORKLOAD_TAG);
}
