/*
 * cmdline.c - the loader block's command line: words of the form key=value.
 */
#include "workload_support.h"
#include "ki.h"

const char *KiCommandLine(void)
{
    return KiLoaderBlock->CommandLine ? (const char *)KiLoaderBlock->CommandLine : "";
}

ULONG64 KiLoaderSeed(void)
{
    return KiLoaderBlock->Seed;
}

/* The text after "Key=", NULL if the word is not there. */
static const char *KiFindWord(const char *Key)
{
    const char *at = KiCommandLine();
    while (*at) {
        const char *key = Key;
        while (*at == ' ')
            at++;
        while (*key && *at == *key) {
            at++;
            key++;
        }
        if (!*key && *at == '=')
            return at + 1;
        while (*at && *at != ' ')
            at++;
    }
    return NULL;
}

BOOLEAN KiCommandLineString(const char *Key, char *Value, ULONG Size)
{
    const char *at = KiFindWord(Key);
    ULONG length = 0;

    if (!at || Size == 0)
        return FALSE;
    while (at[length] && at[length] != ' ' && length < Size - 1) {
        Value[length] = at[length];
        length++;
    }
    Value[length] = 0;
    return TRUE;
}

static int KiDigit(char Character)
{
    if (Character >= '0' && Character <= '9')
        return Character - '0';
    Character |= 0x20;
    return Character >= 'a' && Character <= 'f' ? Character - 'a' + 10 : 99;
}

ULONG64 KiCommandLineNumber(const char *Key, ULONG64 Default)
{
    const char *at = KiFindWord(Key);
    int base = 10;
    ULONG64 value = 0;

    if (!at)
        return Default;
    if (at[0] == '0' && at[1] == 'x') {
        base = 16;
        at += 2;
    }
    for (; KiDigit(*at) < base; at++)
        value = value * base + KiDigit(*at);
    return value;
}
