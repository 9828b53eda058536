/*
 * foreign.h - ways in which another NT differs from this one, each to be asked for by a word of nt=WORD,WORD on the
 * command line (foreign.c). Nothing is different unless it is asked for.
 */
#ifndef TINYNT_FOREIGN_H
#define TINYNT_FOREIGN_H

#include "mi.h"

typedef enum _KI_DIFFERENCE {
    KiListNotExported = 0x1,   /* nolist: PsLoadedModuleList is not exported */
    KiListElsewhere = 0x2,     /* head: nor is it the variable of that name that has the list */
    KiImportsByAddress = 0x4,  /* va: the import lookup table keeps the addresses of the names */
    KiImportsByOldBase = 0x8,  /* oldva: the same, of where the image was linked for */
    KiExportsShareCode = 0x10, /* alias: the ForDpc routines are the raising ones */
    KiHalfPairs = 0x20,        /* half: the kernel takes locks by exports and releases them itself, and vice versa */
    KiWrappedImports = 0x40,   /* wrap: drivers' imports lead to wrappers, as with a driver verifier */
    KiDebuggerDataLate = 0x80, /* latekdbg: the debugger data block is filled in when the system is up */
} KI_DIFFERENCE;

BOOLEAN KiDiffers(KI_DIFFERENCE Difference);
VOID KiBecomeForeign(VOID);     /* before the first processor shows the kernel by LSTAR */
VOID KiStartBeingForeign(VOID); /* in the first system thread, before a driver is loaded */
PVOID KiWrapImport(PVOID Address);

extern PLIST_ENTRY MiModuleList; /* the head of the module list */

/* kddata.c */
VOID KdChangeDebuggerData(ULONG Size, PVOID ModuleList, BOOLEAN Present);

#endif
