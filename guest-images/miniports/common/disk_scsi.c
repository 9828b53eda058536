/* SPC-4 and SBC-3 as far as a disk class driver uses them; see disk_scsi.h. */
#include "disk_scsi.h"

#define VPD_SUPPORTED_PAGES_ 0x00
#define VPD_SERIAL_NUMBER_ 0x80
#define VPD_DEVICE_IDENTIFICATION 0x83
#define VPD_BLOCK_LIMITS_ 0xb0
#define VPD_LOGICAL_BLOCK_PROVISIONING_ 0xb2
#define OPCODE_UNMAP 0x42
#define SENSE_FIXED_CURRENT 0x70
#define SERVICE_ACTION_READ_CAPACITY16 0x10

static ULONG Get32(const UCHAR *Bytes)
{
    return (ULONG)Bytes[0] << 24 | (ULONG)Bytes[1] << 16 | (ULONG)Bytes[2] << 8 | Bytes[3];
}

static ULONG64 Get64(const UCHAR *Bytes)
{
    return (ULONG64)Get32(Bytes) << 32 | Get32(Bytes + 4);
}

static VOID Put32(UCHAR *Bytes, ULONG Value)
{
    for (ULONG Index = 0; Index < 4; Index++) {
        Bytes[Index] = (UCHAR)(Value >> (24 - 8 * Index));
    }
}

static VOID Put64(UCHAR *Bytes, ULONG64 Value)
{
    Put32(Bytes, (ULONG)(Value >> 32));
    Put32(Bytes + 4, (ULONG)Value);
}

VOID DiskSucceed(PSCSI_REQUEST_BLOCK Srb)
{
    Srb->ScsiStatus = SCSISTAT_GOOD;
    Srb->SrbStatus = SRB_STATUS_SUCCESS;
}

VOID DiskFail(PSCSI_REQUEST_BLOCK Srb, UCHAR SenseKey, UCHAR AdditionalCode)
{
    PSENSE_DATA Sense = Srb->SenseInfoBuffer;

    Srb->ScsiStatus = SCSISTAT_CHECK_CONDITION;
    Srb->SrbStatus = SRB_STATUS_ERROR;
    Srb->DataTransferLength = 0;
    if (Sense == NULL || Srb->SenseInfoBufferLength < sizeof(*Sense) || (Srb->SrbFlags & SRB_FLAGS_DISABLE_AUTOSENSE)) {
        return;
    }
    RtlZeroMemory(Sense, sizeof(*Sense));
    Sense->ErrorCode = SENSE_FIXED_CURRENT;
    Sense->SenseKey = SenseKey;
    Sense->AdditionalSenseLength = sizeof(*Sense) - FIELD_OFFSET(SENSE_DATA, CommandSpecificInformation);
    Sense->AdditionalSenseCode = AdditionalCode;
    Srb->SrbStatus |= SRB_STATUS_AUTOSENSE_VALID;
}

static DISK_COMMAND Answer(PSCSI_REQUEST_BLOCK Srb, const UCHAR *Data, ULONG Length, ULONG AllocationLength)
{
    ULONG Copy = Length < AllocationLength ? Length : AllocationLength;

    if (Copy > Srb->DataTransferLength) {
        Copy = Srb->DataTransferLength;
    }
    RtlCopyMemory(Srb->DataBuffer, Data, Copy);
    Srb->DataTransferLength = Copy;
    DiskSucceed(Srb);
    return DiskAnswered;
}

static VOID PutPadded(UCHAR *Field, ULONG Length, const char *Text)
{
    for (ULONG Index = 0; Index < Length; Index++) {
        Field[Index] = *Text != '\0' ? (UCHAR)*Text++ : ' ';
    }
}

