/*
 * Functions with every kind of frame that the compiler makes, for the tests of the unwinder. Never executed as a whole:
 * the tests interpret prologues and epilogues.
 */

typedef unsigned long long u64;

u64 other(u64 a, u64 b);
void sink(void *p);

__declspec(noinline) u64 other(u64 a, u64 b)
{
    volatile u64 x = a;
    return x * b;
}

__declspec(noinline) void sink(void *p)
{
    *(volatile char *)p = 1;
}

__declspec(dllexport) u64 leaf(u64 a)
{
    return a + 1;
}

__declspec(dllexport) u64 small_frame(u64 a)
{
    return other(a, 3) + 1;
}

__declspec(dllexport) u64 many_registers(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    u64 g = other(a, b), h = other(c, d), i = other(e, f), j = other(g, h), k = other(i, j);
    return other(a, b) + other(c, d) + other(e, f) + other(g, h) + other(i, j) + other(k, a) + g + h + i + j + k;
}

__declspec(dllexport) u64 large_frame(u64 a)
{
    volatile char buffer[0x900];
    sink((void *)buffer);
    return other(a, buffer[5]);
}

__declspec(dllexport) u64 huge_frame(u64 a)
{
    volatile char buffer[0x90000];
    sink((void *)buffer);
    return other(a, buffer[5]);
}

__declspec(dllexport) u64 dynamic_frame(u64 a)
{
    char *buffer = __builtin_alloca(a & 0xff0);
    sink(buffer);
    return other(a, (u64)buffer[1]);
}

__declspec(dllexport) u64 tail_call(u64 a)
{
    sink(&a);
    return other(a, a);
}

__declspec(dllexport) u64 early_return(u64 a, u64 b)
{
    if (!a)
        return b;
    for (u64 i = 0; i < a; i++)
        b += other(i, b);
    return other(b, a) ^ b;
}

int entry(void);
int entry(void)
{
    return (int)many_registers(1, 2, 3, 4, 5, 6);
}
