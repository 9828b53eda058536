/*
 * stand-in.c - stands in for the programs of Windows that the scripts in guest/ call: writes to C:\calls.log how it was
 * called, with the lines of diskpart's script, and ends with the status that C:\statuses.txt has for that. The first
 * line of that file that fits counts: NAME|WORDS|STATUS. Without one it is 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char Line[4096], Text[512];

static void Add(const char *Word)
{
    strncat(Line, Word, sizeof(Line) - strlen(Line) - 1);
}

static void AddScript(const char *Path)
{
    FILE *script = fopen(Path, "r");

    while (script && fgets(Text, sizeof(Text), script)) {
        Text[strcspn(Text, "\r\n")] = 0;
        Add("; ");
        Add(Text);
    }
    if (script)
        fclose(script);
}

static int StatusOf(const char *Name)
{
    FILE *statuses = fopen("C:\\statuses.txt", "r");
    char name[64], words[256];
    int status;

    while (statuses && fgets(Text, sizeof(Text), statuses)) {
        if (sscanf(Text, "%63[^|]|%255[^|]|%d", name, words, &status) == 3 && !strcmp(name, Name) &&
            strstr(Line, words))
            return status;
    }
    return 0;
}

int main(int Count, char **Arguments)
{
    char *name = strrchr(Arguments[0], '\\');
    FILE *log = fopen("C:\\calls.log", "a");

    name = name ? name + 1 : Arguments[0];
    name[strcspn(name, ".")] = 0;
    for (int i = 1; i < Count; i++) {
        Add(" ");
        Add(Arguments[i]);
    }
    if (!strcmp(name, "diskpart") && Count == 3)
        AddScript(Arguments[2]);
    if (!log)
        return 99;
    fprintf(log, "%s%s\n", name, Line);
    fclose(log);
    return StatusOf(name);
}
