# Tests of scripts/windows/inject; sourced by scripts/windows/test.

START=100352 SECTORS=614400 # of the volume of Windows, as "made" has it

# Two builds of a driver, and disk.img with the first one.
builds() {
    cp "$IMAGES/miniports/nvme-ok.sys" first.sys && cp "$IMAGES/miniports/vdisk-ok.sys" my.sys
    "$MADE" disk disk.img --driver first.sys "$@"
}
# volume_of IMAGE [FORMAT]: its volume of Windows as the file "volume", which ntfs-3g's tools find in order.
volume_of() {
    rm -f raw volume
    qemu-img convert -f "${2:-raw}" -O raw "$1" raw || fail "$1 cannot be read"
    dd if=raw of=volume bs=512 skip=$START count=$SECTORS conv=sparse status=none
    ntfsfix -n volume >fix || fail "ntfsfix: $(<fix)"
    has "$(ntfsinfo -m volume)" "Volume Flags: 0x0000"
}
# holds PATH FILE: the volume has this file there.
holds() { ntfscat volume "$1" | cmp - "$2" || fail "$1 is not $2"; }
# change COMMAND...: runs a command on the volume of disk.img, as the file "volume".
change() {
    volume_of disk.img
    "$@" >/dev/null 2>&1 || fail "$*"
    dd if=volume of=disk.img bs=512 seek=$START conv=notrunc status=none
}
key() { hivexregedit --export "$1" "\\ControlSet001\\Services\\$2"; }
hive_of() { ntfscat volume Windows/System32/config/SYSTEM >"$1" || fail "no hive"; }

test_inject_replaces_the_driver_of_a_service() {
    builds || fail "no disk"
    volume_of disk.img && hive_of before
    head -c $((START * 512)) disk.img | sha256sum >head.sum
    "$INJECT" disk.img --driver my.sys || fail "status $?"
    same "$(left_over) $(find . -name '*.inject' | wc -l)" "0 0" "files left"
    same "$(sgdisk -v disk.img | grep -c 'No problems found')" 1 sgdisk
    head -c $((START * 512)) disk.img | sha256sum | cmp - head.sum || fail "something before the volume was written to"
    volume_of disk.img
    holds Windows/System32/drivers/My.sys my.sys
    holds Windows/System32/drivers/My.sys.old first.sys
    hive_of after && cmp before after || fail "the registry was changed"
    # The same once more is nothing; the other one again has the one before beside it.
    sha256sum disk.img >sum
    "$INJECT" disk.img --driver my.sys && sha256sum --quiet -c sum || fail "the same driver again"
    cp my.sys second.sys && cp first.sys my.sys
    "$INJECT" disk.img --driver my.sys --start boot || fail "status $?"
    volume_of disk.img && holds Windows/System32/drivers/My.sys my.sys && holds Windows/System32/drivers/My.sys.old second.sys
    hive_of after
    same "$(diff <(key before my) <(key after my) | grep '^[<>]' | tr -d '\r' | tr '\n' ' ')" '< "Start"=dword:00000003 > "Start"=dword:00000000 ' "the key"
}

test_inject_far_into_a_large_disk() {
    builds && volume_of disk.img || fail "no disk"
    # Numbers that need more than 32 bits; nothing but the volume takes room.
    local start=$((6 << 21))
    rm disk.img && truncate -s 20G disk.img && printf 'label: gpt\nstart=%d, size=%d, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n' $start $((8 << 21)) | sfdisk -q disk.img
    dd if=volume of=disk.img bs=1M seek=$((start >> 11)) conv=notrunc,sparse status=none
    "$INJECT" disk.img --driver my.sys || fail "status $?"
    dd if=disk.img of=volume bs=1M skip=$((start >> 11)) count=$((SECTORS >> 11)) conv=notrunc status=none
    holds Windows/System32/drivers/My.sys my.sys
}

test_inject_makes_a_service() {
    builds --mbr || fail "no disk"
    cp my.sys fresh.sys
    "$INJECT" disk.img --driver fresh.sys --start boot --group "SCSI miniport" || fail "status $?"
    volume_of disk.img && hive_of hive
    holds Windows/System32/drivers/fresh.sys fresh.sys
    holds Windows/System32/drivers/My.sys first.sys
    # Read by another program than the one that wrote.
    printf 'cd \\ControlSet001\\Services\\fresh\nlsval\n' | hivexsh hive | sort >values
    diff values - <<'END' || fail "the key"
"DisplayName"="fresh"
"ErrorControl"=dword:00000001
"Group"="SCSI miniport"
"ImagePath"=str(2):"System32\\drivers\\fresh.sys"
"Start"=dword:00000000
"Type"=dword:00000001
END
    printf 'cd \\ControlSet001\\Services\nls\n' | hivexsh hive | sort | tr '\n' ' ' | grep -x 'fresh my ' || fail "the other services"
    # From now on it is one that exists.
    cp first.sys fresh.sys && "$INJECT" disk.img --driver fresh.sys || fail "status $?"
    volume_of disk.img && holds Windows/System32/drivers/fresh.sys first.sys && holds Windows/System32/drivers/fresh.sys.old my.sys
    # A file without a service is somebody's.
    hive_of hive && printf 'cd \\ControlSet001\\Services\\fresh\ndel\ncommit\n' | hivexsh -w hive && change ntfscp volume hive Windows/System32/config/SYSTEM
    refused 2 "name the service" "$INJECT" disk.img --driver fresh.sys
}

