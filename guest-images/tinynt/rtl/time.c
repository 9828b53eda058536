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

VOID RtlSecondsSince1980ToTime(ULONG ElapsedSeconds, PLARGE_INTEGER Time)
{
    Time->QuadPart = (SECONDS_1601_TO_1980 + ElapsedSeconds) * TICKS_PER_SECOND;
}

/* The inverse of RtlTimeToTimeFields; the weekday is not looked at. */
BOOLEAN RtlTimeFieldsToTime(PTIME_FIELDS TimeFields, PLARGE_INTEGER Time)
{
    LONG64 year = TimeFields->Year - (TimeFields->Month <= 2), month = TimeFields->Month;
    LONG64 dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + TimeFields->Day - 1;
    LONG64 sinceMarch1600 = (year - 1600) * 365 + (year - 1600) / 4 - (year - 1600) / 100 + (year - 1600) / 400;
    LARGE_INTEGER result;
    TIME_FIELDS check;

    if (TimeFields->Year < 1601 || month < 1 || month > 12 || TimeFields->Day < 1 || TimeFields->Hour < 0 ||
        TimeFields->Hour > 23 || TimeFields->Minute < 0 || TimeFields->Minute > 59 || TimeFields->Second < 0 ||
        TimeFields->Second > 59 || TimeFields->Milliseconds < 0 || TimeFields->Milliseconds > 999)
        return FALSE;
    result.QuadPart = (((sinceMarch1600 + dayOfYear - 306) * 24 + TimeFields->Hour) * 60 + TimeFields->Minute) * 60 +
                      TimeFields->Second;
    result.QuadPart = result.QuadPart * TICKS_PER_SECOND + TimeFields->Milliseconds * 10000;
    RtlTimeToTimeFields(&result, &check);
    if (check.Day != TimeFields->Day || check.Month != TimeFields->Month)
        return FALSE; /* no such day in that month */
    *Time = result;
    return TRUE;
}
