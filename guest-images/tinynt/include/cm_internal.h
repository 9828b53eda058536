/*
 * cm_internal.h - the configuration manager: values under HKEY_LOCAL_MACHINE, by key path and name.
 */
#ifndef TINYNT_CM_INTERNAL_H
#define TINYNT_CM_INTERNAL_H

#include "nt.h"

#define CM_PATH_LIMIT 192u /* characters, with the NUL */
#define CM_NAME_LIMIT 64u
#define CM_DATA_LIMIT 512u /* bytes of one value */

/* Reads the loader's registry files. */
VOID CmInitialize(VOID);

/* Key: the path under HKEY_LOCAL_MACHINE. FALSE: no room for it. */
BOOLEAN CmSetValue(const char *Key, const char *Name, ULONG Type, const VOID *Data, ULONG Length);

#endif
