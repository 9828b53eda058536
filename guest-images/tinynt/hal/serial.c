/*
 * serial.c - COM1, polled, 16-byte FIFO.
 */
#include "hal.h"
#include "ki.h"

#define COM1 0x3F8
#define COM_LINE_STATUS (COM1 + 5)
#define COM_TRANSMITTER_EMPTY 0x20
#define COM_FIFO_SIZE 16
#define COM_PATIENCE 100000

static ULONG_PTR HalpSerialLock;

VOID HalpInitializeSerial(VOID)
{
    HalpOut8(COM1 + 1, 0x00); /* no interrupts */
    HalpOut8(COM1 + 3, 0x80);
    HalpOut8(COM1 + 0, 0x01); /* 115200 baud */
    HalpOut8(COM1 + 1, 0x00);
    HalpOut8(COM1 + 3, 0x03); /* 8N1 */
    HalpOut8(COM1 + 2, 0x07); /* FIFO on and empty */
    HalpOut8(COM1 + 4, 0x03);
}

static VOID HalpWaitForTransmitter(VOID)
{
    for (ULONG i = 0; i < COM_PATIENCE && !(HalpIn8(COM_LINE_STATUS) & COM_TRANSMITTER_EMPTY); i++)
        __asm__ volatile("pause");
}

VOID HalpWriteSerial(const char *Text, SIZE_T Length)
{
    BOOLEAN enabled = KiDisableSave();
    ULONG room = 0;

    KxLock(&HalpSerialLock);
    for (SIZE_T i = 0; i < Length; i++) {
        if (room == 0) {
            HalpWaitForTransmitter();
            room = COM_FIFO_SIZE;
        }
        HalpOut8(COM1, (UCHAR)Text[i]);
        room--;
    }
    KxUnlock(&HalpSerialLock);
    KiRestore(enabled);
}
