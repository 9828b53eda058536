# Tests of scripts/windows/media; sourced by scripts/windows/test.

# shellcheck disable=SC2016,SC2001,SC2154

# A signed driver, its INF and a signed catalogue, in the current directory.
package() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj "/CN=Made Test" >/dev/null 2>&1
    osslsigncode sign -certs cert.pem -key key.pem -in "$IMAGES/miniports/vdisk-ok.sys" -out mine.sys >/dev/null
    printf '%s\r\n' '; names other.sys' '[Version]' 'Signature="$WINDOWS NT$"' 'Class=SCSIAdapter' 'CatalogFile=mine.cat ; signed' \
        '[Manufacturer]' '%P%=M,NTamd64' '[M.NTamd64]' '%D%=I,ROOT\mine' '[I]' 'CopyFiles=F' '[F]' 'Mine.SYS' \
        '[I.Services]' 'AddService=mine,2,S' '[S]' 'ServiceBinary=%12%\mine.sys' >mine.inf
    # The signature of any file will do for a catalogue: what is in it only Windows looks at.
    openssl smime -sign -binary -in mine.inf -signer cert.pem -inkey key.pem -outform DER -nodetach -out mine.cat 2>/dev/null
}
GIVEN=(--driver mine.sys --inf mine.inf --cat mine.cat)

# part_of IMAGE: its partition as the file "part".
part_of() { tail -c +1048577 "$1" >part; }

xpath() { xmllint --xpath "string($2)" "$1" | tr -d '\r'; }
# setting PASS COMPONENT PATH: a setting of the answer file.
setting() {
    local path
    path=$(sed -E 's,([^][/]+)(\[[0-9]+\])?,*[local-name()="\1"]\2,g' <<<"$3")
    xpath answer "//*[local-name()='settings'][@pass='$1']/*[@name='$2']/$path"
}

