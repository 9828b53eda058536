/*
 * unicode.c - numbers, GUIDs and case of counted strings. Case is that of ASCII.
 */
#include "nt.h"

int RtlpToUpper(int Character);
int RtlpToLower(int Character);
size_t RtlpLengthWide(const WCHAR *Text, size_t Limit);

#define RTLP_GUID_CHARACTERS 38 /* {xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx} */
#define RTLP_STRING_TAG 'rtSR'
#define RTLP_DIGITS 64

BOOLEAN NlsMbCodePageTag = FALSE; /* no character takes two bytes */

WCHAR RtlUpcaseUnicodeChar(WCHAR SourceCharacter)
{
    return (WCHAR)RtlpToUpper(SourceCharacter);
}

WCHAR RtlDowncaseUnicodeChar(WCHAR SourceCharacter)
{
    return (WCHAR)RtlpToLower(SourceCharacter);
}

CHAR RtlUpperChar(CHAR Character)
{
    return (CHAR)RtlpToUpper((UCHAR)Character);
}

static NTSTATUS RtlpPrepare(PUNICODE_STRING Destination, USHORT Bytes, BOOLEAN Allocate)
{
    if (Allocate) {
        Destination->Buffer = ExAllocatePoolWithTag(NonPagedPoolNx, Bytes + sizeof(WCHAR), RTLP_STRING_TAG);
        if (!Destination->Buffer)
            return STATUS_NO_MEMORY;
        Destination->MaximumLength = Bytes;
    } else if (Bytes > Destination->MaximumLength) {
        return STATUS_BUFFER_OVERFLOW;
    }
    Destination->Length = Bytes;
    return STATUS_SUCCESS;
}

static NTSTATUS RtlpChangeCase(PUNICODE_STRING Destination, PCUNICODE_STRING Source, BOOLEAN Allocate,
                               int (*Change)(int))
{
    NTSTATUS status = RtlpPrepare(Destination, Source->Length, Allocate);

    for (ULONG i = 0; NT_SUCCESS(status) && i < Source->Length / sizeof(WCHAR); i++)
        Destination->Buffer[i] = (WCHAR)Change(Source->Buffer[i]);
    return status;
}

NTSTATUS RtlUpcaseUnicodeString(PUNICODE_STRING DestinationString, PCUNICODE_STRING SourceString,
                                BOOLEAN AllocateDestinationString)
{
    return RtlpChangeCase(DestinationString, SourceString, AllocateDestinationString, RtlpToUpper);
}

NTSTATUS RtlDowncaseUnicodeString(PUNICODE_STRING DestinationString, PCUNICODE_STRING SourceString,
                                  BOOLEAN AllocateDestinationString)
{
    return RtlpChangeCase(DestinationString, SourceString, AllocateDestinationString, RtlpToLower);
}

VOID RtlUpperString(PSTRING DestinationString, const PSTRING SourceString)
{
    USHORT length = SourceString->Length;

    if (length > DestinationString->MaximumLength)
        length = DestinationString->MaximumLength;
    for (USHORT i = 0; i < length; i++)
        DestinationString->Buffer[i] = RtlUpperChar(SourceString->Buffer[i]);
    DestinationString->Length = length;
}

VOID RtlCopyString(PSTRING DestinationString, const PSTRING SourceString)
{
    USHORT length = SourceString ? SourceString->Length : 0;

    if (length > DestinationString->MaximumLength)
        length = DestinationString->MaximumLength;
    if (length)
        memcpy(DestinationString->Buffer, SourceString->Buffer, length);
    DestinationString->Length = length;
}

BOOLEAN RtlPrefixUnicodeString(PCUNICODE_STRING String1, PCUNICODE_STRING String2, BOOLEAN CaseInSensitive)
{
    UNICODE_STRING start = *String2;

    if (String1->Length > String2->Length)
        return FALSE;
    start.Length = String1->Length;
    return RtlEqualUnicodeString(String1, &start, CaseInSensitive);
}

NTSTATUS RtlInitUnicodeStringEx(PUNICODE_STRING DestinationString, PCWSTR SourceString)
{
    if (SourceString && RtlpLengthWide(SourceString, 0x8000) > 0x7FFE)
        return STATUS_NAME_TOO_LONG;
    RtlInitUnicodeString(DestinationString, SourceString);
    return STATUS_SUCCESS;
}

static NTSTATUS RtlpPutNumber(ULONG64 Value, ULONG Base, PUNICODE_STRING String)
{
    WCHAR text[RTLP_DIGITS];
    ULONG at = RTLP_DIGITS, base = Base ? Base : 10;

    if (base != 2 && base != 8 && base != 10 && base != 16)
        return STATUS_INVALID_PARAMETER;
    do {
        text[--at] = L"0123456789ABCDEF"[Value % base];
        Value /= base;
    } while (Value);
    if ((RTLP_DIGITS - at) * sizeof(WCHAR) > String->MaximumLength)
        return STATUS_BUFFER_OVERFLOW;
    String->Length = (USHORT)((RTLP_DIGITS - at) * sizeof(WCHAR));
    memcpy(String->Buffer, text + at, String->Length);
    if (String->Length + sizeof(WCHAR) <= String->MaximumLength)
        String->Buffer[String->Length / sizeof(WCHAR)] = 0;
    return STATUS_SUCCESS;
}

NTSTATUS RtlIntegerToUnicodeString(ULONG Value, ULONG Base, PUNICODE_STRING String)
{
    return RtlpPutNumber(Value, Base, String);
}

