// What symbols-pdb.dll, symbols-pdb.pdb and symbols-dwarf.dll are made from, by tests/data/symbols-build:
// functions with and without external names, one that is inlined into another, and lines of two files.
#include "symbols.h"

volatile int word;

static __attribute__((noinline)) int hidden(int value)
{
    word += value;
    return twice(word);
}

__declspec(dllexport) int DriverEntry(int first, int second)
{
    int sum = hidden(first);
    if (second > 3) {
        sum += twice(second);
    }
    for (int i = 0; i < first; i++)
        sum ^= hidden(i);
    return sum;
}
