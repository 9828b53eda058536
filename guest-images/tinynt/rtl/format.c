/*
 * format.c - printf formats with the Microsoft sizes (I64, h, l, ll, w) and %wZ / %Z counted strings. No floats.
 */
#include <stdarg.h>

#include "nt.h"

typedef struct _FORMAT_OUTPUT {
    char *Buffer;
    size_t Capacity;
    size_t Length; /* what the whole text needs */
} FORMAT_OUTPUT;

typedef struct _FORMAT_SPEC {
    BOOLEAN Left, Zero, Alternate, Plus;
    BOOLEAN Wide, Long64;
    int Width, Precision; /* Precision -1: none */
} FORMAT_SPEC;

static void FormatPut(FORMAT_OUTPUT *Output, char Character)
{
    if (Output->Length < Output->Capacity)
        Output->Buffer[Output->Length] = Character;
    Output->Length++;
}

static void FormatPad(FORMAT_OUTPUT *Output, char Character, int Count)
{
    while (Count-- > 0)
        FormatPut(Output, Character);
}

/* Text of Length characters of 1 or 2 bytes each. */
static void FormatText(FORMAT_OUTPUT *Output, const FORMAT_SPEC *Spec, const void *Text, size_t Length, BOOLEAN Wide)
{
    int pad = Spec->Width - (int)Length;

    if (!Spec->Left)
        FormatPad(Output, ' ', pad);
    for (size_t i = 0; i < Length; i++)
        FormatPut(Output, Wide ? (char)((const WCHAR *)Text)[i] : ((const char *)Text)[i]);
    if (Spec->Left)
        FormatPad(Output, ' ', pad);
}

static void FormatNumber(FORMAT_OUTPUT *Output, const FORMAT_SPEC *Spec, ULONG64 Value, unsigned Base, char Sign,
                         BOOLEAN Upper)
{
    const char *digits = Upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char text[24];
    int count = 0, zeros, pad;

    do {
        text[count++] = digits[Base == 16 ? Value & 15 : Value % Base];
        Value = Base == 16 ? Value >> 4 : Value / Base;
    } while (Value);
    zeros = Spec->Precision > count ? Spec->Precision - count : 0;
    pad = Spec->Width - count - zeros - (Sign ? 1 : 0);
    if (Spec->Zero && !Spec->Left && Spec->Precision < 0 && pad > 0) {
        zeros = pad;
        pad = 0;
    }
    if (!Spec->Left)
        FormatPad(Output, ' ', pad);
    if (Sign)
        FormatPut(Output, Sign);
    FormatPad(Output, '0', zeros);
    while (count)
        FormatPut(Output, text[--count]);
    if (Spec->Left)
        FormatPad(Output, ' ', pad);
}

static const char *FormatParse(const char *At, FORMAT_SPEC *Spec, va_list *Arguments)
{
    for (;; At++) {
        if (*At == '-')
            Spec->Left = TRUE;
        else if (*At == '0')
            Spec->Zero = TRUE;
        else if (*At == '#')
            Spec->Alternate = TRUE;
        else if (*At == '+' || *At == ' ')
            Spec->Plus = TRUE;
        else
            break;
    }
    if (*At == '*') {
        Spec->Width = va_arg(*Arguments, int);
        At++;
    }
    while (*At >= '0' && *At <= '9')
        Spec->Width = Spec->Width * 10 + (*At++ - '0');
    if (*At == '.') {
        At++;
        Spec->Precision = 0;
        if (*At == '*') {
            Spec->Precision = va_arg(*Arguments, int);
            At++;
        }
        while (*At >= '0' && *At <= '9')
            Spec->Precision = Spec->Precision * 10 + (*At++ - '0');
    }
    for (;; At++) {
        if (At[0] == 'I' && At[1] == '6' && At[2] == '4') {
            Spec->Long64 = TRUE;
            At += 2;
        } else if (At[0] == 'l' && At[1] == 'l') {
            Spec->Long64 = TRUE;
            At++;
        } else if (*At == 'I' || *At == 'z') {
            Spec->Long64 = TRUE;
        } else if (*At == 'l' || *At == 'w') {
            Spec->Wide = TRUE;
        } else if (*At != 'h') {
            return At;
        }
    }
}

