/*
 * workload_support.h - what the kernel offers to the workload that is linked into it (and to nobody else).
 */
#ifndef TINYNT_WORKLOAD_SUPPORT_H
#define TINYNT_WORKLOAD_SUPPORT_H

#include "nt.h"

/* The top of the Index-th started device stack, in start order; NULL when there are no more. */
PDEVICE_OBJECT PnpGetStartedDevice(ULONG Index);

/* Command line words are key=value. */
BOOLEAN KiCommandLineString(const char *Key, char *Value, ULONG Size); /* FALSE: not given */
ULONG64 KiCommandLineNumber(const char *Key, ULONG64 Default);         /* decimal or 0x hexadecimal */
ULONG64 KiLoaderSeed(void);

/* Prints the counters and powers the machine off (S5). */
DECLSPEC_NORETURN VOID PoShutdown(VOID);

#endif
