/* Block contents that tell where and when they were written. */
#include "workload.h"

#define WORDS (BLOCK_SIZE / sizeof(ULONG64))
#define GOLDEN 0x9e3779b97f4a7c15ull

ULONG64 WorkloadRandom(ULONG64 *State)
{
    ULONG64 Value = *State += GOLDEN;

    Value = (Value ^ (Value >> 30)) * 0xbf58476d1ce4e5b9ull;
    Value = (Value ^ (Value >> 27)) * 0x94d049bb133111ebull;
    return Value ^ (Value >> 31);
}

static ULONG64 FirstWord(ULONG64 Block, ULONG Generation)
{
    ULONG64 State = WorkloadSettings.Seed ^ Block << 24 ^ Generation;

    return WorkloadRandom(&State);
}

VOID PatternFill(PVOID Buffer, ULONG64 Block, ULONG Generation)
{
    ULONG64 *Words = Buffer;
    ULONG64 Value = FirstWord(Block, Generation);

    for (ULONG Index = 0; Index < WORDS; Index++) {
        Words[Index] = Value;
        Value += GOLDEN;
    }
}

/* Tells what the block holds instead: an older write's data means that a later one was lost. */
static VOID Explain(ULONG64 Block, ULONG Index, ULONG Generation, ULONG64 Found)
{
    DbgPrint("workload: block %llu, byte %lu: not what write %lu of the block has written", Block,
             (ULONG)(Index * sizeof(ULONG64)), Generation);
    for (ULONG Older = Generation; Older-- > 1;) {
        if (Found == FirstWord(Block, Older) + Index * GOLDEN) {
            DbgPrint(", but what write %lu had: LOST\n", Older);
            return;
        }
    }
    DbgPrint(Found == 0 ? ", but zero: LOST\n" : ", nor any earlier one: DAMAGED\n");
}

VOID PatternVerify(const VOID *Buffer, ULONG64 Block, ULONG Generation)
{
    const ULONG64 *Words = Buffer;
    ULONG64 Value = Generation != 0 ? FirstWord(Block, Generation) : 0;
    ULONG64 Step = Generation != 0 ? GOLDEN : 0;

    for (ULONG Index = 0; Index < WORDS; Index++) {
        if (Words[Index] != Value) {
            Explain(Block, Index, Generation, Words[Index]);
            KeBugCheckEx(WORKLOAD_DATA_MISMATCH, Block, Index * sizeof(ULONG64), Value, Words[Index]);
        }
        Value += Step;
    }
}
