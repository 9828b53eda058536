/*
 * services.c - the self test's second part: services that drivers import, each tried for what its documentation
 * promises.
 */
#include "ki.h"
#include "selftest.h"

int RtlpPrintWideUnbounded(WCHAR *Buffer, const WCHAR *Format, ...);
int RtlpPrintChecked(char *Buffer, size_t Size, const char *Format, ...);
int RtlpCopyNarrow(char *Destination, size_t Size, const char *Source);
int RtlpCopyCountNarrow(char *Destination, size_t Size, const char *Source, size_t Count);
int RtlpCatWide(WCHAR *Destination, size_t Size, const WCHAR *Source);
int RtlpCopyMemoryChecked(void *Destination, size_t Size, const void *Source, size_t Count);
unsigned long RtlpParseNumber(const char *Text, char **End, int Base);

NTSTATUS ZwCreateEvent(PHANDLE EventHandle, ACCESS_MASK DesiredAccess, POBJECT_ATTRIBUTES ObjectAttributes,
                       EVENT_TYPE EventType, BOOLEAN InitialState);
NTSTATUS ZwSetEvent(HANDLE EventHandle, PLONG PreviousState);
NTSTATUS ZwWaitForSingleObject(HANDLE Handle, BOOLEAN Alertable, PLARGE_INTEGER Timeout);

#define ERANGE_VALUE 34
#define TRUNCATED_VALUE 80

static VOID TestCheckedStrings(ULONG Test)
{
    char text[6];
    WCHAR wide[8] = L"ab";

    TestExpect(Test, "copy that fits", 0, (ULONG64)RtlpCopyNarrow(text, sizeof(text), "12345"));
    TestExpect(Test, "copy that does not", ERANGE_VALUE, (ULONG64)RtlpCopyNarrow(text, sizeof(text), "123456"));
    TestExpect(Test, "empty after it", 0, (ULONG64)text[0]);
    TestExpect(Test, "cut copy", TRUNCATED_VALUE,
               (ULONG64)RtlpCopyCountNarrow(text, sizeof(text), "123456", ~(size_t)0));
    TestExpect(Test, "its length", 5, strlen(text));
    TestExpect(Test, "append", 0, (ULONG64)RtlpCatWide(wide, RTL_NUMBER_OF(wide), L"cdefg"));
    TestExpect(Test, "appended", 'g', wide[6]);
    TestExpect(Test, "append too much", ERANGE_VALUE, (ULONG64)RtlpCatWide(wide, RTL_NUMBER_OF(wide), L"h"));
    TestExpect(Test, "memcpy_s", ERANGE_VALUE, (ULONG64)RtlpCopyMemoryChecked(text, 2, "abc", 3));
    TestExpect(Test, "sprintf_s", (ULONG64)-1, (ULONG64)RtlpPrintChecked(text, sizeof(text), "%d", 1234567));
}

static VOID TestWideFormat(ULONG Test)
{
    UNICODE_STRING counted = RTL_CONSTANT_STRING(L"xyz");
    WCHAR text[40];

    RtlpPrintWideUnbounded(text, L"%wZ|%s|%S|%hs|%04x", &counted, L"wide", "one", "two", 0x2a);
    TestExpect(Test, "wide format", 0, (ULONG64)wcscmp(text, L"xyz|wide|one|two|002a"));
}

static VOID TestNumbers(ULONG Test)
{
    UNICODE_STRING text = RTL_CONSTANT_STRING(L"0x1Fz");
    GUID guid = {0x12345678, 0x9abc, 0xdef0, {1, 2, 3, 4, 5, 6, 7, 8}}, back;
    ULONG value = 0;
    char *end;

    RtlUnicodeStringToInteger(&text, 0, &value);
    TestExpect(Test, "number of a string", 0x1f, value);
    TestExpect(Test, "strtoul", 255, RtlpParseNumber("  0xffz", &end, 0));
    TestExpect(Test, "its end", 'z', (ULONG64)*end);
    TestExpect(Test, "too large", MAXULONG, RtlpParseNumber("99999999999", NULL, 10));
    TestExpect(Test, "string of a GUID", 0, (ULONG64)RtlStringFromGUID(&guid, &text));
    TestExpect(Test, "GUID of a string", 0, (ULONG64)RtlGUIDFromString(&text, &back));
    TestExpect(Test, "same GUID", 0, (ULONG64)memcmp(&guid, &back, sizeof(guid)));
    RtlFreeUnicodeString(&text);
}

static VOID TestCalendar(ULONG Test)
{
    TIME_FIELDS fields = {2024, 2, 29, 23, 59, 58, 7, 0};
    LARGE_INTEGER time;
    TIME_FIELDS back;

    TestExpect(Test, "leap day", TRUE, RtlTimeFieldsToTime(&fields, &time));
    RtlTimeToTimeFields(&time, &back);
    TestExpect(Test, "day", 29, (ULONG64)back.Day);
    TestExpect(Test, "millisecond", 7, (ULONG64)back.Milliseconds);
    fields.Year = 2023;
    TestExpect(Test, "no such day", FALSE, RtlTimeFieldsToTime(&fields, &time));
}

