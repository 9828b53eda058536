/*
 * bitmap.c - bit maps in arrays of ULONG.
 */
#include "nt.h"

#define BITS 32u
#define NOT_FOUND 0xFFFFFFFFu

VOID RtlInitializeBitMap(PRTL_BITMAP BitMapHeader, PULONG BitMapBuffer, ULONG SizeOfBitMap)
{
    BitMapHeader->SizeOfBitMap = SizeOfBitMap;
    BitMapHeader->Buffer = BitMapBuffer;
}

BOOLEAN RtlTestBit(PRTL_BITMAP BitMapHeader, ULONG BitNumber)
{
    return BitNumber < BitMapHeader->SizeOfBitMap && (BitMapHeader->Buffer[BitNumber / BITS] >> BitNumber % BITS & 1);
}

VOID RtlSetBits(PRTL_BITMAP BitMapHeader, ULONG StartingIndex, ULONG NumberToSet)
{
    for (ULONG bit = StartingIndex; NumberToSet && bit < BitMapHeader->SizeOfBitMap; bit++, NumberToSet--)
        BitMapHeader->Buffer[bit / BITS] |= 1u << bit % BITS;
}

VOID RtlClearBits(PRTL_BITMAP BitMapHeader, ULONG StartingIndex, ULONG NumberToClear)
{
    for (ULONG bit = StartingIndex; NumberToClear && bit < BitMapHeader->SizeOfBitMap; bit++, NumberToClear--)
        BitMapHeader->Buffer[bit / BITS] &= ~(1u << bit % BITS);
}

VOID RtlSetAllBits(PRTL_BITMAP BitMapHeader)
{
    RtlSetBits(BitMapHeader, 0, BitMapHeader->SizeOfBitMap);
}

VOID RtlClearAllBits(PRTL_BITMAP BitMapHeader)
{
    RtlClearBits(BitMapHeader, 0, BitMapHeader->SizeOfBitMap);
}

ULONG RtlNumberOfSetBits(PRTL_BITMAP BitMapHeader)
{
    ULONG count = 0;

    for (ULONG bit = 0; bit < BitMapHeader->SizeOfBitMap; bit++)
        count += RtlTestBit(BitMapHeader, bit);
    return count;
}

static ULONG RtlpFindClear(PRTL_BITMAP BitMap, ULONG Number, ULONG From, ULONG To)
{
    ULONG run = 0;

    for (ULONG bit = From; bit < To; bit++) {
        run = RtlTestBit(BitMap, bit) ? 0 : run + 1;
        if (run == Number)
            return bit - Number + 1;
    }
    return NOT_FOUND;
}

/* From the hint on first, then from the start. */
ULONG RtlFindClearBits(PRTL_BITMAP BitMapHeader, ULONG NumberToFind, ULONG HintIndex)
{
    ULONG size = BitMapHeader->SizeOfBitMap;
    ULONG found = RtlpFindClear(BitMapHeader, NumberToFind, HintIndex < size ? HintIndex : 0, size);

    return found != NOT_FOUND ? found : RtlpFindClear(BitMapHeader, NumberToFind, 0, size);
}

ULONG RtlFindClearBitsAndSet(PRTL_BITMAP BitMapHeader, ULONG NumberToFind, ULONG HintIndex)
{
    ULONG found = RtlFindClearBits(BitMapHeader, NumberToFind, HintIndex);

    if (found != NOT_FOUND)
        RtlSetBits(BitMapHeader, found, NumberToFind);
    return found;
}