test_media_is_whole() {
    local dir='with space, ünï' i
    mkdir "$dir" && package
    "$MADE" iso "$dir/the iso" --editions 3 || fail "no iso"
    echo first >more.dll && echo "rem job" >job.cmd
    mv mine.sys mine.inf mine.cat "$dir"
    "$MEDIA" "$dir/the iso" --driver "$dir/mine.sys" --inf "$dir/mine.inf" --cat "$dir/mine.cat" --with more.dll --at-logon job.cmd \
        --edition "made edition 2" --part-size 2 --product-key aaaaa-bbbbb-ccccc-ddddd-12345 -o "$dir/Größe 1.img" || fail "status $?"
    same "$(find "$dir" -mindepth 1 | wc -l)" 5 "files left"
    part_of "$dir/Größe 1.img"

    has "$(sgdisk -v "$dir/Größe 1.img")" "No problems found"
    has "$(sgdisk -i 1 "$dir/Größe 1.img")" EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
    fsck.vfat -n part || fail "fsck.vfat"
    mkdir disk iso && mcopy -s -Q -i part '::/*' disk/ && "$SEVEN" x -tudf -y -oiso "$dir/the iso" >/dev/null || fail "no files"
    cmp disk/efi/boot/bootx64.efi iso/efi/boot/bootx64.efi || fail "the loader"
    cmp disk/readme.txt iso/readme.txt || fail "readme.txt"
    same "$(cd disk && find . -type f ! -name '*.swm' | sort | tr '\n' ' ')" \
        "./Autounattend.xml ./efi/boot/bootx64.efi ./readme.txt ./sources/Autounattend.xml ./sources/boot.wim " files
    [ -e disk/sources/install.swm ] && [ -e disk/sources/install3.swm ] || fail "install.wim was not split"

    # The images: what was in them is still there, what was added is in one of each.
    wimlib-imagex verify disk/sources/boot.wim && wimlib-imagex verify disk/sources/install.swm --ref='disk/sources/install*.swm' || fail "verify"
    has "$(wimlib-imagex info disk/sources/boot.wim)" "Boot Index:     2"
    wimlib-imagex extract disk/sources/boot.wim 2 /Autounattend.xml /storlock/disk.cmd --dest-dir=pe || fail "boot.wim"
    ! wimlib-imagex extract disk/sources/boot.wim 1 /storlock --dest-dir=pe || fail "the other image of boot.wim was changed"
    cmp disk/Autounattend.xml disk/sources/Autounattend.xml && cmp disk/Autounattend.xml pe/Autounattend.xml || fail "answers differ"
    for i in 1 2 3; do
        mkdir was$i is$i
        wimlib-imagex apply iso/sources/install.wim $i was$i && wimlib-imagex apply disk/sources/install.swm $i is$i --ref='disk/sources/install*.swm' || fail "apply"
        [ $i = 2 ] || diff -r was$i is$i || fail "edition $i was changed"
    done
    same "$(diff -rq was2 is2)" "Only in is2: storlock" "edition 2"
    for i in mine.sys mine.inf mine.cat; do cmp "$dir/$i" is2/storlock/$i || fail $i; done
    cmp more.dll is2/storlock/more.dll && cmp job.cmd is2/storlock/job.cmd || fail "more files"
    same "$(openssl x509 -inform DER -in is2/storlock/trust1.cer -noout -subject)" "subject=CN = Made Test" "the certificate of the catalogue"
    grep -q 'set INF=mine.inf' is2/storlock/install.cmd && grep -q 'set AT_LOGON=job.cmd' is2/storlock/install.cmd || fail "install.cmd"
    for i in pe/disk.cmd is2/storlock/*.cmd; do [ "$i" = is2/storlock/job.cmd ] || same "$(grep -c $'\r$' "$i")" "$(wc -l <"$i")" "ends of lines of $i"; done
    ! grep -l '@[A-Z_]*@' is2/storlock/*.cmd disk/Autounattend.xml || fail "values are missing"
}

test_media_answers_what_setup_asks() {
    package && "$MADE" iso made.iso --editions 2 && "$MEDIA" made.iso "${GIVEN[@]}" --edition 2 -o out.img || fail "status $?"
    part_of out.img
    mtype -i part ::/Autounattend.xml >answer
    xmllint --noout --relaxng "$HERE/unattend.rng" answer || fail "not as documented"
    same "$(setting windowsPE Microsoft-Windows-Setup ImageInstall/OSImage/InstallFrom/MetaData/Value)" 2 edition
    same "$(setting windowsPE Microsoft-Windows-International-Core-WinPE UILanguage)" de-DE language
    same "$(setting windowsPE Microsoft-Windows-Setup UserData/ProductKey/Key)" "" "no key was given"
    local i=1 key
    for key in BypassTPMCheck BypassSecureBootCheck BypassRAMCheck BypassCPUCheck BypassStorageCheck; do
        same "$(setting windowsPE Microsoft-Windows-Setup "RunSynchronous/RunSynchronousCommand[$i]/Path")" \
            "reg.exe add HKLM\\SYSTEM\\Setup\\LabConfig /v $key /t REG_DWORD /d 1 /f" "command $i"
        i=$((i + 1))
    done
}

test_media_from_other_kinds_of_iso() {
    package
    "$MADE" iso esd.iso --esd --editions 2 && "$MADE" iso plain.iso --plain || fail "no iso"
    "$MEDIA" esd.iso "${GIVEN[@]}" --edition "Made Edition 2" -o esd.img || fail "esd: $?"
    part_of esd.img
    mcopy -i part ::/sources/install.wim ::/Autounattend.xml . || fail "no install.wim"
    has "$(wimlib-imagex info install.wim)" "Windows Made 2"
    wimlib-imagex extract install.wim 1 /storlock/mine.sys /Windows/edition.txt || fail "the package is not in it"
    same "$(cat edition.txt)" 2 edition
    grep -q '<Value>1</Value>' Autounattend.xml || fail "the only edition has the index 1"
    "$MEDIA" plain.iso "${GIVEN[@]}" -o plain.img || fail "plain: $?"
    part_of plain.img
    mdir -i part ::/efi/boot/bootx64.efi ::/sources/install.wim || fail "files of the plain iso"
}

test_media_refuses_other_isos() {
    package
    local refuse=(refused 2) run=("$MEDIA")
    mkdir -p linux/isolinux && echo x >linux/isolinux/vmlinuz && genisoimage -quiet -J -r -o linux.iso linux
    "${refuse[@]}" "no Windows x64 install ISO: there is no sources/boot.wim" "${run[@]}" linux.iso "${GIVEN[@]}" -o out.img
    "$MADE" iso good.iso && "$MADE" iso arm.iso --arch 12 && "$MADE" iso x86.iso --arch 0 || fail "no iso"
    "${refuse[@]}" "this one is for ARM64" "${run[@]}" arm.iso "${GIVEN[@]}" -o out.img
    "${refuse[@]}" "is for x86, not for x86_64" "${run[@]}" x86.iso "${GIVEN[@]}" -o out.img
    local size
    size=$(stat -c %s good.iso)
    for part in 30 60 95; do
        head -c $((size * part / 100)) good.iso >cut.iso
        "${refuse[@]}" "cut short" "${run[@]}" cut.iso "${GIVEN[@]}" -o out.img
    done
    head -c 3000000 /dev/urandom >noise.iso
    "${refuse[@]}" "not an ISO image" "${run[@]}" noise.iso "${GIVEN[@]}" -o out.img
    : >empty.iso
    "${refuse[@]}" "not an ISO image" "${run[@]}" empty.iso "${GIVEN[@]}" -o out.img
    # Bytes in the middle of a good one: a WIM that is broken.
    cp good.iso broken.iso && dd if=/dev/zero of=broken.iso bs=2048 seek=$((size / 2048 - 1400)) count=1200 conv=notrunc status=none
    refused 5 "wimlib-imagex verify" "$MEDIA" broken.iso "${GIVEN[@]}" -o out.img
    mkdir tree && "$SEVEN" x -tudf -otree good.iso >/dev/null && rm tree/sources/install.wim
    genisoimage -quiet -udf -o pe.iso tree
    "${refuse[@]}" "neither sources/install.wim nor sources/install.esd" "${run[@]}" pe.iso "${GIVEN[@]}" -o out.img
    mkdir -p both/x64 && mv tree/* both/x64/ && genisoimage -quiet -udf -o both.iso both
    "${refuse[@]}" "x86 and x64 Windows in one" "${run[@]}" both.iso "${GIVEN[@]}" -o out.img
    same "$(left_over)" 0 "directories left"
}

test_media_checks_what_it_is_given() {
    package && "$MADE" iso good.iso --editions 2 || fail "no iso"
    local run=(refused 2) ok=(good.iso "${GIVEN[@]}" --edition 1 -o out.img)
    "${run[@]}" "unknown option --what" "$MEDIA" "${ok[@]}" --what
    "${run[@]}" "--inf needs a value" "$MEDIA" good.iso --driver mine.sys --inf
    "${run[@]}" "are needed" "$MEDIA" good.iso --driver mine.sys
    "${run[@]}" "one ISO at a time" "$MEDIA" "${ok[@]}" other.iso
    "${run[@]}" "there is no such file" "$MEDIA" none.iso "${GIVEN[@]}" -o out.img
    "${run[@]}" "not a regular file" "$MEDIA" . "${GIVEN[@]}" -o out.img
    "${run[@]}" "not a regular file" "$MEDIA" /dev/zero "${GIVEN[@]}" -o out.img
    "${run[@]}" "not a regular file" "$MEDIA" "${ok[@]}" -o /dev/full
    "${run[@]}" "a directory" "$MEDIA" "${ok[@]}" -o /tmp
    "${run[@]}" "there is no directory" "$MEDIA" "${ok[@]}" -o none/out.img
    "${run[@]}" "that is the ISO itself" "$MEDIA" "${ok[@]}" -o good.iso --force
    ln -s elsewhere link.img
    "${run[@]}" "through a link" "$MEDIA" "${ok[@]}" -o link.img --force
    echo mine >there.img
    "${run[@]}" "--force replaces it" "$MEDIA" "${ok[@]}" -o there.img
    same "$(cat there.img)" mine "a file that is there"
    for part in 0 4096 x -1 99999999999999999999; do "${run[@]}" "--part-size" "$MEDIA" "${ok[@]}" --part-size "$part"; done
    "${run[@]}" "--product-key" "$MEDIA" "${ok[@]}" --product-key 'A<B'
    "${run[@]}" "which edition" "$MEDIA" good.iso "${GIVEN[@]}" -o out.img
    "${run[@]}" "Made Edition 2" "$MEDIA" good.iso "${GIVEN[@]}" -o out.img
    "${run[@]}" "0 of them" "$MEDIA" "${ok[@]}" --edition 3
    # Drivers and packages that are none.
    cp /bin/true true.sys
    "${run[@]}" "not a PE image" "$MEDIA" "${ok[@]}" --driver true.sys
    cp mine.sys x86.sys && printf '\x4c\x01' | dd of=x86.sys bs=1 seek=$(($(od -An -tu4 -j60 -N4 mine.sys) + 4)) conv=notrunc status=none
    "${run[@]}" "a 32-bit driver" "$MEDIA" "${ok[@]}" --driver x86.sys
    cp mine.sys arm.sys && printf '\x64\xaa' | dd of=arm.sys bs=1 seek=$(($(od -An -tu4 -j60 -N4 mine.sys) + 4)) conv=notrunc status=none
    "${run[@]}" "for ARM64" "$MEDIA" "${ok[@]}" --driver arm.sys
    cp "$IMAGES/bootx64.efi" efi.sys
    "${run[@]}" "not a kernel-mode image" "$MEDIA" "${ok[@]}" --driver efi.sys
    head -c 62 mine.sys >cut.sys
    "${run[@]}" "not a PE image" "$MEDIA" "${ok[@]}" --driver cut.sys
    cp mine.sys other.sys
    "${run[@]}" "does not name other.sys" "$MEDIA" "${ok[@]}" --driver other.sys
    cp mine.sys 'a&b.sys'
    "${run[@]}" "letters, digits" "$MEDIA" "${ok[@]}" --driver 'a&b.sys'
    cp mine.cat wrong.cat
    "${run[@]}" "the INF names mine.cat" "$MEDIA" "${ok[@]}" --cat wrong.cat
    "${run[@]}" "give it with --cat" "$MEDIA" good.iso --driver mine.sys --inf mine.inf -o out.img
    mkdir bad && echo text >bad/mine.cat
    "${run[@]}" "not a signed catalogue" "$MEDIA" "${ok[@]}" --cat bad/mine.cat
    sed 's/NTamd64/NTx86/' mine.inf >bad/mine.inf
    "${run[@]}" "no section for x64" "$MEDIA" "${ok[@]}" --inf bad/mine.inf
    echo 'mine.sys NTamd64' >bad/mine.inf
    "${run[@]}" "not an INF" "$MEDIA" "${ok[@]}" --inf bad/mine.inf
    "${run[@]}" "not a certificate" "$MEDIA" "${ok[@]}" --cert bad/mine.inf
    echo >bad/INSTALL.CMD
    "${run[@]}" "two files" "$MEDIA" "${ok[@]}" --with bad/INSTALL.CMD
    "${run[@]}" "neither in .cmd" "$MEDIA" "${ok[@]}" --at-logon mine.cat
    # The INF in the encoding that Windows' tools write.
    mkdir wide && iconv -f UTF-8 -t UTF-16 mine.inf >wide/mine.inf
    "$MEDIA" "${ok[@]}" --inf wide/mine.inf || fail "an INF in UTF-16: $?"
    same "$(left_over)" 0 "directories left"
}

test_media_leaves_nothing_half_made() {
    package && "$MADE" iso good.iso || fail "no iso"
    slow mcopy
    killed TERM "$MEDIA" good.iso "${GIVEN[@]}" -o out.img
    same "$status $(left_over)" "143 0" "status and directories left by SIGTERM"
    killed KILL "$MEDIA" good.iso "${GIVEN[@]}" -o out.img
    same "$status $(left_over)" "137 1" "status and directories left by SIGKILL"
    [ ! -e out.img ] || fail "there is an out.img"
    fast
    "$MEDIA" good.iso "${GIVEN[@]}" -o out.img || fail "after a kill: $?"
    same "$(left_over)" 0 "directories left of the run that was killed"
}

test_media_on_a_full_disk() {
    [ "$(id -u)" = 0 ] || fail "root is needed for a small file system"
    package && "$MADE" iso good.iso && small_disk 20 || fail "no iso"
    refused 5 "not enough room" "$MEDIA" good.iso "${GIVEN[@]}" -o small/out.img
    mount -o remount,size=150M small
    refused 5 "no room for the disk" "$MEDIA" good.iso "${GIVEN[@]}" -o small/out.img
    same "$(find small -mindepth 1 | wc -l)" 0 "files left"
    mount -o remount,size=600M small
    "$MEDIA" good.iso "${GIVEN[@]}" -o small/out.img || fail "with room: $?"
}

test_media_needs_no_root() {
    [ "$(id -u)" = 0 ] || return 0
    package && "$MADE" iso good.iso || fail "no iso"
    mkdir -p clone/scripts user && cp -r "$HERE" clone/scripts/ && cp "$ROOT/scripts/common.sh" clone/scripts/ && chmod 644 mine.* good.iso && chown 65534 user
    local user=(setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/nonexistent)
    refused 5 "cannot be written to" "${user[@]}" clone/scripts/windows/media good.iso "${GIVEN[@]}" -o out.img
    "${user[@]}" clone/scripts/windows/media good.iso "${GIVEN[@]}" -o user/out.img || fail "status $?"
    part_of user/out.img && fsck.vfat -n part || fail fsck
}
