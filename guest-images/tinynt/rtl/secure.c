/*
 * secure.c - the checked C runtime routines (memcpy_s and its like) that newer compilers make drivers import.
 *
 * A constraint that is not met gives an error code and an empty destination; Windows' kernel has no handler to call.
 * The errors are those of errno.h: EINVAL for a NULL, ERANGE for a destination that is too small.
 */
#include "nt.h"

#define RTLP_EINVAL 22
#define RTLP_ERANGE 34
#define RTLP_TRUNCATED 80          /* STRUNCATE */
#define RTLP_TRUNCATE (~(size_t)0) /* _TRUNCATE */

int RtlpCopyMemoryChecked(void *Destination, size_t Size, const void *Source, size_t Count);
int RtlpCopyMemoryChecked(void *Destination, size_t Size, const void *Source, size_t Count)
{
    if (!Count)
        return 0;
    if (!Destination)
        return RTLP_EINVAL;
    if (!Source || Size < Count) {
        memset(Destination, 0, Size);
        return Source ? RTLP_ERANGE : RTLP_EINVAL;
    }
    memmove(Destination, Source, Count);
    return 0;
}

/*
 * Appends at most Count characters of Width bytes to what is at Used in the destination of Size characters. With
 * RTLP_TRUNCATE as the count it takes what fits.
 */
static int RtlpAppend(PUCHAR Destination, size_t Size, size_t Used, const UCHAR *Source, size_t Count, ULONG Width)
{
    size_t length = 0;
    BOOLEAN cut;

    if (!Destination || !Size)
        return RTLP_EINVAL;
    if (!Source || Used >= Size) {
        memset(Destination, 0, Width);
        return RTLP_EINVAL;
    }
    while (length < Count && (Source[length * Width] || (Width == 2 && Source[length * 2 + 1])))
        length++;
    cut = length >= Size - Used;
    if (cut && Count != RTLP_TRUNCATE) {
        memset(Destination, 0, Width);
        return RTLP_ERANGE;
    }
    if (cut)
        length = Size - Used - 1;
    memmove(Destination + Used * Width, Source, length * Width);
    memset(Destination + (Used + length) * Width, 0, Width);
    return cut ? RTLP_TRUNCATED : 0;
}

/* Characters before the NUL; Limit if there is none. */
size_t RtlpLengthNarrow(const char *Text, size_t Limit);
size_t RtlpLengthNarrow(const char *Text, size_t Limit)
{
    size_t length = 0;

    while (length < Limit && Text[length])
        length++;
    return length;
}

size_t RtlpLengthWide(const WCHAR *Text, size_t Limit);
size_t RtlpLengthWide(const WCHAR *Text, size_t Limit)
{
    size_t length = 0;

    while (length < Limit && Text[length])
        length++;
    return length;
}

/* The unbounded forms take all or fail: the largest count that is not RTLP_TRUNCATE. */
#define RTLP_ALL (RTLP_TRUNCATE - 1)

#define RTLP_COPY_AND_APPEND(Suffix, Character, Length)                                                                \
    int RtlpCopy##Suffix(Character *Destination, size_t Size, const Character *Source);                                \
    int RtlpCopy##Suffix(Character *Destination, size_t Size, const Character *Source)                                 \
    {                                                                                                                  \
        return RtlpAppend((PUCHAR)Destination, Size, 0, (const UCHAR *)Source, RTLP_ALL, sizeof(Character));           \
    }                                                                                                                  \
    int RtlpCopyCount##Suffix(Character *Destination, size_t Size, const Character *Source, size_t Count);             \
    int RtlpCopyCount##Suffix(Character *Destination, size_t Size, const Character *Source, size_t Count)              \
    {                                                                                                                  \
        return RtlpAppend((PUCHAR)Destination, Size, 0, (const UCHAR *)Source, Count, sizeof(Character));              \
    }                                                                                                                  \
    int RtlpCat##Suffix(Character *Destination, size_t Size, const Character *Source);                                 \
    int RtlpCat##Suffix(Character *Destination, size_t Size, const Character *Source)                                  \
    {                                                                                                                  \
        size_t used = Destination ? Length(Destination, Size) : 0;                                                     \
        return RtlpAppend((PUCHAR)Destination, Size, used, (const UCHAR *)Source, RTLP_ALL, sizeof(Character));        \
    }                                                                                                                  \
    int RtlpCatCount##Suffix(Character *Destination, size_t Size, const Character *Source, size_t Count);              \
    int RtlpCatCount##Suffix(Character *Destination, size_t Size, const Character *Source, size_t Count)               \
    {                                                                                                                  \
        size_t used = Destination ? Length(Destination, Size) : 0;                                                     \
        return RtlpAppend((PUCHAR)Destination, Size, used, (const UCHAR *)Source, Count, sizeof(Character));           \
    }

RTLP_COPY_AND_APPEND(Narrow, char, RtlpLengthNarrow)
RTLP_COPY_AND_APPEND(Wide, WCHAR, RtlpLengthWide)
