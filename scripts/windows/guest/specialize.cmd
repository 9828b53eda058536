@echo off
rem Run by Windows Setup in the installed system, before the restart that comes before the first logon: what has to be in
rem force when the driver is installed.
setlocal
set HERE=%~dp0
call :all >"%HERE%specialize.log" 2>&1
>\\.\COM1 type "%HERE%specialize.log"
exit /b 0

:all
echo storlock setup: settings
bcdedit /set testsigning on
if errorlevel 1 echo storlock setup: FAILED: test signing is off: secure boot has to be off
bcdedit /set bootstatuspolicy ignoreallfailures
set GUARD=HKLM\SYSTEM\CurrentControlSet\Control\DeviceGuard
reg add "%GUARD%" /v EnableVirtualizationBasedSecurity /t REG_DWORD /d 0 /f
reg add "%GUARD%\Scenarios\HypervisorEnforcedCodeIntegrity" /v Enabled /t REG_DWORD /d 0 /f
reg add HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\OOBE /v BypassNRO /t REG_DWORD /d 1 /f
rem The commands at a logon run with all rights.
reg add HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System /v EnableLUA /t REG_DWORD /d 0 /f
powercfg /hibernate off
powercfg /setacvalueindex scheme_current sub_buttons pbuttonaction 3
powercfg /setactive scheme_current
for %%c in (%HERE%*.cer) do call :trust %%c
exit /b 0

:trust
certutil -f -addstore TrustedPublisher %1
certutil -f -addstore Root %1
exit /b 0