static size_t FormatLength(const void *Text, BOOLEAN Wide, int Precision)
{
    size_t limit = Precision < 0 ? ~(size_t)0 : (size_t)Precision, length = 0;

    while (length < limit && (Wide ? ((const WCHAR *)Text)[length] : ((const char *)Text)[length]))
        length++;
    return length;
}

static void FormatString(FORMAT_OUTPUT *Output, const FORMAT_SPEC *Spec, const void *Text, BOOLEAN Wide)
{
    if (!Text) {
        Text = "(null)";
        Wide = FALSE;
    }
    FormatText(Output, Spec, Text, FormatLength(Text, Wide, Spec->Precision), Wide);
}

static void FormatCounted(FORMAT_OUTPUT *Output, const FORMAT_SPEC *Spec, const UNICODE_STRING *Text)
{
    if (!Text || !Text->Buffer)
        FormatString(Output, Spec, NULL, FALSE);
    else if (Spec->Wide)
        FormatText(Output, Spec, Text->Buffer, Text->Length / sizeof(WCHAR), TRUE);
    else
        FormatText(Output, Spec, Text->Buffer, Text->Length, FALSE);
}

static void FormatSigned(FORMAT_OUTPUT *Output, const FORMAT_SPEC *Spec, LONG64 Value)
{
    FormatNumber(Output, Spec, Value < 0 ? 0 - (ULONG64)Value : (ULONG64)Value, 10,
                 Value < 0 ? '-' : (Spec->Plus ? '+' : 0), FALSE);
}

static void FormatOne(FORMAT_OUTPUT *Output, FORMAT_SPEC *Spec, char Kind, va_list *Arguments)
{
    char character;

    switch (Kind) {
    case 'd':
    case 'i':
        FormatSigned(Output, Spec, Spec->Long64 ? va_arg(*Arguments, LONG64) : va_arg(*Arguments, int));
        break;
    case 'u':
        FormatNumber(Output, Spec, Spec->Long64 ? va_arg(*Arguments, ULONG64) : va_arg(*Arguments, unsigned), 10, 0,
                     FALSE);
        break;
    case 'x':
    case 'X':
        if (Spec->Alternate) {
            FormatPut(Output, '0');
            FormatPut(Output, 'x');
        }
        FormatNumber(Output, Spec, Spec->Long64 ? va_arg(*Arguments, ULONG64) : va_arg(*Arguments, unsigned), 16, 0,
                     Kind == 'X');
        break;
    case 'p':
        Spec->Precision = 16;
        FormatNumber(Output, Spec, va_arg(*Arguments, ULONG64), 16, 0, TRUE);
        break;
    case 'c':
    case 'C':
        character = (char)va_arg(*Arguments, int);
        FormatText(Output, Spec, &character, 1, FALSE);
        break;
    case 's':
        FormatString(Output, Spec, va_arg(*Arguments, const void *), Spec->Wide);
        break;
    case 'S':
        FormatString(Output, Spec, va_arg(*Arguments, const void *), TRUE);
        break;
    case 'Z':
        FormatCounted(Output, Spec, va_arg(*Arguments, const UNICODE_STRING *));
        break;
    default:
        FormatPut(Output, Kind);
        break;
    }
}

/* Returns the length of the whole text; -1 if it (with its NUL) did not fit, as the Microsoft routine does. */
int _vsnprintf(char *Buffer, size_t Count, const char *Format, va_list Arguments)
{
    FORMAT_OUTPUT output = {Buffer, Count, 0};
    va_list arguments;

    va_copy(arguments, Arguments);
    for (const char *at = Format; *at; at++) {
        FORMAT_SPEC spec = {.Precision = -1};
        if (*at != '%') {
            FormatPut(&output, *at);
            continue;
        }
        at = FormatParse(at + 1, &spec, &arguments);
        if (!*at)
            break;
        FormatOne(&output, &spec, *at, &arguments);
    }
    va_end(arguments);
    if (output.Length < Count)
        Buffer[output.Length] = 0;
    return output.Length > Count ? -1 : (int)output.Length;
}

int _snprintf(char *Buffer, size_t Count, const char *Format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, Format);
    length = _vsnprintf(Buffer, Count, Format, arguments);
    va_end(arguments);
    return length;
}

int sprintf(char *Buffer, const char *Format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, Format);
    length = _vsnprintf(Buffer, 0x7FFFFFFF, Format, arguments);
    va_end(arguments);
    return length;
}
