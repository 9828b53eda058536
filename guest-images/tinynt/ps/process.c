/*
 * process.c - processes and security as a driver asks for them: there is the system process alone, and all code is
 * trusted.
 */
#include "io_internal.h"
#include "ki.h"

NTSTATUS PsLookupProcessByProcessId(HANDLE ProcessId, PEPROCESS *Process)
{
    if (ProcessId != PsGetCurrentProcessId())
        return STATUS_INVALID_PARAMETER;
    *Process = IoGetCurrentProcess();
    return STATUS_SUCCESS;
}

HANDLE PsGetProcessId(PEPROCESS Process)
{
    return PsGetCurrentProcessId();
}

PEPROCESS PsGetThreadProcess(PETHREAD Thread)
{
    return IoGetCurrentProcess();
}

HANDLE PsGetThreadProcessId(PETHREAD Thread)
{
    return PsGetCurrentProcessId();
}

PUCHAR PsGetProcessImageFileName(PEPROCESS Process)
{
    static UCHAR name[] = "System";

    return name;
}

/* No user mode, hence no process environment block. */
PVOID PsGetProcessPeb(PEPROCESS Process)
{
    return NULL;
}

BOOLEAN PsIsSystemThread(PETHREAD Thread)
{
    return TRUE;
}

BOOLEAN PsIsThreadTerminating(PETHREAD Thread)
{
    return ((PKTHREAD)Thread)->State == KiThreadTerminated;
}

/* No process, thread or image comes or goes by which a routine would be called. */
NTSTATUS PsSetCreateProcessNotifyRoutine(PCREATE_PROCESS_NOTIFY_ROUTINE NotifyRoutine, BOOLEAN Remove)
{
    return STATUS_SUCCESS;
}

NTSTATUS PsSetCreateProcessNotifyRoutineEx(PCREATE_PROCESS_NOTIFY_ROUTINE_EX NotifyRoutine, BOOLEAN Remove)
{
    return STATUS_SUCCESS;
}

NTSTATUS PsSetCreateThreadNotifyRoutine(PCREATE_THREAD_NOTIFY_ROUTINE NotifyRoutine)
{
    return STATUS_SUCCESS;
}

NTSTATUS PsRemoveCreateThreadNotifyRoutine(PCREATE_THREAD_NOTIFY_ROUTINE NotifyRoutine)
{
    return STATUS_SUCCESS;
}

NTSTATUS PsSetLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE NotifyRoutine)
{
    return STATUS_SUCCESS;
}

NTSTATUS PsRemoveLoadImageNotifyRoutine(PLOAD_IMAGE_NOTIFY_ROUTINE NotifyRoutine)
{
    return STATUS_SUCCESS;
}

/* Kernel mode has every privilege; there are no tokens to impersonate. */
BOOLEAN SeSinglePrivilegeCheck(LUID PrivilegeValue, KPROCESSOR_MODE PreviousMode)
{
    return PreviousMode == KernelMode;
}

NTSTATUS SeCreateClientSecurity(PETHREAD ClientThread, PVOID ClientSecurityQos, BOOLEAN RemoteSession,
                                PVOID ClientContext)
{
    return STATUS_NO_TOKEN;
}

VOID SeImpersonateClient(PVOID ClientContext, PETHREAD ServerThread)
{
}

VOID SeDeleteClientSecurity(PVOID ClientContext)
{
}

VOID PsRevertToSelf(VOID)
{
}
