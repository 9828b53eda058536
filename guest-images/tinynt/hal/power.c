/*
 * power.c - S5 by PM1a_CNT, reset by the reset control register and, failing that, the keyboard controller.
 */
#include "hal.h"
#include "ki.h"

#define PM1A_CNT 0xB004
#define PM1_SLP_EN 0x2000
#define RESET_CONTROL 0xCF9

VOID HalpPowerOff(VOID)
{
    KiDisable();
    HalpOut16(PM1A_CNT, PM1_SLP_EN); /* SLP_TYP 0 is S5 on this machine */
    for (;;)
        __asm__ volatile("hlt");
}

VOID HalpReset(VOID)
{
    KiDisable();
    HalpOut8(RESET_CONTROL, 0x02);
    HalpOut8(RESET_CONTROL, 0x06);
    HalpOut8(0x64, 0xFE);
    for (;;)
        __asm__ volatile("hlt");
}

VOID HalReturnToFirmware(ULONG Routine);
VOID HalReturnToFirmware(ULONG Routine)
{
    HalpReset();
}
