/*
 * convert.c - counted strings between 8 and 16 bits a character. Characters above 127 do not occur here.
 */
#include "nt.h"

#define RTL_STRING_TAG 'rtSR'

NTSTATUS RtlAnsiStringToUnicodeString(PUNICODE_STRING DestinationString, PANSI_STRING SourceString,
                                      BOOLEAN AllocateDestinationString)
{
    ULONG length = SourceString->Length * sizeof(WCHAR);

    if (length + sizeof(WCHAR) > 0xFFFF)
        return STATUS_INVALID_PARAMETER_2;
    if (AllocateDestinationString) {
        DestinationString->MaximumLength = (USHORT)(length + sizeof(WCHAR));
        DestinationString->Buffer = ExAllocatePoolWithTag(NonPagedPoolNx, length + sizeof(WCHAR), RTL_STRING_TAG);
        if (!DestinationString->Buffer)
            return STATUS_NO_MEMORY;
    } else if (length > DestinationString->MaximumLength) {
        return STATUS_BUFFER_OVERFLOW;
    }
    DestinationString->Length = (USHORT)length;
    for (ULONG i = 0; i < SourceString->Length; i++)
        DestinationString->Buffer[i] = (UCHAR)SourceString->Buffer[i];
    if (length + sizeof(WCHAR) <= DestinationString->MaximumLength)
        DestinationString->Buffer[SourceString->Length] = 0;
    return STATUS_SUCCESS;
}

NTSTATUS RtlUnicodeStringToAnsiString(PANSI_STRING DestinationString, PCUNICODE_STRING SourceString,
                                      BOOLEAN AllocateDestinationString)
{
    ULONG length = SourceString->Length / sizeof(WCHAR);

    if (AllocateDestinationString) {
        DestinationString->MaximumLength = (USHORT)(length + 1);
        DestinationString->Buffer = ExAllocatePoolWithTag(NonPagedPoolNx, length + 1, RTL_STRING_TAG);
        if (!DestinationString->Buffer)
            return STATUS_NO_MEMORY;
    } else if (length + 1 > DestinationString->MaximumLength) {
        return STATUS_BUFFER_OVERFLOW;
    }
    DestinationString->Length = (USHORT)length;
    for (ULONG i = 0; i < length; i++)
        DestinationString->Buffer[i] = (char)SourceString->Buffer[i];
    DestinationString->Buffer[length] = 0;
    return STATUS_SUCCESS;
}

VOID RtlFreeUnicodeString(PUNICODE_STRING UnicodeString)
{
    if (UnicodeString->Buffer)
        ExFreePoolWithTag(UnicodeString->Buffer, RTL_STRING_TAG);
    UnicodeString->Buffer = NULL;
}

VOID RtlFreeAnsiString(PANSI_STRING AnsiString)
{
    if (AnsiString->Buffer)
        ExFreePoolWithTag(AnsiString->Buffer, RTL_STRING_TAG);
    AnsiString->Buffer = NULL;
}
