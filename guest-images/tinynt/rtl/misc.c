/*
 * misc.c - version, random numbers, structured exception stub.
 */
#include "nt.h"

extern ULONG NtBuildNumber;

NTSTATUS RtlGetVersion(PRTL_OSVERSIONINFOW VersionInformation)
{
    VersionInformation->dwMajorVersion = 10;
    VersionInformation->dwMinorVersion = 0;
    VersionInformation->dwBuildNumber = NtBuildNumber & 0xFFFF;
    VersionInformation->dwPlatformId = 2;
    VersionInformation->szCSDVersion[0] = 0;
    return STATUS_SUCCESS;
}

BOOLEAN PsGetVersion(PULONG MajorVersion, PULONG MinorVersion, PULONG BuildNumber, PUNICODE_STRING CSDVersion)
{
    if (MajorVersion)
        *MajorVersion = 10;
    if (MinorVersion)
        *MinorVersion = 0;
    if (BuildNumber)
        *BuildNumber = NtBuildNumber & 0xFFFF;
    if (CSDVersion)
        CSDVersion->Length = 0;
    return FALSE;
}

/* 0 to 7FFFFFFFh. */
ULONG RtlRandomEx(PULONG Seed)
{
    *Seed = *Seed * 1103515245u + 12345u;
    return (*Seed >> 1) & 0x7FFFFFFF;
}

/* Exported as __C_specific_handler. No exception is ever dispatched to a handler here: each is a bug check. */
EXCEPTION_DISPOSITION RtlpCSpecificHandler(struct _EXCEPTION_RECORD *Record, void *Frame, struct _CONTEXT *Context,
                                           struct _DISPATCHER_CONTEXT *Dispatch);
EXCEPTION_DISPOSITION RtlpCSpecificHandler(struct _EXCEPTION_RECORD *Record, void *Frame, struct _CONTEXT *Context,
                                           struct _DISPATCHER_CONTEXT *Dispatch)
{
    return ExceptionContinueSearch;
}

KPROCESSOR_MODE ExGetPreviousMode(VOID)
{
    return KernelMode;
}

BOOLEAN ExIsProcessorFeaturePresent(ULONG ProcessorFeature)
{
    return FALSE;
}

/*
 * What the buffer security check (/GS) of the Microsoft compiler reports a broken stack by, before its bug check: no
 * unwind data is looked up, so that the report is of the caller alone.
 */
VOID RtlCaptureContext(PCONTEXT ContextRecord)
{
    RtlZeroMemory(ContextRecord, sizeof(*ContextRecord));
    ContextRecord->Rip = (ULONG64)__builtin_return_address(0);
    ContextRecord->Rsp = (ULONG64)__builtin_frame_address(0);
}

PVOID RtlLookupFunctionEntry(ULONG64 ControlPc, PULONG64 ImageBase, PVOID HistoryTable)
{
    *ImageBase = 0;
    return NULL;
}

PVOID RtlVirtualUnwind(ULONG HandlerType, ULONG64 ImageBase, ULONG64 ControlPc, PVOID FunctionEntry,
                       PVOID ContextRecord, PVOID *HandlerData, PULONG64 EstablisherFrame, PVOID ContextPointers)
{
    *HandlerData = NULL;
    *EstablisherFrame = 0;
    return NULL;
}

USHORT RtlCaptureStackBackTrace(ULONG FramesToSkip, ULONG FramesToCapture, PVOID *BackTrace, PULONG BackTraceHash)
{
    if (BackTraceHash)
        *BackTraceHash = 0;
    return 0;
}
