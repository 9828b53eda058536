/*
 * format.c - printf formats with the Microsoft sizes (I64, h, l, ll, w) and %wZ / %Z counted strings, into characters
 * of one byte or two. No floats.
 */
#include <stdarg.h>

#include "nt.h"

typedef struct _FORMAT_OUTPUT {
    char *Buffer;
    WCHAR *WideBuffer; /* instead of it, for the wide routines, whose %s is wide */
    size_t Capacity;
    size_t Length; /* what the whole text needs */
} FORMAT_OUTPUT;

#define FORMAT_WIDE_LIMIT 512 /* characters of a wide routine's format */

typedef struct _FORMAT_SPEC {
    BOOLEAN Left, Zero, Alternate, Plus;
    BOOLEAN Wide, Narrow, Long64;
    int Width, Precision; /* Precision -1: none */
} FORMAT_SPEC;

int RtlpFormatWide(WCHAR *Buffer, size_t Count, const WCHAR *Format, va_list Arguments);
int RtlpFormatChecked(char *Buffer, size_t Size, size_t MaxCount, const char *Format, va_list Arguments);
int RtlpVPrintChecked(char *Buffer, size_t Size, const char *Format, va_list Arguments);
int RtlpVPrint(char *Buffer, const char *Format, va_list Arguments);

static void FormatPut(FORMAT_OUTPUT *Output, char Character)
{
    if (Output->Length < Output->Capacity) {
        if (Output->WideBuffer)
            Output->WideBuffer[Output->Length] = (UCHAR)Character;
        else
            Output->Buffer[Output->Length] = Character;
    }
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
        } else if (*At == 'h') {
            Spec->Narrow = TRUE;
        } else {
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
        FormatString(Output, Spec, va_arg(*Arguments, const void *),
                     Spec->Wide || (Output->WideBuffer && !Spec->Narrow));
        break;
    case 'S':
        FormatString(Output, Spec, va_arg(*Arguments, const void *), Spec->Wide || !Output->WideBuffer);
        break;
    case 'Z':
        FormatCounted(Output, Spec, va_arg(*Arguments, const UNICODE_STRING *));
        break;
    default:
        FormatPut(Output, Kind);
        break;
    }
}

static void FormatAll(FORMAT_OUTPUT *Output, const char *Format, va_list *Arguments)
{
    for (const char *at = Format; *at; at++) {
        FORMAT_SPEC spec = {.Precision = -1};
        if (*at != '%') {
            FormatPut(Output, *at);
            continue;
        }
        at = FormatParse(at + 1, &spec, Arguments);
        if (!*at)
            break;
        FormatOne(Output, &spec, *at, Arguments);
    }
}

/* Returns the length of the whole text; -1 if it (with its NUL) did not fit, as the Microsoft routine does. */
int _vsnprintf(char *Buffer, size_t Count, const char *Format, va_list Arguments)
{
    FORMAT_OUTPUT output = {.Buffer = Buffer, .Capacity = Count};
    va_list arguments;

    va_copy(arguments, Arguments);
    FormatAll(&output, Format, &arguments);
    va_end(arguments);
    if (output.Length < Count)
        Buffer[output.Length] = 0;
    return output.Length > Count ? -1 : (int)output.Length;
}

/* Exported as _vsnwprintf. */
int RtlpFormatWide(WCHAR *Buffer, size_t Count, const WCHAR *Format, va_list Arguments)
{
    FORMAT_OUTPUT output = {.WideBuffer = Buffer, .Capacity = Count};
    char format[FORMAT_WIDE_LIMIT];
    size_t length = wcslen(Format);
    va_list arguments;

    if (length >= sizeof(format))
        return -1;
    for (size_t i = 0; i <= length; i++)
        format[i] = (char)Format[i];
    va_copy(arguments, Arguments);
    FormatAll(&output, format, &arguments);
    va_end(arguments);
    if (output.Length < Count)
        Buffer[output.Length] = 0;
    return output.Length > Count ? -1 : (int)output.Length;
}

/*
 * The checked routines: MaxCount characters at most, or, with _TRUNCATE (all ones), what fits; always ended by a NUL. A
 * text that does not fit gives -1, and an empty buffer unless the count asked for it to be cut.
 */
int RtlpFormatChecked(char *Buffer, size_t Size, size_t MaxCount, const char *Format, va_list Arguments)
{
    int length;

    if (!Buffer || !Size || !Format)
        return -1;
    length = _vsnprintf(Buffer, Size, Format, Arguments);
    if (length >= 0 && (size_t)length < Size && (size_t)length <= MaxCount)
        return length;
    if (MaxCount < Size)
        Buffer[MaxCount] = 0;
    else
        Buffer[MaxCount == ~(size_t)0 ? Size - 1 : 0] = 0;
    return -1;
}

#define FORMAT_VARIADIC(Name, Parameters, Last, Call)                                                                  \
    int Name Parameters;                                                                                               \
    int Name Parameters                                                                                                \
    {                                                                                                                  \
        va_list arguments;                                                                                             \
        int length;                                                                                                    \
                                                                                                                       \
        va_start(arguments, Last);                                                                                     \
        length = Call;                                                                                                 \
        va_end(arguments);                                                                                             \
        return length;                                                                                                 \
    }

#define FORMAT_UNBOUNDED 0x7FFFFFFF

FORMAT_VARIADIC(_snprintf, (char *Buffer, size_t Count, const char *Format, ...), Format,
                _vsnprintf(Buffer, Count, Format, arguments))
FORMAT_VARIADIC(sprintf, (char *Buffer, const char *Format, ...), Format,
                _vsnprintf(Buffer, FORMAT_UNBOUNDED, Format, arguments))
FORMAT_VARIADIC(RtlpPrintWide, (WCHAR * Buffer, size_t Count, const WCHAR *Format, ...), Format,
                RtlpFormatWide(Buffer, Count, Format, arguments))
FORMAT_VARIADIC(RtlpPrintWideUnbounded, (WCHAR * Buffer, const WCHAR *Format, ...), Format,
                RtlpFormatWide(Buffer, FORMAT_UNBOUNDED, Format, arguments))
FORMAT_VARIADIC(RtlpPrintChecked, (char *Buffer, size_t Size, const char *Format, ...), Format,
                RtlpFormatChecked(Buffer, Size, Size, Format, arguments))
FORMAT_VARIADIC(RtlpPrintCountChecked, (char *Buffer, size_t Size, size_t Count, const char *Format, ...), Format,
                RtlpFormatChecked(Buffer, Size, Count, Format, arguments))

int RtlpVPrintChecked(char *Buffer, size_t Size, const char *Format, va_list Arguments)
{
    return RtlpFormatChecked(Buffer, Size, Size, Format, Arguments);
}

int RtlpVPrint(char *Buffer, const char *Format, va_list Arguments)
{
    return _vsnprintf(Buffer, FORMAT_UNBOUNDED, Format, Arguments);
}
