# What kernel.pdb was made from, by LLVM's assembler and linker:
#
#   llvm-mc -filetype=obj -triple=x86_64-pc-windows-msvc kernel-pdb.s -o kernel.obj
#   lld-link kernel.obj /dll /noentry /debug /pdb:kernel.pdb /pdbaltpath:kernel.pdb /out:kernel.dll
#
# A kernel's PDB as far as the debugger data go: their names among others, in two sections.
        .text
        .globl  KiSystemCall64
KiSystemCall64:
        ret
        .fill   0x1234

        .data
        .fill   0x1f8
        .globl  KdDebuggerDataBlock
KdDebuggerDataBlock:
        .fill   0x380
        .globl  KiWaitAlways
KiWaitAlways:
        .quad   1
        .globl  KiWaitNever
KiWaitNever:
        .quad   2
        .globl  KdpDataBlockEncoded
KdpDataBlockEncoded:
        .quad   3
