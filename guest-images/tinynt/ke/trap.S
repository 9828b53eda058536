/*
 * trap.S - entry stubs of the 256 vectors, the context switch, the system call target, the kernel's entry point.
 */
        .text

/* AddressOfEntryPoint: RCX = loader block, RDX = processor index; all processors at once, each on its own stack. */
        .globl  KiEntry
        .def    KiEntry; .scl 2; .type 32; .endef
        .seh_proc KiEntry
KiEntry:
        subq    $40, %rsp
        .seh_stackalloc 40
        .seh_endprologue
        call    KiSystemStartup
        hlt
        .seh_endproc

/* LSTAR. Nothing runs in user mode here, so a system call is a bug. */
        .globl  KiSystemCall64
        .def    KiSystemCall64; .scl 2; .type 32; .endef
        .seh_proc KiSystemCall64
KiSystemCall64:
        subq    $40, %rsp
        .seh_stackalloc 40
        .seh_endprologue
        movl    $0x7F, %ecx
        xorl    %edx, %edx
        xorl    %r8d, %r8d
        xorl    %r9d, %r9d
        movq    $0, 32(%rsp)
        call    KeBugCheckEx
        hlt
        .seh_endproc

/* Vectors whose exceptions push an error code: 8, 10-14, 17, 21, 29, 30. */
        .balign 16
        .globl  KiTrapStubs
KiTrapStubs:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     vector >= 32
        pushq   $vector
        jmp     KiInterruptCommon
        .else
        .if     (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
        pushq   $0
        .endif
        pushq   $vector
        jmp     KiExceptionCommon
        .endif
        .set    vector, vector + 1
        .endr

/*
 * Saves the volatile registers, XMM0 to XMM5 among them: a driver's interrupt routine or DPC may use SSE. The rest is the
 * C code's duty, and KiSwapContext's where the thread changes.
 */
        .seh_proc KiInterruptCommon
KiInterruptCommon:
        .seh_pushframe
        .seh_stackalloc 8
        pushq   %rax
        .seh_stackalloc 8
        pushq   %rcx
        .seh_stackalloc 8
        pushq   %rdx
        .seh_stackalloc 8
        pushq   %r8
        .seh_stackalloc 8
        pushq   %r9
        .seh_stackalloc 8
        pushq   %r10
        .seh_stackalloc 8
        pushq   %r11
        .seh_stackalloc 8
        subq    $136, %rsp
        .seh_stackalloc 136
        .seh_endprologue
        cld
        movups  %xmm0, 32(%rsp)
        movups  %xmm1, 48(%rsp)
        movups  %xmm2, 64(%rsp)
        movups  %xmm3, 80(%rsp)
        movups  %xmm4, 96(%rsp)
        movups  %xmm5, 112(%rsp)
        movl    192(%rsp), %ecx
        leaq    200(%rsp), %rdx
        call    KiInterruptDispatch
        movups  32(%rsp), %xmm0
        movups  48(%rsp), %xmm1
        movups  64(%rsp), %xmm2
        movups  80(%rsp), %xmm3
        movups  96(%rsp), %xmm4
        movups  112(%rsp), %xmm5
        addq    $136, %rsp
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rdx
        popq    %rcx
        popq    %rax
        addq    $8, %rsp
        iretq
        .seh_endproc

/* Exceptions are never returned from: all registers are kept for the bug check. */
        .seh_proc KiExceptionCommon
KiExceptionCommon:
        .seh_pushframe code
        .seh_stackalloc 8
        pushq   %rax
        .seh_pushreg %rax
        pushq   %rbx
        .seh_pushreg %rbx
        pushq   %rcx
        .seh_pushreg %rcx
        pushq   %rdx
        .seh_pushreg %rdx
        pushq   %rsi
        .seh_pushreg %rsi
        pushq   %rdi
        .seh_pushreg %rdi
        pushq   %rbp
        .seh_pushreg %rbp
        pushq   %r8
        .seh_pushreg %r8
        pushq   %r9
        .seh_pushreg %r9
        pushq   %r10
        .seh_pushreg %r10
        pushq   %r11
        .seh_pushreg %r11
        pushq   %r12
        .seh_pushreg %r12
        pushq   %r13
        .seh_pushreg %r13
        pushq   %r14
        .seh_pushreg %r14
        pushq   %r15
        .seh_pushreg %r15
        movq    %rsp, %rcx
        subq    $32, %rsp
        .seh_stackalloc 32
        .seh_endprologue
        cld
        andq    $-16, %rsp
        call    KiExceptionDispatch
        hlt
        .seh_endproc

/*
 * void KiSwapContext(PVOID *OldStack, PVOID NewStack): the dispatcher lock is held across it. What a call must leave as
 * it was is saved (KI_SWAP_FRAME bytes below the return address): eight registers, XMM6 to XMM15.
 */
        .globl  KiSwapContext
        .def    KiSwapContext; .scl 2; .type 32; .endef
        .seh_proc KiSwapContext
KiSwapContext:
        pushq   %rbx
        .seh_pushreg %rbx
        pushq   %rbp
        .seh_pushreg %rbp
        pushq   %rsi
        .seh_pushreg %rsi
        pushq   %rdi
        .seh_pushreg %rdi
        pushq   %r12
        .seh_pushreg %r12
        pushq   %r13
        .seh_pushreg %r13
        pushq   %r14
        .seh_pushreg %r14
        pushq   %r15
        .seh_pushreg %r15
        subq    $168, %rsp
        .seh_stackalloc 168
        .seh_endprologue
        movups  %xmm6, 0(%rsp)
        movups  %xmm7, 16(%rsp)
        movups  %xmm8, 32(%rsp)
        movups  %xmm9, 48(%rsp)
        movups  %xmm10, 64(%rsp)
        movups  %xmm11, 80(%rsp)
        movups  %xmm12, 96(%rsp)
        movups  %xmm13, 112(%rsp)
        movups  %xmm14, 128(%rsp)
        movups  %xmm15, 144(%rsp)
        movq    %rsp, (%rcx)
        movq    %rdx, %rsp
        movups  0(%rsp), %xmm6
        movups  16(%rsp), %xmm7
        movups  32(%rsp), %xmm8
        movups  48(%rsp), %xmm9
        movups  64(%rsp), %xmm10
        movups  80(%rsp), %xmm11
        movups  96(%rsp), %xmm12
        movups  112(%rsp), %xmm13
        movups  128(%rsp), %xmm14
        movups  144(%rsp), %xmm15
        addq    $168, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rdi
        popq    %rsi
        popq    %rbp
        popq    %rbx
        ret
        .seh_endproc

/* Where a new thread's first switch returns to. */
        .globl  KiThreadStartup
        .def    KiThreadStartup; .scl 2; .type 32; .endef
        .seh_proc KiThreadStartup
KiThreadStartup:
        subq    $40, %rsp
        .seh_stackalloc 40
        .seh_endprologue
        call    KiThreadEntry
        hlt
        .seh_endproc
