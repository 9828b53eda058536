/* Register and port accessors. Each is a real export: miniports call, the header does not inline. */
#include "raid.h"

#define REGISTER_ACCESSORS(Name, Type)                                                                                 \
    Type NTAPI StorPortReadRegister##Name(Type *Register)                                                              \
    {                                                                                                                  \
        Type Value = *(volatile Type *)Register;                                                                       \
                                                                                                                       \
        __atomic_signal_fence(__ATOMIC_SEQ_CST);                                                                       \
        return Value;                                                                                                  \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortWriteRegister##Name(Type *Register, Type Value)                                                 \
    {                                                                                                                  \
        *(volatile Type *)Register = Value;                                                                            \
        __atomic_thread_fence(__ATOMIC_SEQ_CST);                                                                       \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortReadRegisterBuffer##Name(Type *Register, Type *Buffer, ULONG Count)                             \
    {                                                                                                                  \
        while (Count-- != 0) {                                                                                         \
            *Buffer++ = *(volatile Type *)Register++;                                                                  \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortWriteRegisterBuffer##Name(Type *Register, Type *Buffer, ULONG Count)                            \
    {                                                                                                                  \
        while (Count-- != 0) {                                                                                         \
            *(volatile Type *)Register++ = *Buffer++;                                                                  \
        }                                                                                                              \
        __atomic_thread_fence(__ATOMIC_SEQ_CST);                                                                       \
    }

REGISTER_ACCESSORS(Uchar, UCHAR)
REGISTER_ACCESSORS(Ushort, USHORT)
REGISTER_ACCESSORS(Ulong, ULONG)
REGISTER_ACCESSORS(Ulong64, ULONG64)

UCHAR NTAPI StorPortReadPortUchar(PUCHAR Port)
{
    return __inbyte((USHORT)(ULONG_PTR)Port);
}

USHORT NTAPI StorPortReadPortUshort(PUSHORT Port)
{
    return __inword((USHORT)(ULONG_PTR)Port);
}

ULONG NTAPI StorPortReadPortUlong(PULONG Port)
{
    return __indword((USHORT)(ULONG_PTR)Port);
}

VOID NTAPI StorPortWritePortUchar(PUCHAR Port, UCHAR Value)
{
    __outbyte((USHORT)(ULONG_PTR)Port, Value);
}

VOID NTAPI StorPortWritePortUshort(PUSHORT Port, USHORT Value)
{
    __outword((USHORT)(ULONG_PTR)Port, Value);
}

VOID NTAPI StorPortWritePortUlong(PULONG Port, ULONG Value)
{
    __outdword((USHORT)(ULONG_PTR)Port, Value);
}
