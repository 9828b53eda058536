/*
 * The SCSI side of a direct-access block device with 512-byte blocks, for miniports: decoding of the commands that a
 * disk class driver sends, the data of the small ones, and sense. It knows neither locks nor hardware.
 */
#ifndef DISK_SCSI_H
#define DISK_SCSI_H

#include "storport_ddk.h"

#define BLOCK_SIZE 512u
#define MAX_UNMAP_RANGES 16

typedef enum _DISK_COMMAND {
    DiskInvalid,  /* not supported: ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE */
    DiskAnswered, /* the SRB is filled in and can be completed */
    DiskOutOfRange,
    DiskRead,
    DiskWrite,
    DiskFlush,
    DiskUnmap
} DISK_COMMAND;

typedef struct _DISK_GEOMETRY {
    ULONG64 Blocks;
    ULONG MaximumTransferBlocks;
    const char *Product; /* at most 16 characters */
} DISK_GEOMETRY, *PDISK_GEOMETRY;

typedef struct _DISK_RANGE {
    ULONG64 Lba;
    ULONG Blocks;
} DISK_RANGE, *PDISK_RANGE;

/* Decodes the SRB's CDB. For reads and writes Range is what the CDB asks for, checked against the size. */
DISK_COMMAND DiskDecode(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb, PDISK_RANGE Range);

/* The ranges of an UNMAP's parameter list, all inside the device; returns the number, or -1 if the list is not valid.
 */
LONG DiskUnmapRanges(const DISK_GEOMETRY *Geometry, PSCSI_REQUEST_BLOCK Srb, PDISK_RANGE Ranges);

VOID DiskSucceed(PSCSI_REQUEST_BLOCK Srb);
VOID DiskFail(PSCSI_REQUEST_BLOCK Srb, UCHAR SenseKey, UCHAR AdditionalCode);

#endif