static VOID TestRegistryTable(ULONG Test)
{
    static const WCHAR key[] = L"SelfTest";
    ULONG number = 0, fallback = 7, given = 5;
    WCHAR buffer[8];
    UNICODE_STRING string = {0, sizeof(buffer), buffer};
    RTL_QUERY_REGISTRY_TABLE table[] = {
        {NULL, RTL_QUERY_REGISTRY_DIRECT, L"Given", &number, REG_DWORD, &fallback, sizeof(fallback)},
        {NULL, RTL_QUERY_REGISTRY_DIRECT, L"Text", &string, REG_SZ, L"def", 0},
        {NULL, 0, NULL, NULL, 0, NULL, 0},
    };

    RtlWriteRegistryValue(RTL_REGISTRY_SERVICES, key, L"Given", REG_DWORD, &given, sizeof(given));
    TestExpect(Test, "query", 0, (ULONG64)RtlQueryRegistryValues(RTL_REGISTRY_SERVICES, key, table, NULL, NULL));
    TestExpect(Test, "value", 5, number);
    TestExpect(Test, "default's length", 6, string.Length);
    RtlDeleteRegistryValue(RTL_REGISTRY_SERVICES, key, L"Given");
    TestExpect(Test, "key is gone", (ULONG)STATUS_OBJECT_NAME_NOT_FOUND,
               (ULONG)RtlQueryRegistryValues(RTL_REGISTRY_SERVICES, key, table, NULL, NULL));
    TestExpect(Test, "optional key", 0,
               (ULONG64)RtlQueryRegistryValues(RTL_REGISTRY_SERVICES | RTL_REGISTRY_OPTIONAL, key, table, NULL, NULL));
    TestExpect(Test, "default", 7, number);
}

static FAST_MUTEX TestMutex;

static VOID TestMutexThread(PVOID Context)
{
    TestExpect(19, "mutex of another thread", FALSE, ExTryToAcquireFastMutex(&TestMutex));
    KeSetEvent(Context, 0, FALSE);
    ExAcquireFastMutex(&TestMutex);
    TestExpect(19, "IRQL in it", APC_LEVEL, KiReadCr8());
    ExReleaseFastMutex(&TestMutex);
    KeSetEvent(Context, 0, FALSE);
}

static VOID TestFastMutex(ULONG Test)
{
    KEVENT tried;

    ExInitializeFastMutex(&TestMutex);
    KeInitializeEvent(&tried, SynchronizationEvent, FALSE);
    ExAcquireFastMutexUnsafe(&TestMutex);
    KiCreateThread(TestMutexThread, &tried, 8);
    KeWaitForSingleObject(&tried, Executive, KernelMode, FALSE, NULL);
    ExReleaseFastMutexUnsafe(&TestMutex);
    KeWaitForSingleObject(&tried, Executive, KernelMode, FALSE, NULL);
    TestExpect(Test, "IRQL after", PASSIVE_LEVEL, KiReadCr8());
}

static VOID TestWork(PVOID IoObject, PVOID Context, PIO_WORKITEM IoWorkItem)
{
    IoFreeWorkItem(IoWorkItem);
    ZwSetEvent(Context, NULL);
}

static VOID TestEventHandle(ULONG Test)
{
    HANDLE event;

    TestExpect(Test, "event", 0, (ULONG64)ZwCreateEvent(&event, EVENT_ALL_ACCESS, NULL, SynchronizationEvent, FALSE));
    IoQueueWorkItemEx(IoAllocateWorkItem(NULL), TestWork, DelayedWorkQueue, event);
    TestExpect(Test, "wait", 0, (ULONG64)ZwWaitForSingleObject(event, FALSE, NULL));
    ZwClose(event);
    TestExpect(Test, "closed", (ULONG)STATUS_INVALID_HANDLE, (ULONG)ZwSetEvent(event, NULL));
}

/* The first in is the first out; a queue that is run down gives back the rest and ends the waits. */
static VOID TestQueue(ULONG Test)
{
    static ULONG64 queue[8]; /* a KQUEUE */
    LIST_ENTRY first, second, *entry;
    LARGE_INTEGER none = {.QuadPart = 0};

    KeInitializeQueue((PKQUEUE)queue, 0);
    entry = KeRemoveQueue((PKQUEUE)queue, KernelMode, &none);
    TestExpect(Test, "empty", STATUS_TIMEOUT, (ULONG_PTR)entry);
    KeInsertQueue((PKQUEUE)queue, &first);
    KeInsertQueue((PKQUEUE)queue, &second);
    TestExpect(Test, "state", 2, (ULONG64)KeReadStateQueue((PKQUEUE)queue));
    TestExpect(Test, "first", (ULONG_PTR)&first, (ULONG_PTR)KeRemoveQueue((PKQUEUE)queue, KernelMode, NULL));
    TestExpect(Test, "rest", (ULONG_PTR)&second, (ULONG_PTR)KeRundownQueue((PKQUEUE)queue));
    entry = KeRemoveQueue((PKQUEUE)queue, KernelMode, NULL);
    TestExpect(Test, "run down", (ULONG_PTR)STATUS_ABANDONED, (ULONG_PTR)entry);
}

VOID KiSelfTestServices(VOID)
{
    TestCheckedStrings(14);
    TestWideFormat(15);
    TestNumbers(16);
    TestCalendar(17);
    TestRegistryTable(18);
    TestFastMutex(19);
    TestEventHandle(20);
    TestQueue(21);
}
