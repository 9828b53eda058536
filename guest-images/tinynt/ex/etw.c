/*
 * etw.c - event tracing as a driver finds it while no session is collecting: providers register, nothing is enabled.
 */
#include "nt.h"

static volatile LONG64 EtwpNextHandle;

NTSTATUS EtwRegister(LPCGUID ProviderId, PETWENABLECALLBACK EnableCallback, PVOID CallbackContext, PREGHANDLE RegHandle)
{
    *RegHandle = (REGHANDLE)__atomic_add_fetch(&EtwpNextHandle, 1, __ATOMIC_RELAXED);
    return STATUS_SUCCESS;
}

/* What WPP's generated code uses. */
NTSTATUS EtwRegisterClassicProvider(LPCGUID ProviderId, ULONG Type, PVOID Callback, PVOID CallbackContext,
                                    PREGHANDLE RegHandle)
{
    return EtwRegister(ProviderId, NULL, CallbackContext, RegHandle);
}

NTSTATUS EtwUnregister(REGHANDLE RegHandle)
{
    return RegHandle ? STATUS_SUCCESS : STATUS_INVALID_HANDLE;
}

BOOLEAN EtwEventEnabled(REGHANDLE RegHandle, PCEVENT_DESCRIPTOR EventDescriptor)
{
    return FALSE;
}

BOOLEAN EtwProviderEnabled(REGHANDLE RegHandle, UCHAR Level, ULONGLONG Keyword)
{
    return FALSE;
}

NTSTATUS EtwWrite(REGHANDLE RegHandle, PCEVENT_DESCRIPTOR EventDescriptor, LPCGUID ActivityId, ULONG UserDataCount,
                  PEVENT_DATA_DESCRIPTOR UserData)
{
    return RegHandle ? STATUS_SUCCESS : STATUS_INVALID_HANDLE;
}

NTSTATUS EtwWriteTransfer(REGHANDLE RegHandle, PCEVENT_DESCRIPTOR EventDescriptor, LPCGUID ActivityId,
                          LPCGUID RelatedActivityId, ULONG UserDataCount, PEVENT_DATA_DESCRIPTOR UserData)
{
    return EtwWrite(RegHandle, EventDescriptor, ActivityId, UserDataCount, UserData);
}

NTSTATUS EtwWriteEx(REGHANDLE RegHandle, PCEVENT_DESCRIPTOR EventDescriptor, ULONG64 Filter, ULONG Flags,
                    LPCGUID ActivityId, LPCGUID RelatedActivityId, ULONG UserDataCount, PEVENT_DATA_DESCRIPTOR UserData)
{
    return EtwWrite(RegHandle, EventDescriptor, ActivityId, UserDataCount, UserData);
}

NTSTATUS EtwWriteString(REGHANDLE RegHandle, UCHAR Level, ULONGLONG Keyword, LPCGUID ActivityId, PCWSTR String)
{
    return RegHandle ? STATUS_SUCCESS : STATUS_INVALID_HANDLE;
}

NTSTATUS EtwSetInformation(REGHANDLE RegHandle, ULONG InformationClass, PVOID Information, ULONG Length)
{
    return RegHandle ? STATUS_SUCCESS : STATUS_INVALID_HANDLE;
}

/* Ids are told apart by a count; EVENT_ACTIVITY_CTRL_CREATE_ID (3) and the like ask for one. */
NTSTATUS EtwActivityIdControl(ULONG ControlCode, LPGUID ActivityId)
{
    RtlZeroMemory(ActivityId, sizeof(*ActivityId));
    ActivityId->Data1 = (ULONG)__atomic_add_fetch(&EtwpNextHandle, 1, __ATOMIC_RELAXED);
    return STATUS_SUCCESS;
}

/* No logger has a handle that these could name. */
NTSTATUS WmiTraceMessage(ULONG64 LoggerHandle, ULONG MessageFlags, LPCGUID MessageGuid, USHORT MessageNumber, ...)
{
    return STATUS_INVALID_HANDLE;
}

NTSTATUS WmiTraceMessageVa(ULONG64 LoggerHandle, ULONG MessageFlags, LPCGUID MessageGuid, USHORT MessageNumber,
                           va_list MessageArgList)
{
    return STATUS_INVALID_HANDLE;
}

NTSTATUS WmiQueryTraceInformation(TRACE_INFORMATION_CLASS TraceInformationClass, PVOID TraceInformation, ULONG Length,
                                  PULONG RequiredLength, PVOID Buffer)
{
    return STATUS_INVALID_HANDLE;
}
