/*
 * string.c - C strings and counted strings.
 */
#include "nt.h"

size_t strlen(const char *Text)
{
    size_t length = 0;
    while (Text[length])
        length++;
    return length;
}

int strncmp(const char *A, const char *B, size_t Length)
{
    for (; Length; A++, B++, Length--) {
        if (*A != *B || !*A)
            return (unsigned char)*A - (unsigned char)*B;
    }
    return 0;
}

int strcmp(const char *A, const char *B)
{
    return strncmp(A, B, ~(size_t)0);
}

static char RtlpLower(char Character)
{
    return Character >= 'A' && Character <= 'Z' ? (char)(Character | 0x20) : Character;
}

int RtlpCompareNoCase(const char *A, const char *B)
{
    while (*A && RtlpLower(*A) == RtlpLower(*B)) {
        A++;
        B++;
    }
    return (unsigned char)RtlpLower(*A) - (unsigned char)RtlpLower(*B);
}

char *strcpy(char *Destination, const char *Source)
{
    memcpy(Destination, Source, strlen(Source) + 1);
    return Destination;
}

char *strncpy(char *Destination, const char *Source, size_t Length)
{
    size_t i = 0;
    for (; i < Length && Source[i]; i++)
        Destination[i] = Source[i];
    for (; i < Length; i++)
        Destination[i] = 0;
    return Destination;
}

char *strcat(char *Destination, const char *Source)
{
    strcpy(Destination + strlen(Destination), Source);
    return Destination;
}

char *strchr(const char *Text, int Character)
{
    for (;; Text++) {
        if (*Text == (char)Character)
            return (char *)Text;
        if (!*Text)
            return NULL;
    }
}

char *strstr(const char *Text, const char *Part)
{
    size_t length = strlen(Part);
    for (; *Text || !length; Text++) {
        if (!strncmp(Text, Part, length))
            return (char *)Text;
    }
    return NULL;
}

size_t wcslen(const WCHAR *Text)
{
    size_t length = 0;
    while (Text[length])
        length++;
    return length;
}

int wcscmp(const WCHAR *A, const WCHAR *B)
{
    while (*A && *A == *B) {
        A++;
        B++;
    }
    return *A - *B;
}

WCHAR *wcscpy(WCHAR *Destination, const WCHAR *Source)
{
    memcpy(Destination, Source, (wcslen(Source) + 1) * sizeof(WCHAR));
    return Destination;
}

VOID RtlInitUnicodeString(PUNICODE_STRING DestinationString, PCWSTR SourceString)
{
    size_t bytes = SourceString ? wcslen(SourceString) * sizeof(WCHAR) : 0;

    DestinationString->Length = (USHORT)bytes;
    DestinationString->MaximumLength = (USHORT)(SourceString ? bytes + sizeof(WCHAR) : 0);
    DestinationString->Buffer = (PWSTR)SourceString;
}

VOID RtlInitAnsiString(PANSI_STRING DestinationString, PCSZ SourceString)
{
    size_t bytes = SourceString ? strlen(SourceString) : 0;

    DestinationString->Length = (USHORT)bytes;
    DestinationString->MaximumLength = (USHORT)(SourceString ? bytes + 1 : 0);
    DestinationString->Buffer = (PCHAR)SourceString;
}

VOID RtlInitString(PSTRING DestinationString, PCSZ SourceString)
{
    RtlInitAnsiString(DestinationString, SourceString);
}

/* Both kinds of counted strings have one layout, with lengths in bytes. */
VOID RtlCopyUnicodeString(PUNICODE_STRING DestinationString, PCUNICODE_STRING SourceString)
{
    RtlCopyString((PSTRING)DestinationString, (PSTRING)SourceString);
}

NTSTATUS RtlAppendUnicodeStringToString(PUNICODE_STRING Destination, PCUNICODE_STRING Source)
{
    if (Destination->Length + Source->Length > Destination->MaximumLength)
        return STATUS_BUFFER_TOO_SMALL;
    memcpy((PUCHAR)Destination->Buffer + Destination->Length, Source->Buffer, Source->Length);
    Destination->Length += Source->Length;
    return STATUS_SUCCESS;
}

NTSTATUS RtlAppendUnicodeToString(PUNICODE_STRING Destination, PCWSTR Source)
{
    UNICODE_STRING source;

    RtlInitUnicodeString(&source, Source);
    return RtlAppendUnicodeStringToString(Destination, &source);
}

static WCHAR RtlpUpper(WCHAR Character, BOOLEAN Fold)
{
    return Fold && Character >= 'a' && Character <= 'z' ? (WCHAR)(Character & ~0x20) : Character;
}

LONG RtlCompareUnicodeString(PCUNICODE_STRING String1, PCUNICODE_STRING String2, BOOLEAN CaseInSensitive)
{
    USHORT length = (String1->Length < String2->Length ? String1->Length : String2->Length) / sizeof(WCHAR);

    for (USHORT i = 0; i < length; i++) {
        LONG difference =
            RtlpUpper(String1->Buffer[i], CaseInSensitive) - RtlpUpper(String2->Buffer[i], CaseInSensitive);
        if (difference)
            return difference;
    }
    return String1->Length - String2->Length;
}

BOOLEAN RtlEqualUnicodeString(PCUNICODE_STRING String1, PCUNICODE_STRING String2, BOOLEAN CaseInSensitive)
{
    return RtlCompareUnicodeString(String1, String2, CaseInSensitive) == 0;
}

LONG RtlCompareString(PSTRING String1, PSTRING String2, BOOLEAN CaseInSensitive)
{
    USHORT length = String1->Length < String2->Length ? String1->Length : String2->Length;

    for (USHORT i = 0; i < length; i++) {
        LONG difference = RtlpUpper((UCHAR)String1->Buffer[i], CaseInSensitive) -
                          RtlpUpper((UCHAR)String2->Buffer[i], CaseInSensitive);
        if (difference)
            return difference;
    }
    return String1->Length - String2->Length;
}

BOOLEAN RtlEqualString(PSTRING String1, PSTRING String2, BOOLEAN CaseInSensitive)
{
    return RtlCompareString(String1, String2, CaseInSensitive) == 0;
}
