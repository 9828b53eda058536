/*
 * files.c - the files on the partition that the loader was started from:
 *
 *   \ntoskrnl.exe, \storport.sys    kernel and port driver
 *   \drivers\*.sys                  boot-start drivers
 *   \registry.reg                   settings, if it is there
 *   \cmdline.txt                    one line for the kernel, if it is there
 */
#include "loader.h"

void *memcpy(void *Target, const void *Source, size_t Length);

static const EFI_GUID FileSystemProtocol = {
    0x964E5B22, 0x6459, 0x11D2, {0x8E, 0x39, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};
static const EFI_GUID FileInfoType = {0x09576E92, 0x6D3F, 0x11D2, {0x8E, 0x39, 0x00, 0xA0, 0xC9, 0x69, 0x72, 0x3B}};

#define FILE_LIMIT 0x10000000ull
#define INFO_BYTES 1024

/* The name with printable ASCII only, cut to what the loader block takes. */
static void LoaderCopyName(char *Target, const CHAR16 *Source)
{
    uint32_t length = 0;

    for (; Source[length] && length < 63; length++)
        Target[length] = Source[length] > ' ' && Source[length] < 0x7F ? (char)Source[length] : '?';
    Target[length] = 0;
}

/* Reads a whole file; 0 if there is none. */
static uint64_t LoaderRead(LOADER *Loader, EFI_FILE_PROTOCOL *Directory, const CHAR16 *Name, uint64_t *Size)
{
    static uint8_t info[INFO_BYTES] __attribute__((aligned(8)));
    EFI_FILE_PROTOCOL *file;
    uint64_t length = sizeof(info), address;
    EFI_STATUS status = Directory->Open(Directory, &file, Name, EFI_FILE_MODE_READ, 0);

    if (status == EFI_NOT_FOUND)
        return 0;
    if (EFI_FAILED(status) || EFI_FAILED(status = file->GetInfo(file, &FileInfoType, &length, info)))
        LoaderFail(Loader, "a file cannot be opened", status);
    *Size = ((EFI_FILE_INFO *)info)->FileSize;
    if (*Size > FILE_LIMIT)
        LoaderFail(Loader, "a file is too large", *Size);
    address = LoaderPages(Loader, *Size + 1, 0xFFFFFFFF);
    length = *Size;
    status = file->Read(file, &length, (void *)address);
    if (EFI_FAILED(status) || length != *Size)
        LoaderFail(Loader, "a file cannot be read", status);
    file->Close(file);
    return address;
}

static void LoaderAdd(LOADER *Loader, EFI_FILE_PROTOCOL *Directory, const CHAR16 *Name, uint32_t Kind, int Needed)
{
    LOADER_FILE *file = &Loader->Files[Loader->FileCount];
    LOADER_PIECE *piece = &Loader->Pieces[Loader->PieceCount];

    if (Loader->FileCount >= LOADER_FILES)
        LoaderFail(Loader, "too many files", Loader->FileCount);
    file->Address = LoaderRead(Loader, Directory, Name, &file->Size);
    if (!file->Address) {
        if (Needed)
            LoaderFail(Loader, "ntoskrnl.exe or storport.sys is missing", 0);
        return;
    }
    LoaderCopyName(file->Name, Name);
    file->Kind = Kind;
    piece->Base = file->Address;
    piece->Length = (file->Size + PAGE_SIZE) & ~(PAGE_SIZE - 1);
    piece->Type = LOADER_MEMORY_FILE;
    Loader->FileCount++;
    Loader->PieceCount++;
}

static int LoaderIsDriver(const CHAR16 *Name)
{
    static const char extension[] = ".sys";
    uint32_t length = 0;

    while (Name[length])
        length++;
    for (uint32_t i = 0; i < 4; i++) {
        if (length < 5 || (Name[length - 4 + i] | (i ? 0x20 : 0)) != (CHAR16)extension[i])
            return 0;
    }
    return 1;
}

static void LoaderAddDrivers(LOADER *Loader, EFI_FILE_PROTOCOL *Root)
{
    static uint8_t buffer[INFO_BYTES] __attribute__((aligned(8)));
    EFI_FILE_INFO *info = (EFI_FILE_INFO *)buffer;
    EFI_FILE_PROTOCOL *directory;
    uint64_t length = sizeof(buffer);

    if (EFI_FAILED(Root->Open(Root, &directory, L"\\drivers", EFI_FILE_MODE_READ, 0)))
        LoaderFail(Loader, "there is no directory drivers", 0);
    while (!EFI_FAILED(directory->Read(directory, &length, buffer)) && length) {
        if (!(info->Attribute & EFI_FILE_DIRECTORY) && LoaderIsDriver(info->FileName))
            LoaderAdd(Loader, directory, info->FileName, LOADER_FILE_DRIVER_UNDER_TEST, 0);
        length = sizeof(buffer);
    }
    directory->Close(directory);
}

/* The first line, without what is not printable ASCII. */
static void LoaderReadCommandLine(LOADER *Loader, EFI_FILE_PROTOCOL *Root)
{
    uint64_t size = 0, length = 0;
    const char *text = (const char *)LoaderRead(Loader, Root, L"\\cmdline.txt", &size);

    Loader->CommandLine = (char *)LoaderPages(Loader, LOADER_COMMAND_LINE, 0xFFFFFFFF);
    for (uint64_t i = 0; text && i < size && text[i] != '\n' && length < LOADER_COMMAND_LINE - 1; i++) {
        if (text[i] >= ' ' && text[i] < 0x7F)
            Loader->CommandLine[length++] = text[i];
    }
}

void LoaderReadFiles(LOADER *Loader)
{
    EFI_SIMPLE_FILE_SYSTEM_PROTOCOL *fileSystem;
    EFI_FILE_PROTOCOL *root;
    EFI_STATUS status =
        Loader->Boot->HandleProtocol(Loader->Loaded->DeviceHandle, &FileSystemProtocol, (void **)&fileSystem);

    if (EFI_FAILED(status) || EFI_FAILED(status = fileSystem->OpenVolume(fileSystem, &root)))
        LoaderFail(Loader, "the partition cannot be read", status);
    Loader->Files = (void *)LoaderPages(Loader, LOADER_FILES * sizeof(LOADER_FILE), 0xFFFFFFFF);
    LoaderAdd(Loader, root, L"ntoskrnl.exe", LOADER_FILE_KERNEL, 1);
    LoaderAdd(Loader, root, L"storport.sys", LOADER_FILE_PORT_DRIVER, 1);
    LoaderAddDrivers(Loader, root);
    LoaderAdd(Loader, root, L"registry.reg", LOADER_FILE_REGISTRY, 0);
    LoaderReadCommandLine(Loader, root);
    root->Close(root);
}
