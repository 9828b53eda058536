@echo off
rem Run by Windows Setup before it looks for a place to install to. Partitions the first disk without partitions that is
rem large enough; a disk that has some is never touched. Only what every Windows PE has is used.
setlocal
set MINIMUM=20480
set LIST=X:\storlock\diskpart.txt
set CHOSEN=
for /l %%n in (0,1,31) do if not defined CHOSEN call :try %%n
if not defined CHOSEN goto none
call :say "disk %CHOSEN% is partitioned, Windows is installed to it"
exit /b 0

:none
call :say "FAILED: there is no disk without partitions of at least %MINIMUM% MiB to install to"
wpeutil shutdown
exit /b 1

rem diskpart ends with an error if a command of its script fails: no disk, no partition, no room.
:try
>%LIST% echo select disk %1
diskpart /s %LIST% >nul
if errorlevel 1 exit /b 0
>%LIST% echo select disk %1
>>%LIST% echo select partition 1
diskpart /s %LIST% >nul
if not errorlevel 1 exit /b 0
>%LIST% echo select disk %1
>>%LIST% echo online disk noerr
>>%LIST% echo attributes disk clear readonly noerr
>>%LIST% echo convert gpt
>>%LIST% echo create partition primary size=%MINIMUM%
>>%LIST% echo delete partition override
diskpart /s %LIST% >nul
if errorlevel 1 exit /b 0
>%LIST% echo select disk %1
>>%LIST% echo create partition efi size=260
>>%LIST% echo format quick fs=fat32 label=System
>>%LIST% echo create partition msr size=16
>>%LIST% echo create partition primary
>>%LIST% echo format quick fs=ntfs label=Windows
>>%LIST% echo assign
diskpart /s %LIST%
if errorlevel 1 exit /b 0
set CHOSEN=%1
exit /b 0

:say
echo storlock setup: %~1
>\\.\COM1 echo storlock setup: %~1
exit /b 0
