/*
 * cstring.c - the rest of the C runtime's strings and numbers that Windows' kernel exports. Case is that of ASCII.
 */
#include "nt.h"

#define RTLP_STRING_SEARCH(First, Last, Character)                                                                     \
    Character *First(const Character *Text, int Wanted);                                                               \
    Character *First(const Character *Text, int Wanted)                                                                \
    {                                                                                                                  \
        for (;; Text++) {                                                                                              \
            if (*Text == (Character)Wanted)                                                                            \
                return (Character *)Text;                                                                              \
            if (!*Text)                                                                                                \
                return NULL;                                                                                           \
        }                                                                                                              \
    }                                                                                                                  \
    Character *Last(const Character *Text, int Wanted);                                                                \
    Character *Last(const Character *Text, int Wanted)                                                                 \
    {                                                                                                                  \
        const Character *last = NULL;                                                                                  \
        for (;; Text++) {                                                                                              \
            if (*Text == (Character)Wanted)                                                                            \
                last = Text;                                                                                           \
            if (!*Text)                                                                                                \
                return (Character *)last;                                                                              \
        }                                                                                                              \
    }

RTLP_STRING_SEARCH(RtlpFindNarrow, RtlpFindLastNarrow, char)
RTLP_STRING_SEARCH(RtlpFindWide, RtlpFindLastWide, WCHAR)

static int RtlpFold(int Character)
{
    return Character >= 'A' && Character <= 'Z' ? Character | 0x20 : Character;
}

/* The first Count characters, by their lower-case forms if Fold says so. */
#define RTLP_STRING_COMPARE(Name, Character, Unsigned, Folded)                                                         \
    int Name(const Character *A, const Character *B, size_t Count);                                                    \
    int Name(const Character *A, const Character *B, size_t Count)                                                     \
    {                                                                                                                  \
        for (; Count; A++, B++, Count--) {                                                                             \
            int a = Folded ? RtlpFold((Unsigned)*A) : (Unsigned)*A;                                                    \
            int b = Folded ? RtlpFold((Unsigned)*B) : (Unsigned)*B;                                                    \
            if (a != b || !a)                                                                                          \
                return a - b;                                                                                          \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

RTLP_STRING_COMPARE(RtlpCompareCountNoCase, char, UCHAR, TRUE)
RTLP_STRING_COMPARE(RtlpCompareCountWide, WCHAR, WCHAR, FALSE)
RTLP_STRING_COMPARE(RtlpCompareCountWideNoCase, WCHAR, WCHAR, TRUE)

int RtlpCompareWideNoCase(const WCHAR *A, const WCHAR *B);
int RtlpCompareWideNoCase(const WCHAR *A, const WCHAR *B)
{
    return RtlpCompareCountWideNoCase(A, B, ~(size_t)0);
}

WCHAR *RtlpAppendWide(WCHAR *Destination, const WCHAR *Source);
WCHAR *RtlpAppendWide(WCHAR *Destination, const WCHAR *Source)
{
    wcscpy(Destination + wcslen(Destination), Source);
    return Destination;
}

WCHAR *RtlpCopyCountedWide(WCHAR *Destination, const WCHAR *Source, size_t Count);
WCHAR *RtlpCopyCountedWide(WCHAR *Destination, const WCHAR *Source, size_t Count)
{
    size_t at = 0;

    for (; at < Count && Source[at]; at++)
        Destination[at] = Source[at];
    for (; at < Count; at++)
        Destination[at] = 0;
    return Destination;
}

WCHAR *RtlpFindPartWide(const WCHAR *Text, const WCHAR *Part);
WCHAR *RtlpFindPartWide(const WCHAR *Text, const WCHAR *Part)
{
    size_t length = wcslen(Part);

    for (; *Text || !length; Text++) {
        if (!RtlpCompareCountWide(Text, Part, length))
            return (WCHAR *)Text;
    }
    return NULL;
}

char *RtlpAppendCounted(char *Destination, const char *Source, size_t Count);
char *RtlpAppendCounted(char *Destination, const char *Source, size_t Count)
{
    char *at = Destination + strlen(Destination);

    while (Count-- && *Source)
        *at++ = *Source++;
    *at = 0;
    return Destination;
}

void *RtlpFindByte(const void *Memory, int Wanted, size_t Length);
void *RtlpFindByte(const void *Memory, int Wanted, size_t Length)
{
    const UCHAR *at = Memory;

    for (; Length; at++, Length--) {
        if (*at == (UCHAR)Wanted)
            return (void *)at;
    }
    return NULL;
}

int RtlpToLower(int Character);
int RtlpToLower(int Character)
{
    return RtlpFold(Character);
}

int RtlpToUpper(int Character);
int RtlpToUpper(int Character)
{
    return Character >= 'a' && Character <= 'z' ? Character & ~0x20 : Character;
}

int RtlpIsDigit(int Character);
int RtlpIsDigit(int Character)
{
    return Character >= '0' && Character <= '9';
}

int RtlpIsSpace(int Character);
int RtlpIsSpace(int Character)
{
    return Character == ' ' || (Character >= '\t' && Character <= '\r');
}

/* The value of a digit in bases to 36; 36 and more: none. */
static ULONG RtlpDigit(int Character)
{
    if (RtlpIsDigit(Character))
        return (ULONG)(Character - '0');
    Character = RtlpFold(Character);
    return Character >= 'a' && Character <= 'z' ? (ULONG)(Character - 'a' + 10) : 36;
}

unsigned long RtlpParseNumber(const char *Text, char **End, int Base);
unsigned long RtlpParseNumber(const char *Text, char **End, int Base)
{
    ULONG64 value = 0;
    BOOLEAN negative;
    const char *start;

    while (RtlpIsSpace(*Text))
        Text++;
    negative = *Text == '-';
    if (*Text == '-' || *Text == '+')
        Text++;
    if ((Base == 0 || Base == 16) && Text[0] == '0' && (Text[1] | 0x20) == 'x' && RtlpDigit(Text[2]) < 16) {
        Text += 2;
        Base = 16;
    }
    if (Base == 0)
        Base = *Text == '0' ? 8 : 10;
    for (start = Text; RtlpDigit(*Text) < (ULONG)Base; Text++) {
        if (value <= MAXULONG)
            value = value * (ULONG)Base + RtlpDigit(*Text);
    }
    if (End)
        *End = (char *)(Text == start ? start : Text);
    if (value > MAXULONG)
        return MAXULONG;
    return negative ? 0 - (unsigned long)value : (unsigned long)value;
}

int RtlpParseDecimal(const char *Text);
int RtlpParseDecimal(const char *Text)
{
    return (int)RtlpParseNumber(Text, NULL, 10);
}
