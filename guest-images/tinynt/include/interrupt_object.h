/*
 * interrupt_object.h - the interrupt object and what the parts of the I/O manager that connect it share.
 */
#ifndef TINYNT_INTERRUPT_OBJECT_H
#define TINYNT_INTERRUPT_OBJECT_H

#include "io_internal.h"
#include "ki.h"

typedef struct _KINTERRUPT {
    CSHORT Type;
    CSHORT Size;
    PKSERVICE_ROUTINE ServiceRoutine;
    PKMESSAGE_SERVICE_ROUTINE MessageRoutine; /* not NULL: MessageId is passed to it */
    PVOID ServiceContext;
    ULONG MessageId;
    ULONG Vector;
    KIRQL SynchronizeIrql;
    PKSPIN_LOCK ActualLock;
    KSPIN_LOCK OwnLock;
    ULONG Pin;                         /* input of the I/O APIC that it is connected to, ~0: none */
    struct _KINTERRUPT *volatile Next; /* on the same input */
} KINTERRUPT;

/* interrupt.c */
VOID IopInitializeInterrupt(KINTERRUPT *Interrupt, PKSPIN_LOCK Lock);
BOOLEAN IopCallService(KINTERRUPT *Interrupt); /* at the IRQL of its vector; whether the interrupt was its own */

/* line.c */
NTSTATUS IopConnectToLine(KINTERRUPT *Interrupt, ULONG Pin, BOOLEAN Level);
VOID IopDisconnectFromLine(KINTERRUPT *Interrupt);

/* message.c */
NTSTATUS IopConnectMessages(PIO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS Parameters);
VOID IopDisconnectMessages(PIO_INTERRUPT_MESSAGE_INFO Table);

#endif
