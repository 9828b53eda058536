/*
 * psthread.c - system threads as drivers see them, and the one process.
 */
#include "io_internal.h"
#include "ki.h"

typedef struct _EPROCESS {
    DISPATCHER_HEADER Header;
    ULONG64 DirectoryTableBase;
} KI_PROCESS;

static KI_PROCESS PspSystemProcess;
PEPROCESS PsInitialSystemProcess = (PEPROCESS)&PspSystemProcess;

NTSTATUS PsCreateSystemThread(PHANDLE ThreadHandle, ULONG DesiredAccess, POBJECT_ATTRIBUTES ObjectAttributes,
                              HANDLE ProcessHandle, PCLIENT_ID ClientId, PKSTART_ROUTINE StartRoutine,
                              PVOID StartContext)
{
    PKTHREAD thread = KiCreateThread(StartRoutine, StartContext, 8);
    NTSTATUS status;

    if (!thread)
        return STATUS_INSUFFICIENT_RESOURCES;
    if (ClientId) {
        ClientId->UniqueProcess = (HANDLE)4;
        ClientId->UniqueThread = (HANDLE)(ULONG_PTR)thread->UniqueThread;
    }
    status = ObpCreateHandle(thread, ThreadHandle);
    ObfDereferenceObject(thread);
    return status;
}

HANDLE PsGetCurrentThreadId(VOID)
{
    return (HANDLE)(ULONG_PTR)KiCurrentThread()->UniqueThread;
}

HANDLE PsGetThreadId(PETHREAD Thread)
{
    return (HANDLE)(ULONG_PTR)((PKTHREAD)Thread)->UniqueThread;
}

HANDLE PsGetCurrentProcessId(VOID)
{
    return (HANDLE)4;
}

PEPROCESS IoGetCurrentProcess(VOID)
{
    return PsInitialSystemProcess;
}
