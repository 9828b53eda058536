/*
 * regfile.c - the registry file that the loader hands over: regedit's text in one byte a character, a value a line.
 * Keys in brackets, values as "Name"=dword:0000001f, "Name"="text", "Name"=hex:01,02 or, of any type,
 * "Name"=hex(7):61,00; @ is the value without a name. What it does not understand it skips, and says so once.
 */
#include "cm_internal.h"
#include "ki.h"

typedef struct _CM_READER {
    const char *At;
    const char *End; /* of the line */
} CM_READER;

static int CmpHexDigit(char Character)
{
    if (Character >= '0' && Character <= '9')
        return Character - '0';
    Character |= 0x20;
    return Character >= 'a' && Character <= 'f' ? Character - 'a' + 10 : -1;
}

static BOOLEAN CmpSkip(CM_READER *Reader, const char *Text)
{
    const char *at = Reader->At;

    for (; *Text; Text++, at++) {
        if (at >= Reader->End || *at != *Text)
            return FALSE;
    }
    Reader->At = at;
    return TRUE;
}

/* Up to the closing quote; a backslash takes the next character as it is. */
static BOOLEAN CmpQuoted(CM_READER *Reader, char *Text, ULONG Size)
{
    ULONG length = 0;

    if (!CmpSkip(Reader, "\""))
        return FALSE;
    while (Reader->At < Reader->End && *Reader->At != '"') {
        if (*Reader->At == '\\' && Reader->At + 1 < Reader->End)
            Reader->At++;
        if (length + 1 >= Size)
            return FALSE;
        Text[length++] = *Reader->At++;
    }
    Text[length] = 0;
    return CmpSkip(Reader, "\"");
}

static BOOLEAN CmpHexByte(CM_READER *Reader, UCHAR *Byte)
{
    int high, low;

    if (Reader->At + 2 > Reader->End)
        return FALSE;
    high = CmpHexDigit(Reader->At[0]);
    low = CmpHexDigit(Reader->At[1]);
    if (high < 0 || low < 0)
        return FALSE;
    Reader->At += 2;
    *Byte = (UCHAR)(high << 4 | low);
    return TRUE;
}

static BOOLEAN CmpNumber(CM_READER *Reader, ULONG *Value)
{
    *Value = 0;
    if (Reader->At == Reader->End)
        return FALSE;
    for (; Reader->At < Reader->End; Reader->At++) {
        int digit = CmpHexDigit(*Reader->At);
        if (digit < 0)
            return FALSE;
        *Value = *Value << 4 | (ULONG)digit;
    }
    return TRUE;
}

/* "hex:", or "hex(type):". */
static BOOLEAN CmpType(CM_READER *Reader, ULONG *Type)
{
    int digit;

    if (CmpSkip(Reader, "hex:"))
        return TRUE;
    if (!CmpSkip(Reader, "hex("))
        return FALSE;
    for (*Type = 0; Reader->At < Reader->End && (digit = CmpHexDigit(*Reader->At)) >= 0; Reader->At++)
        *Type = *Type << 4 | (ULONG)digit;
    return CmpSkip(Reader, "):");
}

/* @, or a name in quotes. */
static BOOLEAN CmpName(CM_READER *Reader, char *Name, ULONG Size)
{
    Name[0] = 0;
    return CmpSkip(Reader, "@") || CmpQuoted(Reader, Name, Size);
}

static BOOLEAN CmpParseData(CM_READER *Reader, const char *Key, const char *Name)
{
    UCHAR data[CM_DATA_LIMIT];
    char text[CM_DATA_LIMIT / sizeof(WCHAR)];
    ULONG length = 0, number, type = REG_BINARY;

    if (CmpSkip(Reader, "dword:"))
        return CmpNumber(Reader, &number) && CmSetValue(Key, Name, REG_DWORD, &number, sizeof(number));
    if (CmpType(Reader, &type)) {
        while (length < sizeof(data) && CmpHexByte(Reader, &data[length])) {
            length++;
            if (!CmpSkip(Reader, ","))
                break;
        }
        return Reader->At == Reader->End && CmSetValue(Key, Name, type, data, length);
    }
    if (!CmpQuoted(Reader, text, sizeof(text)))
        return FALSE;
    do {
        ((WCHAR *)data)[length] = (UCHAR)text[length];
    } while (text[length++]);
    return CmSetValue(Key, Name, REG_SZ, data, length * sizeof(WCHAR));
}

static BOOLEAN CmpParseLine(CM_READER *Reader, char *Key)
{
    static const char root[] = "HKEY_LOCAL_MACHINE\\";
    char name[CM_NAME_LIMIT];
    ULONG length = 0;

    if (Reader->At == Reader->End || *Reader->At == ';' || CmpSkip(Reader, "Windows Registry Editor") ||
        CmpSkip(Reader, "REGEDIT4"))
        return TRUE;
    if (CmpSkip(Reader, "[")) {
        if (!CmpSkip(Reader, root))
            return FALSE;
        while (Reader->At < Reader->End && *Reader->At != ']' && length + 1 < CM_PATH_LIMIT)
            Key[length++] = *Reader->At++;
        Key[length] = 0;
        return CmpSkip(Reader, "]");
    }
    return Key[0] && CmpName(Reader, name, sizeof(name)) && CmpSkip(Reader, "=") && CmpParseData(Reader, Key, name);
}

static VOID CmpParseFile(const char *Text, ULONG64 Size)
{
    char key[CM_PATH_LIMIT] = "";
    const char *end = Text + Size;
    ULONG number = 1;

    for (CM_READER reader = {.At = Text}; reader.At < end; number++) {
        const char *next;
        reader.End = reader.At;
        while (reader.End < end && *reader.End != '\n')
            reader.End++;
        next = reader.End < end ? reader.End + 1 : end;
        while (reader.End > reader.At && (reader.End[-1] == '\r' || reader.End[-1] == ' '))
            reader.End--;
        if (!CmpParseLine(&reader, key))
            DbgPrint("registry: line %u is not understood\n", number);
        reader.At = next;
    }
}

VOID CmInitialize(VOID)
{
    const LOADER_FILE *files = (const LOADER_FILE *)KiLoaderBlock->Files;

    for (ULONG i = 0; i < KiLoaderBlock->FileCount; i++) {
        if (files[i].Kind == LOADER_FILE_REGISTRY)
            CmpParseFile((const char *)files[i].Address, files[i].Size);
    }
}