static DISK_COMMAND VitalProductData(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb, ULONG AllocationLength)
{
    UCHAR Data[64] = {DIRECT_ACCESS_DEVICE, Srb->Cdb[2]};

    switch (Srb->Cdb[2]) {
    case VPD_SUPPORTED_PAGES_:
        Data[3] = 5;
        Data[5] = VPD_SERIAL_NUMBER_;
        Data[6] = VPD_DEVICE_IDENTIFICATION;
        Data[7] = VPD_BLOCK_LIMITS_;
        Data[8] = VPD_LOGICAL_BLOCK_PROVISIONING_;
        return Answer(Srb, Data, 9, AllocationLength);
    case VPD_SERIAL_NUMBER_:
        Data[3] = 8;
        PutPadded(&Data[4], 8, "1");
        return Answer(Srb, Data, 12, AllocationLength);
    case VPD_DEVICE_IDENTIFICATION:
        Data[3] = 28;
        Data[4] = 2; /* ASCII */
        Data[5] = 1; /* T10 vendor identification */
        Data[7] = 24;
        PutPadded(&Data[8], 8, "STORLOCK");
        PutPadded(&Data[16], 16, Geometry->Product);
        return Answer(Srb, Data, 32, AllocationLength);
    case VPD_BLOCK_LIMITS_:
        Data[3] = 60;
        Put32(&Data[8], Geometry->MaximumTransferBlocks);
        Put32(&Data[20], 0xffffffff);
        Put32(&Data[24], MAX_UNMAP_RANGES);
        return Answer(Srb, Data, 64, AllocationLength);
    case VPD_LOGICAL_BLOCK_PROVISIONING_:
        Data[3] = 4;
        Data[5] = 0x84; /* UNMAP; unmapped blocks read as zero */
        Data[6] = 2;    /* thin */
        return Answer(Srb, Data, 8, AllocationLength);
    default:
        DiskFail(Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_INVALID_CDB);
        return DiskAnswered;
    }
}

static DISK_COMMAND Inquiry(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb)
{
    ULONG AllocationLength = (ULONG)Srb->Cdb[3] << 8 | Srb->Cdb[4];
    UCHAR Data[INQUIRYDATABUFFERSIZE] = {DIRECT_ACCESS_DEVICE, 0, 6, 2, INQUIRYDATABUFFERSIZE - 5, 0, 0, 2};

    if (Srb->Cdb[1] & 1) {
        return VitalProductData(Geometry, Srb, AllocationLength);
    }
    PutPadded(&Data[8], 8, "STORLOCK");
    PutPadded(&Data[16], 16, Geometry->Product);
    PutPadded(&Data[32], 4, "1.0");
    return Answer(Srb, Data, sizeof(Data), AllocationLength);
}

static DISK_COMMAND Capacity10(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb)
{
    UCHAR Data[8];

    Put32(&Data[0], Geometry->Blocks > 0xffffffff ? 0xffffffff : (ULONG)(Geometry->Blocks - 1));
    Put32(&Data[4], BLOCK_SIZE);
    return Answer(Srb, Data, sizeof(Data), sizeof(Data));
}

static DISK_COMMAND Capacity16(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb)
{
    UCHAR Data[32] = {0};

    Put64(&Data[0], Geometry->Blocks - 1);
    Put32(&Data[8], BLOCK_SIZE);
    Data[14] = 0xc0; /* thin provisioned, unmapped blocks read as zero */
    return Answer(Srb, Data, sizeof(Data), Get32(&Srb->Cdb[10]));
}

static DISK_COMMAND ReportLuns(PSCSI_REQUEST_BLOCK Srb)
{
    UCHAR Data[16] = {0, 0, 0, 8};

    return Answer(Srb, Data, sizeof(Data), Get32(&Srb->Cdb[6]));
}

static DISK_COMMAND ModeSense(PSCSI_REQUEST_BLOCK Srb)
{
    UCHAR Data[8] = {0};

    if (Srb->Cdb[0] == SCSIOP_MODE_SENSE) {
        Data[0] = 3;
        return Answer(Srb, Data, 4, Srb->Cdb[4]);
    }
    Data[1] = 6;
    return Answer(Srb, Data, 8, (ULONG)Srb->Cdb[7] << 8 | Srb->Cdb[8]);
}