NTSTATUS RtlInt64ToUnicodeString(ULONGLONG Value, ULONG Base, PUNICODE_STRING String)
{
    return RtlpPutNumber(Value, Base, String);
}

static ULONG RtlpDigitOf(WCHAR Character)
{
    WCHAR upper = RtlUpcaseUnicodeChar(Character);

    if (upper >= '0' && upper <= '9')
        return upper - '0';
    return upper >= 'A' && upper <= 'F' ? (ULONG)(upper - 'A' + 10) : MAXULONG;
}

/* Base 0: by a prefix 0x, 0o or 0b, else 10. Used: the characters that were read. */
static NTSTATUS RtlpGetNumber(PCUNICODE_STRING String, ULONG Base, PLONG64 Value, PULONG Used)
{
    ULONG length = String->Length / sizeof(WCHAR), at = 0;
    BOOLEAN negative = FALSE;
    ULONG64 value = 0;

    if (Base && Base != 2 && Base != 8 && Base != 10 && Base != 16)
        return STATUS_INVALID_PARAMETER;
    while (at < length && String->Buffer[at] <= ' ')
        at++;
    if (at < length && (String->Buffer[at] == '-' || String->Buffer[at] == '+'))
        negative = String->Buffer[at++] == '-';
    if (!Base && at + 1 < length && String->Buffer[at] == '0') {
        WCHAR mark = String->Buffer[at + 1] | 0x20;
        Base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
        at += Base ? 2 : 0;
    }
    if (!Base)
        Base = 10;
    for (; at < length && RtlpDigitOf(String->Buffer[at]) < Base; at++)
        value = value * Base + RtlpDigitOf(String->Buffer[at]);
    *Value = (LONG64)(negative ? 0 - value : value);
    *Used = at;
    return STATUS_SUCCESS;
}

NTSTATUS RtlUnicodeStringToInteger(PCUNICODE_STRING String, ULONG Base, PULONG Value)
{
    LONG64 value;
    ULONG used;
    NTSTATUS status = RtlpGetNumber(String, Base, &value, &used);

    if (NT_SUCCESS(status))
        *Value = (ULONG)value;
    return status;
}

NTSTATUS RtlUnicodeStringToInt64(PCUNICODE_STRING String, ULONG Base, PLONG64 Number, PWSTR *EndPointer)
{
    ULONG used;
    NTSTATUS status = RtlpGetNumber(String, Base, Number, &used);

    if (NT_SUCCESS(status) && EndPointer)
        *EndPointer = String->Buffer + used;
    return status;
}

int RtlpPrintWide(WCHAR *Buffer, size_t Count, const WCHAR *Format, ...);

/* The string is the caller's to free by RtlFreeUnicodeString. */
NTSTATUS RtlStringFromGUID(REFGUID Guid, PUNICODE_STRING GuidString)
{
    GuidString->MaximumLength = (RTLP_GUID_CHARACTERS + 1) * sizeof(WCHAR);
    GuidString->Buffer = ExAllocatePoolWithTag(NonPagedPoolNx, GuidString->MaximumLength, RTLP_STRING_TAG);
    if (!GuidString->Buffer)
        return STATUS_NO_MEMORY;
    RtlpPrintWide(GuidString->Buffer, RTLP_GUID_CHARACTERS + 1,
                  L"{%08lx-%04hx-%04hx-%02hx%02hx-%02hx%02hx%02hx%02hx%02hx%02hx}", Guid->Data1, Guid->Data2,
                  Guid->Data3, Guid->Data4[0], Guid->Data4[1], Guid->Data4[2], Guid->Data4[3], Guid->Data4[4],
                  Guid->Data4[5], Guid->Data4[6], Guid->Data4[7]);
    GuidString->Length = RTLP_GUID_CHARACTERS * sizeof(WCHAR);
    return STATUS_SUCCESS;
}

NTSTATUS RtlGUIDFromString(PUNICODE_STRING GuidString, GUID *Guid)
{
    static const UCHAR order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    const WCHAR *text = GuidString->Buffer;
    ULONG at = 1;

    if (GuidString->Length < RTLP_GUID_CHARACTERS * sizeof(WCHAR) || text[0] != '{' || text[37] != '}')
        return STATUS_INVALID_PARAMETER;
    for (ULONG byte = 0; byte < 16; byte++) {
        if ((byte == 4 || byte == 6 || byte == 8 || byte == 10) && text[at++] != '-')
            return STATUS_INVALID_PARAMETER;
        if (RtlpDigitOf(text[at]) > 15 || RtlpDigitOf(text[at + 1]) > 15)
            return STATUS_INVALID_PARAMETER;
        ((PUCHAR)Guid)[order[byte]] = (UCHAR)(RtlpDigitOf(text[at]) << 4 | RtlpDigitOf(text[at + 1]));
        at += 2;
    }
    return STATUS_SUCCESS;
}

/* Sizes with the NUL, in bytes. */
ULONG RtlxAnsiStringToUnicodeSize(PCANSI_STRING AnsiString)
{
    return (AnsiString->Length + 1u) * sizeof(WCHAR);
}

ULONG RtlxUnicodeStringToAnsiSize(PCUNICODE_STRING UnicodeString)
{
    return UnicodeString->Length / sizeof(WCHAR) + 1u;
}

USHORT RtlpSwap16(USHORT Value)
{
    return __builtin_bswap16(Value);
}

ULONG RtlpSwap32(ULONG Value)
{
    return __builtin_bswap32(Value);
}

ULONGLONG RtlpSwap64(ULONGLONG Value)
{
    return __builtin_bswap64(Value);
}
