/*
 * io_internal.h - driver objects, the PnP manager's part, object manager pieces the I/O manager uses.
 */
#ifndef TINYNT_IO_INTERNAL_H
#define TINYNT_IO_INTERNAL_H

#include "mi.h"

/* ob/object.c */
typedef struct _OBJECT_TYPE {
    struct _OBJECT_TYPE *Self; /* first: drivers built with headers that import the pointer itself read through it */
    const char *Name;
    VOID (*Delete)(PVOID Object); /* NULL: just free */
} OBJECT_TYPE;

NTSTATUS ObCreateObject(KPROCESSOR_MODE ProbeMode, POBJECT_TYPE ObjectType, POBJECT_ATTRIBUTES Attributes,
                        KPROCESSOR_MODE OwnershipMode, PVOID ParseContext, ULONG ObjectBodySize, ULONG PagedPoolCharge,
                        ULONG NonPagedPoolCharge, PVOID *Object);
NTSTATUS ObInsertObject(PVOID Object, PACCESS_STATE AccessState, ACCESS_MASK DesiredAccess, ULONG AdditionalReferences,
                        PVOID *ReferencedObject, PHANDLE Handle);
NTSTATUS ObpCreateHandle(PVOID Object, PHANDLE Handle);
PVOID ObpLookupName(const UNICODE_STRING *Name); /* referenced, NULL = none */
NTSTATUS ObpSetName(PVOID Object, const UNICODE_STRING *Name);
NTSTATUS ObpCreateLink(const UNICODE_STRING *Name, const UNICODE_STRING *Target);
NTSTATUS ObpDeleteLink(const UNICODE_STRING *Name);

extern POBJECT_TYPE IoDriverObjectType, IoDeviceObjectType, PsThreadType, PsProcessType, ExEventObjectType;

/* io/driver.c */
PDRIVER_OBJECT IopInitializeDriverModule(LDR_DATA_TABLE_ENTRY *Module); /* NULL: the entry point failed */
VOID IopInitializeDispatch(PDRIVER_OBJECT Driver);

/* io/pnp.c */
VOID PnpStartDevices(PDRIVER_OBJECT *Drivers, ULONG Count);

/* io/pdo.c */
typedef struct _PDO_EXTENSION {
    BOOLEAN IsPci;
    BOOLEAN Claimed;
    ULONG Bus;
    ULONG Slot; /* PCI_SLOT_NUMBER */
    ULONG ClassCode;
} PDO_EXTENSION;
ULONG PnpEnumerate(PDEVICE_OBJECT *Pdos, ULONG Capacity); /* makes the physical device objects */
BOOLEAN PnpIsPdo(PDEVICE_OBJECT Device);
BOOLEAN PnpQueryBar(PDO_EXTENSION *Pdo, ULONG Index, ULONG64 *Base, ULONG64 *Length, BOOLEAN *Io);

BOOLEAN PnpQueryInterruptLine(PDO_EXTENSION *Pdo, PULONG Line); /* input of the I/O APIC that its pin leads to */

/* io/message.c */
ULONG IopMessageCount(PDO_EXTENSION *Pdo); /* MSI-X or MSI; 0: neither */

/* io/msi.c */
ULONG IopMsiMessages(PDO_EXTENSION *Pdo);
VOID IopEnableMsi(PDO_EXTENSION *Pdo, ULONG64 Address, ULONG Data, ULONG Count);
VOID IopDisableMsi(PDO_EXTENSION *Pdo);

/* io/msix.c */
ULONG IopMsixTableSize(PDO_EXTENSION *Pdo);
volatile ULONG *IopMapMsixTable(PDO_EXTENSION *Pdo);
VOID IopEnableMsix(PDO_EXTENSION *Pdo, BOOLEAN Enable);

/* io/device.c */
PDEVICE_OBJECT IoGetLowerDeviceObject(PDEVICE_OBJECT DeviceObject);

/* workitem.c */
VOID IopStartWorkers(VOID);

#endif
