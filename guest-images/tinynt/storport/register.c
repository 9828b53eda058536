/* Register and port accessors. Each is a real export: miniports call, the header does not inline. */
#include "raid.h"

#define REGISTER_ACCESSORS(Name, Type)                                                                                 \
    Type NTAPI StorPortReadRegister##Name(PVOID HwDeviceExtension, Type *Register)                                     \
    {                                                                                                                  \
        Type Value = *(volatile Type *)Register;                                                                       \
                                                                                                                       \
        __atomic_signal_fence(__ATOMIC_SEQ_CST);                                                                       \
        return Value;                                                                                                  \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortWriteRegister##Name(PVOID HwDeviceExtension, Type *Register, Type Value)                        \
    {                                                                                                                  \
        *(volatile Type *)Register = Value;                                                                            \
        __atomic_thread_fence(__ATOMIC_SEQ_CST);                                                                       \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortReadRegisterBuffer##Name(PVOID HwDeviceExtension, Type *Register, Type *Buffer, ULONG Count)    \
    {                                                                                                                  \
        while (Count-- != 0) {                                                                                         \
            *Buffer++ = *(volatile Type *)Register++;                                                                  \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortWriteRegisterBuffer##Name(PVOID HwDeviceExtension, Type *Register, Type *Buffer, ULONG Count)   \
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

#define PORT_ACCESSORS(Name, Type, In, Out)                                                                            \
    Type NTAPI StorPortReadPort##Name(PVOID HwDeviceExtension, Type *Port)                                             \
    {                                                                                                                  \
        return In((USHORT)(ULONG_PTR)Port);                                                                            \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortWritePort##Name(PVOID HwDeviceExtension, Type *Port, Type Value)                                \
    {                                                                                                                  \
        Out((USHORT)(ULONG_PTR)Port, Value);                                                                           \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortReadPortBuffer##Name(PVOID HwDeviceExtension, Type *Port, Type *Buffer, ULONG Count)            \
    {                                                                                                                  \
        while (Count-- != 0) {                                                                                         \
            *Buffer++ = In((USHORT)(ULONG_PTR)Port);                                                                   \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    VOID NTAPI StorPortWritePortBuffer##Name(PVOID HwDeviceExtension, Type *Port, Type *Buffer, ULONG Count)           \
    {                                                                                                                  \
        while (Count-- != 0) {                                                                                         \
            Out((USHORT)(ULONG_PTR)Port, *Buffer++);                                                                   \
        }                                                                                                              \
    }

PORT_ACCESSORS(Uchar, UCHAR, __inbyte, __outbyte)
PORT_ACCESSORS(Ushort, USHORT, __inword, __outword)
PORT_ACCESSORS(Ulong, ULONG, __indword, __outdword)
