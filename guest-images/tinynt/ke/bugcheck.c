/*
 * bugcheck.c - the end of the line: record, say why, reset. And exceptions, none of which is expected.
 */
#include "hal.h"
#include "ipi.h"
#include "ki.h"
#include "mi.h"

#define BUGCHECK_IRQL_NOT_LESS_OR_EQUAL 0x0A
#define BUGCHECK_KMODE_EXCEPTION_NOT_HANDLED 0x1E
#define BUGCHECK_PAGE_FAULT_IN_NONPAGED_AREA 0x50
#define BUGCHECK_UNEXPECTED_KERNEL_MODE_TRAP 0x7F
#define BUGCHECK_ATTEMPTED_EXECUTE_OF_NOEXECUTE 0xFC
#define BUGCHECK_ATTEMPTED_WRITE_TO_READONLY 0xBE
#define BUGCHECK_DRIVER_IRQL_NOT_LESS_OR_EQUAL 0xD1

#define FAULT_PRESENT 1u
#define FAULT_WRITE 2u
#define FAULT_EXECUTE 16u

/* Code and four parameters, as on Windows: read from outside after the machine has stopped. */
ULONG64 KiBugCheckData[5];
static volatile LONG KiBugCheckActive; /* the processor, from 1 */

static VOID KiPrintAddress(const char *What, ULONG64 Address)
{
    LDR_DATA_TABLE_ENTRY *module = MiModuleOfAddress(Address);

    if (module)
        DbgPrint("*** %s %p (%s+0x%I64x)\n", What, (PVOID)Address, module->Name, Address - (ULONG64)module->DllBase);
    else
        DbgPrint("*** %s %p\n", What, (PVOID)Address);
}

static VOID KiPrintFrame(KI_EXCEPTION_FRAME *Frame)
{
    KiPrintAddress("at", Frame->Machine.Rip);
    DbgPrint("*** exception %I64u error %I64x rsp %I64x rflags %I64x\n", Frame->Vector, Frame->ErrorCode,
             Frame->Machine.Rsp, Frame->Machine.Rflags);
    DbgPrint("*** rax %I64x rbx %I64x rcx %I64x rdx %I64x rsi %I64x rdi %I64x rbp %I64x\n", Frame->Rax, Frame->Rbx,
             Frame->Rcx, Frame->Rdx, Frame->Rsi, Frame->Rdi, Frame->Rbp);
    DbgPrint("*** r8 %I64x r9 %I64x r10 %I64x r11 %I64x r12 %I64x r13 %I64x r14 %I64x r15 %I64x\n", Frame->R8,
             Frame->R9, Frame->R10, Frame->R11, Frame->R12, Frame->R13, Frame->R14, Frame->R15);
}

VOID KiBugCheck(ULONG Code, ULONG_PTR P1, ULONG_PTR P2, ULONG_PTR P3, ULONG_PTR P4, KI_EXCEPTION_FRAME *Frame)
{
    KIRQL irql = (KIRQL)KiReadCr8();
    LONG own = (LONG)KiProcessorNumber() + 1, active = 0;

    KiDisable();
    if (!__atomic_compare_exchange_n(&KiBugCheckActive, &active, own, FALSE, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        if (active == own) { /* a callback, or printing below, failed */
            DbgPrint("*** STOP: 0x%08X again\n", Code);
            HalpReset();
        }
        for (;;) /* another processor is at it */
            __asm__ volatile("hlt");
    }
    KiBugCheckData[0] = Code;
    KiBugCheckData[1] = P1;
    KiBugCheckData[2] = P2;
    KiBugCheckData[3] = P3;
    KiBugCheckData[4] = P4;
    KiFreezeOthers();
    DbgPrint("\n*** STOP: 0x%08X (0x%I64X, 0x%I64X, 0x%I64X, 0x%I64X)\n", Code, P1, P2, P3, P4);
    DbgPrint("*** processor %u, IRQL %u, thread %p\n", KiProcessorNumber(), irql, KiCurrentThread());
    if (Frame)
        KiPrintFrame(Frame);
    KiWriteCr8(HIGH_LEVEL);
    KiCallBugCheckCallbacks(Code);
    HalpReset();
}

VOID KeBugCheckEx(ULONG BugCheckCode, ULONG_PTR P1, ULONG_PTR P2, ULONG_PTR P3, ULONG_PTR P4)
{
    KiBugCheck(BugCheckCode, P1, P2, P3, P4, NULL);
}

VOID KeBugCheck(ULONG BugCheckCode);
VOID KeBugCheck(ULONG BugCheckCode)
{
    KeBugCheckEx(BugCheckCode, 0, 0, 0, 0);
}

static DECLSPEC_NORETURN VOID KiPageFault(KI_EXCEPTION_FRAME *Frame)
{
    ULONG64 address, rip = Frame->Machine.Rip;
    ULONG operation = Frame->ErrorCode & FAULT_EXECUTE ? 8 : (Frame->ErrorCode & FAULT_WRITE ? 1 : 0);
    LDR_DATA_TABLE_ENTRY *module = MiModuleOfAddress(rip);
    KIRQL irql = (KIRQL)KiReadCr8();

    __asm__ volatile("movq %%cr2, %0" : "=r"(address));
    if (irql >= DISPATCH_LEVEL)
        KiBugCheck(module && module->FileKind != LOADER_FILE_KERNEL ? BUGCHECK_DRIVER_IRQL_NOT_LESS_OR_EQUAL
                                                                    : BUGCHECK_IRQL_NOT_LESS_OR_EQUAL,
                   address, irql, operation, rip, Frame);
    if ((Frame->ErrorCode & FAULT_PRESENT) && operation == 8)
        KiBugCheck(BUGCHECK_ATTEMPTED_EXECUTE_OF_NOEXECUTE, address, 0, Frame->Machine.Rsp, 0, Frame);
    if ((Frame->ErrorCode & FAULT_PRESENT) && operation == 1)
        KiBugCheck(BUGCHECK_ATTEMPTED_WRITE_TO_READONLY, address, 0, Frame->Machine.Rsp, 0, Frame);
    KiBugCheck(BUGCHECK_PAGE_FAULT_IN_NONPAGED_AREA, address, operation, rip, 0, Frame);
}

VOID KiExceptionDispatch(KI_EXCEPTION_FRAME *Frame)
{
    ULONG64 rip = Frame->Machine.Rip;

    switch (Frame->Vector) {
    case 0:
        KiBugCheck(BUGCHECK_KMODE_EXCEPTION_NOT_HANDLED, (ULONG_PTR)STATUS_INTEGER_DIVIDE_BY_ZERO, rip, 0, 0, Frame);
    case 3:
        KiBugCheck(BUGCHECK_KMODE_EXCEPTION_NOT_HANDLED, (ULONG_PTR)STATUS_BREAKPOINT, rip, 0, 0, Frame);
    case 6:
        KiBugCheck(BUGCHECK_KMODE_EXCEPTION_NOT_HANDLED, (ULONG_PTR)STATUS_ILLEGAL_INSTRUCTION, rip, 0, 0, Frame);
    case 13:
        KiBugCheck(BUGCHECK_KMODE_EXCEPTION_NOT_HANDLED, (ULONG_PTR)STATUS_ACCESS_VIOLATION, rip, 0, ~0ull, Frame);
    case 14:
        KiPageFault(Frame);
    default:
        KiBugCheck(BUGCHECK_UNEXPECTED_KERNEL_MODE_TRAP, Frame->Vector, 0, 0, rip, Frame);
    }
}