test_inject_into_qcow2() {
    local dir='comma, space ünï'
    builds && mkdir "$dir" && qemu-img convert -f raw -O qcow2 disk.img "$dir/base.qcow2" || fail "no disk"
    qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "$dir/win, 1.qcow2" && sha256sum "$dir/base.qcow2" >sum
    cp my.sys "$dir/my.sys"
    "$INJECT" "$dir/win, 1.qcow2" --driver "$dir/my.sys" || fail "status $?"
    same "$(find "$dir" -mindepth 1 | wc -l)" 3 "files left"
    qemu-img check -q "$dir/win, 1.qcow2" && sha256sum --quiet -c sum || fail "the images"
    volume_of "$dir/win, 1.qcow2" qcow2 && holds Windows/System32/drivers/My.sys my.sys
    # What a guest has written into a raw disk does not choose a format.
    cp "$dir/base.qcow2" guest.img
    refused 2 "the header of a qcow2 image" "$INJECT" guest.img --driver my.sys
    refused 2 "neither a GPT nor an MBR" "$INJECT" guest.img --driver my.sys --format raw
    "$INJECT" guest.img --driver my.sys --format qcow2 || fail "status $?"
    cp disk.img raw.qcow2
    refused 2 "no qcow2 image" "$INJECT" raw.qcow2 --driver my.sys
}

test_inject_refuses_volumes_that_are_not_in_order() {
    builds || fail "no disk"
    cp disk.img good.img
    change ntfsfix volume # which marks it
    sha256sum disk.img >sum
    refused 2 "dirty" "$INJECT" disk.img --driver my.sys
    cp good.img disk.img && printf 'HIBR%4092s' '' >hiberfil.sys && change ntfscp volume hiberfil.sys hiberfil.sys
    sha256sum disk.img >>sum.2
    refused 2 "hibernated" "$INJECT" disk.img --driver my.sys
    sha256sum --quiet -c sum.2 || fail "a volume that was refused was changed"
    # A hibernation file that is not in use.
    cp good.img disk.img && head -c 4096 /dev/zero >hiberfil.sys && change ntfscp volume hiberfil.sys hiberfil.sys
    "$INJECT" disk.img --driver my.sys || fail "a hibernation file that is not in use: $?"
    # A registry of which Windows has a part in its logs only.
    cp good.img disk.img && volume_of disk.img && hive_of hive
    printf '\x7f' | dd of=hive bs=1 seek=4 conv=notrunc status=none
    change ntfscp volume hive Windows/System32/config/SYSTEM
    refused 2 "the registry was not written out" "$INJECT" disk.img --driver my.sys
    cp good.img disk.img && head -c 9000 /dev/urandom >noise && change ntfscp volume noise Windows/System32/config/SYSTEM
    refused 2 "no registry hive" "$INJECT" disk.img --driver my.sys
    # A service whose file is not there.
    cp good.img disk.img && volume_of disk.img && hive_of hive
    printf '%s\n' 'Windows Registry Editor Version 5.00' '' '[\ControlSet001\Services\gone]' '"Start"=dword:00000003' |
        hivexregedit --merge hive && change ntfscp volume hive Windows/System32/config/SYSTEM
    refused 2 "which is not on the volume" "$INJECT" disk.img --driver my.sys --service gone
}

test_inject_refuses_other_disks() {
    builds || fail "no disk"
    cp disk.img good.img
    truncate -s 10M empty.img
    refused 2 "neither a GPT nor an MBR" "$INJECT" empty.img --driver my.sys
    printf -- '-FVE-FS-' | dd of=disk.img bs=1 seek=$((START * 512 + 3)) conv=notrunc status=none
    refused 2 "BitLocker" "$INJECT" disk.img --driver my.sys
    dd if=/dev/zero of=disk.img bs=512 seek=$START count=16 conv=notrunc status=none
    refused 2 "no NTFS volume is on it" "$INJECT" disk.img --driver my.sys
    # A second Windows: which one is said.
    volume_of good.img
    cp good.img two.img && truncate -s $(((START + 2 * SECTORS + 8192) * 512)) two.img && sgdisk -e -n "0:$((START + SECTORS + 2048)):+300M" -t 4:0700 two.img >/dev/null
    dd if=volume of=two.img bs=512 seek=$((START + SECTORS + 2048)) conv=notrunc status=none
    refused 2 "partitions 3 4" "$INJECT" two.img --driver my.sys
    "$INJECT" two.img --driver my.sys --partition 3 || fail "status $?"
    refused 2 "partition 1 is no NTFS volume" "$INJECT" two.img --driver my.sys --partition 1
    volume_of two.img && holds Windows/System32/drivers/My.sys my.sys
    dd if=two.img of=volume bs=512 skip=$((START + SECTORS + 2048)) count=$SECTORS status=none && holds Windows/System32/drivers/My.sys first.sys
    # A volume with data only.
    rm volume && truncate -s 300M volume && mkntfs -F -q -Q volume 2>/dev/null && cp good.img data.img && dd if=volume of=data.img bs=512 seek=$START conv=notrunc status=none
    refused 2 "has a directory Windows" "$INJECT" data.img --driver my.sys
    # In use by a guest that writes, and as the backing file of one that only reads: the locks that storlock and QEMU take.
    local bytes
    for bytes in '100, 101, 201' '100, 201'; do
        rm -f locked
        python3 - "$bytes" <<'PYTHON' &
import fcntl, os, struct, sys, time
image = open("good.img", "r+b")
for byte in eval(sys.argv[1]):
    fcntl.fcntl(image, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))  # F_OFD_SETLK
