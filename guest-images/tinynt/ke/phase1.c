/*
 * phase1.c - the first system thread: load the drivers, start the devices, run the workload, power off.
 */
#include "cm_internal.h"
#include "foreign.h"
#include "hal.h"
#include "io_internal.h"
#include "ki.h"
#include "workload_support.h"

#include "../workload/workload.h"

#define KI_MAXIMUM_DRIVERS 16

static LDR_DATA_TABLE_ENTRY *KiModules[KI_MAXIMUM_DRIVERS];
static PDRIVER_OBJECT KiDrivers[KI_MAXIMUM_DRIVERS];
static ULONG KiModuleCount;

/* Every image is loaded and linked before any of them is entered; port drivers first, for the others' imports. */
static VOID KiLoadImages(ULONG FirstKind, ULONG LastKind)
{
    const LOADER_FILE *files = (const LOADER_FILE *)KiLoaderBlock->Files;
    for (ULONG i = 0; i < KiLoaderBlock->FileCount && KiModuleCount < KI_MAXIMUM_DRIVERS; i++) {
        if (files[i].Kind >= FirstKind && files[i].Kind <= LastKind)
            KiModules[KiModuleCount++] = MiLoadImage(&files[i]);
    }
}

static ULONG KiStartDrivers(VOID)
{
    ULONG started = 0;
    for (ULONG i = 0; i < KiModuleCount; i++) {
        PDRIVER_OBJECT driver = IopInitializeDriverModule(KiModules[i]);
        if (driver && KiModules[i]->FileKind != LOADER_FILE_PORT_DRIVER)
            KiDrivers[started++] = driver;
    }
    return started;
}

VOID KiPhase1(PVOID Context)
{
    KeSetPriorityThread(KiCurrentThread(), 8);
    IopStartWorkers();
    CmInitialize();
    MiInitializeLoader();
    KiStartBeingForeign();
    KiLoadImages(LOADER_FILE_PORT_DRIVER, LOADER_FILE_PORT_DRIVER);
    KiLoadImages(LOADER_FILE_DRIVER_UNDER_TEST, LOADER_FILE_OTHER_DRIVER);
    PnpStartDevices(KiDrivers, KiStartDrivers());
    if (KiCommandLineNumber("selftest", 0))
        KiSelfTest();
    WorkloadMain();
    PoShutdown();
}

VOID PoShutdown(VOID)
{
    KiPrintLockCounters();
    DbgPrint("tinynt: shutting down\n");
    HalpPowerOff();
}