static DISK_COMMAND Transfer(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb, PDISK_RANGE Range,
                             DISK_COMMAND Command)
{
    if (Range->Blocks > Geometry->Blocks || Range->Lba > Geometry->Blocks - Range->Blocks) {
        return DiskOutOfRange;
    }
    if (Range->Blocks > Geometry->MaximumTransferBlocks || Srb->DataTransferLength < Range->Blocks * BLOCK_SIZE) {
        DiskFail(Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_INVALID_CDB);
        return DiskAnswered;
    }
    if (Range->Blocks == 0) {
        DiskSucceed(Srb);
        return DiskAnswered;
    }
    return Command;
}

DISK_COMMAND DiskDecode(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb, PDISK_RANGE Range)
{
    const UCHAR *Cdb = Srb->Cdb;

    switch (Cdb[0]) {
    case SCSIOP_READ:
    case SCSIOP_WRITE:
        Range->Lba = Get32(&Cdb[2]);
        Range->Blocks = (ULONG)Cdb[7] << 8 | Cdb[8];
        return Transfer(Geometry, Srb, Range, Cdb[0] == SCSIOP_READ ? DiskRead : DiskWrite);
    case SCSIOP_READ16:
    case SCSIOP_WRITE16:
        Range->Lba = Get64(&Cdb[2]);
        Range->Blocks = Get32(&Cdb[10]);
        return Transfer(Geometry, Srb, Range, Cdb[0] == SCSIOP_READ16 ? DiskRead : DiskWrite);
    case SCSIOP_SYNCHRONIZE_CACHE:
    case SCSIOP_SYNCHRONIZE_CACHE16:
        return DiskFlush;
    case OPCODE_UNMAP:
        return DiskUnmap;
    case SCSIOP_INQUIRY:
        return Inquiry(Geometry, Srb);
    case SCSIOP_READ_CAPACITY:
        return Capacity10(Geometry, Srb);
    case SCSIOP_READ_CAPACITY16:
        if ((Cdb[1] & 0x1f) == SERVICE_ACTION_READ_CAPACITY16) {
            return Capacity16(Geometry, Srb);
        }
        return DiskInvalid;
    case SCSIOP_REPORT_LUNS:
        return ReportLuns(Srb);
    case SCSIOP_MODE_SENSE:
    case SCSIOP_MODE_SENSE10:
        return ModeSense(Srb);
    case SCSIOP_TEST_UNIT_READY:
    case SCSIOP_START_STOP_UNIT:
    case SCSIOP_VERIFY:
        DiskSucceed(Srb);
        return DiskAnswered;
    default:
        return DiskInvalid;
    }
}

LONG DiskUnmapRanges(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb, PDISK_RANGE Ranges)
{
    const UCHAR *List = Srb->DataBuffer;
    ULONG Length = Srb->DataTransferLength;
    ULONG Descriptors;
    LONG Count = 0;

    if (Length < 8) {
        return -1;
    }
    Descriptors = ((ULONG)List[2] << 8 | List[3]) / 16;
    if (Descriptors > MAX_UNMAP_RANGES || 8 + Descriptors * 16 > Length) {
        return -1;
    }
    for (ULONG Index = 0; Index < Descriptors; Index++) {
        const UCHAR *Descriptor = &List[8 + Index * 16];
        ULONG64 Lba = Get64(Descriptor);
        ULONG Blocks = Get32(Descriptor + 8);

        if (Blocks > Geometry->Blocks || Lba > Geometry->Blocks - Blocks) {
            return -1;
        }
        if (Blocks != 0) {
            Ranges[Count].Lba = Lba;
            Ranges[Count].Blocks = Blocks;
            Count++;
        }
    }
    return Count;
}
