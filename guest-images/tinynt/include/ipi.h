/*
 * ipi.h - inter-processor work inside the kernel.
 */
#ifndef TINYNT_IPI_H
#define TINYNT_IPI_H

#include "ki.h"

VOID KiInitializeIpi(VOID);
VOID KiFreezeOthers(VOID); /* the other processors stop as soon as their IRQL allows; they never go on */

#endif
