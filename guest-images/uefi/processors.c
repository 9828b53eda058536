/*
 * processors.c - finds the processors in the ACPI tables, starts them and lets them into the kernel together.
 *
 * Start-up by INIT and start-up messages: Intel SDM volume 3, 9.4; ACPI Specification 6.5, 5.2.12 (MADT).
 */
#include "loader.h"

void *memcpy(void *Target, const void *Source, size_t Length);

static const EFI_GUID AcpiTable = {0x8868E871, 0xE4F1, 0x11D3, {0xBC, 0x22, 0x00, 0x80, 0xC7, 0x3C, 0x88, 0x81}};

#define MSR_APIC_BASE 0x1B
#define APIC_BASE_X2APIC 0x400
#define MSR_X2APIC 0x800
#define APIC_ID 0x20
#define APIC_ICR_LOW 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE 0x3E0
#define APIC_MASKED 0x10000u
#define APIC_DIVIDE_BY_1 0xBu
#define ICR_INIT 0x4500u    /* assert, INIT */
#define ICR_STARTUP 0x4600u /* assert, start-up */
#define CALIBRATION_MICROSECONDS 20000u
#define START_MILLISECONDS 1000u

/* What the start-up code in entry.S reads; it lies behind that code, in the same page. */
typedef struct __attribute__((packed)) _AP_DATA {
    uint64_t Cr3, Entry, Block, Stack, Number;
    uint32_t Started, Go;
    uint32_t FarOffset; /* of the 64-bit code, physical */
    uint16_t FarSelector;
    uint16_t LowGdtLimit; /* the table in this page, for the way to 64-bit mode */
    uint32_t LowGdtBase;
    uint16_t GdtLimit; /* the table that the kernel finds */
    uint64_t GdtBase;
    uint64_t Gdt[4];
} AP_DATA;

_Static_assert(offsetof(AP_DATA, FarOffset) == 48 && offsetof(AP_DATA, LowGdtLimit) == 54, "as in entry.S");
_Static_assert(offsetof(AP_DATA, GdtLimit) == 60 && sizeof(AP_DATA) == 102, "as in entry.S");

extern const uint8_t ApStart[], ApLongMode[], ApData[], ApEnd[];

static AP_DATA *TheApData;

static uint64_t LoaderReadMsr(uint32_t Register)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(Register));
    return (uint64_t)high << 32 | low;
}

static void LoaderWriteMsr(uint32_t Register, uint64_t Value)
{
    __asm__ volatile("wrmsr" : : "c"(Register), "a"((uint32_t)Value), "d"((uint32_t)(Value >> 32)) : "memory");
}

static uint64_t LoaderTsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* The local APIC in whichever form the firmware left it. */
static int LoaderIsX2Apic(void)
{
    return (LoaderReadMsr(MSR_APIC_BASE) & APIC_BASE_X2APIC) != 0;
}

static volatile uint32_t *LoaderApicRegister(uint32_t Offset)
{
    return (volatile uint32_t *)((LoaderReadMsr(MSR_APIC_BASE) & 0xFFFFF000ull) + Offset);
}

static uint32_t LoaderReadApic(uint32_t Offset)
{
    return LoaderIsX2Apic() ? (uint32_t)LoaderReadMsr(MSR_X2APIC + Offset / 16) : *LoaderApicRegister(Offset);
}

static void LoaderWriteApic(uint32_t Offset, uint32_t Value)
{
    if (LoaderIsX2Apic())
        LoaderWriteMsr(MSR_X2APIC + Offset / 16, Value);
    else
        *LoaderApicRegister(Offset) = Value;
}

static void LoaderSendIpi(uint32_t ApicId, uint32_t Command)
{
    if (LoaderIsX2Apic()) {
        LoaderWriteMsr(MSR_X2APIC + APIC_ICR_LOW / 16, (uint64_t)ApicId << 32 | Command);
    } else {
        LoaderWriteApic(APIC_ICR_HIGH, ApicId << 24);
        LoaderWriteApic(APIC_ICR_LOW, Command);
    }
}

static uint32_t LoaderOwnApicId(void)
{
    uint32_t id = LoaderReadApic(APIC_ID);
    return LoaderIsX2Apic() ? id : id >> 24;
}

static int LoaderSameGuid(const EFI_GUID *One, const EFI_GUID *Other)
{
    const uint64_t *one = (const uint64_t *)One, *other = (const uint64_t *)Other;
    return one[0] == other[0] && one[1] == other[1];
}

static const uint8_t *LoaderFindMadt(const LOADER *Loader)
{
    const uint8_t *xsdt = NULL;

    for (uint64_t i = 0; i < Loader->System->NumberOfTableEntries; i++) {
        const EFI_CONFIGURATION_TABLE *table = &Loader->System->ConfigurationTable[i];
        if (LoaderSameGuid(&table->VendorGuid, &AcpiTable))
            xsdt = *(const uint8_t *const *)((const uint8_t *)table->VendorTable + 24);
    }
    for (uint32_t at = 36; xsdt && at + 8 <= *(const uint32_t *)(xsdt + 4); at += 8) {
        const uint8_t *table = *(const uint8_t *const *)(xsdt + at);
        if (*(const uint32_t *)table == 0x43495041) /* "APIC" */
            return table;
    }
    return NULL;
}

