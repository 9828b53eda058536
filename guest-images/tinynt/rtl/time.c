/*
 * time.c - conversions between system time (100 ns since 1601) and others.
 */
#include "nt.h"

#define TICKS_PER_SECOND 10000000ll
#define SECONDS_1601_TO_1970 11644473600ll
#define SECONDS_1601_TO_1980 11960006400ll

static BOOLEAN RtlpSecondsSince(PLARGE_INTEGER Time, LONG64 Epoch, PULONG Seconds)
{
    LONG64 since = Time->QuadPart / TICKS_PER_SECOND - Epoch;

    if (since < 0 || since > 0xFFFFFFFFll)
        return FALSE;
    *Seconds = (ULONG)since;
    return TRUE;
}

BOOLEAN RtlTimeToSecondsSince1970(PLARGE_INTEGER Time, PULONG ElapsedSeconds)
{
    return RtlpSecondsSince(Time, SECONDS_1601_TO_1970, ElapsedSeconds);
}

BOOLEAN RtlTimeToSecondsSince1980(PLARGE_INTEGER Time, PULONG ElapsedSeconds)
{
    return RtlpSecondsSince(Time, SECONDS_1601_TO_1980, ElapsedSeconds);
}

VOID RtlSecondsSince1970ToTime(ULONG ElapsedSeconds, PLARGE_INTEGER Time)
{
    Time->QuadPart = (SECONDS_1601_TO_1970 + ElapsedSeconds) * TICKS_PER_SECOND;
}

/* The Gregorian calendar, by days since 1601-01-01: 400 years have 146097 days. */
VOID RtlTimeToTimeFields(PLARGE_INTEGER Time, PTIME_FIELDS TimeFields)
{
    LONG64 day = Time->QuadPart / (86400 * TICKS_PER_SECOND);
    LONG64 rest = Time->QuadPart % (86400 * TICKS_PER_SECOND);
    LONG64 shifted = day + 306; /* days since 1600-03-01: the leap day ends a year */
    LONG64 era = shifted / 146097, dayOfEra = shifted % 146097;
    LONG64 yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365;
    LONG64 dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
    LONG64 month = (5 * dayOfYear + 2) / 153;

    TimeFields->Day = (CSHORT)(dayOfYear - (153 * month + 2) / 5 + 1);
    TimeFields->Month = (CSHORT)(month < 10 ? month + 3 : month - 9);
    TimeFields->Year = (CSHORT)(1600 + era * 400 + yearOfEra + (month >= 10 ? 1 : 0));
    TimeFields->Weekday = (CSHORT)((day + 1) % 7);
    TimeFields->Hour = (CSHORT)(rest / (3600 * TICKS_PER_SECOND));
    TimeFields->Minute = (CSHORT)(rest / (60 * TICKS_PER_SECOND) % 60);
    TimeFields->Second = (CSHORT)(rest / TICKS_PER_SECOND % 60);
    TimeFields->Milliseconds = (CSHORT)(rest / 10000 % 1000);
}
