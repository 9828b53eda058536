/*
 * bugcheckcallback.c - the routines that drivers have called at a bug check (KeRegisterBugCheckCallback and
 * KeRegisterBugCheckReasonCallback).
 *
 * No dump is written, so nothing becomes of what the routines leave; those that exist only to write one
 * (KbCallbackDumpIo) are not called.
 */
#include "ki.h"

#define KB_SECONDARY_DATA_BYTES PAGE_SIZE
#define KB_SECONDARY_DATA_LIMIT (64u * 1024)
/* A list that a stray write has bent may not hold the machine for ever. */
#define KB_CALLBACK_LIMIT 1000

static LIST_ENTRY KiCallbacks = {&KiCallbacks, &KiCallbacks};
static LIST_ENTRY KiReasonCallbacks = {&KiReasonCallbacks, &KiReasonCallbacks};
static ULONG_PTR KiCallbackLock;
static UCHAR KiSecondaryData[KB_SECONDARY_DATA_BYTES];

static ULONG_PTR KiSumOf(const KBUGCHECK_CALLBACK_RECORD *Record)
{
    return (ULONG_PTR)Record->CallbackRoutine + (ULONG_PTR)Record->Buffer + Record->Length +
           (ULONG_PTR)Record->Component;
}

static ULONG_PTR KiSumOfReason(const KBUGCHECK_REASON_CALLBACK_RECORD *Record)
{
    return (ULONG_PTR)Record->CallbackRoutine + (ULONG_PTR)Record->Reason + (ULONG_PTR)Record->Component;
}

/* Takes a record of either kind out of its list; FALSE if it is in none. */
static BOOLEAN KiTakeOut(PUCHAR State, PLIST_ENTRY Entry)
{
    KIRQL old = KxLockRaise(&KiCallbackLock);
    BOOLEAN was = *State == BufferInserted;

    if (was) {
        *State = BufferEmpty;
        RemoveEntryList(Entry);
    }
    KxUnlockLower(&KiCallbackLock, old);
    return was;
}

BOOLEAN KeRegisterBugCheckCallback(PKBUGCHECK_CALLBACK_RECORD Record, PKBUGCHECK_CALLBACK_ROUTINE Routine, PVOID Buffer,
                                   ULONG Length, PUCHAR Component)
{
    KIRQL old = KxLockRaise(&KiCallbackLock);
    BOOLEAN isNew = Record->State == BufferEmpty;

    if (isNew) {
        Record->CallbackRoutine = Routine;
        Record->Buffer = Buffer;
        Record->Length = Length;
        Record->Component = Component;
        Record->Checksum = KiSumOf(Record);
        Record->State = BufferInserted;
        InsertTailList(&KiCallbacks, &Record->Entry);
    }
    KxUnlockLower(&KiCallbackLock, old);
    return isNew;
}

BOOLEAN KeDeregisterBugCheckCallback(PKBUGCHECK_CALLBACK_RECORD Record)
{
    return KiTakeOut(&Record->State, &Record->Entry);
}

BOOLEAN KeRegisterBugCheckReasonCallback(PKBUGCHECK_REASON_CALLBACK_RECORD Record,
                                         PKBUGCHECK_REASON_CALLBACK_ROUTINE Routine, KBUGCHECK_CALLBACK_REASON Reason,
                                         PUCHAR Component)
{
    KIRQL old = KxLockRaise(&KiCallbackLock);
    BOOLEAN isNew = Record->State == BufferEmpty;

    if (isNew) {
        Record->CallbackRoutine = Routine;
        Record->Reason = Reason;
        Record->Component = Component;
        Record->Checksum = KiSumOfReason(Record);
        Record->State = BufferInserted;
        InsertTailList(&KiReasonCallbacks, &Record->Entry);
    }
    KxUnlockLower(&KiCallbackLock, old);
    return isNew;
}

BOOLEAN KeDeregisterBugCheckReasonCallback(PKBUGCHECK_REASON_CALLBACK_RECORD Record)
{
    return KiTakeOut(&Record->State, &Record->Entry);
}

/* Asked first with the buffer that there is, as documented; the routine points to its data, there or elsewhere. */
static VOID KiCallSecondaryData(PKBUGCHECK_REASON_CALLBACK_RECORD Record)
{
    KBUGCHECK_SECONDARY_DUMP_DATA data = {.InBuffer = KiSecondaryData,
                                          .InBufferLength = KB_SECONDARY_DATA_BYTES,
                                          .MaximumAllowed = KB_SECONDARY_DATA_LIMIT};

    Record->CallbackRoutine(KbCallbackSecondaryDumpData, Record, &data, sizeof(data));
}

static VOID KiCallAddPages(PKBUGCHECK_REASON_CALLBACK_RECORD Record, ULONG Code)
{
    KBUGCHECK_ADD_PAGES pages = {.BugCheckCode = Code};

    for (ULONG i = 0; i < KB_CALLBACK_LIMIT; i++) {
        pages.Flags = 0;
        Record->CallbackRoutine(KbCallbackAddPages, Record, &pages, sizeof(pages));
        if (!(pages.Flags & KB_ADD_PAGES_FLAG_ADDITIONAL_RANGES_EXIST))
            return;
    }
}

static VOID KiCallReason(PKBUGCHECK_REASON_CALLBACK_RECORD Record, ULONG Code)
{
    Record->State = BufferStarted;
    if (Record->Reason == KbCallbackSecondaryDumpData)
        KiCallSecondaryData(Record);
    else if (Record->Reason == KbCallbackAddPages)
        KiCallAddPages(Record, Code);
    Record->State = BufferFinished;
}

/*
 * At HIGH_LEVEL, the other processors stopped; the lists may have been in the middle of a change, so records whose
 * checksum is wrong end the walk. A routine that bug-checks itself ends in KiBugCheck's stop for the second time.
 */
VOID KiCallBugCheckCallbacks(ULONG Code)
{
    PLIST_ENTRY entry = KiCallbacks.Flink;

    for (ULONG i = 0; i < KB_CALLBACK_LIMIT && entry != &KiCallbacks; i++, entry = entry->Flink) {
        PKBUGCHECK_CALLBACK_RECORD record = CONTAINING_RECORD(entry, KBUGCHECK_CALLBACK_RECORD, Entry);
        if (record->State != BufferInserted || record->Checksum != KiSumOf(record))
            break;
        record->State = BufferStarted;
        record->CallbackRoutine(record->Buffer, record->Length);
        record->State = BufferFinished;
    }
    entry = KiReasonCallbacks.Flink;
    for (ULONG i = 0; i < KB_CALLBACK_LIMIT && entry != &KiReasonCallbacks; i++, entry = entry->Flink) {
        PKBUGCHECK_REASON_CALLBACK_RECORD record = CONTAINING_RECORD(entry, KBUGCHECK_REASON_CALLBACK_RECORD, Entry);
        if (record->State != BufferInserted || record->Checksum != KiSumOfReason(record))
            break;
        KiCallReason(record, Code);
    }
}
