/*
 * memory.c - block memory routines on the string instructions (no SSE: the kernel has to run where KVM emulates).
 */
#include "nt.h"

#undef RtlCopyMemory
#undef RtlMoveMemory
#undef RtlFillMemory
#undef RtlZeroMemory

void *memcpy(void *Destination, const void *Source, size_t Length)
{
    void *to = Destination;
    size_t words = Length / 8, bytes = Length % 8;

    __asm__ volatile("rep movsq" : "+D"(to), "+S"(Source), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(Source), "+c"(bytes) : : "memory");
    return Destination;
}

void *memmove(void *Destination, const void *Source, size_t Length)
{
    const unsigned char *from = Source;
    unsigned char *to = Destination;

    if (to <= from || to >= from + Length)
        return memcpy(Destination, Source, Length);
    from += Length - 1;
    to += Length - 1;
    __asm__ volatile("std\n\trep movsb\n\tcld" : "+D"(to), "+S"(from), "+c"(Length) : : "memory");
    return Destination;
}

void *memset(void *Destination, int Fill, size_t Length)
{
    void *to = Destination;
    size_t words = Length / 8, bytes = Length % 8;
    unsigned long long value = (unsigned char)Fill * 0x0101010101010101ull;

    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(value) : "memory");
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
    return Destination;
}

int memcmp(const void *A, const void *B, size_t Length)
{
    const unsigned char *a = A, *b = B;

    while (Length >= 8 && *(const ULONG64 UNALIGNED *)a == *(const ULONG64 UNALIGNED *)b) {
        a += 8;
        b += 8;
        Length -= 8;
    }
    for (; Length; a++, b++, Length--) {
        if (*a != *b)
            return *a - *b;
    }
    return 0;
}

VOID RtlCopyMemory(PVOID Destination, const VOID *Source, SIZE_T Length);
VOID RtlCopyMemory(PVOID Destination, const VOID *Source, SIZE_T Length)
{
    memcpy(Destination, Source, Length);
}

VOID RtlMoveMemory(PVOID Destination, const VOID *Source, SIZE_T Length);
VOID RtlMoveMemory(PVOID Destination, const VOID *Source, SIZE_T Length)
{
    memmove(Destination, Source, Length);
}

VOID RtlFillMemory(PVOID Destination, SIZE_T Length, UCHAR Fill);
VOID RtlFillMemory(PVOID Destination, SIZE_T Length, UCHAR Fill)
{
    memset(Destination, Fill, Length);
}

VOID RtlZeroMemory(PVOID Destination, SIZE_T Length);
VOID RtlZeroMemory(PVOID Destination, SIZE_T Length)
{
    memset(Destination, 0, Length);
}

/* How many bytes are equal from the start. */
SIZE_T RtlCompareMemory(const VOID *Source1, const VOID *Source2, SIZE_T Length)
{
    const UCHAR *a = Source1, *b = Source2;
    SIZE_T same = 0;

    while (Length - same >= 8 && *(const ULONG64 UNALIGNED *)(a + same) == *(const ULONG64 UNALIGNED *)(b + same))
        same += 8;
    while (same < Length && a[same] == b[same])
        same++;
    return same;
}