open("locked", "w").close()
time.sleep(60)
PYTHON
        local user=$! tries=0
        until [ -e locked ]; do
            sleep 0.1
            [ $((tries += 1)) -lt 600 ] || fail "it is never locked"
        done
        refused 5 "in use" "$INJECT" good.img --driver my.sys
        kill $user
        wait $user 2>/dev/null
        same "$(left_over) $(find . -name '*.inject' | wc -l)" "0 0" "files left"
    done
    volume_of good.img && holds Windows/System32/drivers/My.sys first.sys
}

test_inject_checks_what_it_is_given() {
    builds || fail "no disk"
    local run=(refused 2)
    "${run[@]}" "are needed" "$INJECT" disk.img
    "${run[@]}" "unknown option" "$INJECT" disk.img --driver my.sys --no
    "${run[@]}" "needs a value" "$INJECT" disk.img --driver
    "${run[@]}" "one image at a time" "$INJECT" disk.img other.img --driver my.sys
    "${run[@]}" "no such file" "$INJECT" none.img --driver my.sys
    "${run[@]}" "not a regular file" "$INJECT" /dev/zero --driver my.sys
    "${run[@]}" "--service" "$INJECT" disk.img --driver my.sys --service 'a\b'
    "${run[@]}" "--group" "$INJECT" disk.img --driver my.sys --group 'a"b'
    "${run[@]}" "--start" "$INJECT" disk.img --driver my.sys --start 7
    "${run[@]}" "--partition" "$INJECT" disk.img --driver my.sys --partition x
    "${run[@]}" "--format" "$INJECT" disk.img --driver my.sys --format vmdk
    cp disk.img disk.vmdk
    "${run[@]}" "only raw and qcow2" "$INJECT" disk.vmdk --driver my.sys
    cp my.sys x86.sys && printf '\x4c\x01' | dd of=x86.sys bs=1 seek=$(($(od -An -tu4 -j60 -N4 my.sys) + 4)) conv=notrunc status=none
    "${run[@]}" "a 32-bit driver" "$INJECT" disk.img --driver x86.sys
    ln -s disk.img link.img
    "$INJECT" link.img --driver my.sys || fail "by a link: $?"
    [ -L link.img ] && volume_of disk.img && holds Windows/System32/drivers/My.sys my.sys
}

test_inject_killed_changes_nothing_or_all() {
    builds && sha256sum disk.img >sum || fail "no disk"
    local signal
    for signal in TERM KILL; do
        slow ntfscp
        killed $signal "$INJECT" disk.img --driver my.sys
        sha256sum --quiet -c sum || fail "the image was changed"
        fast
    done
    # While it writes to the image.
    slow qemu-img commit
    killed KILL "$INJECT" disk.img --driver my.sys
    fast
    [ -e disk.img.inject ] || fail "what was to be written is gone"
    refused 2 "qemu-img commit" "$INJECT" disk.img --driver my.sys
    qemu-img commit -q -f qcow2 disk.img.inject && rm disk.img.inject || fail "the command that it says"
    volume_of disk.img && holds Windows/System32/drivers/My.sys my.sys
    "$INJECT" disk.img --driver my.sys || fail "afterwards: $?"
    same "$(left_over)" 0 "directories left of the runs that were killed"
    ! grep -F "$PWD" /proc/mounts || fail "something is still mounted"
}

test_inject_on_a_full_disk() {
    [ "$(id -u)" = 0 ] || fail "root is needed for a small file system"
    builds && small_disk 400 && cp --sparse=always disk.img small/ || fail "no disk"
    head -c 20M /dev/urandom >>my.sys
    mount -o "remount,size=$(($(df --output=used -BM small | tail -n 1 | tr -dc 0-9) + 2))M" small
    sha256sum small/disk.img >sum
    refused 5 "is there room" "$INJECT" small/disk.img --driver my.sys
    sha256sum --quiet -c sum || fail "the image was changed"
    same "$(find small -mindepth 1 | wc -l)" 1 "files left"
}
