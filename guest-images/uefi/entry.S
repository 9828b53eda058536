/*
 * entry.S - from the firmware's world to the kernel's, and the start of the other processors.
 *
 * The state at the kernel's entry point is that of docs/loader-block.md.
 */
        .set    CR0_KERNEL, 0x80050033          /* PE, MP, ET, NE, WP, AM, PG */
        .set    CR4_KERNEL, 0x6A0               /* PAE, PGE, OSFXSR, OSXMMEXCPT */
        .set    EFER, 0xC0000080
        .set    EFER_KERNEL, 0x901              /* SCE, LME, NXE */
        .set    FLAG_BITS, 2

        .set    DATA_CR3, 0
        .set    DATA_ENTRY, 8
        .set    DATA_BLOCK, 16
        .set    DATA_STACK, 24
        .set    DATA_NUMBER, 32
        .set    DATA_STARTED, 40
        .set    DATA_GO, 44
        .set    DATA_FAR, 48
        .set    DATA_LOW_GDT, 54
        .set    DATA_GDT, 60
        .set    DATA_SIZE, 102

        .text

/* RCX = CR3, RDX = stack, R8 = where to go on, R9 = its argument. This code is mapped at the same place in both. */
        .globl  LoaderSwitch
LoaderSwitch:
        movq    %rcx, %r10
        movq    %rdx, %r11
        movl    $EFER, %ecx
        rdmsr
        orl     $EFER_KERNEL, %eax
        wrmsr
        movq    $CR4_KERNEL, %rax
        movq    %rax, %cr4
        movq    %r10, %cr3
        movl    $CR0_KERNEL, %eax
        movq    %rax, %cr0
        movq    %r11, %rsp
        subq    $40, %rsp
        andq    $-16, %rsp
        movq    %r9, %rcx
        call    *%r8
        ud2

/* RCX = entry point, RDX = loader block, R8 = stack, R9 = pointer to the descriptor table: for processor 0. */
        .globl  LoaderJump
LoaderJump:
        lgdt    (%r9)
        movq    %r8, %rsp
        movq    %rcx, %rax
        movq    %rdx, %rcx
        xorl    %edx, %edx
        jmp     LoaderLoadSegments

/* RAX = entry point, RCX = loader block, RDX = number. Into the kernel, with nothing else in any register. */
LoaderLoadSegments:
        pushq   $0x10
        leaq    1f(%rip), %rbx
        pushq   %rbx
        lretq
1:      movl    $0x18, %ebx
        movl    %ebx, %ss
        movl    %ebx, %ds
        movl    %ebx, %es
        movl    %ebx, %fs
        movl    %ebx, %gs
        xorl    %ebx, %ebx
        lldt    %bx
        pushq   $0
        pushq   $0
        lidt    6(%rsp)
        popq    %rbx
        popq    %rbx
        movq    %rbx, %cr8
        pushq   %rax
        pushq   $FLAG_BITS
        popfq
        xorl    %eax, %eax
        xorl    %esi, %esi
        xorl    %edi, %edi
        xorl    %ebp, %ebp
        xorl    %r8d, %r8d
        xorl    %r9d, %r9d
        xorl    %r10d, %r10d
        xorl    %r11d, %r11d
        xorl    %r12d, %r12d
        xorl    %r13d, %r13d
        xorl    %r14d, %r14d
        xorl    %r15d, %r15d
        ret

/* Copied to a page in the first MiB, where a processor begins in real mode with CS on that page. */
        .globl  ApStart, ApLongMode, ApData, ApEnd
        .balign 16
        .code16
ApStart:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        movl    $CR4_KERNEL, %eax
        movl    %eax, %cr4
        movl    (ApData - ApStart + DATA_CR3), %eax
        movl    %eax, %cr3
        movl    $EFER, %ecx
        xorl    %edx, %edx
        movl    $EFER_KERNEL, %eax
        wrmsr
        lgdtl   (ApData - ApStart + DATA_LOW_GDT)
        movl    $CR0_KERNEL, %eax
        movl    %eax, %cr0
        ljmpl   *(ApData - ApStart + DATA_FAR)

        .code64
ApLongMode:
        movl    $0x18, %eax
        movl    %eax, %ss
        leaq    ApData(%rip), %rbx
        movq    DATA_ENTRY(%rbx), %rax
        movq    DATA_BLOCK(%rbx), %rcx
        movq    DATA_NUMBER(%rbx), %rdx
        movq    DATA_STACK(%rbx), %rsp
        lgdt    DATA_GDT(%rbx)
        movl    $1, DATA_STARTED(%rbx)
1:      pause
        cmpl    $0, DATA_GO(%rbx)
        je      1b
        /* The rest is not in this page. */
        movabsq $LoaderLoadSegments, %rbx
        jmp     *%rbx
        .balign 8
ApData:
        .fill   DATA_SIZE, 1, 0
ApEnd:
