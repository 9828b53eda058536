/*
 * debug.c - DbgPrint and its relatives: formatted text to the serial port.
 */
#include <stdarg.h>

#include "hal.h"

#define DEBUG_LINE 512

BOOLEAN KdDebuggerEnabledData;
BOOLEAN KdDebuggerNotPresentData = TRUE;

ULONG vDbgPrintExWithPrefix(PCCH Prefix, ULONG ComponentId, ULONG Level, PCCH Format, va_list Arguments)
{
    char line[DEBUG_LINE];
    size_t used = strlen(Prefix) < DEBUG_LINE / 2 ? strlen(Prefix) : DEBUG_LINE / 2;
    int length;

    memcpy(line, Prefix, used);
    length = _vsnprintf(line + used, DEBUG_LINE - used, Format, Arguments);
    if (length < 0)
        length = (int)(DEBUG_LINE - used);
    HalpWriteSerial(line, used + (size_t)length);
    return STATUS_SUCCESS;
}

ULONG vDbgPrintEx(ULONG ComponentId, ULONG Level, PCCH Format, va_list Arguments)
{
    return vDbgPrintExWithPrefix("", ComponentId, Level, Format, Arguments);
}

ULONG DbgPrintEx(ULONG ComponentId, ULONG Level, PCSTR Format, ...)
{
    va_list arguments;

    va_start(arguments, Format);
    vDbgPrintEx(ComponentId, Level, Format, arguments);
    va_end(arguments);
    return STATUS_SUCCESS;
}

ULONG DbgPrint(PCSTR Format, ...)
{
    va_list arguments;

    va_start(arguments, Format);
    vDbgPrintEx(~0u, 0, Format, arguments);
    va_end(arguments);
    return STATUS_SUCCESS;
}

VOID RtlAssert(PVOID FailedAssertion, PVOID FileName, ULONG LineNumber, PCHAR Message)
{
    DbgPrint("Assertion failed: %s, %s:%u %s\n", FailedAssertion, FileName, LineNumber, Message ? Message : "");
    KeBugCheckEx(0x1E, (ULONG_PTR)STATUS_ASSERTION_FAILURE, (ULONG_PTR)FailedAssertion, LineNumber, 0);
}

VOID KiDebugBreakPoint(VOID);
VOID KiDebugBreakPoint(VOID)
{
    KeBugCheckEx(0x1E, (ULONG_PTR)STATUS_BREAKPOINT, (ULONG_PTR)__builtin_return_address(0), 0, 0);
}