/* Number 0 is the processor that runs; the others follow in the order of the table. */
void LoaderFindProcessors(LOADER *Loader)
{
    const uint8_t *madt = LoaderFindMadt(Loader);
    uint32_t own = LoaderOwnApicId(), length = madt ? *(const uint32_t *)(madt + 4) : 0;

    Loader->ApicIds[0] = own;
    Loader->ProcessorCount = 1;
    for (uint32_t at = 44; at + 2 <= length && madt[at + 1] >= 2; at += madt[at + 1]) {
        const uint8_t *entry = madt + at;
        uint32_t id, enabled;
        if (entry[0] == 0) { /* local APIC */
            id = entry[3];
            enabled = entry[4] & 1;
        } else if (entry[0] == 9) { /* local x2APIC */
            id = *(const uint32_t *)(entry + 4);
            enabled = entry[8] & 1;
        } else {
            continue;
        }
        if (enabled && id != own && Loader->ProcessorCount < LOADER_PROCESSORS)
            Loader->ApicIds[Loader->ProcessorCount++] = id;
    }
}

/* Against the firmware's own clock. */
void LoaderMeasureClocks(LOADER *Loader)
{
    uint32_t timer = LoaderReadApic(APIC_LVT_TIMER);
    uint64_t start;

    LoaderWriteApic(APIC_LVT_TIMER, APIC_MASKED);
    LoaderWriteApic(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
    LoaderWriteApic(APIC_TIMER_INITIAL, 0xFFFFFFFF);
    start = LoaderTsc();
    Loader->Boot->Stall(CALIBRATION_MICROSECONDS);
    Loader->TscFrequency = (LoaderTsc() - start) * (1000000 / CALIBRATION_MICROSECONDS);
    Loader->ApicTimerFrequency =
        (uint64_t)(0xFFFFFFFF - LoaderReadApic(APIC_TIMER_CURRENT)) * (1000000 / CALIBRATION_MICROSECONDS);
    LoaderWriteApic(APIC_TIMER_INITIAL, 0);
    LoaderWriteApic(APIC_LVT_TIMER, timer);
    if (!Loader->ApicTimerFrequency)
        LoaderFail(Loader, "the local APIC's timer stands still", timer);
}

void LoaderPrepareProcessors(LOADER *Loader)
{
    static const uint64_t gdt[4] = {0, 0, 0x00AF9B000000FFFFull, 0x00CF93000000FFFFull};
    uint64_t page = LoaderPages(Loader, PAGE_SIZE, 0x9FFFF);
    AP_DATA *data = (AP_DATA *)(page + (uint64_t)(ApData - ApStart));

    Loader->Gdt = (uint64_t *)LoaderPages(Loader, sizeof(gdt), 0xFFFFFFFF);
    memcpy(Loader->Gdt, gdt, sizeof(gdt));
    memcpy((void *)page, ApStart, (size_t)(ApEnd - ApStart));
    LoaderMapPage(Loader, page, page, PTE_WRITE);
    data->Cr3 = Loader->Cr3;
    data->Entry = Loader->KernelEntry;
    data->Block = Loader->DirectMapBase + (uint64_t)Loader->Block;
    data->FarOffset = (uint32_t)page + (uint32_t)(ApLongMode - ApStart);
    data->FarSelector = 0x10;
    data->LowGdtLimit = data->GdtLimit = sizeof(gdt) - 1;
    data->LowGdtBase = (uint32_t)(uint64_t)data->Gdt;
    data->GdtBase = Loader->DirectMapBase + (uint64_t)Loader->Gdt;
    memcpy(data->Gdt, gdt, sizeof(gdt));
    TheApData = data;
}

static uint64_t LoaderStackPointer(const LOADER *Loader, uint64_t Number)
{
    /* 32 bytes of home space, 8 of return address, and RSP + 8 a multiple of 16. */
    return Loader->DirectMapBase + Loader->Stacks + (Number + 1) * LOADER_STACK_SIZE - 0x30 + 8;
}

static void LoaderWait(const LOADER *Loader, uint64_t Microseconds)
{
    uint64_t start = LoaderTsc(), wait = Loader->TscFrequency / 1000000 * Microseconds;

    while (LoaderTsc() - start < wait)
        __asm__ volatile("pause");
}

/* One after the other: they share one page. There is no console any more for a message. */
void LoaderStartProcessors(LOADER *Loader)
{
    volatile AP_DATA *data = TheApData;
    uint32_t vector = (uint32_t)((uint64_t)TheApData >> 12);

    for (uint32_t number = 1; number < Loader->ProcessorCount; number++) {
        uint32_t id = Loader->ApicIds[number];
        data->Number = number;
        data->Stack = LoaderStackPointer(Loader, number);
        data->Started = 0;
        LoaderSendIpi(id, ICR_INIT);
        LoaderWait(Loader, 10000);
        LoaderSendIpi(id, ICR_STARTUP | vector);
        for (uint32_t waited = 0; !data->Started && waited < START_MILLISECONDS; waited++)
            LoaderWait(Loader, 1000);
        if (!data->Started)
            __asm__ volatile("ud2"); /* no handler: a triple fault, which ends the run with a message */
    }
}

static void LoaderWritePort(uint16_t Port, uint8_t Value)
{
    __asm__ volatile("outb %0, %1" : : "a"(Value), "Nd"(Port));
}

void LoaderEnterKernel(LOADER *Loader)
{
    volatile AP_DATA *data = TheApData;

    /* The firmware's timer interrupt comes by the PICs. */
    LoaderWritePort(0x21, 0xFF);
    LoaderWritePort(0xA1, 0xFF);
    data->Go = 1;
    LoaderJump(data->Entry, data->Block, LoaderStackPointer(Loader, 0), (const void *)&data->GdtLimit);
}
