/*
 * raise.S - first instructions of the lock routines that raise IRQL to DISPATCH_LEVEL.
 *
 * In assembly because the range [entry, raised) has to be exact: an interrupt there finds an attempt that has not
 * raised IRQL yet. Each goes on in C by a jump, so the return address is the caller's.
 */
        .text
        .globl  KiAttemptStart
KiAttemptStart:

        .macro  RAISING_ROUTINE name, oldirql, next
        .balign 16
        .globl  \name
        .def    \name; .scl 2; .type 32; .endef
        .seh_proc \name
\name:
        .seh_endprologue
        movq    %rcx, 8(%rsp)
        movq    %cr8, %\oldirql
        movl    $2, %eax
        movq    %rax, %cr8
\name\()Raised:
        jmp     \next
        .seh_endproc
        .endm

        RAISING_ROUTINE KeAcquireSpinLockRaiseToDpc, rdx, KxAcquireSpinLockRaised
        RAISING_ROUTINE KeAcquireInStackQueuedSpinLock, r8, KxAcquireQueuedSpinLockRaised
        RAISING_ROUTINE ExAcquireSpinLockShared, rdx, KxAcquireSharedRaised
        RAISING_ROUTINE ExAcquireSpinLockExclusive, rdx, KxAcquireExclusiveRaised
        RAISING_ROUTINE IoAcquireCancelSpinLock, rdx, KxAcquireCancelRaised

        .globl  KiAttemptEnd
KiAttemptEnd:

        .section .rdata, "dr"
        .balign 8
        .globl  KiAttemptRanges
KiAttemptRanges:
        .macro  RANGE name
        .quad   \name, \name\()Raised
        .endm
        RANGE   KeAcquireSpinLockRaiseToDpc
        RANGE   KeAcquireInStackQueuedSpinLock
        RANGE   ExAcquireSpinLockShared
        RANGE   ExAcquireSpinLockExclusive
        RANGE   IoAcquireCancelSpinLock
        .quad   0, 0
