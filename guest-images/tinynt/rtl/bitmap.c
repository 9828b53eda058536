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

VOID RtlSetBit(PRTL_BITMAP BitMapHeader, ULONG BitNumber)
{
    RtlSetBits(BitMapHeader, BitNumber, 1);
}

VOID RtlClearBit(PRTL_BITMAP BitMapHeader, ULONG BitNumber)
{
    RtlClearBits(BitMapHeader, BitNumber, 1);
}

/* Whether all of the run have the value; an empty run, or one that leaves the bit map, has not. */
static BOOLEAN RtlpAreBits(PRTL_BITMAP BitMap, ULONG Start, ULONG Length, BOOLEAN Value)
{
    if (!Length || Start >= BitMap->SizeOfBitMap || Length > BitMap->SizeOfBitMap - Start)
        return FALSE;
    for (ULONG i = Start; i < Start + Length; i++) {
        if (RtlTestBit(BitMap, i) != Value)
            return FALSE;
    }
    return TRUE;
}

BOOLEAN RtlAreBitsSet(PRTL_BITMAP BitMapHeader, ULONG StartingIndex, ULONG Length)
{
    return RtlpAreBits(BitMapHeader, StartingIndex, Length, TRUE);
}

BOOLEAN RtlAreBitsClear(PRTL_BITMAP BitMapHeader, ULONG StartingIndex, ULONG Length)
{
    return RtlpAreBits(BitMapHeader, StartingIndex, Length, FALSE);
}

ULONG RtlNumberOfClearBits(PRTL_BITMAP BitMapHeader)
{
    return BitMapHeader->SizeOfBitMap - RtlNumberOfSetBits(BitMapHeader);
}

/* From the hint on, then from the start. */
ULONG RtlFindSetBits(PRTL_BITMAP BitMapHeader, ULONG NumberToFind, ULONG HintIndex)
{
    ULONG size = BitMapHeader->SizeOfBitMap;

    for (ULONG i = 0; i < size; i++) {
        ULONG at = (HintIndex < size ? HintIndex + i : i) % size;
        if (RtlpAreBits(BitMapHeader, at, NumberToFind, TRUE))
            return at;
    }
    return 0xFFFFFFFF;
}

ULONG RtlFindSetBitsAndClear(PRTL_BITMAP BitMapHeader, ULONG NumberToFind, ULONG HintIndex)
{
    ULONG at = RtlFindSetBits(BitMapHeader, NumberToFind, HintIndex);

    if (at != 0xFFFFFFFF)
        RtlClearBits(BitMapHeader, at, NumberToFind);
    return at;
}
