@echo off
rem Run once at the first logon: installs the driver, writes to the serial port how that went, and shuts down.
setlocal
set HERE=%~dp0
set INF=@INF@
set AT_LOGON=@AT_LOGON@
call :all >"%HERE%install.log" 2>&1
>\\.\COM1 type "%HERE%install.log"
shutdown /s /f /t 5
exit /b 0

:all
echo storlock setup: first logon
ver
bcdedit /enum {current}
if defined AT_LOGON reg add HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Run /v storlock /t REG_SZ /d "cmd.exe /c %HERE%%AT_LOGON%" /f
pnputil /add-driver "%HERE%%INF%" /install
set STATUS=%ERRORLEVEL%
pnputil /enum-drivers
rem 259: no device needs it now. 1641, 3010: it wants a restart, and gets one.
for %%s in (0 259 1641 3010) do if "%STATUS%"=="%%s" goto installed
echo storlock setup: FAILED: pnputil ended with %STATUS% for %INF%
exit /b 0
:installed
echo storlock setup: done, %INF% is in the driver store (pnputil: %STATUS%)
exit /b 0
