# Tests of the scripts in guest/, which Windows runs, with Wine's command interpreter and registry, and stand-ins of the programs
# that they call; sourced by scripts/windows/test.
# shellcheck disable=SC2154

# A Windows of Wine's in the current directory, whose drive C: is the directory c, X: is x, and whose serial port is the file com1.
windows() {
    local program
    export WINEPREFIX=$PWD/prefix WINEARCH=win64 WINEDEBUG=-all WINEPATH='C:\programs' DISPLAY=
    timeout 200 wine wineboot -i >/dev/null 2>&1
    ln -s prefix/drive_c c && mkdir -p c/programs c/storlock x/storlock && ln -s "$PWD/x" prefix/dosdevices/x:
    x86_64-w64-mingw32-gcc -O1 -Wall -Wextra -Werror -o stand-in.exe "$HERE/stand-in.c" || fail "stand-in.c"
    for program in diskpart wpeutil pnputil bcdedit powercfg certutil shutdown; do cp stand-in.exe c/programs/$program.exe; done
    in_windows 'reg add HKLM\Software\Wine\Ports /v COM1 /d '"$PWD/com1"' /f' >/dev/null
    wineserver -k
    : >com1
}
in_windows() { timeout 100 wine cmd /c "$1"; }
# script NAME DIRECTORY: one of the scripts as it is on an install disk.
script() { sed 's/@INF@/mine.inf/; s/@AT_LOGON@/job.cmd/; s/$/\r/' "$HERE/guest/$1" >"$2/$1"; }
calls() {
    tr -d '\r' <c/calls.log
    rm -f c/calls.log
}

test_guest_disk_is_chosen_with_care() {
    windows
    trap 'wineserver -k' EXIT
    script disk.cmd x/storlock
    # Disk 0 has partitions, disk 1 is too small, there are no others.
    cat >c/statuses.txt <<'END'
diskpart|select disk 0; select partition 1|0
diskpart|select disk 0; |77
diskpart|select disk 0|0
diskpart|select disk 1; select partition 1|1
diskpart|select disk 1; online|1
diskpart|select disk 1|0
diskpart|select disk|1
END
    in_windows 'X:\storlock\disk.cmd' && fail "no disk is good enough"
    calls >log
    has "$(tr -d '\r' <com1)" "storlock setup: FAILED: there is no disk without partitions"
    same "$(tail -n 1 log)" "wpeutil shutdown" "the end"
    same "$(grep -cE 'disk 0; (online|create|convert|clean)' log)" 0 "what was done to the disk with partitions"
    same "$(grep -cE 'format|create partition efi' log)" 0 "what was formatted"
    # One more: it is the one.
    printf '%s\n' 'diskpart|select disk 2; select partition 1|1' 'diskpart|select disk 2|0' | cat - c/statuses.txt >statuses && mv statuses c/statuses.txt
    : >com1
    in_windows 'X:\storlock\disk.cmd' || fail "status $?"
    calls >log
    has "$(tr -d '\r' <com1)" "storlock setup: disk 2 is partitioned"
    same "$(tail -n 1 log | cut -d';' -f2-)" " select disk 2; create partition efi size=260; format quick fs=fat32 label=System; create partition msr size=16;\
 create partition primary; format quick fs=ntfs label=Windows; assign" "how"
    same "$(grep -c 'disk 3' log)" 0 "looked for more"
}

test_guest_settings_and_driver() {
    windows
    trap 'wineserver -k' EXIT
    script specialize.cmd c/storlock && script install.cmd c/storlock && echo >c/storlock/trust1.cer
    in_windows '%SystemDrive%\storlock\specialize.cmd' || fail "status $?"
    diff <(calls) - <<'END' || fail "calls"
bcdedit /set testsigning on
bcdedit /set bootstatuspolicy ignoreallfailures
powercfg /hibernate off
powercfg /setacvalueindex scheme_current sub_buttons pbuttonaction 3
powercfg /setactive scheme_current
certutil -f -addstore TrustedPublisher C:\storlock\trust1.cer
certutil -f -addstore Root C:\storlock\trust1.cer
END
    has "$(<com1)" "storlock setup: settings"
    local key='HKLM\SYSTEM\CurrentControlSet\Control\DeviceGuard'
    has "$(in_windows "reg query $key /v EnableVirtualizationBasedSecurity")" "0x0"
    has "$(in_windows "reg query $key\\Scenarios\\HypervisorEnforcedCodeIntegrity /v Enabled")" "0x0"
    echo 'bcdedit|testsigning|1' >c/statuses.txt
    in_windows '%SystemDrive%\storlock\specialize.cmd' || fail "status $?"
    has "$(<com1)" "FAILED: test signing is off"

    local status
    # (259 is what a process that still runs has, to Wine.)
    for status in 0 3010 1641 5 13; do
        echo "pnputil|/add-driver|$status" >c/statuses.txt
        : >com1 && rm -f c/calls.log
        in_windows '%SystemDrive%\storlock\install.cmd' || fail "status $?"
        case $status in
        5 | 13) has "$(<com1)" "storlock setup: FAILED: pnputil ended with $status for mine.inf" ;;
        *) has "$(<com1)" "storlock setup: done, mine.inf is in the driver store (pnputil: $status)" ;;
        esac
        diff <(calls) - <<'END' || fail "calls"
bcdedit /enum {current}
pnputil /add-driver C:\storlock\mine.inf /install
pnputil /enum-drivers
shutdown /s /f /t 5
END
    done
    has "$(in_windows 'reg query HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Run /v storlock')" 'cmd.exe /c C:\storlock\job.cmd'
}
