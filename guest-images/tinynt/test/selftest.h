/*
 * selftest.h - what the parts of the self test share.
 */
#ifndef TINYNT_SELFTEST_H
#define TINYNT_SELFTEST_H

#include "nt.h"

/* Ends in the self test's bug check if the two differ. */
VOID TestExpect(ULONG Test, const char *What, ULONG64 Expected, ULONG64 Found);

/* services.c */
VOID KiSelfTestServices(VOID);

/* ioctl.c */
VOID KiSelfTestControls(VOID);

#endif
