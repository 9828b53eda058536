/* Registers and structures of NVM Express 1.4 that the miniport uses; section numbers are that specification's. */
#ifndef NVME_SPEC_H
#define NVME_SPEC_H

#include "storport_ddk.h"

/* Section 3.1 */
#define NVME_REGISTER_CAP_LOW 0x00
#define NVME_REGISTER_CAP_HIGH 0x04
#define NVME_REGISTER_INTMS 0x0c
#define NVME_REGISTER_INTMC 0x10
#define NVME_REGISTER_CC 0x14
#define NVME_REGISTER_CSTS 0x1c
#define NVME_REGISTER_AQA 0x24
#define NVME_REGISTER_ASQ 0x28
#define NVME_REGISTER_ACQ 0x30
#define NVME_REGISTER_DOORBELLS 0x1000

#define NVME_CC_ENABLE 0x00000001u
#define NVME_CC_SHUTDOWN_MASK 0x0000c000u
#define NVME_CC_SHUTDOWN_NORMAL 0x00004000u
#define NVME_CC_ENTRY_SIZES 0x00460000u /* 64-byte submission, 16-byte completion entries */
#define NVME_CSTS_READY 0x1u
#define NVME_CSTS_FATAL 0x2u
#define NVME_CSTS_SHUTDOWN_MASK 0xcu
#define NVME_CSTS_SHUTDOWN_COMPLETE 0x8u

/* Sections 5 and 6 */
#define NVME_ADMIN_CREATE_SUBMISSION_QUEUE 0x01
#define NVME_ADMIN_CREATE_COMPLETION_QUEUE 0x05
#define NVME_ADMIN_IDENTIFY 0x06
#define NVME_ADMIN_SET_FEATURES 0x09
#define NVME_ADMIN_DOORBELL_BUFFER_CONFIG 0x7c
#define NVME_FEATURE_NUMBER_OF_QUEUES 0x07
#define NVME_IO_FLUSH 0x00
#define NVME_IO_WRITE 0x01
#define NVME_IO_READ 0x02
#define NVME_IO_DATASET_MANAGEMENT 0x09
#define NVME_DSM_DEALLOCATE 0x4

/* Status code type and code (section 4.6.1). */
#define NVME_STATUS_CODE 0x7ff
#define NVME_STATUS_NAMESPACE_WRITE_PROTECTED 0x020
#define NVME_STATUS_LBA_OUT_OF_RANGE 0x080
#define NVME_STATUS_WRITE_FAULT 0x280
#define NVME_STATUS_UNRECOVERED_READ_ERROR 0x281

/* Additional sense codes (SPC-4) that the headers lack. */
#define NVME_ASC_WRITE_FAULT 0x03
#define NVME_ASC_UNRECOVERED_READ 0x11

/* Offsets in the Identify data structures (sections 5.15.2.1 and 5.15.2.2). */
#define NVME_IDENTIFY_MDTS 77
#define NVME_IDENTIFY_OACS 256
#define NVME_OACS_DOORBELL_BUFFER 0x0100
#define NVME_NAMESPACE_SIZE 0
#define NVME_NAMESPACE_FORMATTED_SIZE 26
#define NVME_NAMESPACE_FORMATS 128

typedef struct _NVME_COMMAND {
    UCHAR Opcode;
    UCHAR Flags;
    USHORT CommandId;
    ULONG NamespaceId;
    ULONG64 Reserved;
    ULONG64 Metadata;
    ULONG64 Prp1;
    ULONG64 Prp2;
    ULONG Dword10;
    ULONG Dword11;
    ULONG Dword12;
    ULONG Dword13;
    ULONG Dword14;
    ULONG Dword15;
} NVME_COMMAND, *PNVME_COMMAND;

_Static_assert(sizeof(NVME_COMMAND) == 64, "section 4.2");

typedef struct _NVME_COMPLETION {
    ULONG Result;
    ULONG Reserved;
    USHORT SubmissionHead;
    USHORT SubmissionQueue;
    USHORT CommandId;
    USHORT Status; /* bit 0: phase */
} NVME_COMPLETION, *PNVME_COMPLETION;

_Static_assert(sizeof(NVME_COMPLETION) == 16, "section 4.6");

typedef struct _NVME_DSM_RANGE {
    ULONG Attributes;
    ULONG Blocks;
    ULONG64 Lba;
} NVME_DSM_RANGE;

#endif
